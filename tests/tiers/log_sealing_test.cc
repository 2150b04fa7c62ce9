// The log tier with a codec and keys: the conformance suite, what is found in the files of a store,
// and what becomes of blocks whose key comes, goes or changes.
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "base/file_util.h"
#include "base/units.h"
#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/tier_conformance.h"
#include "tiers/disk_segments.h"
#include "tiers/log_format.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint64_t kPayloadBytes = 16 * KiB;
constexpr uint64_t kBlocks = 24;
constexpr uint64_t kAddedBytes = 2048;  // of the medium, to a segment of one block

std::string KeyLine(int number, char digit) {
  return std::to_string(number) + " " + std::string(64, digit) + "\n";
}

std::shared_ptr<KeySource> Keys(const std::string& text) {
  auto ring = KeyRing::Parse(text, "test");
  TC_CHECK(ring.ok());
  return std::make_shared<KeySource>(*std::move(ring));
}

std::unique_ptr<LogTier> Open(const std::string& directory, BlockEnvelope::Options envelope,
                              uint64_t capacity_bytes = 64 * MiB) {
  auto tier = LogTier::Open({.directory = directory,
                             .capacity_bytes = capacity_bytes,
                             .envelope = BlockEnvelope(std::move(envelope))});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

std::unique_ptr<Tier> MakeSealed(const std::string& directory, uint64_t block_bytes,
                                 uint64_t blocks) {
  return Open(directory,
              {.codec = Codec::kZstd, .keys = Keys(KeyLine(1, 'a')), .context = "default"},
              blocks * (block_bytes + sizeof(BlockHeader) + kAddedBytes));
}

std::string NameOf(const ::testing::TestParamInfo<TierMaker>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(SealedLog, TierConformance,
                         ::testing::Values(TierMaker{"Sealed", true, MakeSealed, true}), NameOf);

class LogSealingTest : public testing::Test {
 protected:
  /// Token ids of block `id`, as a prompt may have them.
  static std::array<int32_t, kPlaceTokens> Tokens(uint64_t id) {
    std::array<int32_t, kPlaceTokens> tokens;
    std::mt19937_64 random(id);
    for (int32_t& token : tokens) token = static_cast<int32_t>(100000 + random() % 100000);
    return tokens;
  }
  static Bytes Payload(uint64_t id) { return TestPayload(id, 0, kPayloadBytes); }
  static BlockRecord Record(uint64_t id) {
    const Bytes payload = Payload(id);
    BlockRecord record = TestRecord(id, 2, payload);
    record.name = NameOfTokens(Tokens(id));
    record.inner[0] = NameOfTokens(Tokens(id + 1000));
    record.Seal();
    return record;
  }
  static BlockEnvelope::Options With(const std::string& keys, Codec codec = Codec::kNone) {
    BlockEnvelope::Options options{.codec = codec, .context = "default"};
    if (!keys.empty()) options.keys = Keys(keys);
    return options;
  }

  static void Put(LogTier& tier, uint64_t from, uint64_t to) {
    std::vector<BlockRecord> records;
    std::vector<Bytes> payloads;
    for (uint64_t id = from; id < to; ++id) {
      records.push_back(Record(id));
      payloads.push_back(Payload(id));
    }
    std::vector<TierPut> puts;
    for (size_t i = 0; i < records.size(); ++i) {
      puts.push_back({.record = &records[i], .payload = payloads[i]});
    }
    tier.PutAll(puts);
    for (const TierPut& put : puts) EXPECT_TRUE(put.status.ok()) << put.status;
  }
  /// How many of the blocks are there, and right.
  static uint64_t Found(LogTier& tier, uint64_t from, uint64_t to) {
    uint64_t count = 0;
    Bytes read(kPayloadBytes);
    for (uint64_t id = from; id < to; ++id) {
      const auto record = tier.Get({id, 0}, read);
      EXPECT_TRUE(record.ok() || absl::IsFailedPrecondition(record.status())) << record.status();
      if (!record.ok() || !*record) continue;
      EXPECT_EQ((*record)->header_checksum, Record(id).header_checksum);
      EXPECT_EQ((*record)->inner, Record(id).inner);
      EXPECT_EQ(read, Payload(id));
      ++count;
    }
    return count;
  }
  static uint64_t Listed(LogTier& tier) {
    uint64_t count = 0;
    EXPECT_TRUE(tier.ForEach([&](const BlockRecord& record) {
                      EXPECT_EQ(record.header_checksum, Record(record.id).header_checksum);
                      ++count;
                      return true;
                    })
                    .ok());
    return count;
  }

  /// What all files of the store hold, one after the other.
  std::string AllBytes() const {
    std::string all;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      all.append(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    return all;
  }
  /// How many of the pieces that would give block `id` away are in there.
  static uint64_t Traces(const std::string& all, uint64_t id) {
    std::vector<std::string> pieces;
    const auto add = [&](const void* bytes, size_t size) {
      pieces.emplace_back(static_cast<const char*>(bytes), size);
    };
    const BlockRecord record = Record(id);
    add(&record.name, 16);  // token ids as they lie, four of them
    add(&record.inner[0], 16);
    add(record.space.bytes.data(), 16);
    for (const int32_t token : Tokens(id)) {
      add(&token, sizeof token);
      pieces.push_back(std::to_string(token));
    }
    const Bytes payload = Payload(id);
    for (size_t at = 0; at + 16 <= payload.size(); at += 1024) add(payload.data() + at, 16);
    uint64_t found = 0;
    for (const std::string& piece : pieces) found += all.find(piece) != std::string::npos;
    return found;
  }

  ScratchDirectory directory_;
};

TEST_F(LogSealingTest, NothingOfABlockIsFoundInTheFiles) {
  Put(*Open(directory_.path(), With("")), 1, kBlocks);
  EXPECT_GT(Traces(AllBytes(), 1), 2u);  // as it is without a key
  for (const Codec codec : {Codec::kNone, Codec::kZstd}) {
    std::filesystem::remove_all(directory_.path() + "/store");
    auto tier = Open(directory_.path(), With(KeyLine(1, 'a'), codec));
    Put(*tier, 1, kBlocks);
    EXPECT_TRUE(tier->Erase({3, 0}).ok());
    const auto search = [&] {
      const std::string all = AllBytes();
      ASSERT_GT(all.size(), (kBlocks - 1) * kPayloadBytes);
      uint64_t traces = 0;
      for (uint64_t id = 1; id < kBlocks; ++id) traces += Traces(all, id);
      // 368 token ids of four bytes in 400 KB of noise: one is there by chance now and then
      // (400,000 * 368 / 2^32), and longer pieces never.
      EXPECT_LE(traces, 3u);
      EXPECT_EQ(all.find(std::string(64, 'a')), std::string::npos);
    };
    search();
    tier.reset();  // with its log and its manifest written
    search();
  }
}

TEST_F(LogSealingTest, ARestartWithTheKeyFindsAllAndWithAnotherNothing) {
  Put(*Open(directory_.path(), With(KeyLine(1, 'a'))), 1, kBlocks);
  {
    auto tier = Open(directory_.path(), With(KeyLine(1, 'a'), Codec::kZstd));
    EXPECT_EQ(Listed(*tier), kBlocks - 1);
    EXPECT_EQ(Found(*tier, 1, kBlocks), kBlocks - 1);
  }
  struct Case {
    std::string keys;
    bool damaged;  // it says that it is under a key that is here, and is not
  };
  for (const Case& c :
       {Case{KeyLine(2, 'b'), false}, Case{KeyLine(1, 'b'), true}, Case{"", false}}) {
    std::filesystem::remove_all(directory_.path() + "/store");
    {
      auto tier = Open(directory_.path(), With(KeyLine(1, 'a')));
      for (uint64_t id = 1; id < kBlocks; ++id) Put(*tier, id, id + 1);  // segments of their own
    }
    {
      auto tier = Open(directory_.path(), With(c.keys));
      EXPECT_EQ(Found(*tier, 1, kBlocks / 2), 0u);
      EXPECT_EQ(Listed(*tier), 0u);
      EXPECT_EQ(tier->Usage().block_count, 0u);
      EXPECT_EQ(tier->Usage().used_bytes, 0u);
      EXPECT_EQ(tier->Usage().corrupt_count, c.damaged ? kBlocks - 1 : 0);
      EXPECT_EQ(tier->State() == "ok", !c.damaged) << tier->State();
      Put(*tier, 1, kBlocks);
      EXPECT_EQ(Found(*tier, 1, kBlocks), kBlocks - 1);
    }
    auto tier = Open(directory_.path(), With(KeyLine(1, 'a')));  // what it had is gone for good
    EXPECT_EQ(Found(*tier, 1, kBlocks), 0u);
  }
}

TEST_F(LogSealingTest, WhatLiesInTheClearIsNotReadOnceThereIsAKey) {
  Put(*Open(directory_.path(), With("")), 1, kBlocks);
  auto tier = Open(directory_.path(), With(KeyLine(1, 'a')));
  EXPECT_EQ(tier->Usage().block_count, 0u);
  EXPECT_EQ(Found(*tier, 1, kBlocks), 0u);
  tier.reset();
  const std::string all = AllBytes();
  for (uint64_t id = 1; id < kBlocks; ++id) {  // neither is it left in a file
    const Bytes payload = Payload(id);
    EXPECT_EQ(all.find(std::string(reinterpret_cast<const char*>(payload.data()), 16)),
              std::string::npos);
  }
}

TEST_F(LogSealingTest, OfAnotherTenantWithTheSameKeyNothingOpens) {
  Put(*Open(directory_.path(), With(KeyLine(1, 'a'))), 1, kBlocks);
  BlockEnvelope::Options other = With(KeyLine(1, 'a'));
  other.context = "other";
  auto tier = Open(directory_.path(), other);
  EXPECT_EQ(Found(*tier, 1, kBlocks), 0u);
}

TEST_F(LogSealingTest, ANewKeySealsAndTheOldOneOpensUntilItIsTakenOut) {
  const std::string old_key = KeyLine(1, 'a'), new_key = KeyLine(2, 'b');
  Put(*Open(directory_.path(), With(old_key)), 1, 11);
  {
    auto tier = Open(directory_.path(), With(old_key + new_key));
    Put(*tier, 11, 21);
    EXPECT_EQ(Found(*tier, 1, 21), 20u);
    // What of the old segment is kept is sealed anew.
    const auto segment = tier->SegmentFrom(0);
    ASSERT_TRUE(segment);
    ASSERT_EQ(segment->blocks.size(), 10u);
    const BlockRef keep[] = {{2, 0}, {5, 0}, {6, 0}};
    ASSERT_TRUE(tier->DropSegment(segment->sequence, keep).ok());
    EXPECT_EQ(Found(*tier, 1, 21), 13u);
    Put(*tier, 30, 31);
  }
  Put(*Open(directory_.path(), With(old_key + new_key)), 21, 22);
  auto tier = Open(directory_.path(), With(new_key));
  EXPECT_EQ(Listed(*tier), 15u);
  EXPECT_EQ(Found(*tier, 1, 31), 15u);
}

TEST_F(LogSealingTest, AKeyThatIsTakenOutWhileItRunsMakesItsBlocksAbsent) {
  ScratchDirectory keys;
  const std::string file = keys.path() + "/keys";
  ASSERT_TRUE(WriteFileAtomically(file, KeyLine(1, 'a')).ok());
  auto source = KeySource::Open({.file = file});
  ASSERT_TRUE(source.ok()) << source.status();
  auto tier = Open(directory_.path(), {.keys = *source});
  Put(*tier, 1, 5);
  ASSERT_TRUE(WriteFileAtomically(file, KeyLine(1, 'a') + KeyLine(2, 'b')).ok());
  ASSERT_TRUE((*source)->Reload().ok());
  Put(*tier, 5, 9);
  EXPECT_EQ(Found(*tier, 1, 9), 8u);
  ASSERT_TRUE(WriteFileAtomically(file, KeyLine(2, 'b')).ok());
  ASSERT_TRUE((*source)->Reload().ok());
  EXPECT_EQ(Found(*tier, 1, 5), 0u);
  EXPECT_EQ(Found(*tier, 5, 9), 4u);
  EXPECT_EQ(tier->Usage().block_count, 4u);
  EXPECT_EQ(tier->Usage().corrupt_count, 0u);
}

TEST_F(LogSealingTest, WithoutItsKeyABlockIsNeitherReadNorFoldedNorDamaged) {
  ScratchDirectory keys;
  const std::string file = keys.path() + "/keys";
  ASSERT_TRUE(WriteFileAtomically(file, KeyLine(1, 'a')).ok());
  auto source = KeySource::Open({.file = file});
  ASSERT_TRUE(source.ok()) << source.status();
  const auto files = std::make_shared<FaultyFileSystem>();
  auto opened = LogTier::Open({.directory = directory_.path(),
                               .capacity_bytes = 64 * MiB,
                               .reopen_pause = std::chrono::milliseconds(0),
                               .envelope = BlockEnvelope({.keys = *source}),
                               .file_system = files});
  ASSERT_TRUE(opened.ok()) << opened.status();
  LogTier& tier = **opened;
  Put(tier, 1, 4);
  Put(tier, 4, 7);
  ASSERT_TRUE(WriteFileAtomically(file, KeyLine(1, 'a') + KeyLine(2, 'b')).ok());
  ASSERT_TRUE((*source)->Reload().ok());
  Put(tier, 7, 9);
  ASSERT_TRUE(WriteFileAtomically(file, KeyLine(2, 'b')).ok());
  ASSERT_TRUE((*source)->Reload().ok());
  const auto expect_sealed = [&](uint64_t count) {
    const std::vector<LostBlock> lost = tier.TakeLost();
    EXPECT_EQ(lost.size(), count);
    for (const LostBlock& block : lost) EXPECT_EQ(block.why, Loss::kSealed) << block.ref.id;
    EXPECT_EQ(tier.Usage().corrupt_count, 0u);
  };
  Bytes room(kPayloadBytes);
  EXPECT_TRUE(absl::IsFailedPrecondition(tier.Get({1, 0}, room).status()));
  EXPECT_EQ(*tier.Get({1, 0}, room), std::nullopt) << "it is gone";
  const BlockRef some[] = {{2, 0}, {3, 0}, {7, 0}};
  EXPECT_TRUE(tier.Fold(some).ok());
  expect_sealed(2);
  // So it is when the store is opened anew, because of a write that failed.
  files->FailAfter(0);
  EXPECT_FALSE(tier.Erase({8, 0}).ok());
  files->Heal();
  EXPECT_TRUE(tier.Sync().ok());
  std::vector<LostBlock> lost = tier.TakeLost();
  EXPECT_EQ(std::erase_if(lost, [](const LostBlock& block) { return block.why == Loss::kErased; }),
            tier.Usage().block_count == 2 ? 0u : 1u);
  EXPECT_EQ(lost.size(), 3u);
  for (const LostBlock& block : lost) EXPECT_EQ(block.why, Loss::kSealed) << block.ref.id;
  EXPECT_EQ(tier.Usage().corrupt_count, 0u);
  EXPECT_EQ(Found(tier, 7, 8), 1u);
}

TEST_F(LogSealingTest, ATamperedByteIsAMissAndCounted) {
  Put(*Open(directory_.path(), With(KeyLine(1, 'a'))), 1, kBlocks);
  // Behind RocksDB's own checksums: the values are exchanged as whoever can write files could, by a
  // store that has no key and finds nothing to refuse.
  {
    auto database = SegmentDatabase::Open({.directory = directory_.path()});
    ASSERT_TRUE(database.ok()) << database.status();
    const uint64_t sequence = (*database)->Segments().at(0).sequence;
    const uint64_t forged = sequence + 1;
    {
      SegmentWriter writer(**database, forged);
      for (uint64_t id = 1; id < kBlocks; ++id) {
        // The envelope of 4 stands in for 5 too; one bit of 9 is another.
        ASSERT_TRUE((*database)
                        ->ReadBlock({{id == 5 ? 4 : id, 0}, sequence},
                                    [&](std::span<const std::byte> stored) {
                                      Bytes value(stored.begin(), stored.end());
                                      if (id == 9) value[value.size() / 2] ^= std::byte{1};
                                      return writer.Add({id, 0}, value).status();
                                    })
                        .ok());
      }
      ASSERT_TRUE(writer.Finish().ok());
    }
    std::vector<EntryChange> changes;
    ASSERT_TRUE((*database)
                    ->ForEachEntry([&](auto key, auto value) {
                      const auto entry = ReadEntry(key, value);
                      changes.push_back(
                          {entry->ref,
                           std::string(reinterpret_cast<const char*>(value.data()), value.size())});
                      SealEntry({entry->ref, forged, entry->place}, changes.back().value);
                      return true;
                    })
                    .ok());
    ASSERT_TRUE((*database)->Commit(changes, true).ok());
  }
  auto tier = Open(directory_.path(), With(KeyLine(1, 'a')));
  EXPECT_EQ(Found(*tier, 1, kBlocks), kBlocks - 3);
  EXPECT_EQ(tier->Usage().corrupt_count, 2u);
  EXPECT_EQ(tier->Usage().block_count, kBlocks - 3);
}

// tests/tiers/golden/segments.v1.zstd and segments.v1.aes were written by this test with
// TC_WRITE_GOLDEN=1, less the files that a start does without.
TEST_F(LogSealingTest, StoresOfThisFormFromEarlierAreRead) {
  constexpr uint64_t kBytes = 1024;
  const auto payload_of = [](uint64_t id) { return Bytes(kBytes, static_cast<std::byte>(id)); };
  struct Golden {
    const char* name;
    BlockEnvelope::Options envelope;
  };
  for (const Golden& golden : {Golden{"segments.v1.zstd", With("", Codec::kZstd)},
                               Golden{"segments.v1.aes", With(KeyLine(1, 'a'))}}) {
    SCOPED_TRACE(golden.name);
    const std::string path = std::string(TC_SOURCE_DIR "/tests/tiers/golden/") + golden.name;
    if (std::getenv("TC_WRITE_GOLDEN") != nullptr) {
      std::filesystem::create_directories(path);
      const auto tier = Open(path, golden.envelope);
      for (uint64_t id = 1; id <= 3; ++id) {
        const Bytes payload = payload_of(id);
        ASSERT_TRUE(tier->Put(TestRecord(id, 4, payload), payload).ok());
      }
    }
    std::filesystem::remove_all(directory_.path() + "/store");
    std::filesystem::copy(path, directory_.path(), std::filesystem::copy_options::recursive);
    EXPECT_EQ(AllBytes().find(std::string(64, '\1')), std::string::npos) << "it is in the clear";
    const auto tier = Open(directory_.path(), golden.envelope);
    EXPECT_EQ(tier->State(), "ok");
    EXPECT_EQ(tier->Usage().block_count, 3u);
    for (uint64_t id = 1; id <= 3; ++id) {
      Bytes room(kBytes);
      const auto read = tier->Get({id, 0}, room);
      ASSERT_TRUE(read.ok() && read->has_value()) << read.status();
      EXPECT_EQ(room, payload_of(id));
      const BlockRecord record = TestRecord(id, 4, room);
      EXPECT_EQ((*read)->header_checksum, record.header_checksum);
      EXPECT_EQ((*read)->inner, record.inner);
    }
  }
}

}  // namespace
}  // namespace thermocline
