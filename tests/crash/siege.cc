#include "tests/crash/siege.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/check.h"

namespace thermocline::crash {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kServicePatience{60'000};
constexpr milliseconds kShutdownPatience{40'000};
constexpr milliseconds kFinalPatience{60'000};
constexpr milliseconds kKillPatience{180'000};  // what is killed ends once the disk lets it
constexpr milliseconds kLook{20};
constexpr uint64_t kDiskGrowthMib = 64;  // RocksDB wants a write buffer's room
constexpr milliseconds kLeaseTime{10'000};
constexpr milliseconds kCallTimeout{5'000};

DaemonDirectories MakeDirectories(bool on_loop_disk) {
  char root[] = "/tmp/tc-crash-XXXXXX";
  char arena[] = "/dev/shm/tc-crash-XXXXXX";
  TC_CHECK(::mkdtemp(root) != nullptr);
  TC_CHECK(::mkdtemp(arena) != nullptr);
  const std::string data = std::string(root) + (on_loop_disk ? "/disk/data" : "/data");
  std::filesystem::create_directories(data);
  return {.root = root, .arena = arena, .data = data};
}

/// Log-uniform, 1 ms to 2 s.
milliseconds RandomLifetime(Rng& rng) {
  const double exponent = std::uniform_real_distribution<>(0, std::log(2000.0))(rng);
  return milliseconds(static_cast<int64_t>(std::exp(exponent)));
}

}  // namespace

Siege::Siege(const Variant& variant, const SiegeOptions& options)
    : variant_(variant),
      options_(options),
      world_(World::Named(variant.world).value()),
      disk_mib_(variant.disk_mib),
      directories_(MakeDirectories(variant.loop_mib > 0)),
      ledger_(directories_.root),
      rng_(options.seed),
      daemon_(options.daemon, directories_),
      watcher_(world_, ledger_, daemon_,
               {.name = variant.name,
                .warm_mib = variant.warm_mib,
                .cold_mib = variant.cold_mib,
                .seed = rng_()}),
      crew_({.command = {options.program, "player", "--socket", directories_.socket(),
                         "--directory", directories_.root, "--world", variant.world, "--pins",
                         variant.pins ? "1" : "0", "--durable", variant.durable ? "1" : "0"},
             .log = directories_.root + "/players.log",
             .next_seed = [this] { return rng_(); },
             .violation = [this](const std::string& text) { watcher_.Violation(text); }},
            static_cast<size_t>(options.clients)) {}

Siege::~Siege() {
  crew_.Disband();
  if (daemon_.running()) EndDaemon();
  watcher_.Leave();
  disk_.reset();
  if (options_.keep) {
    std::printf("    kept: %s, %s\n", directories_.root.c_str(), directories_.arena.c_str());
    return;
  }
  if (mounted_) ::umount2(directories_.data.c_str(), MNT_DETACH);
  std::error_code ignored;
  std::filesystem::remove_all(directories_.root, ignored);
  std::filesystem::remove_all(directories_.arena, ignored);
  for (const char* end : {".disk", ".disk.log"}) {
    std::filesystem::remove(directories_.arena + end, ignored);
  }
}

SiegeReport Siege::Run() {
  if (!MakeDisk()) return Report();
  if (!forgets()) crew_.StartAll();
  while (!IsDone()) {
    if (!ledger_.Violations().empty()) break;  // what it left is looked at, not run over
    Life();
  }
  FinalChecks();
  return Report();
}

// Lives that were all too short to read anything are not all: then some more of them.
bool Siege::IsDone() const {
  const int ends = cuts_power() ? report_.cuts : report_.kills;
  const int most = ledger_.counters().checked_blocks > 0 ? options_.kills : 4 * options_.kills;
  return ends >= most;
}

bool Siege::MakeDisk() {
  if (variant_.loop_mib > 0) return MountLoopDisk();
  return variant_.disk_mib == 0 || MountSmallDisk();
}

bool Siege::MountSmallDisk() {
  const std::string size = "size=" + std::to_string(disk_mib_) + "m";
  mounted_ = ::mount("tmpfs", directories_.data.c_str(), "tmpfs", 0, size.c_str()) == 0;
  if (!mounted_) {
    report_.skipped = std::string("a small tmpfs cannot be mounted here (") + std::strerror(errno) +
                      "); it takes root";
  }
  return mounted_;
}

/// What its owner does when the daemon says that there is no room to start. False when it said
/// something else.
bool Siege::GrowSmallDisk() {
  if (!mounted_ || daemon_.LastLine().find("free some disk") == std::string::npos) return false;
  ++report_.refused_starts;
  return MakeDiskLarger();
}

bool Siege::MakeDiskLarger() {
  disk_mib_ += kDiskGrowthMib;
  const std::string size = "size=" + std::to_string(disk_mib_) + "m";
  const char* data = directories_.data.c_str();
  return ::mount("tmpfs", data, "tmpfs", MS_REMOUNT, size.c_str()) == 0;
}

// ---- the daemon

void Siege::Life() {
  StartDaemon(variant_.drains && Chance(rng_, 0.3));
  if (Chance(rng_, 0.12)) {  // before it serves, or at about that time
    std::this_thread::sleep_for(milliseconds(Uniform(rng_, 0, 100)));
    return cuts_power() ? CutPower() : Kill();
  }
  if (!AwaitService()) return;
  if (forgets()) {
    LookAfterLoss();
    StartLoad();
  }
  Serve(RandomLifetime(rng_));
  if (daemon_.running()) StopDaemon();
  if (!forgets()) return;
  crew_.Disband();
  if (!cuts_power() && Chance(rng_, 0.5)) LoseMemory();
}

void Siege::StartDaemon(bool drain) {
  daemon_.Start({.warm_capacity = std::to_string(variant_.warm_mib) + "MiB",
                 .cold_capacity = std::to_string(variant_.cold_mib) + "MiB",
                 .drain = drain,
                 .durability = variant_.durable ? "ack" : "write_back"});
}

bool Siege::AwaitService() {
  auto start = steady_clock::now();
  while (!watcher_.Answers()) {
    if (const auto status = daemon_.Ended(milliseconds(0))) {
      if (!WIFEXITED(*status) || !GrowSmallDisk()) {
        watcher_.Violation("the daemon does not start: " + DescribeExit(*status) + ", " +
                           daemon_.LastLine());
        return false;
      }
      StartDaemon(false);
      start = steady_clock::now();
    }
    if (steady_clock::now() - start > kServicePatience) {
      watcher_.Violation("the daemon runs and does not serve");
      Kill();
      return false;
    }
    std::this_thread::sleep_for(milliseconds(1));
  }
  const duration<double, std::milli> time = steady_clock::now() - start;
  report_.restart_ms.push_back(time.count());
  return true;
}

void Siege::Serve(milliseconds time) {
  const auto end = steady_clock::now() + time;
  StopOrKillPlayers();
  bool flush = Chance(rng_, 0.1);
  for (auto now = steady_clock::now(); now < end; now = steady_clock::now()) {
    crew_.Tend();
    watcher_.CheckStats();
    if (std::exchange(flush, false)) Flush();
    const auto left = std::chrono::duration_cast<milliseconds>(end - steady_clock::now());
    if (left.count() > 0) std::this_thread::sleep_for(std::min(left, kLook));
    if (const auto status = daemon_.Ended(milliseconds(0))) {
      return watcher_.Violation("the daemon ended by itself: " + DescribeExit(*status));
    }
  }
}

void Siege::StopDaemon() {
  if (cuts_power()) {
    AwaitMoment();
    return CutPower();
  }
  const double kind = std::uniform_real_distribution<>(0, 1)(rng_);
  if (kind < 0.1) {
    daemon_.Signal(SIGTERM);
    ExpectExit(kShutdownPatience);
  } else if (kind < 0.2) {
    daemon_.Signal(SIGTERM);
    std::this_thread::sleep_for(milliseconds(Uniform(rng_, 0, 80)));
    Kill();
  } else {
    Kill();
  }
}

void Siege::ExpectExit(milliseconds patience) {
  const auto status = daemon_.Ended(patience);
  if (!status) {
    watcher_.Violation("SIGTERM did not end the daemon in " + std::to_string(patience.count()) +
                       " ms");
    return Kill();
  }
  ++report_.shutdowns;
  // A full disk, or the grace of a restart a moment ago, may keep it from draining; then it says so
  // by exit code 1.
  const bool drained = WIFEXITED(*status) && WEXITSTATUS(*status) == 0;
  const bool kept = WIFEXITED(*status) && WEXITSTATUS(*status) == 1 &&
                    daemon_.LastLine().find("for the next daemon") != std::string::npos;
  const bool clean = drained || kept;
  if (!clean) watcher_.Violation("the daemon shut down with " + DescribeExit(*status));
}

void Siege::Kill() {
  EndDaemon();
  ++report_.kills;
}

void Siege::EndDaemon() {
  daemon_.Signal(SIGKILL);
  const auto status = daemon_.Ended(kKillPatience);
  TC_CHECK(status.has_value());
  const bool killed = WIFSIGNALED(*status) && WTERMSIG(*status) == SIGKILL;
  const bool exited = WIFEXITED(*status) && WEXITSTATUS(*status) == 0;  // SIGTERM was faster
  const bool refused =
      WIFEXITED(*status) && WEXITSTATUS(*status) == 1 && (mounted_ || cuts_power());
  if (!killed && !exited && !refused)
    watcher_.Violation("the daemon ended before the kill: " + DescribeExit(*status));
}

void Siege::Flush() {
  auto admin = AdminClient::Connect(
      {.socket_path = directories_.socket(), .client_name = "flush", .timeout = kCallTimeout});
  if (!admin.ok()) return;
  const bool warm = variant_.roomy || Chance(rng_, 0.5);
  (*admin)->Flush(warm ? BlockTier::kWarm : BlockTier::kCold).IgnoreError();
}

void Siege::StopOrKillPlayers() {
  for (size_t player = 0; player < crew_.size(); ++player) {
    // One that was killed starts again when the crew is tended, which a short life may end before.
    if (!crew_.is_running(player) || crew_.is_stopped(player)) continue;
    if (options_.stops && Chance(rng_, 0.03)) {
      crew_.Stop(player, kLeaseTime + milliseconds(Uniform(rng_, 0, 4000)));
    } else if (Chance(rng_, 0.05)) {
      crew_.Kill(player);
      ++report_.deaths;
    }
  }
}

// ---- the end

void Siege::FinalChecks() {
  ledger_.counters().stop = 1;
  crew_.Dismiss();
  if (!daemon_.running()) StartDaemon(false);
  if (AwaitService()) {
    watcher_.CheckNothingHeld();
    watcher_.CheckPins();
    if (variant_.roomy) watcher_.CheckDurable(SIZE_MAX);
    watcher_.Sweep();
    CheckEmptied();
    watcher_.Leave();
    daemon_.Signal(SIGTERM);
    ExpectExit(kFinalPatience);
  }
  watcher_.CheckMemory();
  watcher_.CheckLog();
  watcher_.CheckFiles();
}

void Siege::CheckEmptied() {
  if (!mounted_) return watcher_.CheckEmptied();
  watcher_.CheckEmptied([this](AdminClient& admin) {
    admin.DropArena().IgnoreError();
    // With room it takes writes again, erasures too, without being started anew.
    if (!MakeDiskLarger()) watcher_.Violation("the small disk cannot be made larger");
  });
}

SiegeReport Siege::Report() {
  SiegeReport report = report_;
  const Counters& counters = ledger_.counters();
  report.matches = counters.matches;
  report.hits = counters.hits;
  report.checked_blocks = counters.checked_blocks;
  report.checked_bytes = counters.checked_bytes;
  report.committed_blocks = counters.committed_blocks;
  report.late_reads = counters.late_reads;
  report.ended_leases = counters.ended_leases;
  report.unreadable_blocks = counters.unreadable_blocks;
  report.refused_reserves = counters.refused_reserves;
  report.deaths += counters.deaths;
  report.pins = counters.pins;
  report.durable_commits = counters.durable_commits;
  report.not_on_disk = counters.not_on_disk;
  report.daemon_bytes = watcher_.daemon_bytes();
  const std::string log = daemon_.Log();
  for (size_t at = 0; (at = log.find("cold_tier_set_aside", at)) != std::string::npos; ++at) {
    ++report.set_aside;
  }
  report.violations = ledger_.Violations();
  return report;
}

}  // namespace thermocline::crash
