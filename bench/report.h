// What every benchmark prints: rows of a figure, the limit or peer that was measured beside it in
// the same run, and their ratio. Machines differ and are shared, so a ratio is what travels.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "base/status.h"

namespace thermocline::bench {

struct Row {
  std::string name;    // "warm/tokens:1024"; `case` in JSON
  std::string metric;  // "ttft", "throughput"
  double value = 0;
  std::string unit;     // "ms", "tokens/s", "MiB/s"
  std::string against;  // what it is compared with; empty: nothing
  double ratio = 0;     // ours / theirs
  std::string note;     // what else was seen, printed behind
};

class Report {
 public:
  /// Prints the row at once, so that a long run shows its progress.
  void Add(Row row);
  /// Writes all rows as JSON, as DESIGN's bench/run.sh reads them: [{"case", "metric", "value",
  /// "unit", "against", "ratio"}].
  absl::Status WriteJson(const std::string& path) const;

 private:
  std::vector<Row> rows_;
};

/// The middle of `values`, which are not empty; the lower one of two.
double Median(std::vector<double> values);

/// Milliseconds that `body` takes.
template <class Body>
double Milliseconds(Body&& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

/// The command line that every benchmark has: --json FILE, --directory DIRECTORY, --only
/// PART, --quick.
struct Arguments {
  std::string json;
  std::string directory;  // for what it writes to a disk; empty: beside the program
  std::string only;       // one part of a benchmark that has parts; empty: all
  bool quick = false;     // tiny sizes, to show in a test that it runs
};

/// The main() of every benchmark: parses the command line (2 on a wrong one), runs `body`, writes
/// its rows where --json says. Returns the exit code.
int RunBenchmark(int argc, char** argv, absl::Status (*body)(const Arguments&, Report&));

/// The demo's model. Exits with 77, which ctest shows as a skip, where deploy/setup.sh has not put
/// it.
std::string ModelPath();

}  // namespace thermocline::bench
