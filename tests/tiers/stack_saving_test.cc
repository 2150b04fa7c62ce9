// The state file, and a disk that does not take it: it is nobody's business but of who waits for
// it to be kept.
#include <gmock/gmock.h>

#include <fstream>

#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using ::testing::HasSubstr;

class StackSavingTest : public StackTest {
 protected:
  void SetUp() override {
    Use({.scrub = false});
    stack_->Settle();
  }
  /// All that can be done while the disk does nothing.
  void SettleStrand() {
    for (int steps = 0; stack_->StepStrand();) ASSERT_LT(++steps, kMaxSteps);
  }
  size_t SavedPins() { return ReadStateFile(stack_->directory())->pins.size(); }
  /// An answer of AwaitSaved.
  struct Answer {
    int count = 0;
    absl::Status status;
  };
  std::shared_ptr<Answer> Await(std::optional<uint32_t> space = {}) {
    auto answer = std::make_shared<Answer>();
    (*stack_)->AwaitSaved(space, [answer](absl::Status status) {
      ++answer->count;
      answer->status = std::move(status);
    });
    EXPECT_EQ(answer->count, 0) << "called back before the call returned";
    return answer;
  }
  void MakeUnwritable(bool yes) {
    const std::string path = stack_->directory() + "/state.json";
    std::filesystem::remove_all(path);
    if (yes) std::filesystem::create_directories(path + "/in the way");
  }
};

TEST_F(StackSavingTest, HungDiskHoldsUpOnlyWhoWaitsForIt) {
  Write(TestNames({1, 2, 3}));
  ASSERT_TRUE((*stack_)->Pin(space_, TestNames({1, 2}), hours(1), TierKind::kNone).ok());
  EXPECT_EQ(SavedPins(), 0u) << "it was written on the strand";
  EXPECT_EQ(stack_->disk_tasks(), 1u);
  const auto pinned = Await();
  ASSERT_TRUE((*stack_)->Pin(space_, TestNames({1}), seconds(1), TierKind::kNone).ok());
  stack_->Advance(seconds(2));
  (*stack_)->Tick();  // the second one expires
  SettleStrand();
  EXPECT_EQ(stack_->disk_tasks(), 1u) << "one write at a time";
  const auto lease = client_->Match(TestNames({1, 2, 3}));
  EXPECT_EQ(lease.blocks.size(), 3u) << "memory serves";
  EXPECT_EQ(pinned->count, 0);
  stack_->Advance(seconds(10));
  SettleStrand();
  EXPECT_EQ(pinned->count, 1);
  EXPECT_TRUE(absl::IsUnavailable(pinned->status)) << pinned->status;
  const auto later = Await();
  SettleStrand();
  EXPECT_EQ(later->count, 1) << "the disk is known to hang";
  const auto known = Await(space_);
  SettleStrand();
  EXPECT_EQ(known->count, 1);
  EXPECT_TRUE(known->status.ok()) << "that space was there before: " << known->status;
  stack_->Settle();  // it is back
  EXPECT_EQ(SavedPins(), 1u) << "with the pin that is left";
  EXPECT_EQ(pinned->count, 1);
  client_->Release(lease);
}

TEST_F(StackSavingTest, ManyChangesAreTwoWrites) {
  Write(TestNames({1}));
  std::vector<std::shared_ptr<Answer>> answers;
  for (int pin = 0; pin < 100; ++pin) {
    ASSERT_TRUE((*stack_)->Pin(space_, TestNames({1}), hours(1), TierKind::kNone).ok());
    answers.push_back(Await());
  }
  SettleStrand();
  ASSERT_TRUE(stack_->StepDisk(0));
  SettleStrand();
  EXPECT_EQ(SavedPins(), 1u);
  EXPECT_EQ(answers[0]->count, 1);
  EXPECT_EQ(answers[1]->count, 0);
  ASSERT_TRUE(stack_->StepDisk(0));
  SettleStrand();
  EXPECT_EQ(SavedPins(), 100u);
  EXPECT_EQ(stack_->disk_tasks(), 0u);
  for (const auto& answer : answers) {
    EXPECT_EQ(answer->count, 1);
    EXPECT_TRUE(answer->status.ok()) << answer->status;
  }
}

TEST_F(StackSavingTest, FailedWriteIsToldAndTriedAgain) {
  Write(TestNames({1}));
  MakeUnwritable(true);
  ASSERT_TRUE((*stack_)->Pin(space_, TestNames({1}), hours(1), TierKind::kNone).ok());
  const auto pinned = Await();
  stack_->Settle();
  EXPECT_EQ(pinned->count, 1);
  EXPECT_THAT(std::string(pinned->status.message()), HasSubstr("state.json")) << pinned->status;
  EXPECT_THAT((*stack_)->Stats().tiers[0].state, HasSubstr("spaces and pins cannot be noted"));
  MakeUnwritable(false);
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().tiers[0].state, "ok");
  EXPECT_EQ(SavedPins(), 1u);
}

TEST_F(StackSavingTest, NewSpaceIsKnownToTheNextDaemonOnceSaid) {
  const auto space = (*stack_)->OpenSpace(TestSpec("another"));
  ASSERT_TRUE(space.ok());
  const auto known = Await(*space);
  SettleStrand();
  EXPECT_EQ(known->count, 0);
  ASSERT_TRUE(stack_->StepDisk(0));
  SettleStrand();
  EXPECT_TRUE(known->count == 1 && known->status.ok()) << known->status;
  EXPECT_EQ(ReadStateFile(stack_->directory())->spaces.size(), 2u);
}

}  // namespace
}  // namespace thermocline
