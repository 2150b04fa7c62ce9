// Where values lie in the files of segments: that the writer tells it right for blocks of any size,
// that reads go there, and that a place which is wrong costs time and nothing else.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "base/units.h"
#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/disk_segments.h"
#include "tiers/log_format.h"
#include "tiers/log_fsck.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kBytes = 64 * KiB;  // of a block
constexpr uint64_t kBlocks = 6;

std::string Contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// On a disk that is read directly, where there is one, and in memory.
class LogPlacesTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<LogTier> Open() {
    auto tier = LogTier::Open({.directory = scratch_.path(), .capacity_bytes = 256 * MiB});
    EXPECT_TRUE(tier.ok()) << tier.status();
    return tier.ok() ? *std::move(tier) : nullptr;
  }
  std::unique_ptr<SegmentDatabase> OpenDatabase() {
    auto database = SegmentDatabase::Open({.directory = scratch_.path()});
    EXPECT_TRUE(database.ok()) << database.status();
    return database.ok() ? *std::move(database) : nullptr;
  }
  fs::path PathOf(const SegmentDatabase::Segment& segment) {
    return scratch_.path() + "/store/db/" + segment.file;
  }
  /// Blocks 1 to kBlocks in one segment.
  void Fill(LogTier& tier) {
    std::vector<Bytes> payloads;
    std::vector<BlockRecord> records;
    for (uint64_t id = 1; id <= kBlocks; ++id) {
      payloads.push_back(TestPayload(id, 0, kBytes));
      records.emplace_back(TestHeader(id, 0, payloads.back()));
    }
    std::vector<TierPut> puts;
    for (size_t i = 0; i < kBlocks; ++i) {
      puts.push_back({.record = &records[i], .payload = payloads[i]});
    }
    tier.PutAll(puts);
    for (const TierPut& put : puts) ASSERT_TRUE(put.status.ok()) << put.status;
  }
  static bool Has(LogTier& tier, uint64_t id, uint64_t bytes = kBytes) {
    Bytes room(bytes);
    const auto read = tier.Get({id, 0}, room);
    if (!read.ok() || !read->has_value()) return false;
    EXPECT_EQ(room, TestPayload(id, 0, bytes)) << id;
    return true;
  }
  static std::vector<EntryHead> Heads(const SegmentDatabase& database) {
    std::vector<EntryHead> heads;
    EXPECT_TRUE(database
                    .ForEachEntry([&](auto key, auto value) {
                      const auto entry = ReadEntry(key, value);
                      EXPECT_TRUE(entry.ok()) << entry.status();
                      if (entry.ok()) heads.push_back(*entry);
                      return true;
                    })
                    .ok());
    return heads;
  }
  /// Writes each entry anew with the place that `change` makes of its own.
  void ChangePlaces(const std::function<FilePlace(const EntryHead&)>& change) {
    const auto database = OpenDatabase();
    std::vector<EntryChange> changes;
    ASSERT_TRUE(database
                    ->ForEachEntry([&](auto key, auto value) {
                      EntryHead head = *ReadEntry(key, value);
                      head.place = change(head);
                      std::string text(reinterpret_cast<const char*>(value.data()), value.size());
                      SealEntry(head, text);
                      changes.push_back({head.ref, std::move(text)});
                      return true;
                    })
                    .ok());
    ASSERT_TRUE(database->Commit(changes, true).ok());
  }

  ScratchDirectory scratch_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(On, LogPlacesTest, ::testing::Values("", "/dev/shm"),
                         [](const auto& info) { return info.index == 0 ? "Disk" : "Memory"; });

// RocksDB looks at a table's first and last block when it takes it over.
TEST_P(LogPlacesTest, ASegmentThatCannotBeReadIsNotTakenOver) {
  const auto files = std::make_shared<FaultyFileSystem>();
  auto database = SegmentDatabase::Open({.directory = scratch_.path(), .file_system = files});
  ASSERT_TRUE(database.ok()) << database.status();
  for (const uint64_t bytes : {uint64_t{3000}, kBytes, 5 * MiB}) {
    for (uint64_t bad = 0; bad <= kBlocks; ++bad) {
      SCOPED_TRACE(std::to_string(bad) + " of " + std::to_string(bytes) + " bytes");
      const uint64_t sequence = bytes + bad;
      SegmentWriter writer(**database, sequence);
      for (uint64_t id = 1; id <= kBlocks; ++id) {
        ASSERT_TRUE(writer.Add({id, 0}, TestPayload(id, 0, bytes)).ok());
      }
      files->FailReadsAt(std::to_string(sequence) + ".sst", bad * bytes + bytes / 2);
      const uint64_t before = files->bad_reads();
      const bool finished = writer.Finish().ok();
      EXPECT_EQ(finished, files->bad_reads() == before);
      files->FailReadsAt("", 0);
    }
  }
  EXPECT_GE(files->bad_reads(), 6u) << "of both ends";
  SegmentWriter writer(**database, 7);
  ASSERT_TRUE(writer.Add({1, 0}, TestPayload(1, 0, kBytes)).ok());
  EXPECT_TRUE(writer.Finish().ok());
  EXPECT_EQ((*database)->Error(), "");
}

