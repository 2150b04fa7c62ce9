// The contract of a tier: a place for blocks of bounded size that never lies. One conformance suite
// runs over every implementation (tests/tiers/tier_conformance.h).
//
// A tier holds at most one copy of a block. It stores payloads with their sealed records, verifies
// both when it hands a payload out, and drops what does not verify: to its caller such a block is
// absent, and counted. A tier never evicts by itself: who must go, and where to, is the tier
// stack's business; Put into a full tier is RESOURCE_EXHAUSTED.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "hashing/block_header.h"

namespace thermocline {

/// A block is one part of one place; `id` is the place's, given at commit and never reused.
struct BlockRef {
  uint64_t id = 0;
  uint16_t part = 0;
  bool operator==(const BlockRef&) const = default;
};

struct BlockRefHash {
  size_t operator()(const BlockRef& ref) const {
    return (ref.id * kMaxParts + ref.part) * 0x9e3779b97f4a7c15u >> 8;
  }
};

/// What a block costs in a tier whose medium keeps payload and header together.
inline uint64_t StoredBytes(const BlockHeader& header) {
  return header.payload_bytes + RecordBytes(header);
}

/// Bytes that such a block adds to used_bytes at most: its entry in an index has the record once
/// more, and is there twice while the index is merged. The rest is keys, sums and seals.
inline uint64_t MostUsedBytes(uint64_t stored_bytes, uint64_t record_bytes) {
  return stored_bytes + 2 * record_bytes + 448;
}
/// What all of one PutAll add beyond that, at most: it takes whole pages.
inline constexpr uint64_t kMostExtraBytes = 6 * 1024;

/// One of several puts.
struct TierPut {
  const BlockRecord* record = nullptr;
  std::span<const std::byte> payload;
  absl::Status status = absl::OkStatus();  // as Put would answer
};

/// Blocks that give their room only together, as the medium has them in one piece.
struct TierSegment {
  uint64_t sequence = 0;  // the older, the smaller
  uint64_t bytes = 0;     // of the capacity, those of erased blocks included
  std::vector<BlockRef> blocks;
};

/// A segment without its blocks.
struct SegmentSize {
  uint64_t sequence = 0;
  uint64_t bytes = 0;
};

/// Why a tier has a block no more.
enum class Loss : uint8_t {
  kDamaged,
  kErased,  // by a call that failed
  kSealed,  // its key is gone
};

struct LostBlock {
  BlockRef ref;
  Loss why = Loss::kDamaged;
};

struct TierUsage {
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;  // what counts against the capacity
  uint64_t block_count = 0;
  uint64_t corrupt_count = 0;  // blocks dropped since it was opened, as they did not verify
  uint64_t kept_bytes = 0;     // written anew by DropSegment and Fold since then
};

/// Thread: Get, Put and Erase from any thread, concurrently for different blocks; the caller orders
/// calls about one block.
class Tier {
 public:
  virtual ~Tier() = default;

  /// Stores a copy of `payload` (record.payload_bytes long) under `record`, which is sealed.
  /// Replaces an older copy. Errors: RESOURCE_EXHAUSTED when it does not fit, DATA_LOSS when
  /// payload and header disagree; then nothing changed.
  [[nodiscard]] virtual absl::Status Put(const BlockRecord& record,
                                         std::span<const std::byte> payload) = 0;

  /// Reads and verifies a block into `payload`, which has room for at least its bytes. Absent (or
  /// found damaged, and then dropped and counted): nullopt. Errors: FAILED_PRECONDITION for one
  /// whose key is gone, which is dropped, too, and no damage; others are of the medium. The caller
  /// treats them as a miss too.
  [[nodiscard]] virtual absl::StatusOr<std::optional<BlockRecord>> Get(
      BlockRef ref, std::span<std::byte> payload) = 0;

  /// Several puts, each answered in its status. What a medium writes as one, a crash keeps whole or
  /// not at all.
  virtual void PutAll(std::span<TierPut> puts) {
    for (TierPut& put : puts) put.status = Put(*put.record, put.payload);
  }

  /// Absent is fine. In a tier of segments its room is free once all of its segment are erased.
  [[nodiscard]] virtual absl::Status Erase(BlockRef ref) = 0;

  /// Several erasures, as one write of a medium. After an error some may be done.
  [[nodiscard]] virtual absl::Status EraseAll(std::span<const BlockRef> refs) {
    absl::Status status;
    for (const BlockRef ref : refs) status.Update(Erase(ref));
    return status;
  }

  /// The oldest segment that is not older than `sequence`; a tier of single blocks has none. From
  /// memory, as Usage.
  virtual std::optional<TierSegment> SegmentFrom(uint64_t /*sequence*/) const {
    return std::nullopt;
  }

  /// All segments that have blocks, the oldest first.
  virtual std::vector<SegmentSize> SegmentSizes() const { return {}; }

  /// Gives up a segment, and with it its blocks but those in `keep`, which are written anew first,
  /// beyond the capacity if need be; blocks of other segments in `keep` come along. What does not
  /// verify is dropped and counted; absent ones are fine. Gets go on meanwhile and find what is
  /// kept; so do Puts and Erases, and what they replace or erase stays so. An error leaves every
  /// block where it was; ABORTED is no failure to write: a block to be kept cannot be read.
  [[nodiscard]] virtual absl::Status DropSegment(uint64_t sequence,
                                                 std::span<const BlockRef> /*keep*/) {
    return absl::NotFoundError("no segment " + std::to_string(sequence));
  }

  /// Writes blocks anew as one segment, so that small ones become a large one; a segment that has
  /// no others goes. As DropSegment, but that a segment of which a block cannot be read keeps it
  /// and what comes behind it: those are answered.
  [[nodiscard]] virtual absl::StatusOr<std::vector<uint64_t>> Fold(
      std::span<const BlockRef> /*blocks*/) {
    return absl::UnimplementedError("there are no segments");
  }

  /// Calls `visit` with the record of every block, in no order, until it returns false. Not
  /// concurrent with the others.
  [[nodiscard]] virtual absl::Status ForEach(
      const std::function<bool(const BlockRecord&)>& visit) = 0;

  /// When it returns OK, every Put and Erase that returned before survives what the tier can
  /// survive (disk: power loss).
  [[nodiscard]] virtual absl::Status Sync() = 0;

  [[nodiscard]] virtual TierUsage Usage() const = 0;

  /// Blocks that it has lost since the last call without a Get that would have told: what
  /// DropSegment and Fold could not keep, and what is missing after its store was opened anew.
  virtual std::vector<LostBlock> TakeLost() { return {}; }

  /// Whether it takes no writes at the moment. Then Sync looks whether it can again.
  [[nodiscard]] virtual bool RefusesWrites() const { return false; }

  /// Has State tell for a while that blocks did not verify, where its caller has found so: of one
  /// that is whole, but another's. The caller counts it.
  virtual void TellDamage() {}

  /// "ok", or what is wrong and what to do about it, for people.
  [[nodiscard]] virtual std::string State() const { return "ok"; }
};

}  // namespace thermocline
