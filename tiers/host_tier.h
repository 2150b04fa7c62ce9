// The warm tier: slots of the tenant's arena (catalog/arena.h), lent by slabs, each with a header
// in the arena's metadata file. Beside the contract of a tier it has the way in which blocks really
// come here, without a copy: a slot is reserved for a process, filled in place, and committed with
// its header. A header says what its payload is; it is written only after the payload is complete
// and taken away before the slot is used again, so that a daemon that starts after a kill finds
// whole blocks or none. Their payloads are not summed then: who reads them first does that.
//
// Where a block lies, the stack knows by the words of its catalog. An index by block is made when
// somebody first asks for a block by its number, as the contract of a tier lets him; a restart that
// had to fill it would take twice as long.
#pragma once
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/large_array.h"
#include "base/log_limit.h"
#include "base/mutex.h"
#include "catalog/arena.h"
#include "catalog/slabs.h"
#include "catalog/slot_headers.h"
#include "tiers/tier.h"
#include "tiers/tier_budget.h"

namespace thermocline {

/// A process, told apart from a later one with its number; see base/process.h.
struct ProcessRef {
  int pid = 0;
  uint64_t start_time = 0;
  bool operator==(const ProcessRef&) const = default;
};

/// Offsets are in bytes from the start of the arena, multiples of a page, below 1 TiB.
class HostTier : public Tier {
 public:
  struct Options {
    std::string arena_path;
    std::string metadata_path;  // see ArenaOptions
    uint64_t capacity_bytes = 0;
    uint64_t chunk_bytes = kDefaultChunkBytes;
    uint64_t least_epoch = 0;     // see ArenaOptions
    std::string capacity_option;  // its name, for error texts
    HugePages huge_pages = HugePages::kNone;
    BudgetAccount account;  // of chunks; none: all of them are to be had
  };
  /// An arena that is damaged, or of another layout, is discarded, with a log line; who reads there
  /// keeps its memory. Errors: the others of Arena::Open and SlotHeaders::Open.
  static absl::StatusOr<std::unique_ptr<HostTier>> Open(const Options& options);

  absl::Status Put(const BlockRecord& record, std::span<const std::byte> payload) override;
  absl::StatusOr<std::optional<BlockRecord>> Get(BlockRef ref,
                                                 std::span<std::byte> payload) override;
  absl::Status Erase(BlockRef ref) override;
  absl::Status ForEach(const std::function<bool(const BlockRecord&)>& visit) override;
  absl::Status Sync() override { return absl::OkStatus(); }  // survives the process, no more
  TierUsage Usage() const override;
  std::string State() const override;

  // ---- in place
  /// A slot for `bytes` of payload, granted to a process. nullopt: none is free, evict first.
  /// Errors: InvalidArgument when no slot of this arena can ever hold it, ResourceExhausted when
  ///         the file system has no memory for another chunk or for the inner names.
  absl::StatusOr<std::optional<uint64_t>> Reserve(uint64_t bytes, ProcessRef owner,
                                                  uint32_t inner_count = 0);
  /// Thread: any, while the slot is reserved or its block is there.
  std::span<std::byte> Payload(uint64_t offset, uint64_t bytes) const;
  /// The reserved slot now holds this block. Its payload is in place; `record` is sealed.
  /// REQUIRES: the block is not in another slot; the slot was reserved with its inner_count.
  void Commit(uint64_t offset, const BlockRecord& record);
  /// Of a reserved slot or a committed one.
  void Free(uint64_t offset);
  /// The committed slot holds no block any more, but stays as it is until it is freed: somebody may
  /// be reading there.
  void Disown(uint64_t offset);
  /// The header of a committed slot, as it was committed.
  BlockHeader HeaderAt(uint64_t offset) const;
  BlockRecord RecordAt(uint64_t offset) const;

  /// How many slots for `bytes` are free, in this size's chunks and in empty ones.
  uint64_t FreeSlots(uint64_t bytes) const;
  /// The chunks lent to other slot sizes, those first that are easiest to empty for a slot of
  /// `bytes`: when all of UsedOffsets of one have left, there is room.
  std::vector<uint32_t> ChunksToClearFor(uint64_t bytes) const;
  std::vector<uint64_t> UsedOffsets(uint32_t chunk) const;
  /// The slot sizes that have chunks, in bytes.
  std::vector<uint64_t> SlotSizes() const;
  /// After the file system was full, to be called from time to time: lets the arena grow again if
  /// it can.
  void RetryLending();
  /// Once the arena is in use, the chunk that comes next, unless its memory was touched already.
  std::optional<uint32_t> ChunkToTouch() const;
  /// Allocates and touches its memory, so that lending it takes no time. Failing says nothing yet:
  /// lending it tries again.
  /// Thread: any.
  void TouchChunk(uint32_t chunk);
  /// Undoes what a client has done to the arena's file, with a log line. To be called from time to
  /// time.
  void Mend();
  uint64_t SlotBytesAt(uint64_t offset) const;
  /// Gives back what an earlier, larger capacity took, once nobody reads there any more.
  absl::Status PunchBeyondCapacity() { return arena_.PunchBeyondCapacity(); }
  /// Gives the memory of chunks without used slots, and of one touched ahead, back to the system.
  absl::Status PunchEmptyChunks();

