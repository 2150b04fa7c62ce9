// The tier stack at its bounds: many who wait, a full file system, slot sizes that compete, pins in
// the way, more spaces than there may be, callers that leave nothing to rest.
#include <gmock/gmock.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>

#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

SpaceSpec LargeSpec() {
  SpaceSpec spec = TestSpec("large");
  spec.parts[0].block_bytes = 2 * kTestBlockBytes;
  return spec;
}

std::vector<Name> NumberedPath(uint64_t first, uint64_t count) {
  std::vector<uint64_t> values;
  for (uint64_t i = 0; i < count; ++i) values.push_back(first + i);
  return TestNames(values);
}

TEST_F(StackTest, HoweverManyWaitTheTimersAreFew) {
  Use({.warm_blocks = 8, .cold_blocks = 0, .chunk_blocks = 8});
  ASSERT_EQ(client_->Reserve(8).size(), 8u);
  constexpr int kCalls = 300;
  int refused = 0;
  for (int i = 0; i < kCalls; ++i) {  // each before all others
    (*stack_)->Reserve(
        client_->number(), space_, 0, 1, std::chrono::milliseconds(60000 - 100 * i),
        [&](absl::StatusOr<std::vector<uint64_t>> result) { refused += result.ok() ? 0 : 1; });
    stack_->Settle();
  }
  for (int i = 0; i < kCalls; ++i) {
    (*stack_)->Reserve(
        client_->number(), space_, 0, 1, std::chrono::milliseconds(900 - 3 * i),
        [&](absl::StatusOr<std::vector<uint64_t>> result) { refused += result.ok() ? 0 : 1; });
    stack_->Settle();
    ASSERT_LE(stack_->timers(), 110u);
  }
  stack_->Advance(std::chrono::milliseconds(910));
  stack_->Settle();
  EXPECT_EQ(refused, kCalls);
  for (int i = 0; i < 600; ++i) {
    stack_->Advance(std::chrono::milliseconds(100));
    stack_->Settle();
  }
  EXPECT_EQ(refused, 2 * kCalls);
  EXPECT_EQ(stack_->timers(), 0u);
}

