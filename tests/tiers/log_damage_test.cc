// The log tier over a store that something has happened to: every second byte of its log and its
// manifest flipped, one after the other, and many of other files; files lost, cut off, of another
// form or another store; a disk that is full or cannot be written.
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "base/units.h"
#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

constexpr uint64_t kBytes = 8192;  // of a block
constexpr uint64_t kSegments = 3, kInSegment = 4;

void FlipByte(const fs::path& path, uint64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(byte ^ 0x40));
}

absl::Status PutBlock(Tier& tier, uint64_t id, uint64_t bytes = kBytes) {
  const auto payload = TestPayload(id, 0, bytes);
  return tier.Put(TestHeader(id, 0, payload), payload);
}

/// Whether it is there; its bytes must be right then. An error is a miss.
bool Has(Tier& tier, uint64_t id) {
  std::vector<std::byte> room(kBytes);
  const auto read = tier.Get({id, 0}, room);
  if (!read.ok() || !read->has_value()) return false;
  EXPECT_EQ(room, TestPayload(id, 0, kBytes)) << id;
  return true;
}

class LogDamageTest : public ::testing::Test {
 protected:
  LogDamageTest() { fs::create_directory(directory_); }

  absl::StatusOr<std::unique_ptr<LogTier>> Open(
      std::shared_ptr<rocksdb::FileSystem> file_system = nullptr) {
    return LogTier::Open({.directory = directory_,
                          .capacity_bytes = 64 * MiB,
                          .reopen_pause = std::chrono::milliseconds(0),
                          .file_system = std::move(file_system)});
  }
  /// Segments of twelve blocks, with entries in a table, in the log, or some in both.
  void Fill(LogTier& tier, uint64_t first = 1, uint64_t seed = 0) {
    for (uint64_t segment = 0; segment < kSegments; ++segment) {
      std::vector<std::vector<std::byte>> payloads;
      std::vector<BlockRecord> records;
      for (uint64_t i = 0; i < kInSegment; ++i) {
        const uint64_t id = first + segment * kInSegment + i;
        payloads.push_back(TestPayload(seed + id, 0, kBytes));
        records.emplace_back(TestHeader(id, 0, payloads.back()));
      }
      std::vector<TierPut> puts;
      for (size_t i = 0; i < records.size(); ++i) {
        puts.push_back({.record = &records[i], .payload = payloads[i]});
      }
      tier.PutAll(puts);
      for (const TierPut& put : puts) ASSERT_TRUE(put.status.ok()) << put.status;
    }
  }
  /// Makes a store, and a copy of it to begin each round with.
  void Prepare() {
    auto tier = Open();
    ASSERT_TRUE(tier.ok()) << tier.status();
    Fill(**tier);
    tier->reset();
    ASSERT_TRUE(Open().ok());  // the log has become a table
    tier = Open();
    ASSERT_TRUE(PutBlock(**tier, 13).ok());  // and there is a new one
    tier->reset();
    fs::copy(directory_, original_, fs::copy_options::recursive);
  }
  void Restore() {
    fs::remove_all(directory_);
    fs::copy(original_, directory_, fs::copy_options::recursive);
  }
  std::vector<fs::path> Files(const std::string& mark) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(directory_ + "/store/db")) {
      if (entry.path().filename().string().find(mark) != std::string::npos) {
        files.push_back(entry.path());
      }
    }
    std::sort(files.begin(), files.end());
    return files;
  }
  /// Opens the damaged store, which must go, and answers how many blocks are left of 13.
  uint64_t Survivors() {
    auto tier = Open();
    EXPECT_TRUE(tier.ok()) << tier.status();
    if (!tier.ok()) return 0;
    uint64_t count = 0;
    for (uint64_t id = 1; id <= 13; ++id) count += Has(**tier, id) ? 1 : 0;
    EXPECT_TRUE((*tier)->ForEach([](const BlockRecord&) { return true; }).ok());
    EXPECT_TRUE(PutBlock(**tier, 50).ok());
    EXPECT_TRUE(Has(**tier, 50));
    return count;
  }
  uint64_t Quarantined() {
    uint64_t count = 0;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      count += entry.path().filename().string().starts_with("quarantine-") ? 1 : 0;
    }
    return count;
  }
  /// Flips bytes of one file, each in a store of its own: `step` apart, and each of the last
  /// `tail`.
  struct Outcome {
    int flips = 0, whole = 0, partly = 0, set_aside = 0;
    uint64_t fewest = 13;  // blocks left, where it was not set aside
  };
  Outcome FlipEach(const std::string& name, uint64_t step, uint64_t tail) {
    Outcome outcome;
    const std::string path = directory_ + "/store/db/" + name;
    Restore();
    const uint64_t bytes = fs::file_size(path);
    const char* const every = std::getenv("TC_FLIP_EVERY");
    const uint64_t close = every == nullptr ? 7 : std::strtoull(every, nullptr, 0);
    for (uint64_t at = 0; at < bytes; at += at + tail < bytes ? step : close) {
      SCOPED_TRACE(name + " at " + std::to_string(at) + " of " + std::to_string(bytes));
      Restore();
      FlipByte(path, at);
      const uint64_t left = Survivors();
      ++outcome.flips;
      if (Quarantined() > 0) {
        ++outcome.set_aside;
        EXPECT_EQ(left, 0u);
      } else {
        ++(left == 13 ? outcome.whole : outcome.partly);
        outcome.fewest = std::min(outcome.fewest, left);
      }
      if (HasFailure()) break;
    }
    std::printf(
        "[ FLIPPED  ] %-16s %4d bytes: %4d harmless, %4d lost blocks (%d at most), %4d set "
        "aside\n",
        name.c_str(), outcome.flips, outcome.whole, outcome.partly,
        static_cast<int>(13 - outcome.fewest), outcome.set_aside);
    return outcome;
  }

  ScratchDirectory scratch_{"/dev/shm"};
  const std::string directory_ = scratch_.path() + "/data";
  const std::string original_ = scratch_.path() + "/original";
};

