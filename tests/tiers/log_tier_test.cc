// The log tier: the conformance suite, plain and below a fault tier that does nothing, and what is
// its own.
#include "tiers/log_tier.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <rocksdb/file_system.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/units.h"
#include "hashing/checksum.h"
#include "tests/tiers/tier_conformance.h"
#include "tiers/fault_tier.h"
#include "tiers/key_ring.h"
#include "tiers/log_format.h"

namespace thermocline {
namespace {

constexpr uint64_t kAddedBytes = 2048;  // of the medium, to a segment of one block

std::unique_ptr<Tier> MakeLog(const std::string& directory, uint64_t block_bytes, uint64_t blocks) {
  auto tier =
      LogTier::Open({.directory = directory,
                     .capacity_bytes = blocks * (block_bytes + sizeof(BlockHeader) + kAddedBytes)});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

std::unique_ptr<Tier> MakeFaultless(const std::string& directory, uint64_t block_bytes,
                                    uint64_t blocks) {
  return std::make_unique<FaultTier>(MakeLog(directory, block_bytes, blocks), FaultRates{}, 1);
}

std::string NameOf(const ::testing::TestParamInfo<TierMaker>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Log, TierConformance,
                         ::testing::Values(TierMaker{"Log", true, MakeLog, true},
                                           TierMaker{"FaultlessLog", true, MakeFaultless, true}),
                         NameOf);

/// Bytes that this process has asked the kernel for.
uint64_t BytesRead() {
  std::ifstream file("/proc/self/io");
  std::string word;
  uint64_t bytes = 0;
  file >> word >> bytes;
  EXPECT_EQ(word, "rchar:");
  return bytes;
}

/// Blocks 1 to `count` of `bytes`, `together` in a segment.
void Fill(Tier& tier, uint64_t count, uint64_t bytes, uint64_t together) {
  const auto payload = TestPayload(1, 0, bytes);
  for (uint64_t id = 1; id <= count;) {
    std::vector<BlockRecord> records;
    for (; id <= count && records.size() < together; ++id) {
      records.emplace_back(TestHeader(id, 0, payload));
    }
    std::vector<TierPut> puts;
    for (const BlockRecord& record : records) {
      puts.push_back({.record = &record, .payload = payload});
    }
    tier.PutAll(puts);
    for (const TierPut& put : puts) ASSERT_TRUE(put.status.ok()) << put.status;
  }
}

TEST(LogTierTest, ABlockIsOneReadOfItsBytes) {
  constexpr uint64_t kBlocks = 64, kBytes = 64 * KiB;
  const ScratchDirectory directory;
  const auto tier = MakeLog(directory.path(), kBytes, 2 * kBlocks);
  Fill(*tier, kBlocks, kBytes, 16);
  std::vector<std::byte> room(kBytes);
  const uint64_t before = BytesRead();
  for (uint64_t id = 1; id <= kBlocks; ++id) {
    const auto read = tier->Get({id, 0}, room);
    EXPECT_TRUE(read.ok() && read->has_value()) << id;
  }
  const uint64_t read = BytesRead() - before;
  EXPECT_GE(read, kBlocks * kBytes) << "they are on disk";
  EXPECT_LE(read, kBlocks * (kBytes + 3 * 4096));
}

// TC_COLD_BLOCKS=1000000 for the figure of a large store.
TEST(LogTierTest, AnOpeningReadsNoBlock) {
  const char* const text = std::getenv("TC_COLD_BLOCKS");
  const uint64_t blocks = text == nullptr ? 20000 : std::strtoull(text, nullptr, 0);
  constexpr uint64_t kBytes = 2 * KiB;
  const ScratchDirectory directory;
  { Fill(*MakeLog(directory.path(), kBytes, 2 * blocks), blocks, kBytes, 4096); }
  { ASSERT_NE(MakeLog(directory.path(), kBytes, 2 * blocks), nullptr); }  // the log is a table
  const uint64_t before = BytesRead();
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t cpu_begin = std::clock();
  const auto tier = MakeLog(directory.path(), kBytes, 2 * blocks);
  const double cpu_ms = static_cast<double>(std::clock() - cpu_begin) * 1e3 / CLOCKS_PER_SEC;
  const auto middle = std::chrono::steady_clock::now();
  uint64_t listed = 0;
  ASSERT_TRUE(tier->ForEach([&](const BlockRecord&) { return ++listed > 0; }).ok());
  const auto end = std::chrono::steady_clock::now();
  const uint64_t read = BytesRead() - before;
  const auto ms = [](auto time) {
    return static_cast<long>(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
  };
  std::printf(
      "[ OPENED   ] %llu blocks in %ld ms (%.0f of processor), listed in %ld ms, %.0f bytes read a "
      "block\n",
      static_cast<unsigned long long>(blocks), ms(middle - begin), cpu_ms, ms(end - middle),
      static_cast<double>(read) / static_cast<double>(blocks));
  EXPECT_EQ(listed, blocks);
  EXPECT_EQ(tier->Usage().block_count, blocks);
  EXPECT_LT(read, blocks * 800) << "twice the entries, and the indexes of the segments";
}

// Whenever RocksDB makes a table of entries, or merges some.
TEST(LogTierTest, WhatAPutAddsToWhatIsUsedIsKnownBefore) {
  constexpr uint64_t kBytes = 4 * KiB;
  const auto payload = TestPayload(1, 0, kBytes);
  const auto keys =
      std::make_shared<KeySource>(*KeyRing::Parse("1 " + std::string(64, 'a') + "\n", "the test"));
  const auto put = [&](const BlockEnvelope::Options& envelope, size_t inner, uint64_t together) {
    const ScratchDirectory directory("/dev/shm");
    auto tier = LogTier::Open({.directory = directory.path(),
                               .capacity_bytes = GiB,
                               .envelope = BlockEnvelope(envelope),
                               .own_bytes = LogTier::OwnBytes(0)});
    ASSERT_TRUE(tier.ok()) << tier.status();
    uint64_t used = (*tier)->Usage().used_bytes;
    for (uint64_t id = 1; id <= 500 * together; id += together) {
      std::vector<BlockRecord> records;
      for (uint64_t i = 0; i < together; ++i) {
        records.emplace_back(TestHeader(id + i, 0, payload));
        records.back().depth = 16;
        records.back().inner.resize(inner);
        records.back().Seal();
      }
      std::vector<TierPut> puts;
      uint64_t most = kMostExtraBytes;
      for (const BlockRecord& record : records) {
        puts.push_back({.record = &record, .payload = payload});
        most += MostUsedBytes(StoredBytes(record), RecordBytes(record));
      }
      (*tier)->PutAll(puts);
      ASSERT_TRUE(puts.back().status.ok()) << puts.back().status;
      const uint64_t now = (*tier)->Usage().used_bytes;
      ASSERT_LE(now, used + most) << "after block " << id;
      used = now;
    }
    const std::filesystem::directory_iterator files(directory.path() + "/store/db");
    const auto tables = std::count_if(begin(files), end(files), [](const auto& file) {
      return file.path().extension() == ".sst";
    });
    EXPECT_GT(tables, (*tier)->SegmentSizes().size()) << "no table of entries was made";
  };
  for (const auto& source : {std::shared_ptr<KeySource>(), keys}) {
    for (const size_t inner : {0, 15}) {
      for (const uint64_t together : {1, 30}) {
        SCOPED_TRACE((source ? "sealed, " : "") + std::to_string(together) + " of " +
                     std::to_string(inner) + " inner places");
        put({.keys = source, .context = "test"}, inner, together);
      }
    }
  }
}

TEST(LogTierTest, AFullTierThatDropsItsOldestKeepsItsDiskWithinItsCapacity) {
  constexpr uint64_t kBytes = 64 * KiB, kInSegment = 16, kCapacity = 8 * MiB;
  const ScratchDirectory directory;
  auto opened = LogTier::Open({.directory = directory.path(), .capacity_bytes = kCapacity});
  ASSERT_TRUE(opened.ok()) << opened.status();
  LogTier& tier = **opened;
  const auto payload = TestPayload(1, 0, kBytes);
  uint64_t most = 0;
  for (uint64_t id = 1; id <= 40 * kInSegment;) {
    while (tier.Usage().used_bytes + kInSegment * (kBytes + 512) > kCapacity) {
      const TierSegment oldest = *tier.SegmentFrom(0);
      const BlockRef keep[] = {oldest.blocks.front()};
      ASSERT_TRUE(tier.DropSegment(oldest.sequence, keep).ok());
    }
    std::vector<BlockRecord> records;
    while (records.size() < kInSegment) records.emplace_back(TestHeader(id++, 0, payload));
    std::vector<TierPut> puts;
    for (const BlockRecord& record : records) {
      puts.push_back({.record = &record, .payload = payload});
    }
    tier.PutAll(puts);
    for (const TierPut& put : puts) ASSERT_TRUE(put.status.ok()) << put.status;
    uint64_t disk = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory.path())) {
      std::error_code gone;  // some go while they are looked at
      const uint64_t bytes = entry.is_regular_file() ? entry.file_size(gone) : 0;
      if (!gone) disk += bytes;
    }
    most = std::max(most, disk);
  }
  EXPECT_LE(most, kCapacity + kCapacity / 10);
  EXPECT_GT(tier.Usage().kept_bytes, 0u);
}

// If the linker leaves the library its own, a segment costs more to write, and nothing else would
// tell.
TEST(LogTierTest, TablesAreSummedByOurChecksumWhichIsTheLibrarys) {
  using Sum = uint64_t (*)(const void*, size_t);
  constexpr char kName[] = "ROCKSDB_XXH3_64bits";
  const auto called = reinterpret_cast<Sum>(::dlsym(RTLD_DEFAULT, kName));
  const auto librarys = reinterpret_cast<Sum>(::dlsym(RTLD_NEXT, kName));
  ASSERT_NE(librarys, nullptr);
  EXPECT_NE(called, librarys);
  const auto bytes = TestPayload(1, 0, 64 * KiB);
  for (size_t count = 0; count <= bytes.size(); count += 1 + count / 8) {
    EXPECT_EQ(called(bytes.data(), count), librarys(bytes.data(), count)) << count;
    EXPECT_EQ(called(bytes.data(), count), Checksum(std::span(bytes).first(count))) << count;
  }
}

TEST(LogTierTest, TwoWritersAndReadersAtOnce) {
  const ScratchDirectory directory;
  const auto tier = MakeLog(directory.path(), 8192, 4000);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (uint64_t writer = 0; writer < 2; ++writer) {
    threads.emplace_back([&, writer] {
      for (uint64_t round = 0; round < 15; ++round) {
        for (uint64_t id = 1 + writer * 1000; id <= 20 + writer * 1000; ++id) {
          const auto payload = TestPayload(id, 0, 8192);
          if (round % 3 == 2) {
            wrong += tier->Erase({id, 0}).ok() ? 0 : 1;
          } else if (id % 5 == 0) {
            wrong += tier->Put(TestHeader(id, 0, payload), payload).ok() ? 0 : 1;
          }
        }
      }
    });
  }
  for (int reader = 0; reader < 2; ++reader) {
    threads.emplace_back([&] {
      std::vector<std::byte> room(8192);
      for (int round = 0; round < 200; ++round) {
        const uint64_t id = 5 + 5 * (round % 4) + 1000 * (round % 2);
        const auto read = tier->Get({id, 0}, room);
        if (!read.ok()) ++wrong;
        if (read.ok() && read->has_value() && room != TestPayload(id, 0, 8192)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(tier->Usage().corrupt_count, 0u);
}

// tests/tiers/golden/segments.v1 was written by this test with TC_WRITE_GOLDEN=1, less the files
// that a start does without.
TEST(LogTierTest, AStoreOfThisFormFromEarlierIsRead) {
  const std::string golden = TC_SOURCE_DIR "/tests/tiers/golden/segments.v1";
  const ScratchDirectory directory;
  constexpr uint64_t kBytes = 1024;
  if (std::getenv("TC_WRITE_GOLDEN") != nullptr) {
    std::filesystem::create_directories(golden);
    auto tier = MakeLog(golden, kBytes, 100);
    for (uint64_t id = 1; id <= 4; ++id) {
      const auto payload = TestPayload(id, 0, kBytes);
      ASSERT_TRUE(tier->Put(TestHeader(id, 0, payload), payload).ok());
      if (id == 2) {  // the first two in a table of entries, the others in the log
        tier.reset();
        tier = MakeLog(golden, kBytes, 100);
      }
    }
    const auto payload = TestPayload(5, 0, kBytes);
    ASSERT_TRUE(tier->Put(TestRecord(5, 4, payload), payload).ok());
    ASSERT_TRUE(tier->Erase({3, 0}).ok());
  }
  std::filesystem::copy(golden, directory.path(), std::filesystem::copy_options::recursive);
  const auto tier = MakeLog(directory.path(), kBytes, 100);
  ASSERT_EQ(tier->State(), "ok");
  EXPECT_EQ(tier->Usage().block_count, 4u);
  std::vector<std::byte> room(kBytes);
  for (uint64_t id = 1; id <= 5; ++id) {
    const auto read = tier->Get({id, 0}, room);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->has_value(), id != 3) << id;
    if (id == 3) continue;
    const auto payload = TestPayload(id, 0, kBytes);
    EXPECT_EQ(room, payload);
    const BlockRecord record =
        id == 5 ? TestRecord(5, 4, payload) : BlockRecord(TestHeader(id, 0, payload));
    EXPECT_EQ((*read)->header_checksum, record.header_checksum);
    EXPECT_EQ((*read)->inner, record.inner);
  }
}

/// Calls somebody before a segment's file is made.
class WatchedFiles : public rocksdb::FileSystemWrapper {
 public:
  WatchedFiles() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "WatchedFiles"; }
  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    if (path.find("/incoming/") != std::string::npos) {
      if (const auto call = std::exchange(before, nullptr)) call();
    }
    return FileSystemWrapper::NewWritableFile(path, options, file, debug);
  }
  std::function<void()> before;
};

TEST(LogTierTest, WhatIsErasedOrReplacedWhileItsSegmentIsDroppedStaysSo) {
  ScratchDirectory directory;
  const auto files = std::make_shared<WatchedFiles>();
  const auto open = [&] {
    auto tier = LogTier::Open(
        {.directory = directory.path(), .capacity_bytes = 8 * MiB, .file_system = files});
    EXPECT_TRUE(tier.ok()) << tier.status();
    return *std::move(tier);
  };
  std::unique_ptr<Tier> tier = open();
  Fill(*tier, 6, 8192, 6);
  const TierSegment segment = *tier->SegmentFrom(0);
  const auto payload = TestPayload(1, 1, 8192);
  const BlockHeader newer = TestHeader(1, 0, payload);
  files->before = [&] {
    EXPECT_TRUE(tier->EraseAll(std::vector<BlockRef>{{.id = 2}, {.id = 5}}).ok());
    EXPECT_TRUE(tier->Put(newer, payload).ok());
  };
  // Of the six 1, 2 and 3 are kept; 2 and 5 are erased meanwhile, 1 is put anew.
  ASSERT_TRUE(
      tier->DropSegment(segment.sequence, std::vector<BlockRef>{{.id = 1}, {.id = 2}, {.id = 3}})
          .ok());
  for (const bool reopened : {false, true}) {
    if (reopened) {
      tier.reset();
      tier = open();
    }
    std::vector<std::byte> room(8192);
    for (uint64_t id = 1; id <= 6; ++id) {
      const auto found = tier->Get({.id = id}, room);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->has_value(), id == 1 || id == 3) << id;
      if (id != 1) continue;
      EXPECT_EQ(std::memcmp(room.data(), payload.data(), room.size()), 0);
    }
    EXPECT_EQ(tier->Usage().block_count, 2u);
    EXPECT_EQ(tier->Usage().corrupt_count, 0u);
    EXPECT_EQ(tier->SegmentSizes().size(), 2u);
  }
}

TEST(LogTierTest, ASegmentOfWhichNothingIsNeededAnyMoreLeavesNothing) {
  ScratchDirectory directory;
  const auto files = std::make_shared<WatchedFiles>();
  auto tier = LogTier::Open(
      {.directory = directory.path(), .capacity_bytes = 8 * MiB, .file_system = files});
  ASSERT_TRUE(tier.ok()) << tier.status();
  Fill(**tier, 2, 8192, 2);
  const TierSegment segment = *(*tier)->SegmentFrom(0);
  files->before = [&] { EXPECT_TRUE((*tier)->EraseAll(segment.blocks).ok()); };
  EXPECT_TRUE((*tier)->DropSegment(segment.sequence, segment.blocks).ok());
  EXPECT_EQ((*tier)->Usage().used_bytes, 0u);
  EXPECT_EQ((*tier)->Usage().corrupt_count, 0u);
}

TEST(FaultTierTest, PutAllAndDropSegmentFailOrAreLost) {
  const ScratchDirectory directory;
  FaultTier tier(MakeLog(directory.path(), 8192, 100), {.error = 1}, 3);
  const auto payload = TestPayload(1, 0, 8192);
  const BlockRecord record(TestHeader(1, 0, payload));
  TierPut put{.record = &record, .payload = payload};
  tier.PutAll({&put, 1});
  EXPECT_TRUE(absl::IsUnavailable(put.status));
  tier.SetRates({.lose = 1});
  tier.PutAll({&put, 1});
  EXPECT_TRUE(put.status.ok());
  EXPECT_EQ(tier.Usage().block_count, 0u);
  tier.SetRates({});
  tier.PutAll({&put, 1});
  EXPECT_TRUE(put.status.ok());
  EXPECT_EQ(tier.Usage().block_count, 1u);
  const auto segment = tier.SegmentFrom(0);
  ASSERT_TRUE(segment);
  tier.SetRates({.error = 1});
  EXPECT_TRUE(absl::IsUnavailable(tier.DropSegment(segment->sequence, {})));
  tier.SetRates({});
  EXPECT_TRUE(tier.DropSegment(segment->sequence, {}).ok());
  EXPECT_EQ(tier.Usage().block_count, 0u);
}

TEST(LogFormatTest, AnEntryComesBackAndNoOtherBytesDo) {
  const BlockRef ref{0x0102030405060708, 3};
  std::string value(kEntryHeadBytes, '\0');
  value += "the record";
  const FilePlace place{123456789, 4096};
  SealEntry({ref, 77, place}, value);
  const EntryKey key = EntryKeyOf(ref);
  const auto bytes_of = [](const auto& text) { return std::as_bytes(std::span(text)); };
  const auto entry = ReadEntry(bytes_of(key), bytes_of(value));
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->ref, ref);
  EXPECT_EQ(entry->sequence, 77u);
  EXPECT_EQ(entry->place, place);
  EXPECT_EQ(entry->record.size(), 10u);
  for (size_t at = 0; at < value.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = value;
      flipped[at] = static_cast<char>(flipped[at] ^ 1 << bit);
      EXPECT_FALSE(ReadEntry(bytes_of(key), bytes_of(flipped)).ok()) << at;
    }
  }
  for (size_t bytes = 0; bytes < value.size(); ++bytes) {
    EXPECT_FALSE(ReadEntry(bytes_of(key), bytes_of(value).first(bytes)).ok());
  }
  EXPECT_FALSE(ReadEntry(bytes_of(EntryKeyOf({ref.id + 1, 3})), bytes_of(value)).ok());
  EXPECT_FALSE(ReadEntry(bytes_of(EntryKeyOf({ref.id, 4})), bytes_of(value)).ok());
  EXPECT_FALSE(ReadEntry(bytes_of(key).first(9), bytes_of(value)).ok());
  const SegmentKey segment = SegmentKeyOf(5, ref);
  const auto parsed = ParseSegmentKey(bytes_of(segment));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->first, 5u);
  EXPECT_EQ(parsed->second, ref);
  EXPECT_LT(SegmentKeyOf(5, {UINT64_MAX, UINT16_MAX}), SegmentKeyOf(6, {0, 0}));
  EXPECT_LT(SegmentKeyOf(5, {255, 0}), SegmentKeyOf(5, {256, 0}));
}

}  // namespace
}  // namespace thermocline
