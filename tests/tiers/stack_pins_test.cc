// What TTL pins may hold of a tenant's tiers: charged by what they hold, shared trunks once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

using std::chrono::hours;
using std::chrono::seconds;
using ::testing::HasSubstr;

class StackPinsTest : public StackTest {
 protected:
  absl::StatusOr<StackCore::PinView> Pin(const std::vector<Name>& names, TierKind tier,
                                         std::chrono::milliseconds ttl = hours(1)) {
    return (*stack_)->Pin(space_, names, ttl, tier);
  }
  absl::StatusOr<StackCore::PinView> PinWarm(const std::vector<Name>& names) {
    return Pin(names, TierKind::kWarm);
  }
  uint64_t PinnedBytes(size_t tier) { return (*stack_)->Stats().tiers[tier].ttl_pinned_bytes; }
  uint64_t WarmBlocks() { return PinnedBytes(0) / kTestBlockBytes; }
};

TEST_F(StackPinsTest, ADeepPinBeyondTheQuotaIsRefusedAndHoldsNothing) {
  Use({.warm_blocks = 16, .chunk_blocks = 8, .pin_quota_percent = 50});
  const auto deep = TestPath(1, 9);
  Write(deep);
  ::testing::internal::CaptureStderr();
  const absl::Status refused = PinWarm(deep).status();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("36 KiB of the warm tier"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("32 KiB that pins may hold"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("raise pin_quota"));
  EXPECT_THAT(log, HasSubstr("pin_refused"));
  EXPECT_TRUE((*stack_)->Pins().empty());
  EXPECT_EQ(WarmBlocks(), 0u);
  EXPECT_EQ(PinnedBytes(1), 0u);
  ExpectBooksAgree();
  EXPECT_TRUE(PinWarm(TestPath(1, 8)).ok());
  EXPECT_EQ(WarmBlocks(), 8u);
  ExpectBooksAgree();
  // The tier still works: whatever comes finds room beside what is pinned.
  for (uint64_t i = 0; i < 20; ++i) Write(TestPath(10 + i, 2));
  EXPECT_EQ(client_->Match(deep).depth, 9u);
}

TEST_F(StackPinsTest, ATrunkThatPinsShareCountsOnce) {
  Use({.warm_blocks = 16, .chunk_blocks = 8, .pin_quota_percent = 50});
  for (const uint64_t leaf : {11, 12, 13, 14, 15}) {
    const auto names = TestNames({1, 2, 3, 4, leaf});
    Write(names);
    EXPECT_EQ(PinWarm(names).ok(), leaf <= 14) << leaf;
  }
  EXPECT_EQ(WarmBlocks(), 8u);
  EXPECT_TRUE(PinWarm(TestNames({1, 2, 3})).ok()) << "it holds nothing more";
  EXPECT_EQ(WarmBlocks(), 8u);
  ExpectBooksAgree();
  ASSERT_TRUE((*stack_)->Unpin((*stack_)->Pins()[0].pin).ok());
  EXPECT_EQ(WarmBlocks(), 7u) << "the trunk is still held";
  EXPECT_TRUE(PinWarm(TestNames({1, 2, 3, 4, 15})).ok());
  ExpectBooksAgree();
}

TEST_F(StackPinsTest, WhatIsUnpinnedDeletedOrExpiredIsGivenBack) {
  Use({.warm_blocks = 16, .chunk_blocks = 8, .pin_quota_percent = 50});
  const auto names = TestPath(1, 6);
  Write(names);
  const auto pin = PinWarm(names);
  ASSERT_TRUE(pin.ok()) << pin.status();
  ASSERT_TRUE((*stack_)->Unpin(pin->pin).ok());
  EXPECT_EQ(WarmBlocks() + PinnedBytes(1), 0u);
  ASSERT_TRUE(Pin(names, TierKind::kWarm, seconds(10)).ok());
  stack_->Advance(seconds(11));
  (*stack_)->Tick();
  EXPECT_EQ(WarmBlocks() + PinnedBytes(1), 0u);
  ASSERT_TRUE(PinWarm(names).ok());
  ASSERT_TRUE((*stack_)->Delete(FingerprintOf(spec_), TestPath(1, 4)).ok());
  EXPECT_EQ(WarmBlocks() + PinnedBytes(1), 0u);
  stack_->Settle();
  ExpectBooksAgree();
}

TEST_F(StackPinsTest, ARestartCountsAgainAndKeepsWhatIsBeyondTheQuota) {
  Use({.warm_blocks = 16, .chunk_blocks = 8, .pin_quota_percent = 50});
  const auto names = TestPath(1, 8);
  Write(names);
  Write(TestPath(2, 1));
  ASSERT_TRUE(PinWarm(names).ok());
  ASSERT_TRUE(Pin(TestPath(1, 3), TierKind::kNone).ok());
  const uint64_t cold_bytes = PinnedBytes(1);
  stack_->Settle();  // the pins are noted
  stack_->sizes().pin_quota_percent = 25;
  ::testing::internal::CaptureStderr();
  Restart();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("pins_over_quota"));
  (*stack_)->EndGrace();
  EXPECT_EQ((*stack_)->Pins().size(), 2u);
  EXPECT_EQ(WarmBlocks(), 8u);
  EXPECT_EQ(PinnedBytes(1), cold_bytes);
  EXPECT_TRUE(absl::IsResourceExhausted(PinWarm(TestPath(2, 1)).status()));
  EXPECT_TRUE(PinWarm(names).ok()) << "a longer life for what is held already";
  ExpectBooksAgree();
}

