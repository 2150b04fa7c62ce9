// The stack with a hot tier above: what goes there, what comes back, and what a device that fails
// costs.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include "base/file_util.h"
#include "base/log.h"
#include "tests/tiers/stack_hot_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

TEST_F(StackHotTest, WhatWasUsedAgainGoesThereWhenItWouldLeaveMemoryAndComesBackByALoad) {
  const auto names = TestPath(1, 4);
  Write(names);
  UseAgain(names);
  EXPECT_EQ(Hot().block_count, 0u) << "there is room in warm";
  Fill();
  ExpectBooksAgree();
  EXPECT_EQ(Hot().block_count, 4u);
  EXPECT_EQ(Hot().promotions, 4u);
  EXPECT_EQ(LoadAll(names), 4u);
  EXPECT_EQ(Hot().hits, 4u);
  EXPECT_EQ(Hot().demotions, 4u);
  Tick();
  EXPECT_EQ(Hot().block_count, 0u) << "a block is in one of the two";
  ExpectBooksAgree();
}

TEST_F(StackHotTest, WhatNobodyHasUsedAgainDoesNotGoThere) {
  const auto names = TestPath(1, 4);
  Write(names);
  Fill();
  EXPECT_EQ(Hot().block_count, 0u);
  EXPECT_EQ(LoadAll(names), 0u) << "cold has it";
}

TEST_F(StackHotTest, WhatIsLeasedStaysInBothUntilItIsNot) {
  const auto names = WriteHot();
  const LeaseView lease = client_->Match(names);
  EXPECT_EQ(client_->Load(lease, names), 4u);
  Tick();
  EXPECT_EQ(Hot().block_count, 4u);
  client_->Release(lease);
  Tick();
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
}

TEST_F(StackHotTest, AFullOneGivesUpWhatWasUsedLongestAgo) {
  constexpr uint64_t kPaths = 10;
  for (uint64_t path = 1; path <= kPaths; ++path) {
    Write(TestPath(path, 4));
    UseAgain(TestPath(path, 4));
    stack_->Settle();
    ASSERT_LE(Hot().used_bytes, Hot().capacity_bytes);
  }
  Fill();
  ExpectBooksAgree();
  EXPECT_EQ(Hot().block_count, 16u);
  for (const auto& [path, hot] : {std::pair{uint64_t{1}, 0u}, std::pair{kPaths, 4u}}) {
    const LeaseView lease = client_->Match(TestPath(path, 4));
    EXPECT_EQ(HotBlocksOf(lease), hot) << path;
    client_->Release(lease);
  }
  for (uint64_t path = 1; path <= kPaths; ++path) LoadAll(TestPath(path, 4));
}

TEST_F(StackHotTest, ADaemonThatStartsAnewFindsItsBlocksThere) {
  const auto names = WriteHot();
  Restart();
  EXPECT_EQ(Hot().block_count, 4u);
  ExpectBooksAgree();
  (*stack_)->EndGrace();
  EXPECT_EQ(LoadAll(names), 4u);
  Tick();
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
}

// As one that has the device does.
TEST_F(StackHotTest, ALoadMayLeaveHotBlocksWhereTheyAre) {
  const auto names = TestPath(1, 4);
  Write(names);
  UseAgain(names);
  Fill();
  const LeaseView lease = client_->Match(names);
  std::vector<BlockView> ready;
  bool done = false;
  (*stack_)->Load(
      client_->number(), lease.lease,
      [&](std::vector<BlockView> blocks) {
        ready.insert(ready.end(), blocks.begin(), blocks.end());
        return true;
      },
      [&](const absl::Status& status) { done = status.ok(); }, true);
  stack_->SettleUntil(done);
  ASSERT_EQ(ready.size(), 4u);
  for (const BlockView& block : ready) {
    EXPECT_EQ(block.tier, TierKind::kHot);
    EXPECT_NE(block.slab, 0u);
    EXPECT_EQ(block.offset % kPageBytes, 0u);
  }
  EXPECT_EQ(Hot().demotions, 0u);
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ(Hot().block_count, 4u) << "they are leased";
  client_->Release(lease);
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
}

