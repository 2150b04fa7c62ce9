// The crash test: kills thermoclined at random moments under load, several times in each of several
// variants, and looks whether a wrong byte was ever read, a slot leaked, or anything acknowledged
// lost. Prints one table; the last line is the verdict. Exit code 1 on any violation.
//
//   crash_test [--short|--long] [--kills N] [--seed S] [--clients C] [--variant NAME] [--keep]
//   crash_test player ...       one client process of it
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "tests/crash/player.h"
#include "tests/crash/siege.h"

namespace thermocline::crash {
namespace {

constexpr int kShortKills = 50;
constexpr int kLongKills = 300;
constexpr size_t kMostViolationsShown = 20;

// One slot size has one chunk of 64 MiB at least; `tight` has a single chunk.
const std::vector<Variant>& Variants() {
  static const std::vector<Variant> variants = {
      {.name = "tight", .world = "tight", .warm_mib = 16, .cold_mib = 32, .share = 0.34},
      {.name = "two sizes", .world = "sizes", .warm_mib = 128, .cold_mib = 192, .share = 0.2},
      {.name = "demo's blocks",
       .world = "demo",
       .warm_mib = 192,
       .cold_mib = 256,
       .share = 0.16,
       .restart_limit = 1},
      {.name = "no cold tier",
       .world = "tight",
       .warm_mib = 16,
       .cold_mib = 0,
       .drains = false,
       .share = 0.18},
      {.name = "full disk",
       .world = "tight",
       .warm_mib = 16,
       .cold_mib = 256,
       .disk_mib = 24,
       .share = 0.12}};
  return variants;
}

double Quantile(std::vector<double> values, double quantile) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::ceil(quantile * static_cast<double>(values.size() - 1)))];
}

void PrintHeader() {
  std::printf("%-14s %6s %6s %12s %10s %10s %9s %9s %9s %7s %6s %6s %9s\n", "variant", "kills",
              "shut-", "restart ms", "checked", "checked", "committed", "read too", "clients",
              "pins", "daemon", "", "viola-");
  std::printf("%-14s %6s %6s %12s %10s %10s %9s %9s %9s %7s %6s %6s %9s\n", "", "-9", "downs",
              "p50 / max", "blocks", "GiB", "blocks", "late", "killed", "kept", "MiB", "secs",
              "tions");
}

void PrintRow(const Variant& variant, const SiegeReport& report, double seconds) {
  if (!report.skipped.empty()) {
    std::printf("%-14s SKIPPED: %s\n", variant.name.c_str(), report.skipped.c_str());
    return;
  }
  const auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "%-14s %6d %6d %5.0f / %4.0f %10llu %10.2f %9llu %9llu %9llu %7llu %6llu %6.1f %9zu\n",
      variant.name.c_str(), report.kills, report.shutdowns, Quantile(report.restart_ms, 0.5),
      Quantile(report.restart_ms, 1), number(report.checked_blocks),
      static_cast<double>(report.checked_bytes) / (1 << 30), number(report.committed_blocks),
      number(report.late_reads), number(report.deaths), number(report.pins),
      number(report.daemon_bytes >> 20), seconds, report.violations.size());
}

struct Totals {
  int kills = 0;
  uint64_t checked_blocks = 0;
  size_t violations = 0;
  int skipped = 0;
};

void RunVariant(const Variant& variant, const SiegeOptions& options, Totals& totals) {
  const auto start = std::chrono::steady_clock::now();
  SiegeReport report = Siege(variant, options).Run();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  const double median = Quantile(report.restart_ms, 0.5) / 1000;
  if (variant.restart_limit > 0 && median > variant.restart_limit) {
    report.violations.push_back("half of the restarts took more than " +
                                std::to_string(variant.restart_limit) + " s");
  }
  if (report.skipped.empty() && report.checked_blocks == 0) {
    report.violations.push_back("no block was ever read: this shows nothing");
  }
  PrintRow(variant, report, time.count());
  if (report.refused_starts > 0) {
    std::printf("    %d starts were refused, with advice, until the disk was made larger\n",
                report.refused_starts);
  }
  for (size_t i = 0; i < std::min(report.violations.size(), kMostViolationsShown); ++i) {
    std::printf("    %s\n", report.violations[i].c_str());
  }
  std::fflush(stdout);
  totals.kills += report.kills;
  totals.checked_blocks += report.checked_blocks;
  totals.violations += report.violations.size();
  totals.skipped += report.skipped.empty() ? 0 : 1;
}

int RunAll(SiegeOptions options, const std::string& only) {
  std::printf("crash test: %d kills, %d clients, seed %llu\n\n", options.kills, options.clients,
              static_cast<unsigned long long>(options.seed));
  PrintHeader();
  Totals totals;
  for (const Variant& variant : Variants()) {
    const double share = only.empty() ? variant.share : 1;
    SiegeOptions its = options;
    its.kills = std::max(1, static_cast<int>(std::lround(options.kills * share)));
    if (only.empty() || only == variant.name) RunVariant(variant, its, totals);
    ++options.seed;
  }
  std::printf("\n%s: %d kills, %llu blocks checked byte by byte, %zu violations%s\n",
              totals.violations == 0 ? "PASS" : "FAIL", totals.kills,
              static_cast<unsigned long long>(totals.checked_blocks), totals.violations,
              totals.skipped == 0 ? "" : ", a variant skipped");
  return totals.violations == 0 ? 0 : 1;
}

uint64_t DefaultSeed() {
  const char* given = std::getenv("TC_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
}

int Main(int argc, char** argv) {
  CLI::App app("Kills thermoclined at random moments under load, and looks for wrong bytes.");
  SiegeOptions options;
  PlayerOptions player_options;
  options.seed = DefaultSeed();
  std::string only;
  bool is_short = false;
  bool is_long = false;
  CLI::Option* short_flag = app.add_flag("--short", is_short, "50 kills (the default)");
  app.add_flag("--long", is_long, "300 kills, and clients that sleep longer than a lease lasts")
      ->excludes(short_flag);
  app.add_option("--kills", options.kills, "How many kills in all");
  app.add_option("--seed", options.seed, "Of all that is random; else TC_SEED, else any");
  app.add_option("--clients", options.clients, "Client processes")->check(CLI::Range(1, 32));
  app.add_option("--variant", only, "Only this one");
  app.add_flag("--keep", options.keep, "Leave the directories where they are");
  CLI::App* player = app.add_subcommand("player", "One client process of the test");
  player->add_option("--socket", player_options.socket)->required();
  player->add_option("--directory", player_options.directory)->required();
  player->add_option("--world", player_options.world)->required();
  player->add_option("--seed", player_options.seed)->required();
  player->add_option("--pins", player_options.pins)->required();
  CLI11_PARSE(app, argc, argv);
  if (player->parsed()) return RunPlayer(player_options);
  if (options.kills == 0) options.kills = is_long ? kLongKills : kShortKills;
  options.stops = is_long;
  options.program = std::filesystem::read_symlink("/proc/self/exe").string();
  options.daemon = std::filesystem::path(options.program).parent_path() / "thermoclined";
  return RunAll(options, only);
}

}  // namespace
}  // namespace thermocline::crash

int main(int argc, char** argv) { return thermocline::crash::Main(argc, argv); }