TEST_F(LogDamageTest, AFlippedByteOfASegmentCostsThatSegmentAtMost) {
  Prepare();
  const auto tables = Files(".sst");
  ASSERT_EQ(tables.size(), kSegments + 2);  // of block 13, and one of entries
  // The first segment: a stride through the values, all of index, properties and footer.
  const Outcome outcome = FlipEach(tables[0].filename(), 331, 1300);
  EXPECT_GT(outcome.partly, 100);
  EXPECT_GE(outcome.fewest, 13 - kInSegment);
  EXPECT_EQ(outcome.set_aside, 0);
}

TEST_F(LogDamageTest, AFlippedByteOfTheEntriesTableIsNeverAWrongByte) {
  Prepare();
  std::string entries;
  Restore();
  for (const fs::path& table : Files(".sst")) {
    if (fs::file_size(table) < 8 * KiB) entries = table.filename();
  }
  ASSERT_FALSE(entries.empty());
  const Outcome outcome = FlipEach(entries, 17, 0);
  EXPECT_GT(outcome.set_aside, 0);
}

TEST_F(LogDamageTest, AFlippedByteOfTheLogCostsWhatItTells) {
  Prepare();
  for (const fs::path& log : Files(".log")) {
    const Outcome outcome = FlipEach(log.filename(), 2, 0);
    EXPECT_GE(outcome.fewest, 12u);
    EXPECT_EQ(outcome.set_aside, 0);
  }
}

TEST_F(LogDamageTest, AFlippedByteOfTheManifestIsNeverAWrongByte) {
  Prepare();
  const auto manifests = Files("MANIFEST");
  ASSERT_EQ(manifests.size(), 1u);
  const Outcome outcome = FlipEach(manifests[0].filename(), 2, 0);
  EXPECT_GT(outcome.set_aside, 0);
}