TEST_F(StackHotTest, ASlabHasItsNumberForAsLongAsItIsLent) {
  const auto names = TestPath(1, 4);
  Write(names);
  UseAgain(names);
  Fill();
  const auto exported = [&](uint64_t slab) {
    absl::Status status = absl::UnknownError("no answer");
    (*stack_)->ExportSlab(slab, [&](const auto& answer) { status = answer.status(); });
    stack_->Settle();
    return status;
  };
  const LeaseView lease = client_->Match(names);
  const uint64_t slab = lease.blocks[0].slab;
  EXPECT_TRUE(exported(slab).ok());
  EXPECT_TRUE(absl::IsNotFound(exported(slab + 100)));
  client_->Release(lease);
  Restart();
  (*stack_)->EndGrace();
  EXPECT_NE(client_->Match(names).blocks[0].slab, 0u);
}

TEST_F(StackHotTest, WhereClientsMayNotWriteTheyDoNotReadThereEither) {
  SteppedStack::Sizes sizes = kHotSizes;
  sizes.clients_fill = false;
  Use(sizes);
  const auto names = TestPath(1, 4);
  Write(names);
  UseAgain(names);
  Fill();
  const LeaseView lease = client_->Match(names);
  EXPECT_EQ(HotBlocksOf(lease), 4u);
  EXPECT_EQ(lease.blocks[0].slab, 0u);
  absl::Status status;
  (*stack_)->ExportSlab(1, [&](const auto& answer) { status = answer.status(); });
  stack_->Settle();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
}

TEST_F(StackHotTest, WhatLeasesOfTheLastEpochMayReadIsNotUsedAgainBeforeTheGraceIsOver) {
  const auto names = TestPath(1, 4);
  Write(names);
  UseAgain(names);
  Fill();
  const uint64_t used = Hot().used_bytes;
  ASSERT_GT(used, 0u);
  Restart();
  FlushTier(*stack_, TierKind::kWarm);
  ASSERT_TRUE((*stack_)->Delete(FingerprintOf(spec_), {names.data(), 1}).ok());
  stack_->Settle();
  EXPECT_EQ(Hot().block_count, 0u);
  EXPECT_EQ(Hot().used_bytes, used) << "somebody may read there";
  ExpectBooksAgree();
  (*stack_)->EndGrace();
  stack_->Settle();
  EXPECT_EQ(Hot().used_bytes, 0u);
  ExpectBooksAgree();
}

TEST_F(StackHotTest, AnotherCustodiansMemoryHoldsNothing) {
  const auto names = WriteHot();
  stack_->device->Replace();
  Restart();
  EXPECT_EQ(Hot().block_count, 0u);
  (*stack_)->EndGrace();
  EXPECT_EQ(LoadAll(names), 0u) << "cold has it";
}

TEST_F(StackHotTest, WhatADeviceDoesNotGiveComesFromBelow) {
  const auto names = WriteHot();
  stack_->device->SetFaults(1, 0);
  EXPECT_EQ(LoadAll(names), 4u) << "it was there, and cold gave it";
  EXPECT_THAT(Hot().state, HasSubstr("made to fail"));
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 0u);
  Fill();
  ExpectBooksAgree();
  stack_->device->SetFaults(0, 0);
  stack_->Advance(kColdPause);
  Tick();
  UseAgain(names);
  Fill();
  EXPECT_EQ(LoadAll(names), 4u) << "it is asked again after a pause";
  EXPECT_EQ(Hot().state, "ok");
}

