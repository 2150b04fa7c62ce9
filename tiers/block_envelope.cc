#include "tiers/block_envelope.h"

#include <openssl/rand.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "hashing/checksum.h"

namespace thermocline {
namespace {

static_assert(std::endian::native == std::endian::little, "envelopes are stored as they lie");

constexpr uint32_t kMagic = 0x56454354;  // "TCEV"
constexpr uint8_t kVersion = 1;
constexpr uint64_t kLeastGain = 32;  // zstd must save one part in so many
constexpr uint64_t kMostRecordBytes = sizeof(BlockHeader) + kMaxInnerNames * sizeof(Name);

enum class Kind : uint8_t { kBlock = 1, kRecord = 2 };
enum class Cipher : uint8_t { kNone = 0, kAesGcm = 1 };

struct Prefix {
  uint32_t magic = kMagic;
  uint8_t version = kVersion;
  Kind kind = Kind::kBlock;
  Codec codec = Codec::kNone;
  Cipher cipher = Cipher::kNone;
  uint32_t key_number = 0;
  uint32_t record_bytes = 0;
  uint64_t payload_bytes = 0;  // as stored
  uint64_t checksum = 0;

  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(this, 1)); }
  uint64_t Sum() const { return Checksum(bytes().first(offsetof(Prefix, checksum))); }
};
static_assert(sizeof(Prefix) == kEnvelopePrefixBytes);
static_assert(offsetof(Prefix, checksum) == 24);

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError("envelope damaged: " + what + "; the block is dropped");
}

/// An envelope in its pieces, which its sizes have been compared with.
struct Envelope {
  Prefix prefix;
  std::span<const std::byte> nonce, record, payload, tag;  // nonce and tag: none without a cipher
};

absl::StatusOr<Envelope> Split(std::span<const std::byte> bytes, Kind kind) {
  Envelope envelope;
  Prefix& prefix = envelope.prefix;
  if (bytes.size() < sizeof prefix) return Damaged("it is cut off");
  std::memcpy(static_cast<void*>(&prefix), bytes.data(), sizeof prefix);
  if (prefix.magic != kMagic) return Damaged("it does not begin with TCEV");
  if (prefix.version != kVersion) {
    return absl::FailedPreconditionError("envelope of version " + std::to_string(prefix.version) +
                                         ", this build reads version " + std::to_string(kVersion) +
                                         "; use the matching build");
  }
  if (prefix.checksum != prefix.Sum()) return Damaged("its checksum does not fit");
  const bool encrypted = prefix.cipher == Cipher::kAesGcm;
  if (prefix.kind != kind) return Damaged("it is of another kind");
  if (prefix.codec != Codec::kNone && prefix.codec != Codec::kZstd) return Damaged("its codec");
  if (!encrypted && prefix.cipher != Cipher::kNone) return Damaged("its cipher");
  if (encrypted != (prefix.key_number != 0)) return Damaged("its key's number");
  if (prefix.record_bytes > kMostRecordBytes || prefix.payload_bytes > kMaxPartBytes ||
      (kind == Kind::kRecord && prefix.payload_bytes != 0)) {
    return Damaged("its sizes");
  }
  const uint64_t sealed = encrypted ? AesGcm::kNonceBytes + AesGcm::kTagBytes : 0;
  if (bytes.size() != sizeof prefix + sealed + prefix.record_bytes + prefix.payload_bytes) {
    return Damaged("it has " + std::to_string(bytes.size()) + " bytes, which is not what it says");
  }
  bytes = bytes.subspan(sizeof prefix);
  const auto take = [&bytes](uint64_t count) {
    const auto taken = bytes.first(count);
    bytes = bytes.subspan(count);
    return taken;
  };
  if (encrypted) envelope.nonce = take(AesGcm::kNonceBytes);
  envelope.record = take(prefix.record_bytes);
  envelope.payload = take(prefix.payload_bytes);
  envelope.tag = bytes;
  return envelope;
}