TEST_F(LogDamageTest, AFlippedByteOfAnySmallFileIsNeverAWrongByte) {
  Prepare();
  FlipEach("CURRENT", 1, 0);
  FlipEach("IDENTITY", 5, 0);
  Restore();
  for (const fs::path& options : Files("OPTIONS")) FlipEach(options.filename(), 501, 0);
}

TEST_F(LogDamageTest, AFileThatIsCutOffIsNeverAWrongByte) {
  Prepare();
  for (const std::string mark : {".sst", ".log", "MANIFEST", "CURRENT"}) {
    Restore();
    for (const fs::path& path : Files(mark)) {
      for (const double part : {0.0, 0.5, 0.99}) {
        SCOPED_TRACE(path.string() + " cut to " + std::to_string(part));
        Restore();
        fs::resize_file(path, static_cast<uint64_t>(fs::file_size(path) * part));
        Survivors();
      }
    }
  }
}

TEST_F(LogDamageTest, ALostSegmentCostsItsBlocksOnly) {
  Prepare();
  Restore();
  fs::remove(Files(".sst")[1]);
  EXPECT_EQ(Survivors(), 13 - kInSegment);
  EXPECT_EQ(Quarantined(), 0u);
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  EXPECT_EQ((*tier)->State(), "ok");
  EXPECT_EQ((*tier)->Usage().block_count, 13 - kInSegment + 1);
}

TEST_F(LogDamageTest, ALostSegmentIsCountedAndToldOfUntilTheNextOpening) {
  Prepare();
  Restore();
  fs::remove(Files(".sst")[1]);
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  EXPECT_EQ((*tier)->Usage().corrupt_count, 1u);
  EXPECT_THAT((*tier)->State(), HasSubstr("1 of its segments and entries"));
  tier->reset();
  tier = Open();
  ASSERT_TRUE(tier.ok());
  EXPECT_EQ((*tier)->Usage().corrupt_count, 0u);
  EXPECT_EQ((*tier)->State(), "ok");
}

// RocksDB alone would begin anew there, and remove all segments without a word.
TEST_F(LogDamageTest, AStoreWithoutCurrentIsSetAsideAndSaidSo) {
  Prepare();
  Restore();
  const size_t segments = Files(".sst").size();
  fs::remove(Files("CURRENT")[0]);
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  EXPECT_EQ(Quarantined(), 1u);
  EXPECT_THAT((*tier)->State(), HasSubstr("began empty"));
  EXPECT_GE(segments, kSegments);
  tier->reset();
  tier = Open();  // the next one tells of it, too
  ASSERT_TRUE(tier.ok());
  EXPECT_THAT((*tier)->State(), HasSubstr("set aside as " + directory_ + "/quarantine-"));
  EXPECT_THAT((*tier)->State(), Not(HasSubstr("began empty")));
  tier->reset();
  for (const auto& entry : fs::directory_iterator(directory_)) {
    if (entry.path().filename() != "store") fs::remove_all(entry.path());
  }
  EXPECT_EQ(Open().value()->State(), "ok");
}

TEST_F(LogDamageTest, EntriesThatAreGoneWithTheirLogAreCounted) {
  {
    auto tier = Open();
    ASSERT_TRUE(tier.ok());
    Fill(**tier);
    for (uint64_t id = 20; id < 24; ++id) ASSERT_TRUE(PutBlock(**tier, id).ok());
  }
  EXPECT_EQ(Open().value()->Usage().corrupt_count, 0u);
  fs::remove_all(directory_ + "/store");
  {
    auto tier = Open();
    ASSERT_TRUE(tier.ok());
    for (uint64_t id = 20; id < 26; ++id) ASSERT_TRUE(PutBlock(**tier, id).ok());
  }
  for (const fs::path& path : Files(".log")) fs::resize_file(path, fs::file_size(path) / 6);
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  const uint64_t lost = (*tier)->Usage().corrupt_count;
  EXPECT_GT(lost, 0u);
  EXPECT_THAT((*tier)->State(), HasSubstr(std::to_string(lost) + " of its segments and entries"));
  EXPECT_TRUE(Has(**tier, 20) || !Has(**tier, 25));
}