TEST_F(StackHotTest, ADeviceThatWorksAgainIsFoundOutWithoutABlockToMove) {
  const auto names = TestPath(1, 4);
  Write(names);
  UseAgain(names);
  Fill();
  stack_->device->SetFaults(1, 0);
  LoadAll(names);
  for (const double error : {1.0, 0.0}) {
    EXPECT_THAT(Hot().state, HasSubstr("made to fail"));
    stack_->device->SetFaults(error, 0);
    Tick();
    EXPECT_THAT(Hot().state, HasSubstr("made to fail")) << "not before the pause is over";
    stack_->Advance(kColdPause);
    Tick();
  }
  EXPECT_EQ(Hot().state, "ok");
  ExpectBooksAgree();
}

TEST_F(StackHotTest, WrongBytesAreNeverServed) {
  const auto names = WriteHot();
  stack_->device->SpoilAll();
  EXPECT_EQ(LoadAll(names), 4u) << "and cold gave it";
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 4u);
  Tick();
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
}

TEST_F(StackHotTest, ABlockThatIsNowhereElseRisesBeforeItsSlotIsTaken) {
  const auto names = WriteHot();
  FlushTier(*stack_, TierKind::kCold);
  EXPECT_EQ(LoadAll(names), 4u) << "the device alone has it";
  Fill();
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
  EXPECT_EQ(LoadAll(names), 0u) << "a flush took it to disk";
}

TEST_F(StackHotTest, OtherBytesUnderItsNameTakeItsPlace) {
  const auto names = WriteHot(1);
  WriteOtherBytes(names);
  stack_->Settle();
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
}

TEST_F(StackHotTest, DeletedBlocksLeaveItToo) {
  const auto names = WriteHot();
  ASSERT_TRUE((*stack_)->Delete(FingerprintOf(spec_), {names.data(), 1}).ok());
  stack_->Settle();
  EXPECT_EQ(Hot().block_count, 0u);
  EXPECT_EQ(client_->Match(names).depth, 0u);
  ExpectBooksAgree();
}

TEST_F(StackHotTest, OtherBytesForASpoiledBlockAreAsGoodAsAny) {
  const auto names = WriteHot(1);
  ASSERT_EQ(Hot().block_count, 1u);
  stack_->device->SpoilAll();
  FlushTier(*stack_, TierKind::kCold);
  const LeaseView lease = client_->Match(names);
  EXPECT_EQ(client_->Load(lease, names), 0u);
  client_->Release(lease);
  WriteOtherBytes(names);
  stack_->Settle();
  UseAgain(names);
  Fill();
  ASSERT_EQ(Hot().block_count, 1u);
  FlushTier(*stack_, TierKind::kCold);
  const LeaseView again = client_->Match(names);
  ASSERT_EQ(again.depth, 1u);
  EXPECT_EQ(again.blocks[0].tier, TierKind::kHot);
  client_->Release(again);
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ(client_->Match(names).depth, 1u);
}

TEST_F(StackHotTest, WhatIsPinnedToMemoryWhileItIsCopiedStaysThere) {
  const auto names = TestPath(1, 4);
  Write(names);
  UseAgain(names);
  bool pinned = false;
  stack_->device->during_copy = [&] {
    if (std::exchange(pinned, true)) return;
    ASSERT_TRUE((*stack_)->Pin(space_, names, std::chrono::hours(1), TierKind::kWarm).ok());
  };
  Fill();
  ASSERT_TRUE(pinned);
  const LeaseView lease = client_->Match(names);
  EXPECT_EQ(lease.depth, 4u);
  EXPECT_EQ(HotBlocksOf(lease), 0u);
  client_->Release(lease);
  Tick();
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
}

/// Whoever deletes a key and empties the arena wants nothing of it left.
TEST_F(StackHotTest, DroppingTheArenaDropsWhatIsHot) {
  const auto names = WriteHot();
  ASSERT_EQ(Hot().block_count, 4u);
  bool done = false;
  (*stack_)->DropArena([&](const absl::Status&, uint64_t, uint64_t) { done = true; });
  stack_->SettleUntil(done);
  EXPECT_EQ(Hot().block_count, 0u);
  ExpectBooksAgree();
}