TEST_P(LogPlacesTest, AValueOfAnySizeLiesWhereTheWriterSays) {
  const uint64_t seed = TestSeed(5);
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const uint64_t sizes[] = {1,    100,     127,   128,           1000,     3600,    4000,
                            4096, 4097,    16383, 16384,         64 * KiB, 77777,   MiB + 1,
                            4096, 4 * MiB, 300,   11 * MiB + 17, 5000,     2097151, 2097152};
  std::vector<uint64_t> mixed(std::begin(sizes), std::end(sizes));
  for (int i = 0; i < 300; ++i) mixed.push_back(1 + random() % (random() % 2 == 0 ? 600 : 20000));
  const auto database = OpenDatabase();
  uint64_t sequence = 0;
  for (const std::vector<uint64_t>& each :
       {mixed, std::vector<uint64_t>(100, 40), std::vector<uint64_t>(40, 4096),
        std::vector<uint64_t>(20, 64 * KiB), std::vector<uint64_t>(3, 4 * MiB)}) {
    ++sequence;
    std::vector<FilePlace> places;
    {
      SegmentWriter writer(*database, sequence);
      for (uint64_t i = 0; i < each.size(); ++i) {
        const auto place =
            writer.Add({i / 2 + 1, static_cast<uint16_t>(i % 2)}, TestPayload(i, 9, each[i]));
        ASSERT_TRUE(place.ok()) << place.status();
        places.push_back(*place);
      }
      ASSERT_TRUE(writer.Finish().ok());
    }
    const auto segments = database->Segments();
    const auto segment = std::find_if(segments.begin(), segments.end(),
                                      [&](const auto& one) { return one.sequence == sequence; });
    ASSERT_NE(segment, segments.end());
    const std::string file = Contents(PathOf(*segment));
    uint64_t unknown = 0;
    for (uint64_t i = 0; i < each.size(); ++i) {
      SCOPED_TRACE("value " + std::to_string(i) + " of " + std::to_string(each[i]) + " bytes");
      const Bytes payload = TestPayload(i, 9, each[i]);
      const auto look = [&](std::span<const std::byte> found) {
        EXPECT_TRUE(std::equal(found.begin(), found.end(), payload.begin(), payload.end()));
        return absl::OkStatus();
      };
      const BlockRef ref{i / 2 + 1, static_cast<uint16_t>(i % 2)};
      EXPECT_TRUE(database->ReadBlock({ref, sequence, places[i]}, look).ok());
      if (places[i] == FilePlace{}) {
        ++unknown;
        EXPECT_TRUE(i > 0 && (each[i] < 4096 || each[i - 1] < 4096))
            << "one of its own table block";
        continue;
      }
      ASSERT_EQ(places[i].bytes, each[i]);
      ASSERT_LE(places[i].offset + each[i], file.size());
      EXPECT_EQ(std::memcmp(file.data() + places[i].offset, payload.data(), each[i]), 0);
      EXPECT_TRUE(database->ReadPlace(sequence, places[i], look).ok());
    }
    EXPECT_EQ(unknown == 0, each[0] >= 4096);
  }
}

// Behind each value the table has a checksum of its own: if that alone is wrong RocksDB refuses the
// block, and it is read from its place all the same.
TEST_P(LogPlacesTest, AReadGoesToThePlaceAndNotThroughTheTable) {
  { Fill(*Open()); }
  {
    const auto database = OpenDatabase();
    const auto heads = Heads(*database);
    ASSERT_EQ(heads.size(), kBlocks);
    const fs::path path = PathOf(database->Segments().at(0));
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    for (const EntryHead& head : heads) {
      EXPECT_GT(head.place.bytes, kBytes);
      if (head.ref.id == 1) continue;  // of which an opening looks at the table's block
      // Behind it the restarts (4 bytes and their count, 4) and the kind of compression (1).
      file.seekp(head.place.offset + head.place.bytes + 8 + 1);
      file.write("zzzz", 4);
    }
    file.close();
    const auto nothing = [](std::span<const std::byte>) { return absl::OkStatus(); };
    EXPECT_TRUE(absl::IsDataLoss(database->ReadBlock({{3, 0}, heads[0].sequence}, nothing)));
  }
  const auto tier = Open();
  for (uint64_t id = 1; id <= kBlocks; ++id) EXPECT_TRUE(Has(*tier, id)) << id;
  const TierSegment segment = *tier->SegmentFrom(0);
  ASSERT_TRUE(
      tier->DropSegment(segment.sequence, segment.blocks).ok());  // as it is read there, too
  for (uint64_t id = 1; id <= kBlocks; ++id) EXPECT_TRUE(Has(*tier, id)) << id;
  EXPECT_EQ(tier->Usage().corrupt_count, 0u);
}

