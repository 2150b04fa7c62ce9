// What a store on a medium keeps of a block: an envelope that says of itself how it is to be
// opened. Format "envelope.v1", little-endian:
//
//   offset  bytes  field             offset  bytes  field
//        0      4  magic "TCEV"           8      4  key number; 0: not encrypted
//        4      1  version               12      4  bytes of the record
//        5      1  kind                  16      8  bytes of the payload as stored
//        6      1  codec                 24      8  XXH3-64 of bytes 0 to 23
//        7      1  cipher
//
//   then, of an encrypted one, 24 bytes of nonce; the record (BlockHeader ‖ inner names) and the
//   payload, encrypted together; of an encrypted one, 16 bytes of tag.
//
// A payload that zstd does not make smaller by 1/32 is kept raw: reading it back costs less so. The
// cipher is AES-256-GCM under a key derived for each envelope (tiers/aes_gcm.h says why). It binds
// the first 32 bytes, the block's id and part, and a context that the store's owner chooses, which
// is the tenant: an envelope in another's place does not open. A store that has keys opens nothing
// that was not sealed under one of them, for whoever writes to the disk could put it there.
//
// The same with kind "record", and no payload, keeps the record alone: names are token ids, which
// are prompts. In the clear stay sizes, and with that how well a payload was compressed.
//
// Damage is found by the tag, and without a cipher by the checksums of record and payload, which
// are looked at in either case: they come from whoever committed the block.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "hashing/block_header.h"
#include "tiers/key_ring.h"
#include "tiers/tier.h"

namespace thermocline {

enum class Codec : uint8_t { kNone = 0, kZstd = 1 };

inline constexpr uint64_t kEnvelopePrefixBytes = 32;
/// The most by which an envelope exceeds record and payload.
inline constexpr uint64_t kEnvelopeMostBytes =
    kEnvelopePrefixBytes + AesGcm::kNonceBytes + AesGcm::kTagBytes;

/// How one store seals and opens. Thread: any, concurrently.
class BlockEnvelope {
 public:
  struct Options {
    Codec codec = Codec::kNone;
    int zstd_level = 1;
    std::shared_ptr<const KeySource> keys = {};  // none: nothing is encrypted
    std::string context = {};                    // bound to what is encrypted
  };
  BlockEnvelope() : BlockEnvelope(Options()) {}
  explicit BlockEnvelope(Options options) : options_(std::move(options)) {}

  /// Room that any envelope of the block fits in.
  static uint64_t MostBytes(const BlockHeader& header) {
    return StoredBytes(header) + kEnvelopeMostBytes;
  }

  /// Writes the envelope of a block into `room`, of MostBytes at least, and returns its bytes.
  /// REQUIRES: payload.size() == record.payload_bytes; they are not compared otherwise.
  /// Errors:   Unavailable when there are no random bytes to be had, FailedPrecondition when the
  ///           keys were taken away.
  /// Cost:     without codec and cipher one memcpy; encryption is the copy; zstd one pass more.
  absl::StatusOr<uint64_t> Encode(const BlockRecord& record, std::span<const std::byte> payload,
                                  std::span<std::byte> room) const;

  /// Opens the envelope of block `ref` into `payload`, which has room for its bytes at least and
  /// may be the slot where it is wanted: of an encrypted block its bytes are void unless the answer
  /// is OK.
  /// Errors: DataLoss for any damage, and for an envelope of another block or context;
  ///         FailedPrecondition when it is sealed under no key that is here, or under none and
  ///         there are keys, and for another version; InvalidArgument for too little room.
  absl::StatusOr<BlockRecord> Decode(BlockRef ref, std::span<const std::byte> envelope,
                                     std::span<std::byte> payload) const;

  /// Appends the envelope of the record alone. Errors: as Encode.
  absl::Status EncodeRecord(const BlockRecord& record, std::string& out) const;
  /// Errors: as Decode.
  absl::StatusOr<BlockRecord> DecodeRecord(BlockRef ref, std::span<const std::byte> envelope) const;

  /// Whether a record's envelope is whole on the outside and its key is here: all that can be told
  /// without opening it. Errors: as Decode.
  absl::Status LookAtRecord(std::span<const std::byte> envelope) const;
  /// Whether an envelope that Decode opens is under the key that seals now.
  bool IsUnderNewestKey(std::span<const std::byte> envelope) const;

 private:
  Options options_;
};

}  // namespace thermocline
