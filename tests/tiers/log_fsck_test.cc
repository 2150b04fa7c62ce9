// The offline check of a store of the log.
#include "tiers/log_fsck.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/units.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

constexpr uint64_t kBytes = 8192;

class LogFsckTest : public ::testing::Test {
 protected:
  std::unique_ptr<LogTier> Open(BlockEnvelope envelope = {}) {
    auto tier = LogTier::Open({.directory = scratch_.path(),
                               .capacity_bytes = 64 * MiB,
                               .envelope = std::move(envelope)});
    EXPECT_TRUE(tier.ok()) << tier.status();
    return tier.ok() ? *std::move(tier) : nullptr;
  }
  void Put(LogTier& tier, uint64_t id) {
    const auto payload = TestPayload(id, 0, kBytes);
    ASSERT_TRUE(tier.Put(TestHeader(id, 0, payload), payload).ok());
  }
  FsckReport Check() {
    const auto report = FsckLog(scratch_.path());
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : FsckReport();
  }
  std::vector<fs::path> Tables() {
    std::vector<fs::path> tables;
    for (const auto& entry : fs::directory_iterator(scratch_.path() + "/store/db")) {
      if (entry.path().extension() == ".sst") tables.push_back(entry.path());
    }
    std::sort(tables.begin(), tables.end());
    return tables;
  }
  /// Name, size and time of every file.
  std::map<std::string, std::pair<uint64_t, fs::file_time_type>> Everything() {
    std::map<std::string, std::pair<uint64_t, fs::file_time_type>> files;
    for (const auto& entry : fs::recursive_directory_iterator(scratch_.path())) {
      if (!entry.is_regular_file()) continue;
      files[entry.path()] = {entry.file_size(), entry.last_write_time()};
    }
    return files;
  }
  ScratchDirectory scratch_;
};

TEST_F(LogFsckTest, AWholeStoreHasNoProblemsAndIsNotChanged) {
  {
    const auto tier = Open();
    for (uint64_t id = 1; id <= 5; ++id) Put(*tier, id);
    ASSERT_TRUE(tier->Erase({2, 0}).ok());
  }
  const auto before = Everything();
  const FsckReport report = Check();
  EXPECT_EQ(Everything(), before);
  EXPECT_EQ(report.problem_count, 0u);
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_THAT(report.notes, IsEmpty());
  EXPECT_EQ(report.segments, 4u);
  EXPECT_EQ(report.blocks, 4u);
  EXPECT_EQ(report.bytes, 4 * kBytes);
  EXPECT_EQ(report.sealed_blocks, 0u);
  EXPECT_THAT(FsckText(report), HasSubstr("4 segments, 4 blocks of 32 KiB verified"));
  EXPECT_THAT(FsckText(report), HasSubstr("no problems"));
}

TEST_F(LogFsckTest, DamageAndLossAreNamed) {
  {
    const auto tier = Open();
    for (uint64_t id = 1; id <= 3; ++id) Put(*tier, id);
  }
  const auto tables = Tables();
  ASSERT_EQ(tables.size(), 3u);
  std::fstream file(tables[0], std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(kBytes / 2);
  file.put('x');
  file.close();
  fs::remove(tables[1]);
  const FsckReport report = Check();
  EXPECT_EQ(report.problem_count, 2u);
  EXPECT_THAT(report.problems, ElementsAre(HasSubstr("block 1 part 0 in segment 1"),
                                           HasSubstr("block 2 part 0 in segment 2")));
  EXPECT_EQ(report.blocks, 1u);
  EXPECT_THAT(FsckText(report), HasSubstr("2 problems"));
}

TEST_F(LogFsckTest, WhatACrashLeavesIsNoProblem) {
  {
    const auto database = SegmentDatabase::Open({.directory = scratch_.path()});
    ASSERT_TRUE(database.ok()) << database.status();
    SegmentWriter writer(**database, 7);
    const auto payload = TestPayload(1, 0, kBytes);
    ASSERT_TRUE(writer.Add({1, 0}, payload).ok());
    ASSERT_TRUE(writer.Finish().ok());
  }
  const FsckReport report = Check();
  EXPECT_EQ(report.problem_count, 0u);
  EXPECT_THAT(report.notes, ElementsAre(HasSubstr("segment 7")));
  EXPECT_EQ(report.blocks, 0u);
  { ASSERT_NE(Open(), nullptr); }
  EXPECT_THAT(Check().notes, IsEmpty());
}

TEST_F(LogFsckTest, WhatCannotBeCheckedIsSaid) {
  EXPECT_TRUE(absl::IsNotFound(FsckLog(scratch_.path()).status()));
  const auto tier = Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(FsckLog(scratch_.path()).status()))
      << "it is open: " << FsckLog(scratch_.path()).status();
  std::ofstream(scratch_.path() + "/store/FORMAT") << "rocksdb-kv.v1\n";
  EXPECT_TRUE(absl::IsFailedPrecondition(FsckLog(scratch_.path()).status()));
}

}  // namespace
}  // namespace thermocline