/// What is bound to an envelope besides what is in it. The context comes last, so that no other
/// parts make the same bytes.
void Associate(AesGcm& cipher, const Prefix& prefix, BlockRef ref, const std::string& context) {
  cipher.Associate(prefix.bytes())
      .Associate(std::as_bytes(std::span(&ref.id, 1)))
      .Associate(std::as_bytes(std::span(&ref.part, 1)))
      .Associate(std::as_bytes(std::span(context.data(), context.size())));
}

/// The key that an envelope was sealed under; null: none, and there are no keys either.
absl::StatusOr<const SealingKey*> KeyOf(const Prefix& prefix, const KeyRing* ring) {
  if (prefix.cipher == Cipher::kNone && ring == nullptr) return nullptr;
  if (prefix.cipher == Cipher::kNone) {
    return absl::FailedPreconditionError("it is not encrypted, as this store is to be now");
  }
  const SealingKey* const key = ring == nullptr ? nullptr : ring->Find(prefix.key_number);
  if (key != nullptr) return key;
  return absl::FailedPreconditionError("it is encrypted under key " +
                                       std::to_string(prefix.key_number) + ", which is not here");
}

/// The key that seals; null: nothing is encrypted.
absl::StatusOr<const SealingKey*> NewestOf(const KeyRing* ring) {
  if (ring == nullptr) return nullptr;
  if (!ring->empty()) return &ring->newest();
  return absl::FailedPreconditionError("there is no key to encrypt with: its file is gone");
}

std::shared_ptr<const KeyRing> RingOf(const BlockEnvelope::Options& options) {
  return options.keys == nullptr ? nullptr : options.keys->ring();
}

/// Of the thread, as making one takes longer than compressing a small block.
ZSTD_CCtx* Compressor() {
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  };
  thread_local const std::unique_ptr<ZSTD_CCtx, Free> context(ZSTD_createCCtx());
  return context.get();
}
ZSTD_DCtx* Decompressor() {
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  thread_local const std::unique_ptr<ZSTD_DCtx, Free> context(ZSTD_createDCtx());
  return context.get();
}

/// Compresses into `room`; 0 when it does not pay.
uint64_t Compress(std::span<const std::byte> payload, int level, std::byte* room) {
  const uint64_t most = payload.size() - payload.size() / kLeastGain;
  if (Compressor() == nullptr || most == payload.size()) return 0;
  const size_t bytes =
      ZSTD_compressCCtx(Compressor(), room, most, payload.data(), payload.size(), level);
  return ZSTD_isError(bytes) != 0 ? 0 : bytes;
}

/// Whether `stored` is the compressed form of as many bytes as `payload` has.
bool Decompress(std::span<const std::byte> stored, std::span<std::byte> payload) {
  return Decompressor() != nullptr &&
         ZSTD_decompressDCtx(Decompressor(), payload.data(), payload.size(), stored.data(),
                             stored.size()) == payload.size();
}

/// The record in `bytes`, if it fills them and is that of the block.
absl::StatusOr<BlockRecord> RecordOf(std::span<const std::byte> bytes, BlockRef ref) {
  TC_ASSIGN_OR_RETURN(BlockRecord record, ReadRecord(bytes));
  if (RecordBytes(record) != bytes.size()) return Damaged("its record's size");
  if (record.id != ref.id || record.part != ref.part) return Damaged("it is another block's");
  return record;
}

