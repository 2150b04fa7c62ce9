// What the stack makes of a cold medium that is slow, fails, or wears.
#include <gmock/gmock.h>

#include "tests/tiers/stack_medium_fixture.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

TEST_F(StackMediumTest, ALateReadIsAMissAndItsSlotComesBackWithIt) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  BeginLoad(names);
  StepStrand();
  EXPECT_EQ(stack_->disk_tasks(), 3u);
  stack_->Advance(StackOptions().read_deadline - milliseconds(1));
  StepStrand();
  EXPECT_FALSE(done_);
  stack_->Advance(milliseconds(20));
  StepStrand();
  EXPECT_TRUE(done_) << "the disk has not moved, and nobody waits for it any more";
  EXPECT_EQ(ready_, 0u);
  EXPECT_EQ(Misses(*stack_, MissReason::kLate), 1u);
  ExpectBooksAgree();
  stack_->Settle();  // the disk moves
  EXPECT_EQ(Tiers(0), 3u) << "what came late is there for the next one";
  client_->ExpectLegal(client_->Match(names).blocks, names);
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, ATierThatFailsIsLeftAloneAndTriedAgain) {
  Use({});
  const auto names = TestNames({1, 2, 3, 4, 5, 6});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  stack_->SetFaults({.error = 1});
  BeginLoad(names);
  stack_->Settle();
  EXPECT_TRUE(done_);
  EXPECT_EQ(Misses(*stack_, MissReason::kIoError), 6u);
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("reads fail or take longer"));
  done_ = false;
  BeginLoad(names);
  StepStrand();
  EXPECT_TRUE(done_) << "without asking the disk";
  EXPECT_EQ(stack_->disk_tasks(), 0u);
  stack_->SetFaults({});
  stack_->Advance(kColdPause);
  done_ = false;
  BeginLoad(names);
  stack_->Settle();
  EXPECT_TRUE(done_);
  EXPECT_EQ(ready_, 6u);
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok");
}

TEST_F(StackMediumTest, WhileAWriteHangsBlocksAreDroppedAndNobodyWaits) {
  Use({.warm_blocks = 8, .cold_blocks = 64, .chunk_blocks = 8});
  for (uint64_t i = 1; i <= 8; ++i) Write(TestNames({i}));
  stack_->Settle();
  std::vector<uint64_t> offsets;
  const auto take_two = [&] {
    offsets.clear();
    (*stack_)->Reserve(client_->number(), space_, 0, 2, milliseconds(5000),
                       [&](absl::StatusOr<std::vector<uint64_t>> result) {
                         if (result.ok()) offsets = *result;
                       });
    StepStrand();
  };
  take_two();
  ASSERT_EQ(offsets.size(), 2u);
  ASSERT_EQ(stack_->disk_tasks(), 1u) << "copies ahead of need";
  stack_->Advance(StackOptions().write_deadline);
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("a write takes longer"));
  take_two();
  EXPECT_EQ(offsets.size(), 2u);
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok");
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, ATierThatTakesNoWritesSaysSoUntilOneSucceeds) {
  Use({});
  Write(TestNames({1, 2, 3}));
  stack_->SetFaults({.error = 1});
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("the last write failed"));
  stack_->Advance(kColdPause);
  stack_->Settle();
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("the last write failed"));
  stack_->SetFaults({});
  Write(TestNames({4, 5}));
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok");
}

TEST_F(StackMediumTest, WhenTheWriteBudgetBindsOnlyWhatWasUsedAgainIsWritten) {
  // An hour's worth are 8 blocks: four are written freely.
  const uint64_t block = kTestBlockBytes + sizeof(BlockHeader);
  Use({.warm_blocks = 8,
       .cold_blocks = 64,
       .chunk_blocks = 8,
       .cold_write_bytes_per_day = 24 * 8 * block});
  Write(TestNames({1, 2, 3, 4}));
  stack_->Settle();
  for (uint64_t i = 10; i < 16; ++i) {
    Write(TestNames({i}));
    if (i % 2 == 0) client_->Release(client_->Match(TestNames({i})));
    stack_->Settle();
  }
  EXPECT_EQ(Tiers(1), 4u) << "the first that had to leave";
  for (uint64_t i = 20; i < 26; ++i) Write(TestNames({i}));
  stack_->Settle();
  for (uint64_t i = 10; i < 16; ++i) {
    EXPECT_EQ(client_->Match(TestNames({i})).depth, i % 2 == 0 ? 1u : 0u) << i;
  }
  ExpectBooksAgree();
  stack_->Advance(std::chrono::hours(1));
  for (uint64_t i = 30; i < 38; ++i) Write(TestNames({i}));
  stack_->Settle();
  EXPECT_GT(Tiers(1), 7u) << "there is budget again";
}