TEST_F(StackTest, AFullFileSystemLeavesTheChunksThatAreThere) {
  Use({.warm_blocks = 64, .cold_blocks = 0, .chunk_blocks = 8});
  client_.reset();
  stack_->Close();
  const std::string& directory = stack_->directory();
  if (::mount("tmpfs", directory.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "a small file system cannot be mounted here";
  }
  stack_->Open();
  Connect();
  Write(TestNames({1, 2, 3, 4}));
  {
    std::ofstream other(directory + "/other", std::ios::binary);
    while (other.write(std::string(4096, 'x').data(), 4096).flush()) {
    }
  }
  for (uint64_t i = 1; i <= 10; ++i) {
    Write(TestNames({100 * i, 100 * i + 1, 100 * i + 2, 100 * i + 3}));
    EXPECT_EQ(client_->Match(TestNames({100 * i, 100 * i + 1})).depth, 2u);
    (*stack_)->ExpireLeases(client_->number());
    (*stack_)->Tick();
    stack_->Settle();
  }
  EXPECT_LE(Tiers(0), 8u);
  EXPECT_THAT((*stack_)->Stats().tiers[0].state, HasSubstr("file system is full"));
  ExpectBooksAgree();
  std::filesystem::remove(directory + "/other");
  (*stack_)->Tick();
  stack_->Settle();
  for (uint64_t i = 11; i <= 16; ++i) {
    Write(TestNames({100 * i, 100 * i + 1, 100 * i + 2, 100 * i + 3}));
  }
  EXPECT_GT(Tiers(0), 8u);
  EXPECT_EQ((*stack_)->Stats().tiers[0].state, "ok");
  client_.reset();
  stack_->Close();
  ::umount2(directory.c_str(), MNT_DETACH);
}

TEST_F(StackTest, ABlockThatMayNotLeaveKeepsNoOtherSizeOut) {
  Use({.warm_blocks = 16, .cold_blocks = 64, .chunk_blocks = 8});
  for (uint64_t i = 1; i <= 9; ++i) Write(TestNames({i}));
  std::map<uint64_t, std::vector<uint64_t>> chunks;  // names by chunk
  for (uint64_t i = 1; i <= 9; ++i) {
    const LeaseView lease = client_->Match(TestNames({i}));
    ASSERT_EQ(lease.depth, 1u);
    chunks[(lease.blocks[0].offset - kArenaDataOffset) / (8 * kTestBlockBytes)].push_back(i);
    client_->Release(lease);
  }
  ASSERT_EQ(chunks.size(), 2u);
  const auto& emptiest = chunks[0].size() == 1 ? chunks[0] : chunks[1];
  ASSERT_EQ(emptiest.size(), 1u);
  const auto pinned = TestNames({emptiest[0]});
  ASSERT_TRUE((*stack_)->Pin(space_, pinned, std::chrono::hours(24), TierKind::kWarm).ok());
  const auto large = (*stack_)->OpenSpace(LargeSpec());
  ASSERT_TRUE(large.ok()) << large.status();
  TestClient other(*stack_, *large);
  EXPECT_FALSE(other.Reserve(1).empty()) << other.reserve_status;
  const LeaseView kept = client_->Match(pinned);
  ASSERT_EQ(kept.depth, 1u);
  EXPECT_EQ(kept.blocks[0].tier, TierKind::kWarm);
  EXPECT_EQ(Tiers(0), 1u);
  ExpectBooksAgree();
}

TEST_F(StackTest, APinToWarmHoldsItsWholePathWhereAChunkIsCleared) {
  Use({.warm_blocks = 16, .cold_blocks = 64, .chunk_blocks = 8});
  const auto pinned = TestNames({1, 2, 3});
  Write(pinned);
  ASSERT_TRUE((*stack_)->Pin(space_, pinned, std::chrono::hours(24), TierKind::kWarm).ok());
  for (uint64_t i = 11; i < 22; ++i) Write(TestNames({i}));
  const auto large = (*stack_)->OpenSpace(LargeSpec());
  ASSERT_TRUE(large.ok()) << large.status();
  TestClient other(*stack_, *large);
  EXPECT_FALSE(other.Reserve(1).empty()) << other.reserve_status;
  const LeaseView kept = client_->Match(pinned);
  ASSERT_EQ(kept.blocks.size(), 3u);
  for (const BlockView& block : kept.blocks) EXPECT_EQ(block.tier, TierKind::kWarm);
  ExpectBooksAgree();
}

TEST_F(StackTest, ASlotSizeThatIsNotUsedAnyMoreCausesNoWrites) {
  Use({.warm_blocks = 32, .cold_blocks = 256, .chunk_blocks = 8}, LargeSpec());
  const auto small = (*stack_)->OpenSpace(TestSpec());
  ASSERT_TRUE(small.ok()) << small.status();
  {
    TestClient other(*stack_, *small);
    LeaseView lease = other.Match({});
    ASSERT_EQ(other.Extend(lease, TestNames({1})), 1u);
    other.Release(lease);
  }
  for (uint64_t i = 1; i <= 16; ++i) Write(TestNames({i}));  // its chunk, too
  const uint64_t before = (*stack_)->Stats().tiers[1].bytes_in;
  for (int i = 0; i < 10; ++i) {
    client_->Release(client_->Match(TestNames({16})));
    (*stack_)->Tick();
    stack_->Settle();
  }
  EXPECT_EQ((*stack_)->Stats().tiers[1].bytes_in, before);
  EXPECT_LT((*stack_)->Stats().tiers[1].block_count, 8u);
  ExpectBooksAgree();
}

TEST_F(StackTest, AFlushEndsWhateverIsCommittedMeanwhile) {
  for (const TierKind tier : {TierKind::kWarm, TierKind::kCold}) {
    Use({.warm_blocks = 64, .cold_blocks = 256, .chunk_blocks = 8});
    for (uint64_t i = 1; i <= 40; ++i) Write(TestNames({i}));
    bool done = false;
    uint64_t moved = 0;
    (*stack_)->Flush(tier, [&](absl::Status status, uint64_t blocks, uint64_t) {
      EXPECT_TRUE(status.ok()) << status;
      moved = blocks;
      done = true;
    });
    LeaseView lease = client_->Match({});
    const auto offsets = client_->Reserve(12);
    uint64_t next = 1000;
    for (uint64_t offset : offsets) {  // at least one commit between any two jobs
      const auto names = TestNames({next++});
      const CommitItem item = client_->Fill(offset, 0, 0, names);
      lease = client_->Match({});
      ASSERT_TRUE((*stack_)->Commit(client_->number(), lease.lease, names, {&item, 1}).ok());
      client_->Release(lease);
      for (int i = 0; i < 3; ++i) (void)stack_->Step();
    }
    stack_->SettleUntil(done);
    EXPECT_GE(moved, tier == TierKind::kWarm ? 30u : 0u);
    EXPECT_EQ(client_->Match(TestNames({1000})).depth, 1u);
    ExpectBooksAgree();
  }
}

absl::Status ShutDown(SteppedStack& stack, bool drain) {
  absl::Status result;
  bool done = false;
  stack->Shutdown(drain, [&](absl::Status status) {
    result = status;
    done = true;
  });
  stack.SettleUntil(done);
  return result;
}

TEST_F(StackTest, ADrainKeepsInTheArenaWhatTheDiskRefuses) {
  Use({});
  Write(TestNames({1, 2, 3}));
  stack_->SetFaults({.error = 1});
  const absl::Status drained = ShutDown(*stack_, true);
  EXPECT_TRUE(absl::IsUnavailable(drained)) << drained;
  EXPECT_THAT(std::string(drained.message()), HasSubstr("3 blocks"));
  stack_->SetFaults({});
  Restart();
  EXPECT_EQ(client_->Match(TestNames({1, 2, 3})).depth, 3u);
}

TEST_F(StackTest, ADrainWritesWhatIsPinnedToWarmAndItComesBackWarm) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  ASSERT_TRUE((*stack_)->Pin(space_, names, std::chrono::hours(1), TierKind::kWarm).ok());
  EXPECT_TRUE(ShutDown(*stack_, true).ok());
  EXPECT_EQ(Tiers(0), 0u);
  Restart();
  ASSERT_EQ((*stack_)->Pins().size(), 1u);
  EXPECT_EQ(Tiers(0), 0u);
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ(Tiers(0), 3u) << "a pin to warm is warm again";
  client_->ExpectLegal(client_->Match(names).blocks, names);
  ExpectBooksAgree();
}