/// Writes `prefix` and record, and the payload, which is in place already where `source` is null.
/// Returns the bytes of all.
absl::StatusOr<uint64_t> Write(Prefix& prefix, const BlockRecord& record, const std::byte* source,
                               const SealingKey* key, const std::string& context,
                               std::span<std::byte> room) {
  const std::span<const std::byte> header =
      std::as_bytes(std::span(static_cast<const BlockHeader*>(&record), 1));
  const std::span<const std::byte> names = std::as_bytes(std::span(record.inner));
  prefix.record_bytes = static_cast<uint32_t>(header.size() + names.size());
  prefix.cipher = key == nullptr ? Cipher::kNone : Cipher::kAesGcm;
  prefix.key_number = key == nullptr ? 0 : key->number;
  prefix.checksum = prefix.Sum();
  std::byte* at = std::copy_n(prefix.bytes().data(), sizeof prefix, room.data());
  if (key == nullptr) {
    at = std::copy(header.begin(), header.end(), at);
    at = std::copy(names.begin(), names.end(), at);
    if (source != nullptr && prefix.payload_bytes > 0) {
      std::memcpy(at, source, prefix.payload_bytes);
    }
    return static_cast<uint64_t>(at - room.data()) + prefix.payload_bytes;
  }
  const std::span<std::byte, AesGcm::kNonceBytes> nonce(at, AesGcm::kNonceBytes);
  if (RAND_bytes(reinterpret_cast<uint8_t*>(nonce.data()), AesGcm::kNonceBytes) != 1) {
    return absl::UnavailableError("no random bytes for a nonce; the block is not stored");
  }
  at += AesGcm::kNonceBytes;
  AesGcm cipher(AesGcm::Way::kSeal, key->bytes, nonce);
  Associate(cipher, prefix, {record.id, record.part}, context);
  cipher.Update(header, at);
  at += header.size();
  cipher.Update(names, at);
  at += names.size();
  cipher.Update({source == nullptr ? at : source, prefix.payload_bytes}, at);
  at += prefix.payload_bytes;
  cipher.FinishSeal(std::span<std::byte, AesGcm::kTagBytes>(at, AesGcm::kTagBytes));
  return static_cast<uint64_t>(at - room.data()) + AesGcm::kTagBytes;
}

}  // namespace

absl::StatusOr<uint64_t> BlockEnvelope::Encode(const BlockRecord& record,
                                               std::span<const std::byte> payload,
                                               std::span<std::byte> room) const {
  TC_CHECK(payload.size() == record.payload_bytes);
  TC_CHECK(room.size() >= MostBytes(record));
  const std::shared_ptr<const KeyRing> ring = RingOf(options_);
  TC_ASSIGN_OR_RETURN(const SealingKey* const key, NewestOf(ring.get()));
  Prefix prefix{.payload_bytes = payload.size()};
  const std::byte* source = payload.data();
  if (options_.codec == Codec::kZstd) {
    const uint64_t before =
        sizeof prefix + (key == nullptr ? 0 : AesGcm::kNonceBytes) + RecordBytes(record);
    if (const uint64_t bytes = Compress(payload, options_.zstd_level, room.data() + before)) {
      prefix.codec = Codec::kZstd;
      prefix.payload_bytes = bytes;
      source = nullptr;
    }
  }
  return Write(prefix, record, source, key, options_.context, room);
}

absl::Status BlockEnvelope::EncodeRecord(const BlockRecord& record, std::string& out) const {
  const std::shared_ptr<const KeyRing> ring = RingOf(options_);
  TC_ASSIGN_OR_RETURN(const SealingKey* const key, NewestOf(ring.get()));
  Prefix prefix{.kind = Kind::kRecord};
  const size_t before = out.size();
  out.resize(before + RecordBytes(record) + kEnvelopeMostBytes);
  const auto room = std::as_writable_bytes(std::span(out)).subspan(before);
  const auto bytes = Write(prefix, record, nullptr, key, options_.context, room);
  out.resize(before + (bytes.ok() ? *bytes : 0));
  return bytes.status();
}