TEST_F(StackMediumTest, WhatIsPinnedOrBeforeOthersIsWrittenAnewWhenItsSegmentGoes) {
  Use({.warm_blocks = 8, .cold_blocks = 16, .chunk_blocks = 8});
  // Two segments of two blocks each: of each the first must stay.
  const auto pinned = TestNames({50});
  Write(pinned);
  Write(TestNames({51}));
  ASSERT_TRUE((*stack_)->Pin(space_, pinned, std::chrono::hours(1), TierKind::kNone).ok());
  FlushTier(*stack_, TierKind::kWarm);
  Write(TestNames({60}));
  Write(TestNames({61}));
  FlushTier(*stack_, TierKind::kWarm);
  const auto path = TestNames({60, 62, 63});
  Write(path);
  ASSERT_TRUE((*stack_)->Pin(space_, path, std::chrono::hours(1), TierKind::kNone).ok());
  FlushTier(*stack_, TierKind::kWarm);
  // Each of these two is pinned, too, so that no segment goes for nothing.
  for (uint64_t i = 0; i < 7; ++i) {
    const auto names = TestNames({100 + i});
    Write(TestNames({200 + i}));
    Write(names);
    if (i < 4) {
      ASSERT_TRUE((*stack_)->Pin(space_, names, std::chrono::hours(1), TierKind::kNone).ok());
    }
    FlushTier(*stack_, TierKind::kWarm);
    ExpectBooksAgree();
  }
  EXPECT_GT((*stack_)->Stats().tiers[1].kept_bytes, 0u);
  EXPECT_EQ(client_->Match(TestNames({51})).depth, 0u);
  EXPECT_EQ(client_->Match(TestNames({61})).depth, 0u);
  for (const auto& names : {pinned, path}) {
    const LeaseView lease = client_->Match(names);
    ASSERT_EQ(lease.depth, names.size());
    EXPECT_EQ(client_->Load(lease, names), names.size());
    client_->Release(lease);
  }
}

TEST_F(StackMediumTest, ASpoiledColdBlockIsFoundWithoutBeingAskedFor) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  for (int tick = 0; tick < 3; ++tick) {
    (*stack_)->Tick();
    stack_->Settle();
  }
  EXPECT_EQ(Tiers(1), 3u);
  stack_->SetFaults({.flip = 1});
  for (int tick = 0; tick < 3; ++tick) {
    (*stack_)->Tick();
    stack_->Settle();
  }
  EXPECT_EQ(Tiers(1), 0u);
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 3u);
  EXPECT_EQ((*stack_)->Stats().misses, 3u) << "those before they were written";
  EXPECT_EQ(client_->Match(names).depth, 0u);
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, ACheckReadsEveryColdBlockAndDropsTheDamaged) {
  Use({.warm_blocks = 32, .cold_blocks = 128, .chunk_blocks = 8});
  for (uint64_t i = 1; i <= 10; ++i) {
    Write(TestNames({i, 100 * i, 100 * i + 1}));
    FlushTier(*stack_, TierKind::kWarm);
  }
  const auto check = [&] {
    std::pair<uint64_t, uint64_t> result{0, 0};
    bool done = false;
    (*stack_)->Check([&](absl::Status status, uint64_t blocks, uint64_t damaged) {
      EXPECT_TRUE(status.ok()) << status;
      result = {blocks, damaged};
      done = true;
    });
    stack_->SettleUntil(done);
    return result;
  };
  EXPECT_EQ(check(), std::make_pair(uint64_t{30}, uint64_t{0}));
  stack_->SetFaults({.flip = 1});
  EXPECT_EQ(check(), std::make_pair(uint64_t{30}, uint64_t{30}));
  stack_->SetFaults({});
  EXPECT_EQ(check(), std::make_pair(uint64_t{0}, uint64_t{0}));
  EXPECT_EQ(Tiers(1), 0u);
  ExpectBooksAgree();
}