class StackHungDeviceTest : public StackHotTest {
 protected:
  void SetUp() override {
    SteppedStack::Sizes sizes = kHotSizes;
    sizes.own_threads = true;
    sizes.hot_blocks = 32;
    sizes.warm_blocks = 32;
    Use(sizes);
  }
};

TEST_F(StackHungDeviceTest, ItCostsTheDiskNothing) {
  const std::vector<Name> hot[] = {TestPath(1, 10), TestPath(3, 10)}, cold = TestPath(2, 4);
  Write(cold);
  for (const auto& names : hot) {
    Write(names);
    UseAgain(names);
  }
  for (int i = 0; i < 2; ++i) Fill();
  ASSERT_EQ(Hot().block_count, 20u);
  stack_->device_hangs = true;
  std::vector<LeaseView> leases;
  uint64_t ready = 0;
  size_t ended = 0;
  for (const auto& names : hot) {
    leases.push_back(client_->Match(names));
    (*stack_)->Load(
        client_->number(), leases.back().lease,
        [&](const std::vector<BlockView>& blocks) {
          ready += blocks.size();
          return true;
        },
        [&](const absl::Status&) { ++ended; });
  }
  stack_->Settle();  // all reads that there may be at once are the device's
  stack_->Advance(StackOptions().read_deadline);
  Tick();
  EXPECT_EQ(ended, 2u);
  EXPECT_EQ(ready, 0u);
  for (const LeaseView& lease : leases) client_->Release(lease);
  EXPECT_EQ(LoadAll(cold), 0u);
  EXPECT_THAT(Hot().state, HasSubstr("take too long"));
  stack_->device_hangs = false;
  stack_->Settle();
  EXPECT_EQ(LoadAll(hot[0]), 2u) << "what came late is there, the rest comes from the device again";
  Tick();
  ExpectBooksAgree();
}

class StackHotAckTest : public StackHotTest {
 protected:
  void SetUp() override {
    SteppedStack::Sizes sizes = kHotSizes;
    sizes.durability = Durability::kAck;
    Use(sizes);
  }
};

TEST_F(StackHotAckTest, WhatStandsBehindABlockOfTheDevicesAloneIsOnDiskOnlyWithIt) {
  const auto names = TestPath(1, 5);
  const std::vector<Name> head(names.begin(), names.begin() + 4);
  Write(head);
  UseAgain(head);
  Fill();
  FlushTier(*stack_, TierKind::kCold);
  ASSERT_EQ(Hot().block_count, 4u);
  const LeaseView lease = client_->Match(names);
  ASSERT_EQ(HotBlocksOf(lease), 4u);
  const std::vector<CommitItem> items{client_->Fill(client_->Reserve(1)[0], 4, 0, names)};
  const auto view =
      (*stack_)->Commit(client_->number(), lease.lease, std::span(names).subspan(4), items);
  ASSERT_TRUE(view.ok()) << view.status();
  bool done = false;
  absl::Status durable;
  (*stack_)->AwaitDurable(*view, [&](const absl::Status& status) {
    durable = status;
    done = true;
  });
  client_->Release(lease);
  stack_->SettleUntil(done);
  EXPECT_TRUE(durable.ok()) << durable;
  client_.reset();
  stack_->device->Replace();
  stack_->RestartWithoutMemory();
  Connect();
  EXPECT_EQ(client_->Match(names).depth, 5u);
}

TEST_F(StackHotTest, WithoutADeviceTheOtherTiersServeAndSayWhy) {
  stack_->device.reset();
  Restart();
  const auto names = WriteHot();
  EXPECT_EQ(LoadAll(names), 0u);
  EXPECT_THAT(Hot().state, HasSubstr("there is none"));
  EXPECT_EQ(Hot().capacity_bytes, 0u);
}

// ---- pinning

