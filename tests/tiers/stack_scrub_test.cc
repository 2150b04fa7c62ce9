// What is read back of the disk: how fast, and what comes of a file that is another store's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/units.h"
#include "tests/tiers/stack_fixture.h"
#include "tiers/stack_state.h"

namespace thermocline {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;

constexpr uint64_t kCharge = 64 * KiB;  // of a block, however short it is

class StackScrubTest : public StackTest {
 protected:
  /// Blocks that are on disk alone, in one segment.
  void WriteCold(const std::vector<Name>& names, uint64_t scrub_bytes_per_tick = 0) {
    client_.reset();
    Use({.warm_blocks = 64, .cold_blocks = 64, .cold_scrub_bytes_per_tick = scrub_bytes_per_tick});
    client_.reset();
    stack_->Close();
    // So that all stores give the same ids, whenever they are made.
    ASSERT_TRUE(WriteStateFile(stack_->directory(), {.epoch = 0xf0000000}).ok());
    stack_->Open();
    Connect();
    Write(names);
    FlushTier(*stack_, TierKind::kWarm);
    ASSERT_EQ(Tiers(1), names.size());
    stack_->during_read = [this] { ++reads_; };
  }
  void Tick() {
    stack_->Advance(std::chrono::seconds(1));
    (*stack_)->Tick();
    stack_->Settle();
  }
  /// The file of the segment.
  fs::path Segment() const {
    fs::path largest;
    for (const auto& entry : fs::directory_iterator(stack_->directory() + "/store/db")) {
      if (entry.path().extension() != ".sst") continue;
      if (largest.empty() || entry.file_size() > fs::file_size(largest)) largest = entry.path();
    }
    return largest;
  }

  uint64_t reads_ = 0;
};

TEST_F(StackScrubTest, BlocksAreReadBackInTurnAtTheRate) {
  constexpr uint64_t kBlocks = 48, kInATick = 3;
  WriteCold(TestPath(1, kBlocks), kInATick * kCharge);
  for (uint64_t ticks = 1; reads_ < 2 * kBlocks; ++ticks) {
    Tick();
    ASSERT_LE(reads_, ticks * kInATick);
    ASSERT_LE(ticks, 2 * kBlocks / kInATick + 4) << "a round begins with a tick of its own";
  }
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 0u);
}

TEST_F(StackScrubTest, WithoutARateNothingIsReadBack) {
  WriteCold(TestPath(1, 8), 0);
  for (int ticks = 0; ticks < 100; ++ticks) Tick();
  EXPECT_EQ(reads_, 0u);
}

// Both stores gave the same ids and sequences, and every sum in the file is right.
TEST_F(StackScrubTest, ASegmentOfAnotherStoreIsAMissAndNeverAWrongByte) {
  const ScratchDirectory aside;
  const fs::path foreign = aside.path() + "/foreign.sst";
  const auto names = TestPath(1, 6);
  WriteCold(TestPath(2, 6));
  fs::copy(Segment(), foreign);
  for (const bool scrubbed : {false, true}) {
    WriteCold(names, scrubbed ? MiB : 0);
    client_.reset();
    stack_->Close();
    ASSERT_EQ(fs::file_size(Segment()), fs::file_size(foreign));
    fs::copy(foreign, Segment(), fs::copy_options::overwrite_existing);
    stack_->Open();
    Connect();
    const LeaseView found = client_->Match(names);
    EXPECT_EQ(found.depth, 6u) << "by the entries";
    if (scrubbed) Tick();
    EXPECT_EQ((*stack_)->Stats().corrupt_blocks, scrubbed ? 6u : 0u);
    EXPECT_EQ(client_->Load(found, names), 0u);
    client_->Release(found);
    stack_->Settle();
    EXPECT_EQ(client_->Match(names).depth, 0u);
    EXPECT_EQ(client_->Match(TestPath(2, 6)).depth, 0u);
    const auto corrupt = static_cast<size_t>(MissReason::kCorrupt);
    EXPECT_EQ((*stack_)->Stats().misses_by_reason[corrupt], scrubbed ? 0u : 6u);
    EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 6u);
    EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("did not verify"));
    ExpectBooksAgree();
  }
}

}  // namespace
}  // namespace thermocline