  // ---- what is lent by a budget
  /// How many bytes it has or could have now.
  uint64_t ReachableBytes() const;
  /// An empty chunk's memory goes back to the budget: the closed one's first, else what was touched
  /// ahead. False when none is empty.
  bool GiveBackChunk();
  /// A chunk from which nothing is granted any more, until it is given back or opened again.
  void CloseChunk(uint32_t chunk);
  void ReopenChunk();
  std::optional<uint32_t> closed_chunk() const;
  /// The lent chunks, those with the fewest bytes in use first.
  std::vector<uint32_t> LentChunks() const;
  /// The block moves from its slot to a reserved one, to which its payload was copied.
  void Relocate(uint64_t from, uint64_t to);

  // ---- memory that somebody relies on, as the driver of a device does on what it has pinned
  /// A lent chunk that is not held, if there is one.
  std::optional<uint32_t> ChunkToHold() const;
  /// Its memory stays until it is let go of, even when it is given back meanwhile.
  void HoldChunk(uint32_t chunk);
  /// A held one that was given back.
  std::optional<uint32_t> ChunkToLetGo() const;
  void LetGoOfChunk(uint32_t chunk);
  void LetGoOfAllChunks();
  uint64_t HeldBytes() const;
  /// How many held ones were given back.
  uint64_t LeavingChunks() const;

  // ---- what an earlier daemon left
  struct Granted {
    uint64_t offset = 0;
    ProcessRef owner;
  };
  /// Slots that processes of the last epoch were filling and that live still: they may go on to
  /// write there. The caller frees each when that is over.
  const std::vector<Granted>& left_granted() const { return left_granted_; }
  /// Slots whose headers do not verify. Their payload may be right, and a client of the last epoch
  /// may read it. The caller frees each when that is over.
  const std::vector<uint64_t>& left_damaged() const { return left_damaged_; }
  struct Left {
    uint64_t id = 0;
    const BlockHeader* header = nullptr;  // in its slot
    uint32_t page = 0;                    // its slot's first
    uint16_t part = 0;
    bool is_hot = false;  // not here: a restart sorts the blocks of all tiers together
  };
  /// The committed blocks, by id and then part, each once. Later calls give none.
  LargeVector<Left> TakeLeft() { return std::exchange(left_, {}); }

  const Arena& arena() const { return arena_; }

 private:
  HostTier(Arena arena, SlotHeaders headers, BudgetAccount account);
  static absl::StatusOr<std::unique_ptr<HostTier>> OpenOnce(const Options& options);
  absl::Status Adopt();
  absl::Status Lend(uint32_t chunk, uint64_t slot_bytes) TC_REQUIRES(mutex_);
  bool Pay(uint32_t chunk) TC_REQUIRES(mutex_);
  /// Whether `touched_` is paid for, and not lent yet.
  bool HasTouchedAhead() const TC_REQUIRES(mutex_);
  uint64_t SpareChunks() const TC_REQUIRES(mutex_);
  absl::Status Punch(uint32_t chunk) TC_REQUIRES(mutex_);
  void AdoptSlots(const std::vector<uint32_t>& chunks) TC_REQUIRES(mutex_);
  void AdoptOther(uint32_t page) TC_REQUIRES(mutex_);
  void FreeTwins() TC_REQUIRES(mutex_);
  void FreeLocked(uint32_t page) TC_REQUIRES(mutex_);
  void Leave(uint32_t page) TC_REQUIRES(mutex_);
  std::unordered_map<BlockRef, uint32_t, BlockRefHash>& Index() TC_REQUIRES(mutex_);
  static uint32_t PageOf(uint64_t offset);

  Arena arena_;
  BudgetAccount account_;
  mutable Mutex mutex_;  // never held while payload is copied
  SlotHeaders headers_ TC_GUARDED_BY(mutex_);
  SlabAllocator slabs_ TC_GUARDED_BY(mutex_);
  uint64_t block_count_ TC_GUARDED_BY(mutex_) = 0;
  std::unordered_set<uint32_t> disowned_ TC_GUARDED_BY(mutex_);  // committed slots without a block
  // By block, the slot's first page; once somebody has asked.
  std::optional<std::unordered_map<BlockRef, uint32_t, BlockRefHash>> index_ TC_GUARDED_BY(mutex_);
  uint64_t corrupt_count_ TC_GUARDED_BY(mutex_) = 0;
  std::optional<uint32_t> touched_ TC_GUARDED_BY(mutex_);  // the last chunk that was touched ahead
  std::vector<bool> paid_ TC_GUARDED_BY(mutex_);           // by chunk: the account holds it
  std::set<uint32_t> held_ TC_GUARDED_BY(mutex_);          // chunks
  std::set<uint32_t> leaving_ TC_GUARDED_BY(mutex_);       // of them, to be punched when let go of
  LogLimit mended_limit_;
  LargeVector<Left> left_;
  std::vector<Granted> left_granted_;
  std::vector<uint64_t> left_damaged_;
};

}  // namespace thermocline
