#include "tests/crash/watcher.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <set>
#include <thread>
#include <unordered_set>

#include "base/disk_use.h"
#include "base/units.h"
#include "tiers/log_tier.h"

namespace thermocline::crash {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr milliseconds kCallTimeout{20'000};
constexpr milliseconds kFlushTimeout{60'000};
constexpr seconds kSettlePatience{60};
constexpr int kSweepPaths = 300;
constexpr uint32_t kSlotsOfOneCall = 256;
constexpr milliseconds kRefusalPatience{500};
constexpr uint64_t kMostDaemonBytes = 512 * MiB;
constexpr int kLooks = 5;
constexpr uint64_t kErasedEntries = 32;  // the share of the capacity that their tables may take

const TierUse* TierOf(const DaemonStats& stats, BlockTier tier) {
  for (const TierUse& use : stats.tiers) {
    if (use.tier == tier) return &use;
  }
  return nullptr;
}

/// What lies below the directory. A look at which files went and others came counts both: the least
/// of some, unless one is not above `most_bytes`.
uint64_t DiskBytesBelow(const std::string& directory, uint64_t most_bytes) {
  uint64_t least = UINT64_MAX;
  for (int look = 0; look < kLooks && least > most_bytes; ++look) {
    least = std::min(least, DiskBytes(directory));
  }
  return least;
}

}  // namespace

uint64_t UsedBytes(const DaemonStats& stats, BlockTier tier) {
  const TierUse* use = TierOf(stats, tier);
  return use == nullptr ? 0 : use->used_bytes;
}

Watcher::Watcher(const World& world, Ledger& ledger, const DaemonUnderTest& daemon,
                 WatcherOptions options)
    : world_(world),
      ledger_(ledger),
      daemon_(daemon),
      options_(std::move(options)),
      rng_(options_.seed),
      reader_(world, ledger, options_.name + ": watcher") {}

bool Watcher::Answers() {
  if (client_ == nullptr) {
    auto client = Client::Connect({.socket_path = daemon_.directories().socket(),
                                   .client_name = "watcher",
                                   .timeout = kCallTimeout});
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

std::optional<DaemonStats> Watcher::CheckStats() {
  const auto stats = client_->Stats();
  if (!stats.ok()) return std::nullopt;
  for (const TierUse& use : stats->tiers) {
    const bool is_warm = use.tier == BlockTier::kWarm;
    const uint64_t mib = is_warm ? options_.warm_mib : options_.cold_mib;
    // Of cold a segment more: what is kept when another one goes.
    const uint64_t most_bytes = mib * MiB + (is_warm ? 0 : std::max(mib * MiB / 16, MiB));
    uint64_t bytes = use.used_bytes;
    if (!is_warm) bytes = std::max(bytes, DiskBytesBelow(daemon_.directories().data, most_bytes));
    if (bytes > most_bytes) {
      Violation(std::string(BlockTierName(use.tier)) + " holds " + FormatBytes(bytes) + " of " +
                std::to_string(mib) + "MiB");
    }
  }
  if (stats->corrupt_blocks > 0) {
    Violation("the daemon found " + std::to_string(stats->corrupt_blocks) + " damaged blocks");
  }
  daemon_bytes_ = std::max(daemon_bytes_, daemon_.Measure().private_bytes);
  return *stats;
}

bool Watcher::EventuallyStats(const std::function<bool(const DaemonStats&)>& holds) {
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

void Watcher::CheckNothingHeld() {
  const bool free = EventuallyStats([](const DaemonStats& stats) {
    return stats.sessions == 1 && stats.leases == 0 && stats.reservations == 0;
  });
  if (free) return;
  const std::string log = daemon_.Log();
  Violation("the clients have left, and the daemon holds something for them; its log: " +
            log.substr(log.rfind("INFO starting")));
}

void Watcher::CheckPins() {
  std::set<std::pair<size_t, Path>> pins;
  for (const PathRecord& pin : ledger_.Pins()) pins.emplace(pin.space, pin.path);
  for (const auto& [space, path] : pins) LoadWhole(space, path, "a pinned path");
}

void Watcher::CheckDurable(size_t loads) {
  std::set<std::pair<size_t, Path>> all;
  for (const PathRecord& durable : ledger_.Durable()) all.emplace(durable.space, durable.path);
  std::vector<std::pair<size_t, Path>> longest;  // a path comes right before those it begins
  for (const auto& [space, path] : all) {
    const bool goes_on =
        !longest.empty() && longest.back().first == space &&
        longest.back().second.size() < path.size() &&
        std::equal(longest.back().second.begin(), longest.back().second.end(), path.begin());
    if (goes_on) longest.pop_back();
    longest.emplace_back(space, path);
  }
  for (const auto& [space, path] : longest) {
    const auto lease = spaces_[space].Match(world_.Names(space, path, 0, path.size()).view());
    if (!lease.ok()) return Violation("no match: " + lease.status().ToString());
    if (lease->depth() == path.size()) continue;
    Violation(
        "LOST: of a path that was answered to be on disk only " + std::to_string(lease->depth()) +
        " places matched: " + Describe(space, path, static_cast<uint32_t>(path.size()) - 1, 0));
  }
  std::shuffle(longest.begin(), longest.end(), rng_);
  longest.resize(std::min(longest.size(), loads));
  for (const auto& [space, path] : longest) LoadWhole(space, path, "a path that is on disk");
}

void Watcher::LoadWhole(size_t space, const Path& path, const char* what) {
  const auto deadline = steady_clock::now() + kSettlePatience;
  const auto end = static_cast<uint32_t>(path.size());
  uint32_t matched = 0, loaded = 0;
  // In the grace period after a restart there may be no slot to load into.
  while ((loaded = LoadAndCheck(space, path, &matched)) < end) {
    if (matched < end || steady_clock::now() > deadline) break;
    std::this_thread::sleep_for(milliseconds(100));
  }
  if (loaded == end) return;
  Violation(std::string("of ") + what + " only " + std::to_string(loaded) +
            " places can be loaded, " + std::to_string(matched) +
            " matched: " + Describe(space, path, end - 1, 0));
}

uint32_t Watcher::LoadAndCheck(size_t space, const Path& path, uint32_t* matched) {
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

void Watcher::Sweep() {
  uint32_t matched = 0;
  for (int i = 0; i < kSweepPaths; ++i) {
    LoadAndCheck(Uniform(rng_, 0, spaces_.size() - 1), world_.RandomPath(rng_), &matched);
  }
}

uint64_t Watcher::CountGrantable(size_t space) {
  const auto client = Client::Connect({.socket_path = daemon_.directories().socket(),
                                       .client_name = "counter",
                                       .timeout = kCallTimeout});
  if (!client.ok()) return 0;
  const auto its_space = (*client)->OpenSpace(world_.spaces()[space]);
  if (!its_space.ok()) return 0;
  std::vector<Reservation> all;
  while (true) {
    auto slots = its_space->Reserve(kSlotsOfOneCall, 0, kRefusalPatience);
    if (!slots.ok()) return absl::IsResourceExhausted(slots.status()) ? all.size() : 0;
    std::move(slots->begin(), slots->end(), std::back_inserter(all));
  }
}

void Watcher::CheckReachable() {
  uint64_t reachable_bytes = 0;
  std::unordered_set<uint64_t> seen;  // ids of places and their parts
  for (size_t space = 0; space < spaces_.size(); ++space) {
    for (const Path& path : world_.AllPaths()) {
      const auto lease = spaces_[space].Match(world_.Names(space, path, 0, path.size()).view());
      if (!lease.ok()) return Violation("no match: " + lease.status().ToString());
      for (const BlockInfo& block : lease->blocks()) {
        if (block.tier != BlockTier::kWarm || !seen.insert(block.id * 2 + block.part).second)
          continue;
        reachable_bytes += (block.bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
      }
    }
  }
  const bool equal = EventuallyStats([&](const DaemonStats& stats) {
    return UsedBytes(stats, BlockTier::kWarm) == reachable_bytes;
  });
  if (!equal) Violation("matches reach " + FormatBytes(reachable_bytes) + " of warm slots");
}

void Watcher::CheckEmptied(const std::function<void(AdminClient&)>& before_cold) {
  const auto pins = client_->Pins();
  if (pins.ok()) {
    for (const PinInfo& pin : *pins) client_->Unpin(pin.pin).IgnoreError();
  }
  CheckNothingHeld();
  auto admin = AdminClient::Connect({.socket_path = daemon_.directories().socket(),
                                     .client_name = "flush",
                                     .timeout = kFlushTimeout});
  if (!pins.ok() || !admin.ok()) return Violation("there is no flushing it");
  const auto flushed = (*admin)->Flush(BlockTier::kWarm);
  if (!flushed.ok()) return Violation("flush: " + flushed.status().ToString());
  if (before_cold) before_cold(**admin);
  EventuallyStats([](const DaemonStats& stats) { return UsedBytes(stats, BlockTier::kWarm) == 0; });
  if (options_.cold_mib > 0) {
    const auto dropped = (*admin)->Flush(BlockTier::kCold);
    if (!dropped.ok()) Violation("flush: " + dropped.status().ToString());
  }
  // A store without blocks still has its logs and manifest, and tables of erased entries.
  const uint64_t cold_bytes = options_.cold_mib * MiB;
  const uint64_t most_cold =
      cold_bytes == 0 ? 0 : LogTier::OwnBytes(cold_bytes) + cold_bytes / kErasedEntries;
  EventuallyStats([&](const DaemonStats& stats) {
    const TierUse* const cold = TierOf(stats, BlockTier::kCold);
    return UsedBytes(stats, BlockTier::kWarm) == 0 && (cold == nullptr || cold->blocks == 0) &&
           UsedBytes(stats, BlockTier::kCold) <= most_cold && stats.places == 0 && stats.pins == 0;
  });
}

void Watcher::CheckMemory() {
  if (daemon_bytes_ > kMostDaemonBytes) {
    Violation("the daemon took " + FormatBytes(daemon_bytes_) + " beside its arena");
  }
}

void Watcher::CheckLog() {
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

void Watcher::CheckFiles() {
  const std::set<std::string> expected = {
      "default.arena", "default.arena.meta", "default.arena.sessions",
      "LOCK",          "state.json",         "state.json.copy",
      "store"};
  for (const std::string& directory : {daemon_.directories().arena, daemon_.directories().data}) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      const std::string name = entry.path().filename().string();
      if (!expected.contains(name)) Violation("an unexpected file is left: " + name);
    }
  }
}

}  // namespace thermocline::crash
