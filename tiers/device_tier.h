// The hot tier: slots of device memory, lent by slabs as those of the arena are, each with a header
// in a metadata file of its own beside the arena's. The file is bound to the memory by its uuid, so
// that a daemon that starts anew finds the blocks again for as long as the memory's custodian
// lives, and none of another custodian's.
//
// Bytes are moved by batches, in order with nothing: a slot is committed only when the host has
// seen its copy complete, so that who finds a block finds its bytes. A payload is summed when it
// comes here and when it leaves, by the host; on the device nobody sums.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "catalog/slabs.h"
#include "catalog/slot_headers.h"
#include "tiers/device_memory.h"
#include "tiers/host_tier.h"
#include "tiers/tier.h"

namespace thermocline {

/// Slots are named by their first page, of 4 KiB: page kFirstPage is the device memory's first, so
/// that 0 is no slot (a hot slot's number in a Word).
class DeviceTier final : public Tier {
 public:
  static constexpr uint32_t kFirstPage = kArenaDataOffset / kPageBytes;

  struct Options {
    std::string metadata_path;    // on a tmpfs; its owner sees to it that nobody else uses it
    uint64_t capacity_bytes = 0;  // rounded down to whole chunks
    uint64_t chunk_bytes = kDefaultChunkBytes;
    std::shared_ptr<DeviceMemory> memory;
  };
  /// A metadata file that is damaged, or of another layout, is discarded, with a log line.
  /// Errors: InvalidArgument for a capacity of less than a chunk; those of SlotHeaders::Open.
  static absl::StatusOr<std::unique_ptr<DeviceTier>> Open(Options options);

  absl::Status Put(const BlockRecord& record, std::span<const std::byte> payload) override;
  void PutAll(std::span<TierPut> puts) override;
  absl::StatusOr<std::optional<BlockRecord>> Get(BlockRef ref,
                                                 std::span<std::byte> payload) override;
  absl::Status Erase(BlockRef ref) override;
  absl::Status ForEach(const std::function<bool(const BlockRecord&)>& visit) override;
  absl::Status Sync() override { return absl::OkStatus(); }  // survives this process, no more
  TierUsage Usage() const override;
  std::string State() const override;

  // ---- slots
  /// Grants a slot to a process, until it is committed or freed. nullopt: none is free.
  /// Errors: InvalidArgument when no chunk can ever hold it, ResourceExhausted when there is no
  ///         memory for its headers, Unavailable while nobody can lend the memory that it takes.
  absl::StatusOr<std::optional<uint32_t>> Reserve(uint64_t bytes, ProcessRef owner,
                                                  uint32_t inner_count = 0);
  /// The slot's payload is complete: it holds this block now. `record` is sealed.
  /// REQUIRES: the block is in no other slot.
  void Commit(uint32_t page, const BlockRecord& record);
  /// Of a granted slot or a committed one that nobody reads any more.
  void Free(uint32_t page);
  /// Of a committed slot that somebody may still read: the block is not here any more, nor for the
  /// next daemon, and the slot is this process's until Free.
  void Disown(uint32_t page);
  BlockRecord RecordAt(uint32_t page) const;
  std::optional<uint32_t> PageOf(BlockRef ref) const;
  /// Reads and verifies a committed slot, which stays as it is whatever is found.
  /// Errors: DataLoss when it is not what its header says; those of the memory.
  absl::StatusOr<BlockRecord> ReadSlot(uint32_t page, std::span<std::byte> payload);
  /// The checksum of what lies in a granted slot. Errors: those of the memory.
  absl::StatusOr<uint64_t> SumSlot(uint32_t page, uint64_t bytes);
  uint64_t SlotBytesAt(uint32_t page) const;
  uint64_t FreeSlots(uint64_t bytes) const;
  /// Where a slot lies in the device memory.
  static uint64_t OffsetOf(uint32_t page) { return uint64_t{page - kFirstPage} * kPageBytes; }
  DeviceMemory& memory() const { return *options_.memory; }

