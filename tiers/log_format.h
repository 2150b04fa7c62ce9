// How the log lies on the disk. Format "segments.v1", two column families of one RocksDB:
//
//   segments   key:   sequence of the segment (8 bytes) ‖ id (8) ‖ part (2), all big-endian
//              value: the envelope of the block (tiers/block_envelope.h)
//   entries    key:   id (8) ‖ part (2), big-endian
//              value, little-endian:
//
//   offset  bytes  field
//        0      1  version, 1
//        1      7  zero
//        8      8  sequence of the segment that has the block
//       16      4  offset of the block's envelope in the segment's file, and
//       20      4  its bytes; 0: where it lies is not known
//       24      8  XXH3-64 of key ‖ bytes 0 to 23 ‖ the rest
//       32         the envelope of its record
//
// The place in the file spares a read RocksDB's way to it (tiers/disk_reads.h), and is nothing but
// a hint: what does not verify there is looked for by its key. Keys of a segment are one range,
// which nothing else is ever written to. An entry that points to a segment that is not there, and a
// segment without an entry, are what a crash leaves; both go.
//
// The write that takes a segment its last entry adds one of no block: of part 65,535, the sequence
// for an id, no record. It goes once the file has gone. So a segment without an entry is told from
// one that has lost them.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/status.h"
#include "tiers/tier.h"

namespace thermocline {

inline constexpr const char* kLogFormat = "segments.v1";
inline constexpr size_t kEntryHeadBytes = 32;

using SegmentKey = std::array<char, 18>;
using EntryKey = std::array<char, 10>;

SegmentKey SegmentKeyOf(uint64_t sequence, BlockRef ref);
EntryKey EntryKeyOf(BlockRef ref);
/// nullopt: it is no such key.
std::optional<std::pair<uint64_t, BlockRef>> ParseSegmentKey(std::span<const std::byte> key);
std::optional<BlockRef> ParseEntryKey(std::span<const std::byte> key);

/// Where a value lies in the file of its segment. No bytes: that is not known.
struct FilePlace {
  uint32_t offset = 0;
  uint32_t bytes = 0;
  bool operator==(const FilePlace&) const = default;
};

/// Of the entry that says of a segment that it is to be removed.
static_assert(kMaxParts <= UINT16_MAX);
inline BlockRef LeavingRef(uint64_t sequence) { return {sequence, UINT16_MAX}; }
inline bool IsLeaving(BlockRef ref) { return ref.part == UINT16_MAX; }

struct EntryHead {
  BlockRef ref;
  uint64_t sequence = 0;
  FilePlace place = {};
};
/// Puts the head before `value`, which has kEntryHeadBytes of room for it and then the record.
void SealEntry(const EntryHead& head, std::string& value);

struct LogEntry : EntryHead {
  std::span<const std::byte> record;  // of the value
};
/// Errors: DataLoss for anything damaged, FailedPrecondition for another version.
absl::StatusOr<LogEntry> ReadEntry(std::span<const std::byte> key,
                                   std::span<const std::byte> value);

}  // namespace thermocline
