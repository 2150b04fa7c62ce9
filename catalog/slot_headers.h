// The arena's metadata file, `<arena>.meta`: what every slot holds, so that a daemon that was
// killed at any instant finds its warm blocks again. It lies on a tmpfs, mostly beside the arena;
// its truth is the memory itself, so that program order is all the order it needs.
//
//   page 0        MetaHeader: magic, layout version, the arena's uuid, chunk bytes
//   from 4 KiB    kMaxChunks ChunkRecords: the slot size of each lent chunk
//   behind them   a region a chunk: one SlotRecord of 256 bytes for each slot, by slot number, and
//                 then, as far from each other as the slots are, the inner names of their blocks
//
// Memory for the inner names is allocated with the slots that need it: blocks of one place have
// none. They never take more than the slot itself.
//
// A slot goes free -> granted (to a process) -> committed -> free. `committed` is stored after the
// block's header, `free` before anything else may happen to the slot: a kill leaves a whole
// committed header or none. A header's own checksum guards against everything else.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"
#include "catalog/arena.h"
#include "hashing/block_header.h"

namespace thermocline {

inline constexpr uint64_t kMetaMagic = 0x314154454d4354;  // "TCMETA1"
inline constexpr uint32_t kMetaLayoutVersion = 2;

struct MetaHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t reserved;
  uint64_t chunk_bytes;
  uint64_t capacity_bytes;  // of the arena, when the file was opened last
  std::array<uint8_t, 16> arena_uuid;
};
static_assert(sizeof(MetaHeader) == 48 && offsetof(MetaHeader, arena_uuid) == 32);

struct alignas(64) ChunkRecord {
  std::atomic<uint64_t> slot_bytes;  // 0: not lent
};

enum class SlotState : uint32_t { kFree = 0, kGranted = 1, kCommitted = 2 };

struct alignas(64) SlotRecord {
  std::atomic<uint32_t> state;  // SlotState
  uint32_t process_id;          // of a granted slot: to whom,
  uint64_t process_start_time;  // and since when that process runs (clock ticks since boot)
  uint64_t reserved[6];
  BlockHeader block;  // of a committed slot
};
static_assert(sizeof(ChunkRecord) == 64 && sizeof(SlotRecord) == 256);
static_assert(offsetof(SlotRecord, process_start_time) == 8 && offsetof(SlotRecord, block) == 64);

/// Whose slots they are: an arena's, or those of other memory that is lent in the same way.
struct SlotHeadersOf {
  std::string path;
  std::array<uint8_t, 16> uuid{};  // of the memory; another one's slots hold nothing
  uint64_t capacity_bytes = 0;
  uint64_t chunk_bytes = 0;
};

/// Thread: one. Owner: unmaps and closes in its destructor; the file stays. The arena's lock guards
/// the file.
class SlotHeaders {
 public:
  /// Opens `<arena>.meta`, or makes it new (adopted() is false) when it is absent or belongs to an
  /// arena with another uuid: then nothing in the arena is known, and its chunks should be punched.
  /// Errors: DataLoss for another layout version, ResourceExhausted, those of open().
  static absl::StatusOr<SlotHeaders> Open(const Arena& arena);
  static absl::StatusOr<SlotHeaders> Open(const SlotHeadersOf& memory);
  SlotHeaders(SlotHeaders&& other) noexcept;
  SlotHeaders& operator=(SlotHeaders&&) = delete;
  ~SlotHeaders();

  bool adopted() const { return adopted_; }

  /// Allocates the records of a chunk, all free, and notes its slot size.
  /// REQUIRES: no slot of the chunk is granted or committed under an earlier size.
  /// Errors: ResourceExhausted when the file system is full.
  absl::Status LendChunk(uint32_t chunk, uint64_t slot_bytes);
  /// Forgets a chunk, before its memory is punched, and gives its records' memory back.
  void ForgetChunk(uint32_t chunk);
  uint64_t SlotBytesOfChunk(uint32_t chunk) const;  // 0: not lent
  uint64_t SlotsOfChunk(uint32_t chunk) const;

  /// Makes room for the inner names of a block in this slot.
  /// REQUIRES: the names are not longer than the slot.
  /// Errors: ResourceExhausted when the file system is full.
  absl::Status AllocateInner(uint32_t page, uint32_t inner_count);

  /// `page` begins a slot of a lent chunk.
  void SetGranted(uint32_t page, uint32_t process_id, uint64_t process_start_time);
  /// REQUIRES: `block` is sealed, and room was made for its inner names.
  void SetCommitted(uint32_t page, const BlockRecord& block);
  void SetFree(uint32_t page);

  SlotState State(uint32_t page) const;
  /// What a committed slot holds, when it verifies.
  std::optional<BlockRecord> Committed(uint32_t page) const;
  /// Whether a committed slot's header, and the inner names behind it, can be believed.
  bool Verifies(uint32_t page, const SlotRecord& record) const;
  /// What it holds, believed unseen.
  BlockRecord Block(uint32_t page) const;
  const SlotRecord& record(uint32_t page) const { return Record(page); }

  /// After a restart: the lent chunks. Those whose record makes no sense are forgotten first.
  std::vector<uint32_t> TakeOver();
  /// Every slot of a lent chunk that is not free.
  /// Thread: any, while nobody changes anything.
  template <class OnSlot>  // void(uint32_t page, const SlotRecord&)
  void VisitSlots(uint32_t chunk, OnSlot&& on_slot) const {
    const uint64_t pages = SlotBytesOfChunk(chunk) / kPageBytes;
    auto page = static_cast<uint32_t>((kArenaDataOffset + chunk * chunk_bytes_) / kPageBytes);
    const SlotRecord* const records = Region(chunk);
    for (uint64_t slot = 0; slot < SlotsOfChunk(chunk); ++slot, page += pages) {
      if (records[slot].state.load(std::memory_order_acquire) != 0) on_slot(page, records[slot]);
    }
  }

 private:
  SlotHeaders(const SlotHeadersOf& memory, UniqueFd fd);
  absl::Status Map(const std::array<uint8_t, 16>& arena_uuid);
  absl::Status FitToCapacity(uint64_t last_capacity_bytes);
  absl::Status AllocateRegion(uint32_t chunk, uint64_t slot_bytes);
  uint64_t BytesOfChunk(uint32_t chunk) const;
  ChunkRecord& Lent(uint32_t chunk) const;
  SlotRecord& Record(uint32_t page) const;
  absl::Status Allocate(uint64_t offset, uint64_t bytes);
  uint32_t ChunkOf(uint32_t page) const;
  uint64_t RegionOffset(uint32_t chunk) const;
  SlotRecord* Region(uint32_t chunk) const;
  uint64_t InnerOffset(uint32_t page) const;

  std::string path_;
  UniqueFd fd_;
  uint64_t chunk_bytes_;
  uint64_t capacity_bytes_;
  uint32_t chunk_count_;
  std::byte* base_ = nullptr;
  uint64_t mapped_bytes_ = 0;
  bool adopted_ = false;
};

}  // namespace thermocline
