// What the tier stack has under way: who waits for slots and blocks, what a job takes to the disk
// and brings back, and what waits for one.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "tiers/tier.h"
#include "tiers/tier_stack.h"

namespace thermocline {

/// One who waits for slots: a Reserve, or a promotion when `done` is empty.
struct Waiter {
  uint32_t client = 0;
  uint32_t space = 0;
  uint16_t part = 0;
  uint64_t bytes = 0;
  uint32_t count = 0;
  uint32_t ahead = 0;
  uint64_t grant = 0;
  SteadyTime deadline;
  TierStack::ReserveCallback done;
  BlockRef promotion;
  bool probes = false;  // whether the tier is to be read again
};

/// One who waits for slots of the device's memory.
struct FillWaiter {
  uint32_t client = 0;
  uint32_t space = 0;
  uint16_t part = 0;
  uint64_t bytes = 0;
  uint32_t count = 0;
  uint64_t grant = 0;
  SteadyTime deadline;
  TierStack::ReserveCallback done;
  std::optional<SteadyTime> tried;  // when it was, last
  std::vector<uint64_t> slots;      // that it has so far
};

/// A slot of the device's that is read before it is committed.
struct FillSum {
  uint64_t offset = 0;
  uint32_t page = 0;
  uint64_t bytes = 0;
  uint64_t checksum = 0;  // out
};

/// What clients fill on the device.
struct DeviceFills {
  std::map<uint64_t, FillWaiter> waiters;  // in the order in which they came
  uint64_t last_waiter = 0;
  uint64_t reserving = 0;            // the one for whom slots are being reserved; 0: none
  uint64_t reserved = 0;             // slots, of all reservations
  uint64_t bytes = 0;                // of slots that are reserved, or in quarantine
  std::map<uint64_t, bool> summing;  // slots that are being read; whether to free them then
};

/// What a walk over the warm policy is after.
struct FreeGoal {
  uint64_t slot_bytes = 0;  // slots of this size; 0: of any
  uint64_t count = 0;
  bool drop_dirty = false;       // what has no cold copy may be dropped
  uint64_t newest = UINT64_MAX;  // sequence; what was committed later is passed over
};
/// A place that shall leave warm.
struct Victim {
  uint64_t id = 0;
  Place place;
  bool drop = false;   // with its name, for lack of a cold copy
  uint64_t slots = 0;  // of the size wanted
};

/// A unit of a shared tier that is to come.
struct Awaited {
  uint64_t beyond = 0;  // units held since it has been waiting for another
  SteadyTime since{};
};

struct TtlPin {
  TierStack::PinView view;
  uint64_t id = 0;  // of the place
};

/// Gets a block of as many bytes as `payload` has, and sums it once more, whatever tier it is.
/// Errors: of Get; DataLoss for what the tier took for whole, and is not.
absl::StatusOr<std::optional<BlockRecord>> ReadWhole(Tier& tier, BlockRef ref,
                                                     std::span<std::byte> payload);

/// Told by the thread that reads when it begins to.
struct ReadStart {
  static constexpr SteadyTime kNotYet = SteadyTime::min();
  std::atomic<SteadyTime> at = kNotYet;
};

/// A warm block that is copied to the hot tier.
struct HotCopy {
  BlockRef ref;
  uint64_t offset = 0;  // of its warm slot
  BlockRecord record;
  absl::Status status = absl::OkStatus();
};

/// From cold, or from hot.
struct ColdRead {
  uint64_t offset = 0;  // of the slot
  bool is_hot = false;
  SteadyTime asked;
  std::shared_ptr<const ReadStart> start;
  bool late = false;
  SteadyTime blamed{};  // when the disk was blamed for it last
  bool has_begun() const { return start->at.load() != ReadStart::kNotYet; }
  /// From when on the patience with it counts: others may have to be read before it.
  SteadyTime since() const { return has_begun() ? start->at.load() : asked; }
};

struct QueuedPrefetch {
  BlockRef ref;
  uint32_t client = 0;  // 0: a pin's
};

struct ColdWrite {
  BlockRef ref;
  uint64_t offset = 0;
  BlockRecord record;
  absl::Status status;
};

struct SegmentDrop {
  uint64_t sequence = 0;
  std::vector<BlockRef> keep;
  std::vector<BlockRef> going;  // those that lose their copies once it is done
};

/// A segment that could not be given up.
struct StuckSegment {
  int failures = 0;  // in a row
  SteadyTime until{};
};

struct ColdJob {  // in this order
  std::vector<BlockRef> erasures;
  std::optional<SegmentDrop> drop;
  std::vector<ColdWrite> writes;
  bool probe = false;  // only whether the tier takes writes again
  absl::Status probe_status;
  absl::Status erase_status;
  absl::Status drop_status;
};

/// What would become of a segment's blocks.
struct SegmentPlan {
  TierSegment segment;
  std::vector<BlockRef> going;  // in no other tier; places leave with their names
  std::vector<BlockRef> warm;   // in memory too, so that their copies may go
  std::vector<BlockRef> kept;
  uint64_t warm_bytes = 0;
  uint64_t kept_bytes = 0;
  /// Of the room that comes free; `keep_warm`: copies of warm blocks are kept, too.
  uint64_t Gain(bool keep_warm) const {
    const uint64_t rewritten = kept_bytes + (keep_warm ? warm_bytes : 0);
    return segment.bytes - std::min(rewritten, segment.bytes);
  }
  bool GivesWay(bool keep_warm) const {
    return !going.empty() || (!keep_warm && !warm.empty()) || Gain(keep_warm) >= segment.bytes / 8;
  }
};

struct LoadState {
  uint64_t lease = 0;
  std::vector<std::pair<uint32_t, uint16_t>> items;  // (depth, part) in prefix order
  size_t next_deliver = 0;
  size_t next_start = 0;
  TierStack::ReadyCallback ready;
  TierStack::DoneCallback done;
  bool hot_stays = false;
};

struct FlushState {
  TierKind tier = TierKind::kWarm;
  bool drop = false;          // of warm: without writing
  bool settle = false;        // of cold: only what is queued for erasure already
  uint64_t newest = 0;        // the last sequence when it began; what came later is not waited for
  uint64_t erasure_wait = 0;  // for which it is done
  uint64_t blocks = 0;
  TierStack::FlushCallback done;
};

struct DurableWait {
  uint64_t end = 0;              // the place that was committed last
  std::vector<BlockRef> blocks;  // those of its path that are not in cold yet
  uint64_t state_change = 0;     // by which their space came
  TierStack::DoneCallback done;
  SteadyTime deadline;
};

/// Of the state file; one is under way at most.
struct StateWrite {
  uint64_t change = 0;  // the last that it takes along
  SteadyTime deadline;
};

/// For deletions to be on disk.
struct ErasureWait {
  TierStack::DoneCallback done;
  SteadyTime deadline;
};

struct SavedWait {
  uint64_t change = 0;
  TierStack::DoneCallback done;
};

/// A warm block that is read back.
struct ScrubItem {
  BlockRef ref;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t checksum = 0;
  bool is_checked = false;  // as its word says
  bool right = false;       // out
};

struct ColdItem {
  BlockRef ref;
  uint64_t bytes = 0;
  absl::StatusOr<std::optional<BlockRecord>> found;  // by ReadWhole
};

struct ColdScrub {
  std::vector<BlockRef> refs;  // what is left of a segment
  uint64_t next = 0;           // its successor
  uint64_t allowance = 0;      // bytes
  bool running = false;
  std::shared_ptr<const ReadStart> start;  // of what is read at the moment
  bool late = false;
  bool probes = false;  // begun to see whether the tier is to be read again
  uint64_t round = 0;   // what was begun in another is not tallied
  SteadyTime moved;     // when the check began, or something was read for it last
  // Of a check of all blocks, which has no allowance; none is under way: no callback.
  TierStack::FlushCallback checked;
  uint64_t blocks = 0;
  uint64_t damaged = 0;
  uint64_t sealed = 0;  // dropped, as their keys are gone
  // Of these, what was read when the tier had been written since, and is read once more.
  std::unordered_set<BlockRef, BlockRefHash> keyless;
};

}  // namespace thermocline
