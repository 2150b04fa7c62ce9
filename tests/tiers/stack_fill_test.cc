// Slots of the device's memory that clients fill themselves: what is committed there, what gives
// way to it, and whose a slot is when its client has gone.
#include <gmock/gmock.h>

#include "tests/tiers/living_process.h"
#include "tests/tiers/stack_hot_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

class StackFillTest : public StackHotTest {
 protected:
  static constexpr uint32_t kShare = 8;  // blocks: half of the tier

  /// Commits a whole path that was filled on the device, and lets go of it.
  LeaseView WriteOnDevice(const std::vector<Name>& names) {
    const LeaseView lease = client_->Match({});
    const auto slots = client_->ReserveOnDevice(static_cast<uint32_t>(names.size()));
    EXPECT_EQ(slots.size(), names.size()) << client_->reserve_status;
    std::vector<CommitItem> items;
    for (uint32_t i = 0; i < slots.size(); ++i) {
      items.push_back(client_->FillOnDevice(slots[i], i, 0, names));
    }
    EXPECT_TRUE(client_->SumOnDevice(items).ok());
    const auto view = (*stack_)->Commit(client_->number(), lease.lease, names, items);
    EXPECT_TRUE(view.ok()) << view.status();
    client_->Release(lease);
    return view.ok() ? *view : LeaseView{};
  }
  void ConnectAs(ProcessRef process) {
    client_ = std::make_unique<TestClient>(*stack_, space_, 1, process);
  }
  static ProcessRef RefOf(const LivingProcess& process) {
    return {process.pid(), ProcessStartTime(process.pid()).value_or(0)};
  }
  void ExpectNothingIsHeld() {
    const StackStats stats = (*stack_)->Stats();
    EXPECT_EQ(stats.reserved_slots + stats.quarantined_slots, 0u);
    ExpectBooksAgree();
  }
  std::string Refusal(uint32_t count = 1) {
    EXPECT_TRUE(client_->ReserveOnDevice(count).empty());
    EXPECT_TRUE(absl::IsResourceExhausted(client_->reserve_status)) << client_->reserve_status;
    return std::string(client_->reserve_status.message());
  }
};

