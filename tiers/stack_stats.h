// What a tier stack tells about itself: counters since it was opened, and the present state. Plain
// values, so that the daemon's metrics, its status and its tests read the same.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hashing/space.h"

namespace thermocline {

enum class TierKind : uint8_t { kNone = 0, kHot = 1, kWarm = 2, kCold = 3, kRemote = 4 };
inline constexpr size_t kTierKindCount = 5;

/// Why a block that was asked for could not be had.
enum class MissReason : uint8_t {
  kAbsent,      // no such place, or its key is gone
  kIncomplete,  // not all parts are here
  kCorrupt,     // was here, did not verify, was dropped
  kIoError,     // the tier could not be read
  kNoSlot,      // cold, and no warm slot could be had
  kLate,        // cold, and the read took too long
};
inline constexpr size_t kMissReasonCount = 6;

/// "absent", "incomplete", ...: as metrics and Stats say it.
const char* MissReasonName(MissReason reason);
/// "warm", "cold", ...
const char* TierKindName(TierKind tier);

/// Counters are of blocks and only grow.
struct TierStats {
  TierKind tier = TierKind::kNone;
  uint64_t capacity_bytes = 0;  // hard
  uint64_t share_bytes = 0;     // of it what nobody else gets for long
  uint64_t lent_bytes = 0;      // what it may use now
  uint64_t used_bytes = 0;
  uint64_t ttl_pinned_bytes = 0;  // what TTL pins hold there, or may
  uint64_t block_count = 0;
  uint64_t hits = 0;        // found there by a match
  uint64_t evictions = 0;   // dropped from it, their bytes gone from the machine
  uint64_t promotions = 0;  // into it, from below
  uint64_t demotions = 0;   // out of it, downwards
  uint64_t bytes_in = 0;    // written into it
  uint64_t bytes_out = 0;   // read out of it by a movement
  uint64_t kept_bytes = 0;  // written anew, as what lay beside them had to go
  std::string state;        // "ok", or what is wrong
};

struct StackStats {
  uint64_t epoch = 0;
  uint64_t clients = 0;
  uint64_t leases = 0;
  uint64_t reserved_slots = 0;     // granted and not committed
  uint64_t quarantined_slots = 0;  // of clients that went while their process may still write
  uint64_t spaces = 0;
  uint64_t places = 0;
  uint64_t pins = 0;

  uint64_t lookups = 0;  // matches
  // Of those without a message, whose hits are all warm.
  uint64_t shared_requested_tokens = 0;
  uint64_t shared_hit_tokens = 0;
  uint64_t shared_hit_bytes = 0;
  uint64_t misses = 0;  // blocks asked for and not usable: the sum of misses_by_reason
  std::array<uint64_t, kMissReasonCount> misses_by_reason{};
  uint64_t committed_blocks = 0;
  uint64_t committed_bytes = 0;
  uint64_t duplicate_blocks = 0;  // offered, and already there
  uint64_t corrupt_blocks = 0;    // dropped because they did not verify
  uint64_t refused_reserves = 0;  // no slot could be had in time
  uint64_t pinned_bytes = 0;      // of the arena, for a device
  std::vector<TierStats> tiers;   // warm, then cold and hot unless they are off
};

/// Of two stacks together; the epoch and each state that is not "ok" are the first's.
StackStats& operator+=(StackStats& sum, const StackStats& other);

struct SpaceView {
  uint32_t space = 0;
  Fingerprint fingerprint;
  SpaceSpec spec;
  uint64_t places = 0;
  uint64_t warm_bytes = 0;
  uint64_t cold_bytes = 0;
};

}  // namespace thermocline
