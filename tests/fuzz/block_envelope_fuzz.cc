// Envelopes come from disks. The first byte says who opens them (with keys or without, as a block
// or as a record) and whether the checksums of prefix and header are made to fit first, so that
// what lies behind them is reached too.
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "hashing/checksum.h"
#include "tiers/block_envelope.h"

namespace {

using namespace thermocline;

constexpr size_t kRoomBytes = 4096;
constexpr BlockRef kRef{0x0000000100000002, 0};

std::shared_ptr<const KeySource> Keys() {
  auto ring = KeyRing::Parse("1 " + std::string(64, '5'), "fuzz");
  TC_CHECK(ring.ok());
  return std::make_shared<const KeySource>(*std::move(ring));
}

/// The prefix's checksum, and the record's own, made to fit.
void Mend(std::vector<std::byte>& bytes) {
  if (bytes.size() < kEnvelopePrefixBytes) return;
  const uint64_t sum = Checksum(std::span(bytes).first(24));
  std::memcpy(bytes.data() + 24, &sum, sizeof sum);
  BlockHeader header;
  if (bytes.size() < kEnvelopePrefixBytes + sizeof header) return;
  std::memcpy(static_cast<void*>(&header), bytes.data() + kEnvelopePrefixBytes, sizeof header);
  header.magic = kBlockHeaderMagic;
  header.version = kBlockHeaderVersion;
  header.id = kRef.id;
  header.part = kRef.part;
  header.Seal();
  std::memcpy(bytes.data() + kEnvelopePrefixBytes, &header, sizeof header);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  static const BlockEnvelope plain;
  static const BlockEnvelope keyed({.codec = Codec::kZstd, .keys = Keys(), .context = "default"});
  const uint8_t mode = data[0];
  const BlockEnvelope& envelope = (mode & 1) != 0 ? keyed : plain;
  std::vector<std::byte> bytes(reinterpret_cast<const std::byte*>(data + 1),
                               reinterpret_cast<const std::byte*>(data + size));
  if ((mode & 4) != 0) Mend(bytes);
  std::vector<std::byte> room(kRoomBytes);
  const auto record =
      (mode & 2) != 0 ? envelope.DecodeRecord(kRef, bytes) : envelope.Decode(kRef, bytes, room);
  if (!record.ok()) return 0;
  // What is accepted is whole, and goes through once more.
  TC_CHECK(VerifyRecord(*record).ok());
  TC_CHECK(record->id == kRef.id);
  if ((mode & 2) != 0) return 0;
  TC_CHECK(record->payload_bytes <= room.size());
  const auto payload = std::span(room).first(record->payload_bytes);
  TC_CHECK(Checksum(payload) == record->payload_checksum);
  std::vector<std::byte> again(BlockEnvelope::MostBytes(*record));
  const auto written = keyed.Encode(*record, payload, again);
  TC_CHECK(written.ok());
  std::vector<std::byte> back(payload.size());
  TC_CHECK(keyed.Decode(kRef, std::span(again).first(*written), back).ok());
  TC_CHECK(std::equal(back.begin(), back.end(), payload.begin()));
  return 0;
}