TEST_F(StackFillTest, WhatWasFilledThereIsHotOnceItIsCommitted) {
  const auto names = TestPath(1, 4);
  const LeaseView view = WriteOnDevice(names);
  ASSERT_EQ(view.blocks.size(), 4u);
  for (const BlockView& block : view.blocks) {
    EXPECT_EQ(block.tier, TierKind::kHot);
    EXPECT_NE(block.slab, 0u);
  }
  EXPECT_EQ(Hot().block_count, 4u);
  EXPECT_EQ(Hot().bytes_in, 4 * kTestBlockBytes);
  EXPECT_EQ(Tiers(0), 0u) << "nothing of it is in memory";
  ExpectNothingIsHeld();
  EXPECT_EQ(LoadAll(names), 4u);
  Tick();
  EXPECT_EQ(Hot().block_count, 0u);
  EXPECT_EQ(Tiers(0), 4u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, NothingIsFoundBeforeThat) {
  const auto names = TestPath(1, 1);
  const auto slots = client_->ReserveOnDevice(1);
  ASSERT_EQ(slots.size(), 1u);
  std::vector<CommitItem> items = {client_->FillOnDevice(slots[0], 0, 0, names)};
  ASSERT_TRUE(client_->SumOnDevice(items).ok());
  EXPECT_EQ(client_->Match(names).depth, 0u);
  EXPECT_EQ(Hot().block_count, 0u);
  EXPECT_EQ((*stack_)->Stats().reserved_slots, 1u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, AFlushTakesItToDisk) {
  const auto names = TestPath(1, 4);
  WriteOnDevice(names);
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ(Hot().block_count, 0u);
  EXPECT_EQ(LoadAll(names), 0u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, ADaemonThatStartsAnewFindsItThere) {
  const auto names = TestPath(1, 4);
  WriteOnDevice(names);
  Restart();
  EXPECT_EQ(Hot().block_count, 4u);
  (*stack_)->EndGrace();
  EXPECT_EQ(LoadAll(names), 4u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, ClientsFillAShareAtMost) {
  const auto slots = client_->ReserveOnDevice(kShare + 1);
  EXPECT_EQ(slots.size(), kShare);
  EXPECT_THAT(Refusal(), HasSubstr("fill one of the arena instead"));
  ASSERT_TRUE((*stack_)->Abort(client_->number(), {slots.data(), 1}).ok());
  EXPECT_EQ(client_->ReserveOnDevice(2).size(), 1u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, WhoWaitsGetsWhatComesFree) {
  const auto slots = client_->ReserveOnDevice(kShare);
  ASSERT_EQ(slots.size(), kShare);
  std::vector<uint64_t> got;
  (*stack_)->ReserveOnDevice(client_->number(), space_, 0, 1, std::chrono::seconds(5),
                             [&](auto result) {
                               ASSERT_TRUE(result.ok()) << result.status();
                               got = *result;
                             });
  stack_->Settle();
  EXPECT_TRUE(got.empty());
  ASSERT_TRUE((*stack_)->Abort(client_->number(), {slots.data(), 1}).ok());
  stack_->Advance(std::chrono::milliseconds(200));
  stack_->Settle();
  EXPECT_EQ(got.size(), 1u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, WhoWaitsGetsAllOfItOrWhatThereIsInTheEnd) {
  const auto slots = client_->ReserveOnDevice(kShare - 1);
  ASSERT_EQ(slots.size(), kShare - 1);
  EXPECT_EQ(client_->ReserveOnDevice(2).size(), 1u);
  ExpectBooksAgree();
  bool done = false;
  (*stack_)->ReserveOnDevice(client_->number(), space_, 0, 3, std::chrono::minutes(1),
                             [&](const auto&) { done = true; });
  ASSERT_TRUE((*stack_)->Abort(client_->number(), {slots.data(), 2}).ok());
  stack_->Settle();
  EXPECT_FALSE(done) << "it waits for the third";
  ExpectBooksAgree();
  (*stack_)->RemoveClient(client_->number(), Departure::kLost);
  stack_->Settle();
  EXPECT_TRUE(done);
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, kShare - 2) << "what it knew of";
  ExpectBooksAgree();
}

TEST_F(StackFillTest, ABlockThatIsLargerThanTheShareIsRefused) {
  SpaceSpec large = TestSpec("large");
  large.parts[0].block_bytes *= kShare;
  const auto space = (*stack_)->OpenSpace(large);
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_EQ(TestClient(*stack_, *space).ReserveOnDevice(2).size(), 1u);
  SteppedStack::Sizes sizes = kHotSizes;
  sizes.hot_blocks = sizes.chunk_blocks;
  Use(sizes, large);
  EXPECT_THAT(Refusal(), HasSubstr("more than clients may fill"));
}

TEST_F(StackFillTest, WhatWasUsedLongestAgoGivesWayAndIsKept) {
  for (uint64_t path = 1; path <= 8; ++path) WriteOnDevice(TestPath(path, 4));
  ExpectBooksAgree();
  EXPECT_LE(Hot().used_bytes, Hot().capacity_bytes);
  EXPECT_GT(Hot().demotions, 0u);
  EXPECT_EQ(Hot().evictions, 0u);
  for (uint64_t path = 1; path <= 8; ++path) LoadAll(TestPath(path, 4));
}

TEST_F(StackFillTest, ATierWhoseBlocksAreAllInUseSaysSo) {
  for (uint64_t path = 1; path <= 4; ++path) {
    WriteOnDevice(TestPath(path, 4));
    client_->Match(TestPath(path, 4));  // and holds it
  }
  EXPECT_THAT(Refusal(), HasSubstr("full of blocks in use"));
  EXPECT_EQ((*stack_)->Stats().refused_reserves, 1u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, ChunksOfAnotherSizeThatAreEmptyServeToo) {
  WriteOnDevice(TestPath(1, 8));
  WriteOnDevice(TestPath(2, 8));
  FlushTier(*stack_, TierKind::kWarm);
  ASSERT_EQ(Hot().used_bytes, 0u);
  SpaceSpec large = TestSpec("large");
  large.parts[0].block_bytes *= 2;
  const auto space = (*stack_)->OpenSpace(large);
  ASSERT_TRUE(space.ok());
  TestClient client(*stack_, *space);
  EXPECT_EQ(client.ReserveOnDevice(4).size(), 4u) << client.reserve_status;
  ExpectBooksAgree();
}

TEST_F(StackFillTest, SlotsThatAreNotTheClientsAreRefused) {
  const auto names = TestPath(1, 1);
  const LeaseView root = client_->Match({});
  const auto slots = client_->ReserveOnDevice(1);
  ASSERT_EQ(slots.size(), 1u);
  std::vector<CommitItem> items = {client_->FillOnDevice(slots[0], 0, 0, names)};
  TestClient other(*stack_, space_);
  EXPECT_TRUE(absl::IsFailedPrecondition(other.SumOnDevice(items)));
  const LeaseView others = other.Match({});
  EXPECT_TRUE(absl::IsFailedPrecondition(
      (*stack_)->Commit(other.number(), others.lease, names, items).status()));
  ASSERT_TRUE(client_->SumOnDevice(items).ok());
  items[0].grant = 7;
  EXPECT_TRUE(absl::IsFailedPrecondition(
      (*stack_)->Commit(client_->number(), root.lease, names, items).status()))
      << "it was granted under another number";
  items[0].grant = 0;
  ASSERT_TRUE((*stack_)->Commit(client_->number(), root.lease, names, items).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->SumOnDevice(items))) << "twice";
  ExpectNothingIsHeld();
}

TEST_F(StackFillTest, ASlotOfTheArenaIsNotSummedThere) {
  std::vector<CommitItem> items = {{client_->Reserve(1)[0], 0, 0}};
  EXPECT_TRUE(absl::IsInvalidArgument(client_->SumOnDevice(items)));
}

TEST_F(StackFillTest, WhoIsLaterFindsTheBlockAndItsSlotIsFree) {
  const auto names = TestPath(1, 1);
  WriteOnDevice(names);
  WriteOnDevice(names);
  EXPECT_EQ(Hot().block_count, 1u);
  Write(TestPath(2, 1));
  EXPECT_EQ(WriteOnDevice(TestPath(2, 1)).blocks[0].tier, TierKind::kWarm);
  EXPECT_EQ((*stack_)->Stats().duplicate_blocks, 2u);
  ExpectNothingIsHeld();
}

TEST_F(StackFillTest, OtherBytesUnderItsNameTakeItsPlace) {
  const auto names = TestPath(1, 1);
  WriteOtherBytes(names);
  stack_->Settle();
  FlushTier(*stack_, TierKind::kWarm);
  WriteOnDevice(names);
  stack_->Settle();
  EXPECT_EQ(LoadAll(names), 1u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, ASpoiledBlockGivesWay) {
  const auto names = TestPath(1, 1);
  WriteOnDevice(names);
  stack_->device->SpoilAll();
  const LeaseView lease = client_->Match(names);
  EXPECT_EQ(client_->Load(lease, names), 0u);
  client_->Release(lease);
  WriteOnDevice(names);
  EXPECT_EQ(LoadAll(names), 1u);
  ExpectBooksAgree();
}

// ---- whose it is when its client has gone

TEST_F(StackFillTest, AClientsSlotsAreFreeOnceItsProcessIsGone) {
  const LivingProcess process;
  ConnectAs(RefOf(process));
  ASSERT_EQ(client_->ReserveOnDevice(kShare).size(), kShare);
  (*stack_)->RemoveClient(client_->number(), Departure::kLost);
  for (int i = 0; i < 3; ++i) {
    stack_->Advance(std::chrono::minutes(1));
    Tick();
  }
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, kShare) << "its kernels may run yet";
  ExpectBooksAgree();
  Connect();
  EXPECT_THAT(Refusal(), HasSubstr("in use"));
  EXPECT_TRUE((*stack_)->Awaits(process.pid(), RefOf(process).start_time));
  (*stack_)->ProcessGone(process.pid(), RefOf(process).start_time);
  ExpectNothingIsHeld();
  EXPECT_EQ(client_->ReserveOnDevice(kShare).size(), kShare);
}

TEST_F(StackFillTest, AProcessThatComesBackMayStillWriteThere) {
  const LivingProcess process;
  ConnectAs(RefOf(process));
  ASSERT_EQ(client_->ReserveOnDevice(1).size(), 1u);
  (*stack_)->RemoveClient(client_->number(), Departure::kLost);
  ConnectAs(RefOf(process));
  stack_->Advance(std::chrono::minutes(1));
  Tick();
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, 1u);
}

TEST_F(StackFillTest, OneThatHasEndedLeavesNoneAndAGoodbyeIsNoEnd) {
  ASSERT_EQ(client_->ReserveOnDevice(2).size(), 2u);
  (*stack_)->RemoveClient(client_->number(), Departure::kProcessGone);
  ExpectNothingIsHeld();
  LivingProcess process;
  ConnectAs(RefOf(process));
  ASSERT_EQ(client_->ReserveOnDevice(2).size(), 2u);
  (*stack_)->RemoveClient(client_->number(), Departure::kGoodbye);
  stack_->Advance(std::chrono::minutes(1));
  Tick();
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, 2u);
  process.End();
  Tick();
  ExpectNothingIsHeld();
}

TEST_F(StackFillTest, TheNextDaemonKeepsThemForAsLong) {
  LivingProcess process;
  ConnectAs(RefOf(process));
  ASSERT_EQ(client_->ReserveOnDevice(3).size(), 3u);
  Restart();
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, 3u);
  ExpectBooksAgree();
  EXPECT_EQ(client_->ReserveOnDevice(kShare).size(), kShare - 3) << "they count";
  process.End();
  Tick();
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, 0u);
  ExpectBooksAgree();
}

TEST_F(StackFillTest, WhoHasGoneGetsNone) {
  std::optional<absl::Status> answer;
  (*stack_)->ReserveOnDevice(client_->number(), space_, 0, 1, std::chrono::seconds(1),
                             [&](const auto& result) { answer = result.status(); });
  (*stack_)->RemoveClient(client_->number(), Departure::kLost);
  stack_->Settle();
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(absl::IsCancelled(*answer));
  ExpectNothingIsHeld();
}

// ---- who may, and when not

TEST_F(StackFillTest, WhereClientsMayNotWriteTheyFillNothing) {
  SteppedStack::Sizes sizes = kHotSizes;
  sizes.clients_fill = false;
  Use(sizes);
  EXPECT_TRUE(client_->ReserveOnDevice(1).empty());
  EXPECT_TRUE(absl::IsPermissionDenied(client_->reserve_status)) << client_->reserve_status;
  EXPECT_THAT(std::string(client_->reserve_status.message()), HasSubstr("commit = \"copy\""));
}

TEST_F(StackFillTest, WithoutADeviceThereIsNothingToFill) {
  stack_->device.reset();
  Restart();
  EXPECT_THAT(Refusal(), HasSubstr("there is none: no device"));
  SteppedStack::Sizes sizes = kHotSizes;
  sizes.hot_blocks = 0;
  Use(sizes);
  EXPECT_THAT(Refusal(), HasSubstr("is off"));
}

TEST_F(StackFillTest, ADeviceThatCannotBeReadTakesNothing) {
  const auto names = TestPath(1, 1);
  const auto slots = client_->ReserveOnDevice(1);
  ASSERT_EQ(slots.size(), 1u);
  std::vector<CommitItem> items = {client_->FillOnDevice(slots[0], 0, 0, names)};
  stack_->device->SetFaults(1, 0);
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = client_->SumOnDevice(items);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("made to fail"));
  }
  EXPECT_THAT(Refusal(), HasSubstr("made to fail"));
  stack_->device->SetFaults(0, 0);
  stack_->Advance(kColdPause);
  EXPECT_TRUE(client_->SumOnDevice(items).ok()) << "the slot is the client's as before";
  ExpectBooksAgree();
}

