// What the tier stack has under way with its cold tier: what a job takes to the disk and brings
// back, and who waits for one.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "tiers/tier.h"
#include "tiers/tier_stack.h"

namespace thermocline {

struct ColdRead {
  uint64_t offset = 0;  // of the slot
  SteadyTime deadline;
  bool late = false;
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
};

struct FlushState {
  TierKind tier = TierKind::kWarm;
  bool drop = false;    // of warm: without writing
  bool settle = false;  // of cold: only what is queued for erasure already
  uint64_t newest = 0;  // the last sequence when it began; what came later is not waited for
  uint64_t blocks = 0;
  TierStack::FlushCallback done;
};

struct DurableWait {
  uint64_t end = 0;              // the place that was committed last
  std::vector<BlockRef> blocks;  // those of its path that are not in cold yet
  TierStack::DoneCallback done;
  SteadyTime deadline;
};

struct ColdItem {
  BlockRef ref;
  uint64_t bytes = 0;
};

struct ColdScrub {
  std::vector<BlockRef> refs;  // what is left of a segment
  uint64_t next = 0;           // its successor
  uint64_t allowance = 0;      // bytes
  bool running = false;
  // Of a check of all blocks, which has no allowance; none is under way: no callback.
  TierStack::FlushCallback checked;
  uint64_t blocks = 0;
  uint64_t damaged = 0;
};

}  // namespace thermocline
