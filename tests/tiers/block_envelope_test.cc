#include "tiers/block_envelope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/units.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"

namespace thermocline {
namespace {

using Bytes = std::vector<std::byte>;

/// Keys of these numbers, the same wherever the number is.
std::shared_ptr<const KeySource> Keys(std::initializer_list<int> numbers) {
  std::string text;
  for (const int number : numbers) {
    const std::string two = std::to_string(number % 90 + 10);
    text += std::to_string(number) + " ";
    for (int i = 0; i < 32; ++i) text += two;
    text += "\n";
  }
  auto ring = KeyRing::Parse(text, "test");
  TC_CHECK(ring.ok());
  return std::make_shared<const KeySource>(*std::move(ring));
}

BlockEnvelope With(Codec codec, std::shared_ptr<const KeySource> keys,
                   const std::string& tenant = "default") {
  return BlockEnvelope({.codec = codec, .keys = std::move(keys), .context = tenant});
}

Bytes Encoded(const BlockEnvelope& envelope, const BlockRecord& record, const Bytes& payload) {
  Bytes room(BlockEnvelope::MostBytes(record));
  const auto bytes = envelope.Encode(record, payload, room);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  room.resize(*bytes);
  return room;
}

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Bytes as a KV cache may have them: some of few values, so that zstd finds something.
Bytes Payload(std::mt19937_64& random, uint64_t bytes, bool compressible) {
  Bytes payload(bytes);
  for (std::byte& byte : payload) {
    byte = static_cast<std::byte>(compressible ? random() % 11 : random());
  }
  return payload;
}

BlockRecord RecordOf(std::mt19937_64& random, const Bytes& payload) {
  BlockRecord record = TestRecord(random() | 1, 1 + random() % 6, payload);
  record.part = static_cast<uint16_t>(random() % kMaxParts);
  record.parent_id = record.id + 1;
  record.depth += 1;
  record.Seal();
  return record;
}

void ExpectSame(const absl::StatusOr<BlockRecord>& read, const BlockRecord& record) {
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->header_checksum, record.header_checksum);
  EXPECT_EQ(read->inner, record.inner);
}

TEST(BlockEnvelopeTest, EveryPairOfCodecAndCipherGivesBackWhatItWasGiven) {
  const uint64_t seed = TestSeed(1);
  std::mt19937_64 random(seed);
  std::vector<uint64_t> sizes = {16, 32, 4096, 64 * KiB, MiB, 4 * MiB};
  for (int i = 0; i < 12; ++i) sizes.push_back(16 * (1 + random() % (4 * MiB / 16) % 20000));
  for (const uint64_t bytes : sizes) {
    for (const bool compressible : {false, true}) {
      const Bytes payload = Payload(random, bytes, compressible);
      const BlockRecord record = RecordOf(random, payload);
      const BlockRef ref{record.id, record.part};
      for (const Codec codec : {Codec::kNone, Codec::kZstd}) {
        for (const auto& keys : {std::shared_ptr<const KeySource>(), Keys({3})}) {
          SCOPED_TRACE("TC_SEED=" + std::to_string(seed) + " bytes " + std::to_string(bytes) +
                       " codec " + std::to_string(static_cast<int>(codec)) + " keys " +
                       std::to_string(keys != nullptr));
          const BlockEnvelope envelope = With(codec, keys);
          const Bytes stored = Encoded(envelope, record, payload);
          const bool smaller = stored.size() < StoredBytes(record);
          EXPECT_EQ(smaller, codec == Codec::kZstd && compressible && bytes > 512) << stored.size();
          Bytes read(payload.size() + 16, std::byte{0x5a});
          ExpectSame(envelope.Decode(ref, stored, read), record);
          EXPECT_TRUE(std::equal(payload.begin(), payload.end(), read.begin()));
          EXPECT_EQ(read[payload.size()], std::byte{0x5a});  // not a byte beyond
          const Bytes small(payload.size() - 16);
          EXPECT_EQ(
              envelope.Decode(ref, stored, std::span(read).first(small.size())).status().code(),
              absl::StatusCode::kInvalidArgument);

          std::string alone = "before";
          ASSERT_TRUE(envelope.EncodeRecord(record, alone).ok());
          ExpectSame(envelope.DecodeRecord(ref, BytesOf(alone).subspan(6)), record);
        }
      }
    }
  }
}

TEST(BlockEnvelopeTest, AStoreReadsWhatAnotherCodecWrote) {
  std::mt19937_64 random(2);
  const Bytes payload = Payload(random, 4096, true);
  const BlockRecord record = RecordOf(random, payload);
  for (const Codec codec : {Codec::kNone, Codec::kZstd}) {
    const Codec other = codec == Codec::kNone ? Codec::kZstd : Codec::kNone;
    Bytes read(payload.size());
    const Bytes stored = Encoded(With(codec, Keys({1})), record, payload);
    ExpectSame(With(other, Keys({1})).Decode({record.id, record.part}, stored, read), record);
    EXPECT_EQ(read, payload);
  }
}

/// All four pairs, of a block that zstd makes smaller.
struct Case {
  Codec codec;
  bool encrypted;
  BlockEnvelope envelope;
  Bytes stored;
  std::string alone;
};
std::vector<Case> AllCases(const BlockRecord& record, const Bytes& payload) {
  std::vector<Case> cases;
  for (const Codec codec : {Codec::kNone, Codec::kZstd}) {
    for (const auto& keys : {std::shared_ptr<const KeySource>(), Keys({7})}) {
      cases.push_back({codec, keys != nullptr, With(codec, keys), {}, {}});
      cases.back().stored = Encoded(cases.back().envelope, record, payload);
      EXPECT_TRUE(cases.back().envelope.EncodeRecord(record, cases.back().alone).ok());
    }
  }
  return cases;
}

/// A flipped byte of the envelope's version, or of the record's where that lies open, reads as a
/// version that this build does not know.
bool IsVersionByte(size_t at, bool encrypted) {
  constexpr size_t kRecordVersion = kEnvelopePrefixBytes + offsetof(BlockHeader, version);
  return at == 4 || (!encrypted && (at == kRecordVersion || at == kRecordVersion + 1));
}

TEST(BlockEnvelopeTest, NoFlippedByteGivesAWrongOne) {
  std::mt19937_64 random(3);
  const Bytes payload = Payload(random, 1024, true);
  const BlockRecord record = RecordOf(random, payload);
  const BlockRef ref{record.id, record.part};
  for (Case& c : AllCases(record, payload)) {
    const bool open_zstd = c.codec == Codec::kZstd && !c.encrypted;
    Bytes read(payload.size());
    for (size_t at = 0; at < c.stored.size(); ++at) {
      for (const int flip : {1, 0x80, 0xff}) {
        c.stored[at] ^= static_cast<std::byte>(flip);
        const auto status = c.envelope.Decode(ref, c.stored, read).status();
        if (open_zstd && status.ok()) {  // zstd has bits that mean nothing; what it made is summed
          EXPECT_EQ(read, payload) << "byte " << at;
        } else {
          EXPECT_EQ(status.code(), IsVersionByte(at, c.encrypted)
                                       ? absl::StatusCode::kFailedPrecondition
                                       : absl::StatusCode::kDataLoss)
              << "byte " << at << " of " << c.stored.size();
        }
        c.stored[at] ^= static_cast<std::byte>(flip);
      }
    }
    for (size_t at = 0; at < c.alone.size(); ++at) {
      c.alone[at] ^= 1;
      EXPECT_FALSE(c.envelope.DecodeRecord(ref, BytesOf(c.alone)).ok()) << "byte " << at;
      c.alone[at] ^= 1;
    }
    EXPECT_TRUE(c.envelope.Decode(ref, c.stored, read).ok());
    EXPECT_TRUE(c.envelope.DecodeRecord(ref, BytesOf(c.alone)).ok());
  }
}

TEST(BlockEnvelopeTest, OfEveryLengthButItsOwnItIsDamaged) {
  std::mt19937_64 random(4);
  const Bytes payload = Payload(random, 1024, true);
  const BlockRecord record = RecordOf(random, payload);
  const BlockRef ref{record.id, record.part};
  for (Case& c : AllCases(record, payload)) {
    Bytes read(payload.size());
    c.stored.resize(c.stored.size() + 20);
    c.alone.resize(c.alone.size() + 20);
    for (size_t length = 0; length <= c.stored.size(); ++length) {
      const auto status = c.envelope.Decode(ref, std::span(c.stored).first(length), read).status();
      EXPECT_EQ(status.ok(), length == c.stored.size() - 20) << length;
      EXPECT_EQ(absl::IsDataLoss(status), !status.ok()) << status;
    }
    for (size_t length = 0; length <= c.alone.size(); ++length) {
      EXPECT_EQ(c.envelope.DecodeRecord(ref, BytesOf(c.alone).first(length)).ok(),
                length == c.alone.size() - 20);
    }
  }
}

TEST(BlockEnvelopeTest, InAnotherPlaceItDoesNotOpen) {
  std::mt19937_64 random(5);
  const Bytes payload = Payload(random, 1024, true);
  const BlockRecord record = RecordOf(random, payload);
  const BlockRef ref{record.id, record.part};
  const BlockRef others[] = {{ref.id + 1, ref.part},
                             {ref.id, static_cast<uint16_t>((ref.part + 1) % kMaxParts)}};
  for (const Case& c : AllCases(record, payload)) {
    Bytes read(payload.size());
    for (const BlockRef& other : others) {
      EXPECT_TRUE(absl::IsDataLoss(c.envelope.Decode(other, c.stored, read).status()));
      EXPECT_TRUE(absl::IsDataLoss(c.envelope.DecodeRecord(other, BytesOf(c.alone)).status()));
    }
    // A block is no record, and the other way round.
    EXPECT_TRUE(absl::IsDataLoss(c.envelope.DecodeRecord(ref, c.stored).status()));
    EXPECT_TRUE(absl::IsDataLoss(c.envelope.Decode(ref, BytesOf(c.alone), read).status()));
  }
  // Of a tenant with the same key.
  const Bytes stored = Encoded(With(Codec::kNone, Keys({7}), "a"), record, payload);
  Bytes read(payload.size());
  EXPECT_TRUE(With(Codec::kNone, Keys({7}), "a").Decode(ref, stored, read).ok());
  EXPECT_TRUE(
      absl::IsDataLoss(With(Codec::kNone, Keys({7}), "b").Decode(ref, stored, read).status()));
}

TEST(BlockEnvelopeTest, KeysComeAndGo) {
  std::mt19937_64 random(6);
  const Bytes payload = Payload(random, 1024, false);
  const BlockRecord record = RecordOf(random, payload);
  const BlockRef ref{record.id, record.part};
  Bytes read(payload.size());
  const auto opens = [&](std::shared_ptr<const KeySource> keys, const Bytes& stored) {
    return With(Codec::kNone, std::move(keys)).Decode(ref, stored, read).status();
  };
  const Bytes plain = Encoded(With(Codec::kNone, nullptr), record, payload);
  const Bytes first = Encoded(With(Codec::kNone, Keys({1})), record, payload);
  const Bytes second = Encoded(With(Codec::kNone, Keys({2, 1})), record, payload);
  EXPECT_TRUE(opens(Keys({1, 2}), first).ok());
  EXPECT_TRUE(opens(Keys({1, 2}), second).ok());
  EXPECT_TRUE(opens(Keys({2}), second).ok());  // the highest number sealed
  EXPECT_TRUE(absl::IsFailedPrecondition(opens(Keys({2}), first)));
  EXPECT_THAT(std::string(opens(Keys({2}), first).message()), testing::HasSubstr("key 1"));
  EXPECT_TRUE(absl::IsFailedPrecondition(opens(nullptr, first)));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(opens(Keys({1}), plain)));  // which anybody could have put there
  EXPECT_TRUE(opens(nullptr, plain).ok());
  EXPECT_FALSE(With(Codec::kNone, Keys({1, 2})).IsUnderNewestKey(first));
  EXPECT_TRUE(With(Codec::kNone, Keys({1, 2})).IsUnderNewestKey(second));
  EXPECT_TRUE(With(Codec::kNone, nullptr).IsUnderNewestKey(plain));
  std::string alone;
  ASSERT_TRUE(With(Codec::kNone, Keys({1})).EncodeRecord(record, alone).ok());
  EXPECT_TRUE(With(Codec::kNone, Keys({1, 2})).LookAtRecord(BytesOf(alone)).ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(With(Codec::kNone, Keys({2})).LookAtRecord(BytesOf(alone))));
  // The number alone is not enough.
  auto other = KeyRing::Parse("1 " + std::string(64, 'a'), "test");
  EXPECT_TRUE(absl::IsDataLoss(opens(std::make_shared<const KeySource>(*std::move(other)), first)));
}