TEST_F(StackFillTest, ADeviceWithoutMemoryIsNotAnError) {
  stack_->device->is_full = true;
  EXPECT_THAT(Refusal(), HasSubstr("arena"));
  ExpectNothingIsHeld();
}

class StackHungFillTest : public StackFillTest {
 protected:
  void SetUp() override {
    SteppedStack::Sizes sizes = kHotSizes;
    sizes.own_threads = true;
    Use(sizes);
  }
};

TEST_F(StackHungFillTest, WhatIsGivenUpWhileItIsReadIsFreeAfterwards) {
  const auto slots = client_->ReserveOnDevice(2);
  ASSERT_EQ(slots.size(), 2u);
  bool done = false;
  stack_->device_hangs = true;
  (*stack_)->SumOnDevice(client_->number(), slots, [&](const auto&) { done = true; });
  stack_->Settle();
  std::vector<CommitItem> items = {{slots[0], 0, 0}};
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->SumOnDevice(items))) << "once at a time";
  ASSERT_TRUE((*stack_)->Abort(client_->number(), {slots.data(), 1}).ok());
  (*stack_)->RemoveClient(client_->number(), Departure::kProcessGone);
  EXPECT_EQ(Hot().used_bytes, 2 * kTestBlockBytes) << "somebody reads there";
  ExpectBooksAgree();
  stack_->device_hangs = false;
  stack_->SettleUntil(done);
  EXPECT_EQ(Hot().used_bytes, 0u);
  ExpectNothingIsHeld();
}

TEST_F(StackHungFillTest, NobodyWaitsForADeviceThatHangs) {
  stack_->device_hangs = true;
  EXPECT_THAT(Refusal(), HasSubstr("arena"));
  stack_->device_hangs = false;
  stack_->Settle();
  ExpectNothingIsHeld();
}

class StackFillAckTest : public StackFillTest {
 protected:
  void SetUp() override {
    SteppedStack::Sizes sizes = kHotSizes;
    sizes.durability = Durability::kAck;
    Use(sizes);
  }
};

TEST_F(StackFillAckTest, ItIsOnDiskBeforeItIsAnswered) {
  const auto names = TestPath(1, 4);
  const LeaseView view = WriteOnDevice(names);
  bool done = false;
  (*stack_)->AwaitDurable(view, [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    done = true;
  });
  stack_->SettleUntil(done);
  client_.reset();
  stack_->device->Replace();
  stack_->RestartWithoutMemory();
  Connect();
  EXPECT_EQ(client_->Match(names).depth, 4u);
}

}  // namespace
}  // namespace thermocline
