// What is written beside every block, in slot headers, cold metadata and on the wire: enough to
// rebuild the trees from ids and names alone, and to tell a damaged block from a whole one. 192
// bytes, little-endian, as they lie in memory; versioned, because they outlive the process.
//
//   offset  bytes  field               offset  bytes  field
//        0      4  magic "TCBH"           40      8  payload_checksum (XXH3-64)
//        4      2  version                48      8  sequence
//        6      2  part                   56      4  depth
//        8      8  id                     60      4  inner_count
//       16      8  parent_id              64     64  name
//       24      8  inner_checksum        128     32  space
//       32      8  payload_bytes         160     24  reserved, zero
//                                        184      8  header_checksum (XXH3-64 of bytes 0 to 183)
//
// A block of several places stands under the last of them. The names of the places before it, the
// inner ones, lie behind the header wherever it is stored: 64 bytes each, in order, under
// inner_checksum (XXH3-64; 0 without any).
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "base/status.h"
#include "hashing/name.h"
#include "hashing/space.h"

namespace thermocline {

inline constexpr uint32_t kBlockHeaderMagic = 0x48424354;  // "TCBH"
inline constexpr uint16_t kBlockHeaderVersion = 1;
inline constexpr uint32_t kMaxInnerNames = kMaxBlockTokens / kPlaceTokens - 1;

struct BlockHeader {
  uint32_t magic = kBlockHeaderMagic;
  uint16_t version = kBlockHeaderVersion;
  uint16_t part = 0;
  uint64_t id = 0;         // never 0
  uint64_t parent_id = 0;  // id of the place before the block; 0 = the root of the space
  uint64_t inner_checksum = 0;
  uint64_t payload_bytes = 0;
  uint64_t payload_checksum = 0;
  uint64_t sequence = 0;  // order of commits, of the daemon that wrote it
  uint32_t depth = 0;     // number of the place on its path, from 0
  uint32_t inner_count = 0;
  Name name = {};
  Fingerprint space;
  uint64_t reserved[3] = {};
  uint64_t header_checksum = 0;

  /// Sets header_checksum over everything before it. Call last, before the header is stored.
  void Seal();
};
static_assert(sizeof(BlockHeader) == 192);
static_assert(offsetof(BlockHeader, name) == 64);
static_assert(offsetof(BlockHeader, space) == 128);
static_assert(offsetof(BlockHeader, header_checksum) == 184);
static_assert(std::is_trivially_copyable_v<BlockHeader>);

/// A header and the names of its inner places.
struct BlockRecord : BlockHeader {
  std::vector<Name> inner;

  BlockRecord() = default;
  BlockRecord(const BlockHeader& header) : BlockHeader(header) {}  // of a block of one place

  /// Fills in inner_count and inner_checksum, then seals the header.
  void Seal();
};

/// What a record takes where it is stored.
inline uint64_t RecordBytes(const BlockHeader& header) {
  return sizeof(BlockHeader) + header.inner_count * sizeof(Name);
}

/// Whether a stored header can be believed; neither payload nor inner names are looked at.
/// Errors: FailedPrecondition for another version (set the store aside), DataLoss for anything
///         damaged or out of range (drop the block).
absl::Status VerifyHeader(const BlockHeader& header);

/// VerifyHeader, and whether the inner names are those that it was sealed with.
absl::Status VerifyRecord(const BlockRecord& record);

/// Copies a header out of unaligned, untrusted bytes and verifies it.
/// Errors: as VerifyHeader; DataLoss when `bytes` is not exactly one header long.
absl::StatusOr<BlockHeader> ReadHeader(std::span<const std::byte> bytes);

/// The same for a record at the beginning of `bytes`; what follows it is not looked at.
absl::StatusOr<BlockRecord> ReadRecord(std::span<const std::byte> bytes);

}  // namespace thermocline
