// Prints what is generated from the tables: `print_docs metrics`, `config` or `sample`.
// docs_check.py compares it with the files, and writes them.
#include <cstdio>
#include <string>

#include "base/metric_table.h"
#include "daemon/options.h"

int main(int argc, char** argv) {
  using namespace thermocline;
  const std::string what = argc == 2 ? argv[1] : "";
  std::string text;
  if (what == "metrics") {
    text = MetricTableMarkdown(kMetricTable);
  } else if (what == "config") {
    text = OptionTableMarkdown(DaemonOptionTable());
  } else if (what == "sample") {
    text = SampleConfigText(DaemonOptionTable());
  } else {
    std::fputs("usage: print_docs metrics|config|sample\n", stderr);
    return 2;
  }
  return std::fputs(text.c_str(), stdout) < 0 ? 1 : 0;
}
