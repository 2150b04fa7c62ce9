// How a tier stack is opened. It brings no threads and no clock of its own: the daemon gives it its
// strand, a disk executor and the time, a test gives it queues that it steps by hand.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "base/clock.h"
#include "base/executor.h"
#include "catalog/arena.h"
#include "tiers/block_envelope.h"
#include "tiers/tier_budget.h"

namespace thermocline {

class DeviceTier;

/// Runs a task later, never inside the call itself, and does not refuse: what a stack has under way
/// is bounded (kMaxReads and one cold job in tiers/stack_core.h; some hundred timers). Tasks still
/// queued when the process ends may be destroyed unrun.
using Runner = std::function<void(Task)>;
/// The same after a delay. False when there are too many already: then it was not taken.
using TimedRunner = std::function<bool(std::chrono::steady_clock::duration, Task)>;

/// What the answer to a commit promises.
enum class Durability : uint8_t {
  kWriteBack,  // the daemon's end does no harm; what was written to cold survives a power loss
  kAck,        // it is in the cold tier, and survives everything that the disk survives
};

struct StackOptions {
  std::string name;  // of the tenant, for the log

  // ---- where
  std::string arena_path;           // the arena's file, on a tmpfs or a hugetlbfs
  std::string arena_metadata_path;  // of its slot headers, on a tmpfs; "": `<arena_path>.meta`
  HugePages huge_pages = HugePages::kNone;
  std::string data_dir;  // state file and, below `store`, the cold tier; must exist

  // ---- how much; hard limits
  uint64_t warm_capacity_bytes = 0;
  uint64_t cold_capacity_bytes = 0;       // 0: no cold tier, demotion drops
  uint64_t cold_write_bytes_per_day = 0;  // what wears the disk, tiers/write_budget.h; 0: no limit
  uint32_t pin_quota_percent = 50;        // of a tier's share, or capacity: what TTL pins may hold
  uint64_t chunk_bytes = 0;               // the unit in which slot sizes share the arena; 0: 64 MiB
  // Where others share the tiers: of chunks, and of as much disk space. None: it has all of both.
  BudgetAccount warm_account;
  BudgetAccount cold_account;
  BlockEnvelope::Options cold_envelope = {};  // how the cold tier keeps blocks
  size_t cold_open_files = 0;                 // that it holds open at most; 0: few
  // Opens the hot tier, which copies from this arena and to it; it needs a cold one below. What it
  // refuses is told as the tier's state. None: there is no hot tier.
  std::function<absl::StatusOr<std::unique_ptr<DeviceTier>>(const Arena& arena)> open_hot;
  uint32_t max_clients = 64;
  uint32_t max_leases_per_client = 63;
  uint32_t max_places = 1u << 20;  // names kept at once, in all tiers together
  uint32_t max_spaces = 1024;      // an empty one makes room for the next

  Durability durability = Durability::kWriteBack;

  // Clients fill slots themselves. Else a slot that was granted to one that is silent or whose
  // session has ended is free at once, since nobody else writes there.
  bool clients_fill = true;

  // ---- when
  std::chrono::milliseconds load_wait{2000};        // a promotion's patience for a slot
  std::chrono::milliseconds read_deadline{2000};    // of a cold block; a late one is a miss
  std::chrono::milliseconds write_deadline{10000};  // of a job; while one is late, blocks that must
                                                    // leave memory are dropped
  std::chrono::milliseconds incomplete_ttl{30000};  // places whose parts never all came
  std::chrono::milliseconds lease_time{10000};  // how long a lease outlives its client's silence

  uint64_t scrub_bytes_per_tick = 32u << 20;  // of warm blocks, read back in turn; 0: none
  uint64_t cold_scrub_bytes_per_tick = 4u << 20;

  // ---- who runs it
  Runner strand;          // tasks of the thread that owns the stack, in order
  Runner disk;            // tasks that write to the disk, or take long there; several at once
  Runner reads;           // reads that somebody waits for; none: as `disk`
  Runner work;            // what takes its time and no disk; none: as `disk`
  Runner hot;             // copies to a device and from it; none: as `disk`
  TimedRunner strand_at;  // as `strand`, after a delay
  const Clock* clock = &Clock::Real();

  std::string policy = "lru";
};

/// What the cold tier of each of so many stacks may hold open: all together a quarter of the
/// descriptors that the process may have.
size_t ColdOpenFiles(size_t stacks);

}  // namespace thermocline