TEST_F(StackTest, WhatWasDeletedIsErasedBeforeAShutdownEnds) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  ASSERT_EQ(Tiers(1), 3u);
  ASSERT_EQ(*(*stack_)->Delete(FingerprintOf(spec_), TestNames({1})), 3u);
  EXPECT_TRUE(ShutDown(*stack_, false).ok());
  EXPECT_EQ(Tiers(1), 0u);
  Restart();
  EXPECT_EQ(client_->Match(names).depth, 0u);
}

TEST_F(StackTest, TheOldestSpaceThatHoldsNothingGivesWay) {
  Use({.max_spaces = 3});  // one is open
  Write(TestNames({1}));
  const auto open = [&](const std::string& model) { return (*stack_)->OpenSpace(TestSpec(model)); };
  const uint32_t used = open("used").value();
  const uint32_t idle = open("idle").value();
  TestClient other(*stack_, used);
  const LeaseView lease = other.Match({});
  const uint32_t next = open("next").value();
  EXPECT_EQ((*stack_)->Spaces().size(), 3u);
  EXPECT_TRUE(absl::IsNotFound((*stack_)->Match(other.number(), idle, {}).status()));
  TestClient last(*stack_, next);
  const LeaseView also = last.Match({});
  EXPECT_TRUE(absl::IsResourceExhausted(open("idle").status()));
  EXPECT_EQ(open("used").value(), used);
  other.Release(lease);
  EXPECT_GT(open("idle").value(), next) << "numbers do not come again";
  EXPECT_EQ(client_->Match(TestNames({1})).depth, 1u);
  ExpectBooksAgree();
}

TEST_F(StackTest, ACommitWithoutRoomForAllOfItsNamesChangesNothing) {
  Use({.warm_blocks = 64, .cold_blocks = 0, .chunk_blocks = 64, .max_places = 40});
  const auto path = NumberedPath(0, 48);
  LeaseView lease = client_->Match({});
  ASSERT_EQ(client_->Extend(lease, {path.begin(), path.begin() + 30}), 30u);
  Write(NumberedPath(1000, 4));  // may go
  const auto commit = [&](uint32_t count) {
    const auto offsets = client_->Reserve(count);
    std::vector<CommitItem> items;
    for (uint32_t i = 0; i < count; ++i) {
      items.push_back(client_->Fill(offsets[i], lease.depth + i, 0, path));
    }
    const auto view = (*stack_)->Commit(client_->number(), lease.lease,
                                        std::span(path).subspan(lease.depth, count), items);
    if (!view.ok()) {
      EXPECT_TRUE((*stack_)->Abort(client_->number(), offsets).ok()) << "they stay reserved";
    }
    return view;
  };
  const auto refused = commit(11);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_THAT(refused.status().message(), HasSubstr("nothing of the commit was published"));
  EXPECT_EQ((*stack_)->Stats().committed_blocks, 34u);
  EXPECT_EQ(client_->Match(path).depth, 30u);
  ExpectBooksAgree();
  const auto fits = commit(10);
  ASSERT_TRUE(fits.ok()) << fits.status();
  EXPECT_EQ(fits->depth, 40u);
  EXPECT_EQ((*stack_)->Stats().places, 40u);
  ExpectBooksAgree();
}