class StackDurableTest : public StackTest {
 protected:
  /// Commits the last block of a path behind all others, which are there.
  void ExtendDurably(const std::vector<Name>& path) {
    const LeaseView lease = client_->Match(path);
    ASSERT_EQ(lease.depth, path.size() - 1);
    const std::vector<CommitItem> items = {
        client_->Fill(client_->Reserve(1)[0], lease.depth, 0, path)};
    const auto view = (*stack_)->Commit(client_->number(), lease.lease,
                                        std::span(path).subspan(lease.depth), items);
    ASSERT_TRUE(view.ok()) << view.status();
    (*stack_)->AwaitDurable(*view, [this](absl::Status status) { answers_.push_back(status); });
  }
};

TEST_F(StackDurableTest, WhatIsAnsweredSurvivesAPowerLossAndCommitsShareAWrite) {
  Use({.warm_blocks = 64, .chunk_blocks = 64, .durability = Durability::kAck});
  CommitDurably(TestNames({1, 2, 3}));
  CommitDurably(TestNames({1, 7}));
  CommitDurably(TestNames({4}));
  EXPECT_EQ(stack_->disk_tasks(), 0u) << "others may come";
  stack_->Advance(milliseconds(20));
  StepStrand();
  EXPECT_EQ(stack_->disk_tasks(), 1u);
  EXPECT_TRUE(answers_.empty());
  stack_->Settle();
  EXPECT_EQ(answers_, std::vector<absl::Status>(3));
  EXPECT_EQ(Tiers(1), 5u) << "one path's first block is the other's, too";
  ExpectBooksAgree();
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  EXPECT_EQ(client_->Match(TestNames({1, 2, 3})).depth, 3u);
  EXPECT_EQ(client_->Match(TestNames({1, 7})).depth, 2u);
  EXPECT_EQ(client_->Match(TestNames({4})).depth, 1u);
  CommitDurably(TestNames({4}));
  stack_->Settle();
  EXPECT_EQ(answers_.size(), 4u) << "what is there already is answered at once";
}

TEST_F(StackDurableTest, WhatTheDiskDoesNotTakeIsSaidToBeInMemoryOnly) {
  Use({.warm_blocks = 64, .chunk_blocks = 64, .durability = Durability::kAck});
  stack_->SetFaults({.error = 1});
  CommitDurably(TestNames({1, 2}));
  stack_->Advance(milliseconds(20));
  stack_->Settle();
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsAborted(answers_[0])) << answers_[0];
  EXPECT_THAT(std::string(answers_[0].message()), HasSubstr("in memory, but not on disk"));
  EXPECT_EQ(client_->Match(TestNames({1, 2})).depth, 2u);
  stack_->SetFaults({});
  stack_->Advance(kColdPause);
  CommitDurably(TestNames({1, 2}));
  stack_->Advance(milliseconds(20));
  stack_->Settle();
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_TRUE(answers_[1].ok()) << answers_[1];
}

TEST_F(StackDurableTest, WhatABlockStandsBehindIsWrittenWithIt) {
  Use({.warm_blocks = 64, .chunk_blocks = 64, .durability = Durability::kAck});
  stack_->SetFaults({.error = 1});
  CommitDurably(TestNames({1, 2}));
  stack_->Advance(milliseconds(20));
  stack_->Settle();
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_FALSE(answers_[0].ok());
  stack_->SetFaults({});
  stack_->Advance(kColdPause);
  const auto path = TestNames({1, 2, 3});
  ExtendDurably(path);
  stack_->Advance(milliseconds(20));
  stack_->Settle();
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_TRUE(answers_[1].ok()) << answers_[1];
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  EXPECT_EQ(client_->Match(path).depth, 3u);
}

