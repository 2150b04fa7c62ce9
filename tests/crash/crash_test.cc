// The crash test: kills thermoclined, or cuts the power of its disk, at random moments under load,
// several times in each of several variants, and looks whether a wrong byte was ever read, a slot
// leaked, or anything acknowledged lost. Prints one table; the last line is the verdict. Exit code
// 1 on any violation.
//
//   crash_test [--short|--long] [--kills N] [--cuts N] [--seed S] [--clients C] [--variant NAME]
//              [--keep]
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
constexpr int kShortCuts = 10;
constexpr int kLongCuts = 60;
constexpr size_t kMostViolationsShown = 20;

// One slot size has one chunk of 64 MiB at least; `tight` has a single chunk. Where the power is
// cut the shares are of the cuts.
const std::vector<Variant>& Variants() {
  static const std::vector<Variant> variants = {
      {.name = "tight", .world = "tight", .warm_mib = 16, .cold_mib = 32, .share = 0.22},
      {.name = "two sizes", .world = "sizes", .warm_mib = 128, .cold_mib = 192, .share = 0.14},
      {.name = "demo's blocks",
       .world = "demo",
       .warm_mib = 192,
       .cold_mib = 256,
       .share = 0.14,
       .restart_limit = 1},
      {.name = "no cold tier",
       .world = "tight",
       .warm_mib = 16,
       .cold_mib = 0,
       .drains = false,
       .share = 0.16},
      {.name = "full disk",
       .world = "tight",
       .warm_mib = 16,
       .cold_mib = 256,
       .disk_mib = 24,
       .pins = false,
       .share = 0.1},
      {.name = "ack, reboots",
       .world = "wide",
       .warm_mib = 16,
       .cold_mib = 1024,
       .durable = true,
       .reboots = true,
       .roomy = true,
       .share = 0.14},
      {.name = "ack, tight",
       .world = "tight",
       .warm_mib = 16,
       .cold_mib = 64,
       .durable = true,
       .reboots = true,
       .share = 0.1},
      {.name = "power, ack",
       .world = "wide",
       .warm_mib = 16,
       .cold_mib = 1024,
       .loop_mib = 1536,
       .durable = true,
       .roomy = true,
       .share = 0.4},
      {.name = "power, tight",
       .world = "tight",
       .warm_mib = 16,
       .cold_mib = 64,
       .loop_mib = 512,
       .durable = true,
       .share = 0.3},
      {.name = "power",
       .world = "tight",
       .warm_mib = 16,
       .cold_mib = 64,
       .loop_mib = 512,
       .pins = false,
       .share = 0.3}};
  return variants;
}

double Quantile(std::vector<double> values, double quantile) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::ceil(quantile * static_cast<double>(values.size() - 1)))];
}

void PrintHeader() {
  std::printf("%-14s %5s %5s %5s %5s %12s %9s %8s %9s %8s %8s %6s %7s %6s %6s %6s %6s\n", "variant",
              "kills", "power", "re-", "shut-", "restart ms", "checked", "checked", "committed",
              "answered", "in memory", "late", "clients", "pins", "daemon", "", "viola-");
  std::printf("%-14s %5s %5s %5s %5s %12s %9s %8s %9s %8s %9s %6s %7s %6s %6s %6s %6s\n", "", "-9",
              "cuts", "boots", "downs", "p50 / max", "blocks", "GiB", "blocks", "on disk", "only",
              "reads", "killed", "kept", "MiB", "secs", "tions");
}

void PrintRow(const Variant& variant, const SiegeReport& report, double seconds) {
  if (!report.skipped.empty()) {
    std::printf("%-14s SKIPPED: %s\n", variant.name.c_str(), report.skipped.c_str());
    return;
  }
  const auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "%-14s %5d %5d %5d %5d %5.0f / %4.0f %9llu %8.2f %9llu %8llu %9llu %6llu %7llu %6llu %6llu "
      "%6.1f %6zu\n",
      variant.name.c_str(), report.kills, report.cuts, report.reboots, report.shutdowns,
      Quantile(report.restart_ms, 0.5), Quantile(report.restart_ms, 1),
      number(report.checked_blocks), static_cast<double>(report.checked_bytes) / (1 << 30),
      number(report.committed_blocks), number(report.durable_commits), number(report.not_on_disk),
      number(report.late_reads), number(report.deaths), number(report.pins),
      number(report.daemon_bytes >> 20), seconds, report.violations.size());
}

struct Totals {
  int kills = 0;
  int cuts = 0;
  int set_aside = 0;
  uint64_t durable_commits = 0;
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
  totals.cuts += report.cuts;
  totals.set_aside += report.set_aside;
  totals.durable_commits += report.durable_commits;
  totals.checked_blocks += report.checked_blocks;
  totals.violations += report.violations.size();
  totals.skipped += report.skipped.empty() ? 0 : 1;
}

int RunAll(SiegeOptions options, int cuts, const std::string& only) {
  std::printf("crash test: %d kills, %d power cuts, %d clients, seed %llu\n\n", options.kills, cuts,
              options.clients, static_cast<unsigned long long>(options.seed));
  PrintHeader();
  Totals totals;
  for (const Variant& variant : Variants()) {
    const double share = only.empty() ? variant.share : 1;
    SiegeOptions its = options;
    const int all = variant.loop_mib > 0 ? cuts : options.kills;
    its.kills = std::max(1, static_cast<int>(std::lround(all * share)));
    if (only.empty() || only == variant.name) RunVariant(variant, its, totals);
    ++options.seed;
  }
  std::printf(
      "\n%s: %d kills, %d power cuts, %llu blocks checked byte by byte, %llu commits answered to "
      "be "
      "on disk, %d stores set aside, %zu violations",
      totals.violations == 0 ? "PASS" : "FAIL", totals.kills, totals.cuts,
      static_cast<unsigned long long>(totals.checked_blocks),
      static_cast<unsigned long long>(totals.durable_commits), totals.set_aside, totals.violations);
  if (totals.skipped > 0) std::printf(", %d variants skipped", totals.skipped);
  std::printf("\n");
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
  int cuts = 0;
  CLI::Option* short_flag =
      app.add_flag("--short", is_short, "50 kills and 10 power cuts (the default)");
  app.add_flag("--long", is_long,
               "300 kills, 60 power cuts, and clients that sleep longer than a lease lasts")
      ->excludes(short_flag);
  app.add_option("--kills", options.kills, "How many kills in all");
  app.add_option("--cuts", cuts, "How many power cuts in all");
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
  player->add_option("--durable", player_options.durable)->required();
  CLI11_PARSE(app, argc, argv);
  if (player->parsed()) return RunPlayer(player_options);
  if (options.kills == 0) options.kills = is_long ? kLongKills : kShortKills;
  if (cuts == 0) cuts = is_long ? kLongCuts : kShortCuts;
  // Without them a mount says why it cannot be.
  LoopDisk::OwnMounts().IgnoreError();
  options.stops = is_long;
  options.program = std::filesystem::read_symlink("/proc/self/exe").string();
  options.daemon = std::filesystem::path(options.program).parent_path() / "thermoclined";
  return RunAll(options, cuts, only);
}

}  // namespace
}  // namespace thermocline::crash

int main(int argc, char** argv) { return thermocline::crash::Main(argc, argv); }