TEST_F(LogDamageTest, AnyOtherLostFileCostsHitsOnly) {
  Prepare();
  for (const std::string mark : {".log", "MANIFEST", "CURRENT", "IDENTITY", "OPTIONS"}) {
    SCOPED_TRACE(mark);
    Restore();
    for (const fs::path& path : Files(mark)) fs::remove(path);
    Survivors();
  }
}

TEST_F(LogDamageTest, AFileThatVanishesUnderAnOpenStoreIsReadOnAndMissedLater) {
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  Fill(**tier);
  for (const fs::path& path : Files(".sst")) fs::remove(path);
  for (uint64_t id = 1; id <= 12; ++id) EXPECT_TRUE(Has(**tier, id));  // they are held open
  EXPECT_TRUE(PutBlock(**tier, 20).ok());
  tier->reset();
  tier = Open();
  ASSERT_TRUE(tier.ok()) << tier.status();
  for (uint64_t id = 1; id <= 12; ++id) EXPECT_FALSE(Has(**tier, id));
  EXPECT_TRUE(Has(**tier, 20));
}

// Of other blocks; stack_scrub_test has one of the same ids.
TEST_F(LogDamageTest, ASegmentOfAnotherStoreInItsPlaceCostsItsBlocksOnly) {
  Prepare();
  const fs::path foreign = scratch_.path() + "/foreign.sst";
  fs::remove_all(directory_);
  fs::create_directory(directory_);
  Fill(**Open(), 101);
  fs::copy(Files(".sst")[0], foreign);
  Restore();
  const fs::path own = Files(".sst")[0];
  ASSERT_EQ(fs::file_size(own), fs::file_size(foreign));
  fs::copy(foreign, own, fs::copy_options::overwrite_existing);
  EXPECT_EQ(Survivors(), 13 - kInSegment);
  EXPECT_EQ(Quarantined(), 0u);
}

// Whole, of the same sequence, and of blocks of the same names: what has to be written anew must
// not make it the truth.
TEST_F(LogDamageTest, ASegmentOfAnotherStoreIsNeitherFoldedNorKept) {
  const fs::path foreign = scratch_.path() + "/foreign.sst";
  Fill(**Open(), 1, /*seed=*/100);
  fs::copy(Files(".sst")[0], foreign);
  for (const bool folds : {true, false}) {
    fs::remove_all(directory_);
    fs::create_directory(directory_);
    auto tier = Open();
    ASSERT_TRUE(tier.ok()) << tier.status();
    Fill(**tier);
    const fs::path own = Files(".sst")[0];
    ASSERT_EQ(fs::file_size(own), fs::file_size(foreign));
    fs::copy(foreign, own, fs::copy_options::overwrite_existing);
    const TierSegment first = *(*tier)->SegmentFrom(0);
    if (folds) {
      ASSERT_TRUE((*tier)->Fold(first.blocks).ok());
    } else {
      ASSERT_TRUE((*tier)->DropSegment(first.sequence, first.blocks).ok());
    }
    EXPECT_EQ((*tier)->Usage().corrupt_count, kInSegment);
    EXPECT_EQ((*tier)->Usage().block_count, 12 - kInSegment);
    EXPECT_EQ((*tier)->TakeLost().size(), kInSegment);
    tier->reset();
    tier = Open();
    ASSERT_TRUE(tier.ok()) << tier.status();
    for (uint64_t id = 1; id <= 12; ++id) EXPECT_EQ(Has(**tier, id), id > kInSegment) << id;
  }
}