TEST_F(StackDurableTest, WhatLeavesTheDiskMeanwhileIsWrittenAnew) {
  Use({.warm_blocks = 64, .chunk_blocks = 64, .durability = Durability::kAck});
  CommitDurably(TestNames({1}));
  stack_->Advance(milliseconds(20));
  stack_->Settle();
  ASSERT_EQ(Tiers(1), 1u);
  ExtendDurably(TestNames({1, 2}));
  FlushTier(*stack_, TierKind::kCold);
  ASSERT_EQ(Tiers(1), 0u);
  stack_->Advance(milliseconds(20));
  stack_->Settle();
  EXPECT_EQ(answers_, std::vector<absl::Status>(2));
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  EXPECT_EQ(client_->Match(TestNames({1, 2})).depth, 2u);
}

TEST_F(StackDurableTest, ADiskThatHangsIsWaitedForOnlySoLong) {
  Use({.warm_blocks = 64, .chunk_blocks = 64, .durability = Durability::kAck});
  CommitDurably(TestNames({1, 2}));
  stack_->Advance(milliseconds(20));
  StepStrand();
  ASSERT_EQ(stack_->disk_tasks(), 1u);
  stack_->Advance(StackOptions().write_deadline);
  (*stack_)->Tick();
  StepStrand();
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsAborted(answers_[0])) << answers_[0];
  stack_->Settle();
  ExpectBooksAgree();
}

TEST_F(StackDurableTest, ManySmallSegmentsBecomeOne) {
  Use({.warm_blocks = 256,
       .cold_blocks = 1024,
       .chunk_blocks = 256,
       .durability = Durability::kAck});
  const uint64_t one = [&] {
    CommitDurably(TestPath(1, 4));
    stack_->Advance(milliseconds(20));
    stack_->Settle();
    return (*stack_)->Stats().tiers[1].used_bytes;
  }();
  for (uint64_t i = 2; i <= 40; ++i) {
    CommitDurably(TestPath(i, 4));
    stack_->Advance(milliseconds(20));
    stack_->Settle();
  }
  ASSERT_EQ(answers_, std::vector<absl::Status>(40));
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ(Tiers(1), 160u);
  EXPECT_LT((*stack_)->Stats().tiers[1].used_bytes, 40 * (one - 256)) << "a table has its price";
  const uint64_t folded = (*stack_)->Stats().tiers[1].kept_bytes;
  EXPECT_GE(folded, 160 * kTestBlockBytes);
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().tiers[1].kept_bytes, folded) << "once is enough";
  ExpectBooksAgree();
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  for (uint64_t i = 1; i <= 40; ++i) EXPECT_EQ(client_->Match(TestPath(i, 4)).depth, 4u) << i;
}

TEST_F(StackDurableTest, AFoldUnderWayDelaysNoCommit) {
  Use({.warm_blocks = 256,
       .cold_blocks = 1024,
       .chunk_blocks = 256,
       .durability = Durability::kAck});
  for (uint64_t i = 1; i <= 40; ++i) {
    CommitDurably(TestPath(i, 4));
    stack_->Advance(milliseconds(20));
    stack_->Settle();
  }
  (*stack_)->Tick();
  while (stack_->disk_tasks() > 1) ASSERT_TRUE(stack_->StepDisk(0));  // scrubs; then the fold
  const auto run_others = [&] {
    for (StepStrand(); stack_->disk_tasks() > 1; StepStrand()) ASSERT_TRUE(stack_->StepDisk(1));
  };
  CommitDurably(TestPath(41, 4));
  stack_->Advance(milliseconds(20));
  run_others();
  EXPECT_EQ(answers_, std::vector<absl::Status>(41)) << "before the fold has begun";
  // What is deleted meanwhile stays so.
  ASSERT_EQ(*(*stack_)->Delete(FingerprintOf(spec_), TestPath(7, 4)), 1u);
  run_others();
  EXPECT_EQ((*stack_)->Stats().tiers[1].kept_bytes, 0u);
  stack_->Settle();
  EXPECT_EQ(Tiers(1), 41 * 4 - 1u);
  EXPECT_GE((*stack_)->Stats().tiers[1].kept_bytes, 158 * kTestBlockBytes);
  ExpectBooksAgree();
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  for (uint64_t i = 1; i <= 41; ++i) {
    EXPECT_EQ(client_->Match(TestPath(i, 4)).depth, i == 7 ? 3u : 4u) << i;
  }
}

}  // namespace
}  // namespace thermocline
