#include "bench/report.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

namespace thermocline::bench {

void Report::Add(Row row) {
  std::printf("%-34s %-12s %12.2f %-9s", row.name.c_str(), row.metric.c_str(), row.value,
              row.unit.c_str());
  if (!row.against.empty()) std::printf(" %6.2f of %s", row.ratio, row.against.c_str());
  if (!row.note.empty()) std::printf("  (%s)", row.note.c_str());
  std::printf("\n");
  std::fflush(stdout);
  rows_.push_back(std::move(row));
}

absl::Status Report::WriteJson(const std::string& path) const {
  nlohmann::json rows = nlohmann::json::array();
  for (const Row& row : rows_) {
    rows.push_back({{"case", row.name},
                    {"metric", row.metric},
                    {"value", row.value},
                    {"unit", row.unit},
                    {"against", row.against},
                    {"ratio", row.ratio}});
    if (!row.note.empty()) rows.back()["note"] = row.note;
  }
  std::ofstream file(path);
  file << rows.dump(1) << "\n";
  file.close();
  if (!file) return absl::UnavailableError("cannot write " + path);
  return absl::OkStatus();
}

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

namespace {

Arguments ParseArguments(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--quick") {
      arguments.quick = true;
    } else if (word == "--json" && i + 1 < argc) {
      arguments.json = argv[++i];
    } else if (word == "--directory" && i + 1 < argc) {
      arguments.directory = argv[++i];
    } else if (word == "--only" && i + 1 < argc) {
      arguments.only = argv[++i];
    } else {
      std::fprintf(stderr,
                   "usage: %s [--quick] [--json FILE] [--directory DIRECTORY] [--only PART]\n",
                   argv[0]);
      std::exit(2);
    }
  }
  return arguments;
}

}  // namespace

int RunBenchmark(int argc, char** argv, absl::Status (*body)(const Arguments&, Report&)) {
  const Arguments arguments = ParseArguments(argc, argv);
  Report report;
  absl::Status status = body(arguments, report);
  if (status.ok() && !arguments.json.empty()) status = report.WriteJson(arguments.json);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", argv[0], std::string(status.message()).c_str());
  return 1;
}

std::string ModelPath() {
  const std::string path = TC_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (std::ifstream(path)) return path;
  std::printf("SKIPPED: no %s; deploy/setup.sh fetches it\n", path.c_str());
  std::exit(77);
}

}  // namespace thermocline::bench