TEST_F(LogDamageTest, AByteFlippedUnderAnOpenStoreIsAMissAndCounted) {
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  Fill(**tier);
  FlipByte(Files(".sst")[0], kBytes / 2);
  EXPECT_EQ((*tier)->State(), "ok");
  EXPECT_FALSE(Has(**tier, 1));
  EXPECT_EQ((*tier)->Usage().corrupt_count, 1u);
  EXPECT_THAT((*tier)->State(), HasSubstr("did not verify"));
  EXPECT_EQ((*tier)->Usage().block_count, 11u);
  FlipByte(Files(".sst")[1], kBytes / 2);
  const TierSegment second = *(*tier)->SegmentFrom((*tier)->SegmentFrom(0)->sequence + 1);
  ASSERT_TRUE((*tier)->DropSegment(second.sequence, second.blocks).ok());
  EXPECT_EQ((*tier)->Usage().corrupt_count, 2u);
  EXPECT_EQ((*tier)->Usage().block_count, 10u);
  for (uint64_t id = 1; id <= 12; ++id) EXPECT_EQ(Has(**tier, id), id != 1 && id != 5) << id;
}

TEST_F(LogDamageTest, OfBlocksThatDidNotVerifyItTellsForAWhile) {
  auto tier = LogTier::Open({.directory = directory_,
                             .capacity_bytes = 64 * MiB,
                             .damage_told = std::chrono::milliseconds(0)});
  ASSERT_TRUE(tier.ok());
  Fill(**tier);
  FlipByte(Files(".sst")[0], kBytes / 2);
  EXPECT_FALSE(Has(**tier, 1));
  EXPECT_EQ((*tier)->Usage().corrupt_count, 1u);
  EXPECT_EQ((*tier)->State(), "ok");
}

TEST_F(LogDamageTest, AnErrorOfTheDiskIsNoDamage) {
  const auto file_system = std::make_shared<FaultyFileSystem>();
  auto tier = Open(file_system);
  ASSERT_TRUE(tier.ok());
  Fill(**tier);
  file_system->FailReads(true);
  std::vector<std::byte> room(kBytes);
  EXPECT_TRUE(absl::IsUnavailable((*tier)->Get({1, 0}, room).status()));
  const TierSegment first = *(*tier)->SegmentFrom(0);
  EXPECT_FALSE((*tier)->DropSegment(first.sequence, first.blocks).ok());
  file_system->FailReads(false);
  for (uint64_t id = 1; id <= 12; ++id) EXPECT_TRUE(Has(**tier, id));
  EXPECT_EQ((*tier)->Usage().corrupt_count, 0u);
}

TEST_F(LogDamageTest, AnotherFormIsSetAsideAndSaidSo) {
  ASSERT_TRUE(Open().ok());
  std::ifstream file(directory_ + "/store/FORMAT");
  std::string format;
  file >> format;
  EXPECT_EQ(format, "segments.v1");
  std::ofstream(directory_ + "/store/FORMAT") << "rocksdb-kv.v1\n";
  auto tier = Open();
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_EQ(Quarantined(), 1u);
  EXPECT_THAT((*tier)->State(), HasSubstr("quarantine-"));
  EXPECT_TRUE(PutBlock(**tier, 1).ok());
}

TEST_F(LogDamageTest, TheSameDirectoryCannotBeOpenedTwice) {
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  ASSERT_TRUE(PutBlock(**tier, 1).ok());
  const auto second = Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another daemon"));
  EXPECT_TRUE(Has(**tier, 1));
}

TEST_F(LogDamageTest, ADirectoryThatCannotBeWrittenIsRefusedWithAdvice) {
  if (::geteuid() == 0) {
    const auto tier = LogTier::Open({.directory = "/proc/self", .capacity_bytes = MiB});
    ASSERT_FALSE(tier.ok());
    EXPECT_THAT(std::string(tier.status().message()), HasSubstr("/proc/self"));
    return;
  }
  fs::permissions(directory_, fs::perms::owner_read | fs::perms::owner_exec);
  const auto tier = Open();
  EXPECT_TRUE(absl::IsPermissionDenied(tier.status())) << tier.status();
  fs::permissions(directory_, fs::perms::owner_all);
}