TEST_F(StackPinsTest, APinOfAnyTierIsOfTheColdQuota) {
  Use({.warm_blocks = 16, .cold_blocks = 24, .chunk_blocks = 8, .pin_quota_percent = 50});
  Write(TestPath(1, 10));
  ASSERT_TRUE(Pin(TestPath(1, 10), TierKind::kNone).ok());
  EXPECT_EQ(WarmBlocks(), 0u);
  EXPECT_EQ(PinnedBytes(1), 10 * (kTestBlockBytes + sizeof(BlockHeader)));
  Write(TestPath(2, 3));
  const absl::Status refused = Pin(TestPath(2, 3), TierKind::kNone).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("of the cold tier"));
  EXPECT_TRUE(absl::IsResourceExhausted(PinWarm(TestPath(2, 3)).status())) << "its copy stays, too";
  EXPECT_TRUE(PinWarm(TestPath(2, 2)).ok());
  EXPECT_EQ(WarmBlocks(), 2u);
  ExpectBooksAgree();
}

TEST_F(StackPinsTest, AFlushKeepsTheColdCopyOfWhatIsPinnedThoughItIsWarm) {
  Use({.warm_blocks = 16, .chunk_blocks = 8, .durability = Durability::kAck});
  CommitDurably(TestPath(1, 3));
  CommitDurably(TestPath(2, 3));
  stack_->Advance(std::chrono::milliseconds(20));
  stack_->Settle();
  ASSERT_EQ(Tiers(0), 6u);
  ASSERT_EQ(Tiers(1), 6u);
  ASSERT_TRUE(Pin(TestPath(1, 3), TierKind::kNone).ok());
  EXPECT_EQ(FlushTier(*stack_, TierKind::kCold).second, 3u);
  stack_->Settle();  // the pin is noted
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  EXPECT_EQ(client_->Match(TestPath(1, 3)).depth, 3u);
  EXPECT_EQ(client_->Match(TestPath(2, 3)).depth, 0u);
  ExpectBooksAgree();
}

TEST_F(StackPinsTest, WithoutAColdTierEveryPinHoldsMemory) {
  Use({.warm_blocks = 16, .cold_blocks = 0, .chunk_blocks = 8, .pin_quota_percent = 50});
  Write(TestPath(1, 6));
  ASSERT_TRUE(Pin(TestPath(1, 6), TierKind::kNone).ok());
  ASSERT_TRUE(PinWarm(TestPath(1, 6)).ok());
  EXPECT_EQ(WarmBlocks(), 6u);
  Write(TestPath(2, 3));
  EXPECT_TRUE(absl::IsResourceExhausted(Pin(TestPath(2, 3), TierKind::kNone).status()));
  EXPECT_TRUE(Pin(TestPath(2, 2), TierKind::kNone).ok());
  ExpectBooksAgree();
}

TEST_F(StackPinsTest, ABlockCountsOnceWithAllOfItsParts) {
  SpaceSpec spec = TestSpec("parts", 2);
  spec.block_tokens = 2 * kPlaceTokens;
  Use({.warm_blocks = 16, .chunk_blocks = 8, .pin_quota_percent = 50}, spec);
  Write(TestPath(1, 6), 2);
  ASSERT_TRUE(PinWarm(TestPath(1, 6)).ok());
  EXPECT_EQ(WarmBlocks(), 6u) << "three blocks of two parts";
  ExpectBooksAgree();
}

}  // namespace
}  // namespace thermocline
