// The soak test's program. Prints its seed and one table; the last line is the verdict. Exit code 1
// on any violation.
//
//   soak_test [--seconds N] [--seed S] [--clients C] [--keep]
//   soak_test player ...       one client process of it
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "tests/crash/player.h"
#include "tests/soak/soak.h"

namespace thermocline::soak {
namespace {

uint64_t DefaultSeed() {
  const char* given = std::getenv("TC_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
}

int Main(int argc, char** argv) {
  CLI::App app("Mixed load for a long time, with clients and the daemon killed and stopped.");
  SoakOptions options;
  crash::PlayerOptions player_options{.pins = true, .deletes = true};
  int64_t seconds = options.time.count();
  options.seed = DefaultSeed();
  app.add_option("--seconds", seconds, "How long")->check(CLI::Range(10, 7 * 24 * 3600));
  app.add_option("--seed", options.seed, "Of all that is random; else TC_SEED, else any");
  app.add_option("--clients", options.clients, "Client processes")->check(CLI::Range(2, 32));
  app.add_flag("--keep", options.keep, "Leave the directories where they are");
  CLI::App* player = app.add_subcommand("player", "One client process of the test");
  player->add_option("--socket", player_options.socket)->required();
  player->add_option("--directory", player_options.directory)->required();
  player->add_option("--world", player_options.world)->required();
  player->add_option("--seed", player_options.seed)->required();
  CLI11_PARSE(app, argc, argv);
  if (player->parsed()) return crash::RunPlayer(player_options);
  options.time = std::chrono::seconds(seconds);
  options.program = std::filesystem::read_symlink("/proc/self/exe").string();
  options.daemon = std::filesystem::path(options.program).parent_path() / "thermoclined";
  std::printf("soak test: %lld s, %d clients, seed %llu\n\n", static_cast<long long>(seconds),
              options.clients, static_cast<unsigned long long>(options.seed));
  return Soak(options).Run() ? 0 : 1;
}

}  // namespace
}  // namespace thermocline::soak

int main(int argc, char** argv) { return thermocline::soak::Main(argc, argv); }