TEST(BlockEnvelopeTest, NothingOfAnEncryptedBlockIsInItsEnvelope) {
  std::mt19937_64 random(7);
  const Bytes payload = Payload(random, 4096, true);
  const BlockRecord record = TestRecord(random(), 4, payload);
  std::set<std::string> nonces;
  for (const Codec codec : {Codec::kNone, Codec::kZstd}) {
    const Bytes stored = Encoded(With(codec, Keys({1})), record, payload);
    std::string alone;
    ASSERT_TRUE(With(codec, Keys({1})).EncodeRecord(record, alone).ok());
    const std::string text(reinterpret_cast<const char*>(stored.data()), stored.size());
    const std::string_view header(reinterpret_cast<const char*>(&record), sizeof(BlockHeader));
    const std::string_view bytes(reinterpret_cast<const char*>(payload.data()), payload.size());
    for (const std::string& envelope : {text, alone}) {
      nonces.insert(envelope.substr(kEnvelopePrefixBytes, AesGcm::kNonceBytes));
      EXPECT_EQ(envelope.find(header.substr(0, 4)), std::string::npos);
      for (size_t at = 0; at + 8 <= header.size(); at += 8) {
        const std::string_view piece = header.substr(at, 8);
        if (piece == std::string(8, '\0') || at == offsetof(BlockHeader, payload_bytes)) continue;
        EXPECT_EQ(envelope.find(piece), std::string::npos) << at;
      }
      for (const Name& name : record.inner) {
        const std::string_view piece(reinterpret_cast<const char*>(&name), 16);
        EXPECT_EQ(envelope.find(piece), std::string::npos);
      }
      for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
        EXPECT_EQ(envelope.find(bytes.substr(at, 8)), std::string::npos) << at;
      }
    }
  }
  EXPECT_EQ(nonces.size(), 4u);
}

}  // namespace
}  // namespace thermocline
