// What must be so while a siege goes on, and after it.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <thread>

#include "base/units.h"
#include "tests/crash/siege.h"

namespace thermocline::crash {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr milliseconds kCallTimeout{5'000};
constexpr milliseconds kFlushTimeout{60'000};
constexpr seconds kSettlePatience{20};
constexpr int kSweepPaths = 300;
constexpr uint64_t kMostDaemonBytes = 512 * MiB;

const TierUse* TierOf(const DaemonStats& stats, BlockTier tier) {
  for (const TierUse& use : stats.tiers) {
    if (use.tier == tier) return &use;
  }
  return nullptr;
}

uint64_t UsedBytes(const DaemonStats& stats, BlockTier tier) {
  const TierUse* use = TierOf(stats, tier);
  return use == nullptr ? 0 : use->used_bytes;
}

}  // namespace

/// Whether a match is answered.
bool Siege::Answers() {
  if (client_ == nullptr) {
    auto client = Client::Connect(
        {.socket_path = directories_.socket(), .client_name = "watcher", .timeout = kCallTimeout});
    if (!client.ok()) return false;
    client_ = *std::move(client);
  }
  if (!client_->Connected() && !client_->Reconnect().ok()) return false;
  while (spaces_.size() < world_.spaces().size()) {
    auto space = client_->OpenSpace(world_.spaces()[spaces_.size()]);
    if (!space.ok()) return false;
    spaces_.push_back(*std::move(space));
  }
  const Path path = world_.RandomPath(rng_);
  const auto lease = spaces_[0].Match(world_.Names(0, path, 0, path.size()).view());
  return lease.ok();
}

std::optional<DaemonStats> Siege::CheckStats() {
  const auto stats = client_->Stats();
  if (!stats.ok()) return std::nullopt;
  for (const TierUse& use : stats->tiers) {
    const uint64_t mib = use.tier == BlockTier::kWarm ? variant_.warm_mib : variant_.cold_mib;
    if (use.used_bytes > mib * MiB) {
      Violation(std::string(BlockTierName(use.tier)) + " holds " + FormatBytes(use.used_bytes) +
                " of " + std::to_string(mib) + "MiB");
    }
  }
  if (stats->corrupt_blocks > 0) {
    Violation("the daemon found " + std::to_string(stats->corrupt_blocks) + " damaged blocks");
  }
  report_.daemon_bytes = std::max(report_.daemon_bytes, daemon_.AnonymousBytes());
  return *stats;
}

void Siege::FinalChecks() {
  DismissPlayers();
  if (!daemon_.running()) StartDaemon(false);
  if (AwaitService()) {
    CheckNothingHeld();
    CheckPins();
    Sweep();
    CheckEmptied();
    client_.reset();
    daemon_.Signal(SIGTERM);
    ExpectExit(kFlushTimeout);
  }
  if (report_.daemon_bytes > kMostDaemonBytes) {
    Violation("the daemon took " + FormatBytes(report_.daemon_bytes) + " beside its arena");
  }
  CheckLog();
  CheckFiles();
}

bool Siege::EventuallyStats(const std::function<bool(const DaemonStats&)>& holds) {
  const auto deadline = steady_clock::now() + kSettlePatience;
  while (true) {
    const auto stats = CheckStats();
    if (stats && holds(*stats)) return true;
    if (steady_clock::now() > deadline) {
      Violation(!stats ? "no stats"
                       : "sessions " + std::to_string(stats->sessions) + ", leases " +
                             std::to_string(stats->leases) + ", reservations " +
                             std::to_string(stats->reservations) + ", places " +
                             std::to_string(stats->places) + ", warm " +
                             FormatBytes(UsedBytes(*stats, BlockTier::kWarm)) + ", cold " +
                             FormatBytes(UsedBytes(*stats, BlockTier::kCold)));
      return false;
    }
    std::this_thread::sleep_for(milliseconds(20));
  }
}

void Siege::CheckNothingHeld() {
  const bool free = EventuallyStats([](const DaemonStats& stats) {
    return stats.sessions == 1 && stats.leases == 0 && stats.reservations == 0;
  });
  if (!free) Violation("the clients have left, and the daemon holds something for them");
}

void Siege::CheckPins() {
  std::set<std::pair<size_t, Path>> pins;
  for (const PinRecord& pin : ledger_.Pins()) pins.emplace(pin.space, pin.path);
  const auto deadline = steady_clock::now() + kSettlePatience;
  for (const auto& [space, path] : pins) {
    const auto end = static_cast<uint32_t>(path.size());
    uint32_t matched = 0, loaded = 0;
    // In the grace period after a restart there may be no slot to load into.
    while ((loaded = LoadAndCheck(space, path, &matched)) < end) {
      if (matched < end || steady_clock::now() > deadline) break;
      std::this_thread::sleep_for(milliseconds(100));
    }
    if (loaded == end) continue;
    Violation("of a pinned path only " + std::to_string(loaded) + " places can be loaded, " +
              std::to_string(matched) + " matched: " + Describe(space, path, end - 1, 0));
  }
}

uint32_t Siege::LoadAndCheck(size_t space, const Path& path, uint32_t* matched) {
  auto lease = spaces_[space].Match(world_.Names(space, path, 0, path.size()).view());
  *matched = lease.ok() ? lease->depth() : 0;
  const auto loaded = lease.ok() ? lease->Load() : lease.status();
  if (!loaded.ok()) {
    Violation("the last daemon does not answer: " + loaded.status().ToString());
    return 0;
  }
  reader_.Check(*lease, space, path);
  return *loaded;
}

void Siege::Sweep() {
  uint32_t matched = 0;
  for (int i = 0; i < kSweepPaths; ++i) {
    LoadAndCheck(Uniform(rng_, 0, spaces_.size() - 1), world_.RandomPath(rng_), &matched);
  }
}

/// No slot is left over when everything has gone.
void Siege::CheckEmptied() {
  const auto pins = client_->Pins();
  if (pins.ok()) {
    for (const PinInfo& pin : *pins) client_->Unpin(pin.pin).IgnoreError();
  }
  CheckNothingHeld();
  auto admin = AdminClient::Connect(
      {.socket_path = directories_.socket(), .client_name = "flush", .timeout = kFlushTimeout});
  if (!pins.ok() || !admin.ok()) return Violation("there is no flushing it");
  const auto flushed = (*admin)->Flush(BlockTier::kWarm);
  if (!flushed.ok()) return Violation("flush: " + flushed.status().ToString());
  if (mounted_) {
    (*admin)->DropArena().IgnoreError();
    // With room it takes writes again, erasures too, without being started anew.
    if (!MakeDiskLarger()) Violation("the small disk cannot be made larger");
  }
  EventuallyStats([](const DaemonStats& stats) { return UsedBytes(stats, BlockTier::kWarm) == 0; });
  if (variant_.cold_mib > 0) {
    const auto dropped = (*admin)->Flush(BlockTier::kCold);
    if (!dropped.ok()) Violation("flush: " + dropped.status().ToString());
  }
  EventuallyStats([](const DaemonStats& stats) {
    return UsedBytes(stats, BlockTier::kWarm) == 0 && UsedBytes(stats, BlockTier::kCold) == 0 &&
           stats.places == 0 && stats.pins == 0;
  });
}

void Siege::CheckLog() {
  const std::string log = daemon_.Log();
  for (const char* text : {"check failed", "Assertion", "terminate called", "Sanitizer",
                           "runtime error", "warm_block_dropped", "cold_block_dropped",
                           "cold_header_dropped", "cold_tier_set_aside", "state_set_aside"}) {
    const size_t at = log.find(text);
    if (at == std::string::npos) continue;
    const size_t line = log.rfind('\n', at) + 1;
    Violation("the daemon's log says: " + log.substr(line, log.find('\n', at) - line));
  }
}

void Siege::CheckFiles() {
  const std::set<std::string> expected = {
      "default.arena", "default.arena.meta", "default.arena.sessions",
      "LOCK",          "state.json",         "store"};
  for (const std::string& directory : {directories_.arena, directories_.data}) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      const std::string name = entry.path().filename().string();
      if (!expected.contains(name)) Violation("an unexpected file is left: " + name);
    }
  }
}

SiegeReport Siege::Report() const {
  SiegeReport report = report_;
  Ledger& ledger = const_cast<Siege*>(this)->ledger_;
  const Counters& counters = ledger.counters();
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
  report.violations = ledger.Violations();
  return report;
}

}  // namespace thermocline::crash
