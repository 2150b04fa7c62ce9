// Which slots of an arena are in use. The arena is lent in chunks; a lent chunk is cut into slots
// of one size, a multiple of 4 KiB and at most a chunk (64 MiB, which is also the most that a block
// may have). A chunk in which no slot is used any more may be given to another size. All
// bookkeeping is in the daemon's memory and follows, after a restart, from the slot headers.
//
// Everything but Restore is O(1): a size keeps a list of its chunks that have a free slot, a chunk
// a stack of its free slots. Chunks that are in use already come first, so that empty ones stay
// empty.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "base/status.h"
#include "base/units.h"

namespace thermocline {

class SlabAllocator;

/// A slot that was taken but holds no block yet. Its destructor gives it back, unless Commit came.
/// Owner: the slot; borrows the allocator, which must outlive it. Thread: the allocator's.
class SlotReservation {
 public:
  SlotReservation(SlotReservation&& other) noexcept;
  SlotReservation& operator=(SlotReservation&& other) noexcept;
  ~SlotReservation() { Abort(); }

  uint32_t page() const { return page_; }
  uint64_t slot_bytes() const { return slot_bytes_; }
  /// The slot now belongs to a block; whoever drops it calls SlabAllocator::Free.
  uint32_t Commit() &&;

 private:
  friend class SlabAllocator;
  SlotReservation(SlabAllocator* slabs, uint32_t page, uint64_t slot_bytes)
      : slabs_(slabs), page_(page), slot_bytes_(slot_bytes) {}
  void Abort();

  SlabAllocator* slabs_;
  uint32_t page_;
  uint64_t slot_bytes_;
};

struct SlabOptions {
  uint64_t capacity_bytes = 0;  // of all chunks, hard
  uint64_t chunk_bytes = 0;
  uint32_t first_page = 0;  // page number of chunk 0
  /// Makes chunk `chunk` ready for slots of `slot_bytes` before one is granted: populate the arena,
  /// then the headers. On failure the chunk stays free.
  /// Errors: Unavailable when somebody else was faster; others when there will be none for long.
  std::function<absl::Status(uint32_t chunk, uint64_t slot_bytes)> lend;
  /// How many chunks that are not lent may be lent now. Empty: all of them.
  std::function<uint64_t()> spare;
};

/// Thread: one.
class SlabAllocator {
 public:
  explicit SlabAllocator(SlabOptions options);
  SlabAllocator(const SlabAllocator&) = delete;
  SlabAllocator& operator=(const SlabAllocator&) = delete;

  /// Bytes of the slot that holds a block: whole pages.
  static uint64_t SlotBytes(uint64_t block_bytes) { return RoundUp(block_bytes, kPageBytes); }

  /// Takes a slot. nullopt when none is free: evict, then again (blocks of another size help only
  /// when they empty a chunk: see OtherChunks).
  /// Errors: InvalidArgument when no chunk can hold such a slot.
  absl::StatusOr<std::optional<SlotReservation>> Reserve(uint64_t slot_bytes);
  /// What the last `lend` said. After a failure (the file system is full) chunks that nobody has
  /// are neither counted as free nor tried, so that those lent already serve alone, by eviction,
  /// until RetryLending allows one more try.
  const absl::Status& lend_status() const { return lend_status_; }
  void RetryLending() { may_lend_ = true; }
  /// The chunk that will be lent next, to whichever size needs one; nullopt when none is to be had.
  std::optional<uint32_t> NextToLend() const;
  /// Gives a committed slot back.
  void Free(uint32_t page);

  /// After a restart, in this order: the chunk with its size, then each of its used slots.
  /// Errors: OutOfRange when it does not fit this arena (which may have shrunk); drop the block.
  absl::Status RestoreChunk(uint32_t chunk, uint64_t slot_bytes);
  absl::Status RestoreSlot(uint32_t page);

