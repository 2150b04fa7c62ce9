#include "tests/soak/soak.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/check.h"
#include "base/units.h"

namespace thermocline::soak {
namespace {

using crash::Chance;
using crash::Footprint;
using crash::Uniform;
using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint64_t kWarmMib = 128;
constexpr uint64_t kColdMib = 192;
constexpr char kWorld[] = "sizes";
constexpr milliseconds kTick{20};
constexpr milliseconds kSampleInterval{500};
constexpr milliseconds kServicePatience{60'000};
constexpr milliseconds kExitPatience{60'000};
constexpr double kLeaseSeconds = 10;
constexpr double kLeastDaemonLifeSeconds = 6;
constexpr size_t kMostViolationsShown = 20;
constexpr size_t kVeteran = 0;

// What is flat: the last quarter takes at most so much more than any before.
constexpr double kMostGrowth = 1.05;
constexpr uint64_t kMostGrowthBytes = 8 * MiB;
constexpr uint64_t kStoreBufferBytes = 32 * MiB;  // RocksDB's share, which fills (tiers/log_tier.h)
constexpr uint64_t kMostGrowthCount = 8;

crash::DaemonDirectories MakeDirectories() {
  char root[] = "/tmp/tc-soak-XXXXXX";
  char arena[] = "/dev/shm/tc-soak-XXXXXX";
  TC_CHECK(::mkdtemp(root) != nullptr);
  TC_CHECK(::mkdtemp(arena) != nullptr);
  const std::string data = std::string(root) + "/data";
  std::filesystem::create_directory(data);
  return {.root = root, .arena = arena, .data = data};
}

unsigned long long Number(uint64_t value) { return value; }

}  // namespace

Soak::Soak(const SoakOptions& options)
    : options_(options),
      world_(crash::World::Named(kWorld).value()),
      directories_(MakeDirectories()),
      ledger_(directories_.root),
      rng_(options.seed),
      daemon_(options.daemon, directories_),
      watcher_(world_, ledger_, daemon_,
               {.name = "soak", .warm_mib = kWarmMib, .cold_mib = kColdMib, .seed = rng_()}),
      crew_({.command = {options.program, "player", "--socket", directories_.socket(),
                         "--directory", directories_.root, "--world", kWorld},
             .log = directories_.root + "/players.log",
             .next_seed = [this] { return rng_(); },
             .violation = [this](const std::string& text) { watcher_.Violation(text); }},
            static_cast<size_t>(options.clients)),
      quarters_(4) {}

Soak::~Soak() {
  crew_.Disband();
  watcher_.Leave();
  if (daemon_.running()) {
    daemon_.Signal(SIGKILL);
    daemon_.Ended(kExitPatience);
  }
  if (options_.keep) return;
  std::error_code ignored;
  std::filesystem::remove_all(directories_.root, ignored);
  std::filesystem::remove_all(directories_.arena, ignored);
}

double Soak::Elapsed() const {
  return duration<double>(steady_clock::now() - start_) / duration<double>(options_.time);
}

milliseconds Soak::Between(double least_seconds, double most_seconds) {
  return milliseconds(Uniform(rng_, static_cast<uint64_t>(least_seconds * 1e3),
                              static_cast<uint64_t>(most_seconds * 1e3)));
}

bool Soak::Run() {
  std::printf("%7s  %11s  %23s  %8s  %8s  %6s  %9s  %5s  %7s  %5s  %6s  %5s  %3s  %7s  %7s  %6s\n",
              "seconds", "daemon", "clients", "matches", "checked", "", "committed", "pins",
              "deletes", "late", "daemon", "shm", "fds", "threads", "veteran", "viola-");
  std::printf("%7s  %11s  %23s  %8s  %8s  %6s  %9s  %5s  %7s  %5s  %6s  %5s  %3s  %7s  %7s  %6s\n",
              "", "killed/ended", "killed/stopped/started", "", "blocks", "GiB", "blocks", "kept",
              "", "reads", "MiB", "MiB", "", "", "MiB", "tions");
  StartDaemon();
  AwaitService();
  start_ = steady_clock::now();
  crew_.StartAll();
  for (int tenth = 1; tenth <= 10 && ledger_.Violations().empty(); ++tenth) RunTenth(tenth);
  FinalChecks();
  const std::vector<std::string> violations = ledger_.Violations();
  for (size_t i = 0; i < std::min(violations.size(), kMostViolationsShown); ++i) {
    std::printf("    %s\n", violations[i].c_str());
  }
  const crash::Counters& counters = ledger_.counters();
  std::printf("\n%s: %lld s, %llu blocks checked byte by byte, %llu long stops, %zu violations\n",
              violations.empty() ? "PASS" : "FAIL", static_cast<long long>(options_.time.count()),
              Number(counters.checked_blocks), Number(long_stops_), violations.size());
  return violations.empty();
}

void Soak::RunTenth(int tenth) {
  tenth_ = {};
  while (Elapsed() * 10 < tenth) {
    Tick();
    std::this_thread::sleep_for(kTick);
  }
  PrintRow(tenth);
}

void Soak::Tick() {
  crew_.Tend();
  DisturbClients();
  DisturbDaemon();
  if (const auto status = daemon_.Ended(milliseconds(0))) {
    watcher_.Violation("the daemon ended by itself: " + crash::DescribeExit(*status));
    StartDaemon();
  }
  if (steady_clock::now() < next_sample_) return;
  next_sample_ = steady_clock::now() + kSampleInterval;
  Sample();
}

// ---- the daemon

void Soak::StartDaemon() {
  daemon_.Start({.warm_capacity = std::to_string(kWarmMib) + "MiB",
                 .cold_capacity = std::to_string(kColdMib) + "MiB"});
  const double mean_seconds =
      std::max(kLeastDaemonLifeSeconds, duration<double>(options_.time).count() / 16);
  next_daemon_death_ = steady_clock::now() + Between(mean_seconds / 2, mean_seconds * 1.5);
}

bool Soak::AwaitService() {
  const auto deadline = steady_clock::now() + kServicePatience;
  while (!watcher_.Answers()) {
    if (steady_clock::now() > deadline || daemon_.Ended(milliseconds(0))) {
      watcher_.Violation("the daemon does not serve: " + daemon_.LastLine());
      return false;
    }
    crew_.Tend();
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

void Soak::DisturbDaemon() {
  if (Elapsed() > 0.5 || steady_clock::now() < next_daemon_death_) return;
  EndDaemon();
  std::this_thread::sleep_for(Between(0, 0.5));
  StartDaemon();
  AwaitService();
}

void Soak::EndDaemon() {
  if (Chance(rng_, 0.25)) {
    daemon_.Signal(SIGTERM);
    return ExpectCleanExit();
  }
  daemon_.Signal(SIGKILL);
  TC_CHECK(daemon_.Ended(kExitPatience).has_value());
  ++daemon_kills_;
}

void Soak::ExpectCleanExit() {
  const auto status = daemon_.Ended(kExitPatience);
  if (!status) {
    watcher_.Violation("SIGTERM did not end the daemon");
    daemon_.Signal(SIGKILL);
    daemon_.Ended(kExitPatience);
  } else if (!WIFEXITED(*status) || WEXITSTATUS(*status) != 0) {
    watcher_.Violation("the daemon shut down with " + crash::DescribeExit(*status));
  }
  ++daemon_shutdowns_;
}

// ---- the clients

void Soak::DisturbClients() {
  if (steady_clock::now() < next_client_event_) return;
  next_client_event_ = steady_clock::now() + Between(0.1, 2);
  const size_t client = Uniform(rng_, 0, crew_.size() - 1);
  if (!crew_.is_running(client) || crew_.is_stopped(client)) return;
  const double kind = std::uniform_real_distribution<>(0, 1)(rng_);
  if (kind < 0.5 && client != kVeteran) {
    crew_.Kill(client, Between(0, 3));
    ++kills_;
  } else if (kind < 0.85) {
    crew_.Stop(client, Between(0.05, 2));
    ++stops_;
  } else {
    crew_.Stop(client, Between(kLeaseSeconds + 0.5, kLeaseSeconds + 4));
    ++stops_;
    ++long_stops_;
  }
}

// ---- what it takes of the machine

void Soak::Sample() {
  watcher_.CheckStats();
  const Footprint daemon = daemon_.Measure();
  const uint64_t veteran_bytes = crash::FootprintOf(crew_.pid(kVeteran)).private_bytes;
  const auto quarter = std::min<size_t>(static_cast<size_t>(Elapsed() * 4), 3);
  for (Peak* peak : {&tenth_, &quarters_[quarter]}) peak->Raise({daemon, veteran_bytes});
}

void Soak::Peak::Raise(const Peak& sample) {
  const auto raise = [](uint64_t& peak, uint64_t value) { peak = std::max(peak, value); };
  raise(daemon.private_bytes, sample.daemon.private_bytes);
  raise(daemon.shared_bytes, sample.daemon.shared_bytes);
  raise(daemon.descriptors, sample.daemon.descriptors);
  raise(daemon.threads, sample.daemon.threads);
  raise(veteran_bytes, sample.veteran_bytes);
}

void Soak::CheckFlat() {
  const auto flat = [&](const char* what, uint64_t before, uint64_t after, uint64_t slack) {
    const auto most =
        std::max(static_cast<uint64_t>(static_cast<double>(before) * kMostGrowth), before + slack);
    if (after <= most) return;
    watcher_.Violation(std::string(what) + " grew from " + std::to_string(before) + " to " +
                       std::to_string(after) + " in the last quarter");
  };
  Peak before;
  for (size_t i = 0; i < 3; ++i) before.Raise(quarters_[i]);
  const Peak& after = quarters_[3];
  flat("the daemon's private memory", before.daemon.private_bytes, after.daemon.private_bytes,
       kStoreBufferBytes);
  // In a short run not all of the arena has been touched.
  flat("the daemon's shared memory", std::max(before.daemon.shared_bytes, kWarmMib * MiB),
       after.daemon.shared_bytes, kMostGrowthBytes);
  flat("the number of the daemon's descriptors", before.daemon.descriptors,
       after.daemon.descriptors, kMostGrowthCount);
  flat("the number of the daemon's threads", before.daemon.threads, after.daemon.threads,
       kMostGrowthCount);
  flat("the memory of the client that was never killed", before.veteran_bytes, after.veteran_bytes,
       kMostGrowthBytes);
}

void Soak::PrintRow(int tenth) {
  const crash::Counters& counters = ledger_.counters();
  const auto both = std::to_string(daemon_kills_) + "/" + std::to_string(daemon_shutdowns_);
  const auto clients = std::to_string(kills_ + counters.deaths) + "/" + std::to_string(stops_) +
                       "/" + std::to_string(crew_.starts());
  std::printf(
      "%7.0f  %12s  %22s  %8llu  %8llu  %6.2f  %9llu  %5llu  %7llu  %5llu  %6llu  %5llu  %3llu  "
      "%7llu  %7llu  %6zu\n",
      duration<double>(options_.time).count() * tenth / 10, both.c_str(), clients.c_str(),
      Number(counters.matches), Number(counters.checked_blocks),
      static_cast<double>(counters.checked_bytes) / GiB, Number(counters.committed_blocks),
      Number(counters.pins), Number(counters.deletes), Number(counters.late_reads),
      Number(tenth_.daemon.private_bytes / MiB), Number(tenth_.daemon.shared_bytes / MiB),
      Number(tenth_.daemon.descriptors), Number(tenth_.daemon.threads),
      Number(tenth_.veteran_bytes / MiB), ledger_.Violations().size());
  std::fflush(stdout);
}

void Soak::FinalChecks() {
  if (ledger_.Violations().empty()) CheckFlat();
  ledger_.counters().stop = 1;
  crew_.Dismiss();
  if (!daemon_.running()) StartDaemon();
  if (AwaitService()) {
    watcher_.CheckNothingHeld();
    watcher_.CheckReachable();
    watcher_.CheckPins();
    watcher_.Sweep();
    watcher_.CheckEmptied();
    CheckAllGrantable();
    watcher_.Leave();
    daemon_.Signal(SIGTERM);
    ExpectCleanExit();
  }
  if (ledger_.counters().checked_blocks == 0) watcher_.Violation("no block was ever read");
  watcher_.CheckMemory();
  watcher_.CheckLog();
  watcher_.CheckFiles();
}

void Soak::CheckAllGrantable() {
  const uint64_t all = kWarmMib * MiB / world_.spaces()[0].parts[0].block_bytes;
  const uint64_t slots = watcher_.CountGrantable(0);
  std::printf("\nslots granted once everything is gone: %llu of %llu\n", Number(slots),
              Number(all));
  if (slots != all) watcher_.Violation("slots are lost");
}

}  // namespace thermocline::soak