absl::StatusOr<BlockRecord> BlockEnvelope::DecodeRecord(BlockRef ref,
                                                        std::span<const std::byte> bytes) const {
  TC_ASSIGN_OR_RETURN(const Envelope envelope, Split(bytes, Kind::kRecord));
  const std::shared_ptr<const KeyRing> ring = RingOf(options_);
  TC_ASSIGN_OR_RETURN(const SealingKey* const key, KeyOf(envelope.prefix, ring.get()));
  if (key == nullptr) return RecordOf(envelope.record, ref);
  std::vector<std::byte> plain(envelope.record.size());
  AesGcm cipher(AesGcm::Way::kOpen, key->bytes, envelope.nonce.first<AesGcm::kNonceBytes>());
  Associate(cipher, envelope.prefix, ref, options_.context);
  cipher.Update(envelope.record, plain.data());
  if (!cipher.FinishOpen(envelope.tag.first<AesGcm::kTagBytes>())) {
    return Damaged("its tag does not fit");
  }
  return RecordOf(plain, ref);
}

absl::Status BlockEnvelope::LookAtRecord(std::span<const std::byte> bytes) const {
  TC_ASSIGN_OR_RETURN(const Envelope envelope, Split(bytes, Kind::kRecord));
  return KeyOf(envelope.prefix, RingOf(options_).get()).status();
}

bool BlockEnvelope::IsUnderNewestKey(std::span<const std::byte> bytes) const {
  const auto envelope = Split(bytes, Kind::kBlock);
  const std::shared_ptr<const KeyRing> ring = RingOf(options_);
  const auto key = NewestOf(ring.get());
  return envelope.ok() && key.ok() &&
         envelope->prefix.key_number == (*key == nullptr ? 0 : (*key)->number);
}

absl::StatusOr<BlockRecord> BlockEnvelope::Decode(BlockRef ref, std::span<const std::byte> bytes,
                                                  std::span<std::byte> payload) const {
  TC_ASSIGN_OR_RETURN(const Envelope envelope, Split(bytes, Kind::kBlock));
  const std::shared_ptr<const KeyRing> ring = RingOf(options_);
  TC_ASSIGN_OR_RETURN(const SealingKey* const key, KeyOf(envelope.prefix, ring.get()));
  const bool compressed = envelope.prefix.codec == Codec::kZstd;
  const auto too_small = [&](uint64_t needed) {
    return absl::InvalidArgumentError("block " + std::to_string(ref.id) + " has " +
                                      std::to_string(needed) + " bytes, room for " +
                                      std::to_string(payload.size()));
  };
  std::span<const std::byte> record_bytes = envelope.record, stored = envelope.payload;
  std::vector<std::byte> plain(key == nullptr ? 0 : envelope.record.size());
  std::unique_ptr<std::byte[]> scratch;  // of a compressed payload, decrypted
  if (key != nullptr) {
    if (!compressed && stored.size() > payload.size()) return too_small(stored.size());
    if (compressed) scratch = std::make_unique_for_overwrite<std::byte[]>(stored.size());
    std::byte* const to = compressed ? scratch.get() : payload.data();
    AesGcm cipher(AesGcm::Way::kOpen, key->bytes, envelope.nonce.first<AesGcm::kNonceBytes>());
    Associate(cipher, envelope.prefix, ref, options_.context);
    cipher.Update(envelope.record, plain.data()).Update(stored, to);
    if (!cipher.FinishOpen(envelope.tag.first<AesGcm::kTagBytes>())) {
      return Damaged("its tag does not fit");
    }
    record_bytes = plain;
    stored = {to, stored.size()};
  }
  TC_ASSIGN_OR_RETURN(BlockRecord record, RecordOf(record_bytes, ref));
  if (record.payload_bytes > payload.size()) return too_small(record.payload_bytes);
  payload = payload.first(record.payload_bytes);
  if (compressed) {
    if (!Decompress(stored, payload)) return Damaged("it cannot be decompressed");
  } else if (stored.size() != payload.size()) {
    return Damaged("its payload's size");
  }
  const bool copied = compressed || key != nullptr;
  const uint64_t sum = copied ? Checksum(payload) : CopyAndChecksum(payload, stored);
  if (sum != record.payload_checksum) return Damaged("its payload does not fit its checksum");
  return record;
}

}  // namespace thermocline