/// A file system of `size` of its own.
class SmallDisk {
 public:
  SmallDisk(std::string path, const std::string& size) : path_(std::move(path)) {
    fs::create_directory(path_);
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  bool mounted_ = false;
};

TEST_F(LogDamageTest, AFullDiskRefusesWritesKeepsReadingAndTakesThemAgainWhenFreed) {
  const SmallDisk disk(scratch_.path() + "/small", "16m");
  if (!disk.mounted()) GTEST_SKIP() << "a small file system cannot be mounted here";
  auto opened = LogTier::Open({.directory = disk.path(),
                               .capacity_bytes = GiB,
                               .reopen_pause = std::chrono::milliseconds(0)});
  ASSERT_TRUE(opened.ok()) << opened.status();
  LogTier& tier = **opened;
  std::ofstream(disk.path() + "/others") << std::string(4 * MiB, 'x');
  uint64_t id = 1;
  absl::Status status;
  while ((status = PutBlock(tier, id)).ok()) ASSERT_LT(++id, 10000u);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(id, 100u);
  for (int again = 0; again < 3; ++again) EXPECT_FALSE(PutBlock(tier, id + again).ok());
  for (uint64_t each = 1; each < id; ++each) EXPECT_TRUE(Has(tier, each)) << each;
  std::ofstream(disk.path() + "/others") << "";
  EXPECT_TRUE(PutBlock(tier, id).ok()) << tier.State();
  EXPECT_EQ(tier.State(), "ok");
  for (uint64_t each = 1; each <= id; ++each) EXPECT_TRUE(Has(tier, each)) << each;
  while (PutBlock(tier, id + 1).ok()) ++id;  // full, all of it ours
  while (const auto segment = tier.SegmentFrom(0)) {
    const absl::Status dropped = tier.DropSegment(segment->sequence, {});
    ASSERT_TRUE(dropped.ok()) << dropped;
  }
  EXPECT_EQ(tier.Usage().used_bytes, 0u);
  EXPECT_TRUE(PutBlock(tier, id + 2).ok());
}

TEST_F(LogDamageTest, ADiskThatBecomesReadOnlyIsReadOnAndTakenAgainWhenMended) {
  SmallDisk disk(scratch_.path() + "/small", "16m");
  if (!disk.mounted()) GTEST_SKIP() << "a small file system cannot be mounted here";
  const auto file_system = std::make_shared<FaultyFileSystem>();
  auto opened = LogTier::Open({.directory = disk.path(),
                               .capacity_bytes = GiB,
                               .reopen_pause = std::chrono::milliseconds(0),
                               .file_system = file_system});
  ASSERT_TRUE(opened.ok()) << opened.status();
  LogTier& tier = **opened;
  ASSERT_TRUE(PutBlock(tier, 1).ok());
  file_system->FailAfter(0);
  for (int again = 0; again < 5; ++again) {
    EXPECT_FALSE(PutBlock(tier, 2).ok());
    EXPECT_FALSE(tier.Erase({1, 0}).ok());
    EXPECT_TRUE(Has(tier, 1));
  }
  EXPECT_THAT(tier.State(), HasSubstr("reads only: "));
  file_system->Heal();
  EXPECT_TRUE(PutBlock(tier, 2).ok()) << tier.State();
  EXPECT_TRUE(Has(tier, 1));
  EXPECT_TRUE(Has(tier, 2));
  EXPECT_EQ(tier.State(), "ok");
}

TEST_F(LogDamageTest, AttemptsToOpenItAnewAreApart) {
  const auto file_system = std::make_shared<FaultyFileSystem>();
  auto opened = LogTier::Open({.directory = directory_,
                               .capacity_bytes = GiB,
                               .reopen_pause = std::chrono::milliseconds(300),
                               .file_system = file_system});
  ASSERT_TRUE(opened.ok()) << opened.status();
  LogTier& tier = **opened;
  file_system->FailAfter(0);
  EXPECT_FALSE(PutBlock(tier, 1).ok());
  EXPECT_FALSE(tier.Erase({1, 0}).ok() && PutBlock(tier, 1).ok());  // the first attempt
  file_system->Heal();
  int refused = 0;
  const auto begin = std::chrono::steady_clock::now();
  while (!PutBlock(tier, 1).ok()) {
    ++refused;
    ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(Has(tier, 1));
}

}  // namespace
}  // namespace thermocline