  /// Whether what was asked of the memory last was done.
  bool IsMoving() const;
  /// Asks it for as little as there is, where nobody has anything to move, to find out.
  absl::Status Probe();

  /// Where a slot lies, for who maps its memory: a slab is a chunk's memory while it is lent, by a
  /// number that no other slab of this object's has.
  struct Location {
    uint64_t slab = 0;
    uint64_t offset = 0;  // in the slab
  };
  /// REQUIRES: `page` is of a slot that is not free.
  Location LocationOf(uint32_t page) const;
  /// Errors: NotFound when it is not lent any more; those of DeviceMemory::Export.
  absl::StatusOr<ExportedSlab> ExportSlab(uint64_t slab);

  /// Gives the memory of chunks without used slots back to the device.
  void ReturnEmptyChunks();

  // ---- what an earlier daemon left
  struct Granted {
    uint32_t page = 0;
    ProcessRef owner;
  };
  /// Slots that living processes of the last epoch may still fill. The caller frees each when its
  /// process has ended.
  const std::vector<Granted>& left_granted() const { return left_granted_; }
  struct Left {
    BlockRecord record;
    uint32_t page = 0;
  };
  /// The blocks that were there, each once. Later calls give none.
  std::vector<Left> TakeLeft() { return std::exchange(left_, {}); }
  /// Blocks of which there were headers and no memory any more.
  uint64_t lost_count() const { return lost_count_; }

 private:
  DeviceTier(Options options, SlotHeaders headers);
  absl::Status Adopt();
  absl::Status AdoptChunk(uint32_t chunk) TC_REQUIRES(mutex_);
  void AdoptSlot(uint32_t page) TC_REQUIRES(mutex_);
  absl::StatusOr<std::optional<uint32_t>> ReserveLocked(uint64_t bytes, ProcessRef owner,
                                                        uint32_t inner_count) TC_REQUIRES(mutex_);
  absl::Status Lend(uint32_t chunk, uint64_t slot_bytes) TC_REQUIRES(mutex_);
  absl::Status LendMemory(uint32_t chunk) TC_REQUIRES(lending_mutex_);
  void FreeLocked(uint32_t page) TC_REQUIRES(mutex_);
  absl::StatusOr<uint32_t> Stage(const TierPut& put);
  /// As many bytes of a slot as `payload` has.
  absl::Status CopyOut(uint32_t page, std::span<std::byte> payload) TC_EXCLUDES(mutex_);

  static constexpr int kMaxLendings = 4;  // of one reservation

  const Options options_;
  Mutex lending_mutex_;  // held while memory is lent or given back; taken before the other
  mutable Mutex mutex_;  // never held while bytes are moved, or memory is lent
  SlotHeaders headers_ TC_GUARDED_BY(mutex_);
  SlabAllocator slabs_ TC_GUARDED_BY(mutex_);
  std::unordered_map<BlockRef, uint32_t, BlockRefHash> index_ TC_GUARDED_BY(mutex_);
  uint64_t corrupt_count_ TC_GUARDED_BY(mutex_) = 0;
  absl::Status mover_status_ TC_GUARDED_BY(mutex_);  // of what it was asked for last
  // Chunks, lent to a slot size or not, and the slabs that they are.
  std::map<uint32_t, uint64_t> has_memory_ TC_GUARDED_BY(mutex_);
  uint64_t last_slab_ TC_GUARDED_BY(mutex_) = 0;
  std::optional<uint32_t> wanted_ TC_GUARDED_BY(mutex_);  // the chunk whose memory is missing
  absl::Status not_lent_ TC_GUARDED_BY(mutex_);           // why the last one has none
  bool refusal_told_ TC_GUARDED_BY(mutex_) = false;       // until one was lent
  std::vector<Left> left_;
  std::vector<Granted> left_granted_;
  uint64_t lost_count_ = 0;
};

}  // namespace thermocline