class StackPinningTest : public StackHotTest {
 protected:
  static constexpr uint64_t kChunkBytes = 8 * kTestBlockBytes;
  void SetUp() override {
    StackHotTest::SetUp();
    Write(TestPath(1, 8));
    Write(TestPath(2, 8));
    stack_->Settle();
  }
  uint64_t Pinned() { return (*stack_)->Stats().pinned_bytes; }
  uint64_t ArenaBytes() {
    struct stat file {};
    EXPECT_EQ(::fstat((*stack_)->arena_fd(), &file), 0);
    return static_cast<uint64_t>(file.st_blocks) * 512;
  }
  void SetPinner(uint64_t number) {
    stack_->device->SetPinner(number);
    Tick();
  }
};

TEST_F(StackPinningTest, WhatIsLentIsPinnedByAMoverThatRunsAndAnewByTheNext) {
  EXPECT_EQ(Pinned(), 0u) << "no mover runs";
  SetPinner(1);
  EXPECT_EQ(Pinned(), 2 * kChunkBytes);
  EXPECT_EQ(stack_->device->pinned,
            (std::map<uint64_t, uint64_t>{{kArenaDataOffset, kChunkBytes},
                                          {kArenaDataOffset + kChunkBytes, kChunkBytes}}));
  SetPinner(0);
  EXPECT_EQ(Pinned(), 0u);
  SetPinner(2);
  EXPECT_EQ(Pinned(), 2 * kChunkBytes);
  EXPECT_EQ(stack_->device->pinned.size(), 2u);
}

TEST_F(StackPinningTest, ChunksThatCannotBePinnedAreToldOnceServeAllTheSameAndAreTriedLater) {
  const std::string log = stack_->directory() + "/log";
  ASSERT_TRUE(SetUpLog({.file = log}).ok());
  stack_->device->most_pins = 1;
  SetPinner(1);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Pinned(), kChunkBytes);
    stack_->Advance(std::chrono::minutes(1));
    Tick();
  }
  const auto names = WriteHot();
  EXPECT_EQ(LoadAll(names), 4u);
  stack_->device->most_pins = 2;
  stack_->Advance(std::chrono::minutes(1));
  Tick();
  EXPECT_EQ(Pinned(), 2 * kChunkBytes);
  ASSERT_TRUE(SetUpLog({}).ok());
  const std::string told = ReadFile(log, MiB).value_or("");
  const size_t first = told.find("arena_not_pinned");
  EXPECT_NE(first, std::string::npos);
  EXPECT_EQ(first, told.rfind("arena_not_pinned")) << told;
}

TEST_F(StackPinningTest, MemoryIsGivenBackOnceItIsUnpinned) {
  SetPinner(1);
  const uint64_t before = ArenaBytes();
  int unpinned = 0;
  stack_->device->during_unpin = [&] {
    ++unpinned;
    EXPECT_EQ(ArenaBytes(), before - kChunkBytes * (unpinned - 1)) << "it went before";
  };
  bool done = false;
  (*stack_)->DropArena([&](absl::Status status, uint64_t blocks, uint64_t) {
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_GT(blocks, 0u);
    done = true;
  });
  stack_->SettleUntil(done);
  EXPECT_EQ(unpinned, 2);
  EXPECT_EQ(Pinned(), 0u);
  EXPECT_LE(ArenaBytes(), before - 2 * kChunkBytes);
  Write(TestPath(3, 8));
  stack_->Settle();
  EXPECT_EQ(Pinned(), kChunkBytes) << "what is lent again is pinned again";
}

TEST_F(StackPinningTest, AMoverThatEndsHoldsNoMemoryBack) {
  SetPinner(1);
  stack_->device->during_unpin = [&] { ADD_FAILURE() << "nobody has anything pinned"; };
  stack_->device->SetPinner(0);
  bool done = false;
  (*stack_)->DropArena([&](absl::Status, uint64_t, uint64_t) { done = true; });
  stack_->SettleUntil(done);
  EXPECT_EQ(Pinned(), 0u);
}

}  // namespace
}  // namespace thermocline