class FullArenaTest : public StackTest {
 protected:
  static constexpr uint64_t kSlots = 1280;
  static constexpr uint64_t kReserve = 64;  // 5% of those

  /// Fills the arena, one commit a block.
  void SetUp() override {
    Use({.warm_blocks = kSlots, .cold_blocks = 0, .chunk_blocks = 64});
    for (uint64_t i = 0; i < kSlots; ++i) WriteOne(i);
  }
  void WriteOne(uint64_t number) {
    LeaseView lease = client_->Match({});
    ASSERT_EQ(client_->Extend(lease, TestNames({number})), 1u);
    client_->Release(lease);
    stack_->Settle();
  }
  uint64_t evictions() { return (*stack_)->Stats().tiers[0].evictions; }
  std::vector<uint64_t> ReserveAhead(TestClient& client, uint32_t count, uint32_t ahead) {
    std::vector<uint64_t> offsets;
    bool done = false;
    (*stack_)->Reserve(
        client.number(), space_, 0, count, std::chrono::milliseconds(0),
        [&](absl::StatusOr<std::vector<uint64_t>> result) {
          EXPECT_TRUE(result.ok()) << result.status();
          if (result.ok()) offsets = *result;
          done = true;
        },
        ahead);
    while (!done) EXPECT_TRUE(stack_->Step());
    return offsets;
  }
};

TEST_F(FullArenaTest, BlocksGoInBatchesAheadOfNeed) {
  constexpr uint64_t kMore = 640;
  const uint64_t before = evictions();
  uint64_t times = 0;
  for (uint64_t i = 0; i < kMore; ++i) {
    const uint64_t last = evictions();
    WriteOne(kSlots + i);
    times += evictions() == last ? 0 : 1;
    const uint64_t blocks = (*stack_)->Stats().tiers[0].block_count;
    ASSERT_GE(blocks, kSlots - kReserve) << "no more is kept free than the reserve";
    ASSERT_LE(blocks, kSlots - kReserve / 2) << "and it is not used up";
  }
  EXPECT_GE(evictions() - before, kMore - kReserve);
  EXPECT_LE(times, kMore / (kReserve / 4));
  // The oldest went, and only they.
  EXPECT_EQ(client_->Match(TestNames({kMore - 1})).depth, 0u);
  EXPECT_EQ(client_->Match(TestNames({kMore + kReserve})).depth, 1u);
  ExpectBooksAgree();
}

TEST_F(FullArenaTest, ItsReserveIsGrantedAhead) {
  TestClient other(*stack_, space_);
  const auto offsets = ReserveAhead(*client_, 1, 1000);
  EXPECT_GE(offsets.size(), 1 + kReserve / 16);
  EXPECT_LE(offsets.size(), 1 + kReserve / 4) << "others need some, too";
  EXPECT_EQ(ReserveAhead(other, kReserve / 2, 0).size(), kReserve / 2) << "without an eviction";
  EXPECT_TRUE((*stack_)->Abort(client_->number(), offsets).ok());
  ExpectBooksAgree();
}

TEST_F(StackTest, AStateFileThatIsTooLargeIsSetAside) {
  Use({});
  Write(TestNames({1}));
  client_.reset();
  stack_->Close();
  const std::string path = stack_->directory() + "/state.json";
  std::filesystem::resize_file(path, uint64_t{1} << 30);
  stack_->Open();
  Connect();
  EXPECT_TRUE(std::filesystem::exists(path + ".damaged"));
  EXPECT_EQ(client_->Match(TestNames({1})).depth, 1u) << "there is a copy";
}

}  // namespace
}  // namespace thermocline
