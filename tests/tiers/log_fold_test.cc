// How the log writes blocks anew while its disk does what disks do: a sector that cannot be read,
// writes that fail meanwhile; and how few files it holds open, however many segments there are.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "base/units.h"
#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/disk_segments.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

constexpr uint64_t kBytes = 16 * KiB;  // of a block
constexpr uint64_t kInSegment = 4;

class LogFoldTest : public ::testing::Test {
 protected:
  void Open() {
    tier_.reset();
    auto tier = LogTier::Open({.directory = scratch_.path(),
                               .capacity_bytes = GiB,
                               .reopen_pause = std::chrono::milliseconds(0),
                               .file_system = files_});
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  /// Blocks of the next ids, in a segment of their own.
  void PutSegment(uint64_t blocks = kInSegment) {
    std::vector<std::vector<std::byte>> payloads;
    std::vector<BlockRecord> records;
    for (uint64_t i = 0; i < blocks; ++i) {
      payloads.push_back(TestPayload(++last_id_, 0, kBytes));
      records.emplace_back(TestHeader(last_id_, 0, payloads.back()));
    }
    std::vector<TierPut> puts;
    for (size_t i = 0; i < records.size(); ++i) {
      puts.push_back({.record = &records[i], .payload = payloads[i]});
    }
    tier_->PutAll(puts);
    for (const TierPut& put : puts) ASSERT_TRUE(put.status.ok()) << put.status;
  }
  std::vector<BlockRef> All() const {
    std::vector<BlockRef> refs;
    for (uint64_t id = 1; id <= last_id_; ++id) refs.push_back({id, 0});
    return refs;
  }
  bool Has(uint64_t id) {
    std::vector<std::byte> room(kBytes);
    const auto read = tier_->Get({id, 0}, room);
    if (!read.ok() || !read->has_value()) return false;
    EXPECT_EQ(room, TestPayload(id, 0, kBytes)) << id;
    return true;
  }
  void ExpectAll() {
    for (uint64_t id = 1; id <= last_id_; ++id) EXPECT_TRUE(Has(id)) << id;
    EXPECT_EQ(tier_->Usage().corrupt_count, 0u);
    EXPECT_THAT(tier_->TakeLost(), IsEmpty());
  }
  /// The names of the segments' files, the oldest first.
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(scratch_.path() + "/store/db")) {
      if (entry.path().extension() == ".sst") names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  /// Of the store's tables, how many this process has open.
  size_t Descriptors() const {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const std::string target = fs::read_symlink(entry.path(), gone).string();
      count += target.starts_with(scratch_.path()) && target.ends_with(".sst") ? 1 : 0;
    }
    return count;
  }

  const ScratchDirectory scratch_{"/dev/shm"};
  const std::shared_ptr<FaultyFileSystem> files_ = std::make_shared<FaultyFileSystem>();
  std::unique_ptr<LogTier> tier_;
  uint64_t last_id_ = 0;
};

TEST_F(LogFoldTest, ASegmentThatCannotBeReadStaysAndTheOthersFold) {
  Open();
  for (int i = 0; i < 4; ++i) PutSegment();
  const uint64_t second = tier_->SegmentSizes().at(1).sequence;
  files_->FailReadsAt(Files().at(1), kBytes + kBytes / 2);  // of its second block
  const auto unread = tier_->Fold(All());
  ASSERT_TRUE(unread.ok()) << unread.status();
  EXPECT_THAT(*unread, ElementsAre(second));
  EXPECT_LE(files_->bad_reads(), 2u) << "by its place, and by its key";
  const auto sizes = tier_->SegmentSizes();
  ASSERT_EQ(sizes.size(), 2u);
  EXPECT_EQ(sizes[0].sequence, second);
  EXPECT_THAT(tier_->SegmentFrom(second)->blocks, ::testing::SizeIs(kInSegment - 1))
      << "what comes behind the sector is not written for nothing";
  EXPECT_FALSE(tier_->RefusesWrites());
  files_->FailReadsAt("", 0);
  ExpectAll();
  EXPECT_THAT(*tier_->Fold(All()), IsEmpty());
  EXPECT_EQ(tier_->SegmentSizes().size(), 1u);
  ExpectAll();
  Open();
  ExpectAll();
}

TEST_F(LogFoldTest, ASegmentOfWhichWhatIsKeptCannotBeReadIsNotDropped) {
  Open();
  PutSegment();
  PutSegment();
  const TierSegment first = *tier_->SegmentFrom(0);
  files_->FailReadsAt(Files().at(0), kBytes + kBytes / 2);
  EXPECT_TRUE(absl::IsAborted(tier_->DropSegment(first.sequence, first.blocks)));
  EXPECT_FALSE(tier_->RefusesWrites());
  EXPECT_EQ(Files().size(), 2u);
  files_->FailReadsAt("", 0);
  ExpectAll();
}

// A store is opened anew only when nobody is at it any more.
TEST_F(LogFoldTest, AFoldEndsWhenWritesAreRefused) {
  bool is_folding = false;
  int reads = 0;
  files_->before_read = [&] {
    if (!is_folding || ++reads != 2) return;
    files_->FailAfter(0);
    EXPECT_FALSE(tier_->Erase({1, 0}).ok());
    files_->Heal();
  };
  Open();
  for (int i = 0; i < 4; ++i) PutSegment();
  is_folding = true;
  EXPECT_TRUE(absl::IsUnavailable(tier_->Fold(All()).status()));
  is_folding = false;
  EXPECT_EQ(reads, 2);
  EXPECT_TRUE(tier_->RefusesWrites());
  PutSegment();
  EXPECT_FALSE(tier_->RefusesWrites());
  EXPECT_EQ(tier_->State(), "ok");
  for (uint64_t id = 2; id <= last_id_; ++id) EXPECT_TRUE(Has(id)) << id;
  EXPECT_EQ(tier_->Usage().corrupt_count, 0u);
}

TEST_F(LogFoldTest, HoweverManySegmentsThereAreFewFilesAreOpen) {
  Open();
  for (size_t i = 0; i < kLeastOpenFiles + 50; ++i) PutSegment(1);
  for (int round = 0; round < 2; ++round) {
    ExpectAll();
    EXPECT_LE(Descriptors(), kLeastOpenFiles);
    EXPECT_GE(Descriptors(), kLeastOpenFiles / 2) << "those read last stay open";
    Open();
  }
  EXPECT_THAT(*tier_->Fold(All()), IsEmpty());
  EXPECT_EQ(Files().size(), 2u) << "and one of entries";
  EXPECT_LE(Descriptors(), 4u);
  ExpectAll();
}

}  // namespace
}  // namespace thermocline
