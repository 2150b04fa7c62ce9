// What clients say of damaged blocks is looked into, and no more than that; and a lease has one
// load.
#include <gtest/gtest.h>

#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

std::vector<BlockRef> RefsOf(const LeaseView& lease) {
  std::vector<BlockRef> refs;
  for (const BlockView& block : lease.blocks) refs.push_back({block.id, block.part});
  return refs;
}

class StackSuspectTest : public ::testing::Test {
 protected:
  StackSuspectTest()
      : stack_({.warm_blocks = 32, .cold_blocks = 0, .scrub = false}),
        space_(*stack_->OpenSpace(TestSpec())),
        client_(stack_, space_) {}
  LeaseView Put(const std::vector<Name>& names) {
    LeaseView lease = client_.Match(names);
    client_.Extend(lease, names);
    client_.Release(lease);
    return client_.Match(names);
  }
  void Spoil(const BlockView& block) {
    const auto payload = stack_->SlotPayload(block.offset, block.bytes);
    const_cast<std::byte&>(payload[block.bytes / 2]) ^= std::byte{1};
  }
  void Tick() {
    stack_.Advance(std::chrono::seconds(1));
    stack_->Tick();
    stack_.Settle();
  }

  SteppedStack stack_;
  uint32_t space_;
  TestClient client_;
};

TEST_F(StackSuspectTest, OnlyWhatIsDamagedGoes) {
  const auto names = TestNames({1, 2, 3});
  const LeaseView lease = Put(names);
  ASSERT_EQ(lease.blocks.size(), 3u);
  Spoil(lease.blocks[2]);
  Tick();
  EXPECT_EQ(stack_->Stats().corrupt_blocks, 0u) << "nobody scrubs here";
  stack_->Suspect(RefsOf(lease));  // two of three are right
  stack_.Settle();
  // Leased as it is, it stays, but nobody takes it for checked any more.
  EXPECT_EQ(stack_->Stats().corrupt_blocks, 0u);
  const LeaseView again = client_.Match(names);
  ASSERT_EQ(again.blocks.size(), 3u);
  EXPECT_TRUE(again.blocks[0].checked);
  EXPECT_TRUE(again.blocks[1].checked);
  EXPECT_FALSE(again.blocks[2].checked);
  client_.Release(lease);
  Tick();
  EXPECT_EQ(stack_->Stats().corrupt_blocks, 0u) << "the other lease holds it";
  client_.Release(again);
  Tick();
  EXPECT_EQ(stack_->Stats().corrupt_blocks, 1u);
  EXPECT_EQ(client_.Match(names).depth, 2u);
  ASSERT_TRUE(stack_->Audit().ok()) << stack_->Audit();
}

TEST_F(StackSuspectTest, WhatIsMadeUpIsPassedOver) {
  const auto names = TestNames({1, 2});
  const LeaseView lease = Put(names);
  const std::vector<BlockRef> made_up = {
      {0, 0}, {lease.blocks[0].id, 7}, {lease.blocks[0].id, 65535}, {~uint64_t{0}, 0}};
  stack_->Suspect(made_up);
  EXPECT_EQ(stack_.disk_tasks(), 0u) << "nothing to sum";
  stack_->Suspect({});
  Tick();
  EXPECT_EQ(stack_->Stats().corrupt_blocks, 0u);
  EXPECT_EQ(client_.Match(names).depth, 2u);
}

// A client that says so without end has no more summed than a tick allows.
TEST_F(StackSuspectTest, ALiarIsAllowedSoMuchATick) {
  std::vector<uint64_t> path;
  for (uint64_t i = 1; i <= 24; ++i) path.push_back(i);
  const auto names = TestNames(path);
  const LeaseView lease = Put(names);
  Tick();
  uint64_t jobs = 0;
  for (int i = 0; i < 100; ++i) {
    stack_->Suspect(RefsOf(lease));
    while (stack_.Step()) jobs += stack_.disk_tasks() > 0 ? 1 : 0;
  }
  // One small block counts 64 KiB of the 8 MiB of a tick.
  EXPECT_LE(jobs, 2 * (8 * MiB / (64 * KiB)));
  stack_->Suspect(RefsOf(lease));
  EXPECT_EQ(stack_.disk_tasks(), 0u) << "not before the next tick";
  Tick();
  EXPECT_EQ(client_.Match(names).depth, 24u);
  EXPECT_EQ(stack_->Stats().corrupt_blocks, 0u);
}

TEST(StackLoadTest, ALeaseHasOneLoad) {
  SteppedStack stack({.warm_blocks = 16, .cold_blocks = 64});
  const uint32_t space = *stack->OpenSpace(TestSpec());
  TestClient client(stack, space);
  const auto names = TestNames({1, 2, 3, 4});
  LeaseView lease = client.Match(names);
  client.Extend(lease, names);
  client.Release(lease);
  FlushTier(stack, TierKind::kWarm);
  lease = client.Match(names);
  ASSERT_EQ(lease.depth, 4u);
  constexpr int kLoads = 100;
  int cancelled = 0, done = 0;
  size_t ready = 0;
  for (int i = 0; i < kLoads; ++i) {
    stack->Load(
        client.number(), lease.lease,
        [&](std::vector<BlockView> blocks) {
          ready += blocks.size();
          return true;
        },
        [&](absl::Status status) {
          cancelled += absl::IsCancelled(status) ? 1 : 0;
          done += status.ok() ? 1 : 0;
        });
  }
  stack.Settle();
  EXPECT_EQ(cancelled, kLoads - 1);
  EXPECT_EQ(done, 1);
  EXPECT_EQ(ready, 4u) << "each block was told once";
}

}  // namespace
}  // namespace thermocline