TEST_P(LogPlacesTest, AWrongPlaceIsNeverAWrongByteNorALostBlock) {
  { Fill(*Open()); }
  std::vector<EntryHead> heads;
  { heads = Heads(*OpenDatabase()); }
  const std::vector<std::function<FilePlace(const EntryHead&)>> wrong = {
      [&](const EntryHead& head) { return heads[head.ref.id % kBlocks].place; },  // of another
      [](const EntryHead& head) {
        return FilePlace{head.place.offset + 1, head.place.bytes};
      },
      [](const EntryHead& head) {
        return FilePlace{head.place.offset, head.place.bytes - 1};
      },
      [](const EntryHead& head) {
        return FilePlace{head.place.offset, head.place.bytes + 1};
      },
      [](const EntryHead&) {
        return FilePlace{0, 1};
      },
      [](const EntryHead& head) {
        return FilePlace{UINT32_MAX, head.place.bytes};
      },
      [](const EntryHead&) {
        return FilePlace{UINT32_MAX, UINT32_MAX};
      },
      [](const EntryHead&) {
        return FilePlace{0, 64 * MiB};
      },
      [](const EntryHead&) {
        return FilePlace{12345, 0};
      }};
  for (size_t i = 0; i < wrong.size(); ++i) {
    SCOPED_TRACE("way " + std::to_string(i));
    ChangePlaces(wrong[i]);
    const auto report = FsckLog(scratch_.path());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->problem_count, 0u);
    EXPECT_EQ(report->blocks, kBlocks);
    EXPECT_EQ(report->notes.size(), i + 1 < wrong.size() ? kBlocks : 0);
    for (const std::string& note : report->notes) {
      EXPECT_THAT(note, HasSubstr("does not lie where its entry says"));
    }
    auto tier = Open();
    for (uint64_t id = 1; id <= kBlocks; ++id) EXPECT_TRUE(Has(*tier, id)) << id;
    EXPECT_EQ(tier->Usage().corrupt_count, 0u);
    // What is kept gets its right place with the new segment.
    const TierSegment segment = *tier->SegmentFrom(0);
    ASSERT_TRUE(tier->DropSegment(segment.sequence, segment.blocks).ok());
    tier.reset();
    EXPECT_THAT(FsckLog(scratch_.path())->notes, IsEmpty());
    heads = Heads(*OpenDatabase());
  }
}

TEST_P(LogPlacesTest, AFileThatIsCutOffUnderAnOpenStoreCostsWhatIsGone) {
  const auto tier = Open();
  Fill(*tier);
  EXPECT_TRUE(Has(*tier, 4));
  for (const auto& entry : fs::directory_iterator(scratch_.path() + "/store/db")) {
    if (entry.path().extension() == ".sst") fs::resize_file(entry.path(), 3 * kBytes + kBytes / 2);
  }
  for (uint64_t id = 1; id <= kBlocks; ++id) EXPECT_EQ(Has(*tier, id), id <= 3) << id;
  EXPECT_EQ(tier->Usage().block_count, 3u);
}

TEST_P(LogPlacesTest, AFileThatVanishesBeforeItsFirstReadIsReadByWhoHoldsIt) {
  { Fill(*Open()); }
  const auto tier = Open();
  for (const auto& entry : fs::directory_iterator(scratch_.path() + "/store/db")) {
    if (entry.path().extension() == ".sst") fs::remove(entry.path());
  }
  for (uint64_t id = 1; id <= kBlocks; ++id) EXPECT_TRUE(Has(*tier, id)) << id;
  EXPECT_EQ(tier->Usage().corrupt_count, 0u);
}

TEST_P(LogPlacesTest, AFlippedByteOfAValueIsFoundByBothWays) {
  { Fill(*Open()); }
  EntryHead fourth;
  fs::path path;
  {
    const auto database = OpenDatabase();
    fourth = Heads(*database).at(3);
    path = PathOf(database->Segments().at(0));
  }
  auto tier = Open();
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto at = static_cast<std::streamoff>(fourth.place.offset + fourth.place.bytes / 2);
  file.seekg(at);
  const int byte = file.get();
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 1));
  file.close();
  for (uint64_t id = 1; id <= kBlocks; ++id) EXPECT_EQ(Has(*tier, id), id != 4) << id;
  EXPECT_EQ(tier->Usage().corrupt_count, 1u);
}

TEST_P(LogPlacesTest, NoFileIsHeldThatIsGone) {
  const auto tier = Open();
  Fill(*tier);
  for (uint64_t id = 1; id <= kBlocks; ++id) EXPECT_TRUE(Has(*tier, id));
  const BlockRef keep[] = {{2, 0}};
  ASSERT_TRUE(tier->DropSegment(tier->SegmentFrom(0)->sequence, keep).ok());
  EXPECT_TRUE(Has(*tier, 2));
  std::vector<std::string> held;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    if (target.starts_with(scratch_.path()) && target.ends_with("(deleted)"))
      held.push_back(target);
  }
  EXPECT_THAT(held, IsEmpty());
}

}  // namespace
}  // namespace thermocline