  /// Grants nothing more from a lent chunk, so that it runs empty; Reopen() ends that. One at a
  /// time. REQUIRES: none is closed.
  void Close(uint32_t chunk);
  void Reopen();
  std::optional<uint32_t> closed() const;
  /// The lent chunks, those with the fewest bytes in use first.
  std::vector<uint32_t> LentChunks() const;

  /// Takes an empty chunk away from its size, so that its memory can be punched, the closed one
  /// first; nullopt when no lent chunk is empty.
  std::optional<uint32_t> ReclaimEmptyChunk();
  /// The chunks lent to other sizes but big enough for `slot_bytes`, those with the fewest bytes in
  /// use first: emptying one makes room for this size. Visits all chunks.
  std::vector<uint32_t> OtherChunks(uint64_t slot_bytes) const;
  /// The used slots (reserved ones too) of a chunk, as page numbers.
  std::vector<uint32_t> UsedPages(uint32_t chunk) const;

  uint64_t capacity_bytes() const { return options_.capacity_bytes; }
  uint64_t lent_bytes() const { return lent_bytes_; }          // chunks cut into slots
  uint32_t lent_count() const { return lent_count_; }          // their number
  uint64_t used_bytes() const { return used_bytes_; }          // committed slots
  uint64_t reserved_bytes() const { return reserved_bytes_; }  // slots reserved
  /// How many slots of this size could be reserved now without evicting anything.
  uint64_t FreeSlots(uint64_t slot_bytes) const;
  /// The sizes that have chunks.
  std::vector<uint64_t> SlotSizes() const;
  uint64_t SlotBytesOf(uint32_t page) const { return chunks_[ChunkOf(page)].slot_bytes; }
  uint32_t ChunkOf(uint32_t page) const;
  bool IsLent(uint32_t chunk) const { return chunks_[chunk].slot_bytes != 0; }

 private:
  friend class SlotReservation;
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Chunk {
    uint64_t slot_bytes = 0;  // 0: not lent
    uint32_t slot_count = 0;
    uint32_t used = 0;
    std::vector<uint32_t> free;      // slot numbers, a stack
    std::vector<uint32_t> position;  // by slot number: where in `free`, kNone when taken
    uint32_t next = kNone;           // in the list it is in
    uint32_t previous = kNone;
  };
  /// A doubly linked list of chunks through their `next` and `previous`.
  struct List {
    uint32_t first = kNone;
  };
  struct Size {
    List partial;             // its chunks with used and with free slots
    List empty;               // its chunks without used slots
    uint32_t chunks = 0;      // full ones too
    uint64_t free_slots = 0;  // in all of them
  };

  uint64_t BytesOfChunk(uint32_t chunk) const;
  uint64_t Spare() const { return options_.spare ? options_.spare() : UINT64_MAX; }
  uint32_t FirstPage(uint32_t chunk) const;
  void SortByUse(std::vector<uint32_t>& chunks) const;
  uint32_t SlotOf(uint32_t page) const;
  void Push(List& list, uint32_t chunk);
  void Unlink(List& list, uint32_t chunk);
  uint32_t FirstThatFits(const List& list, uint64_t slot_bytes) const;
  uint32_t ChunkWithFreeSlot(uint64_t slot_bytes);
  uint32_t ChunkToLend(uint64_t slot_bytes) const;
  void Cut(uint32_t chunk, uint64_t slot_bytes);
  void Uncut(uint32_t chunk);
  void Take(uint32_t chunk, uint32_t slot);
  void Return(uint32_t page);

  SlabOptions options_;
  std::vector<Chunk> chunks_;
  std::map<uint64_t, Size> sizes_;  // by slot bytes; a handful
  List unlent_;
  bool may_lend_ = true;  // whether what is in `unlent_` is to be had
  uint32_t closed_ = kNone;
  absl::Status lend_status_;
  uint64_t lent_bytes_ = 0;
  uint32_t lent_count_ = 0;
  uint64_t used_bytes_ = 0;
  uint64_t reserved_bytes_ = 0;
};

}  // namespace thermocline
