// The tier stack, step by step.
#include <gmock/gmock.h>

#include <numeric>

#include "base/process.h"
#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

TEST_F(StackTest, WhatWasCommittedIsMatchedInPlace) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  LeaseView lease = client_->Match(names);
  EXPECT_EQ(lease.depth, 0u);
  ASSERT_EQ(client_->Extend(lease, names), 3u);
  const LeaseView again = client_->Match(TestNames({1, 2, 3, 4}));
  EXPECT_EQ(again.depth, 3u);
  ASSERT_EQ(again.blocks.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(again.blocks[i].depth, i);
    EXPECT_EQ(again.blocks[i].tier, TierKind::kWarm);
    EXPECT_TRUE(again.blocks[i].checked);
  }
  client_->ExpectLegal(again.blocks, names);
  EXPECT_EQ(client_->Match(TestNames({1, 7, 3})).depth, 1u);
  EXPECT_EQ(client_->Match(TestNames({2})).depth, 0u);
  ExpectBooksAgree();
  const StackStats stats = (*stack_)->Stats();
  EXPECT_EQ(stats.tiers[0].hits, 4u);
  EXPECT_EQ(stats.misses, 3u + 1u + 2u + 1u);
  EXPECT_EQ(stats.committed_blocks, 3u);
}

TEST_F(StackTest, ADuplicateGetsTheExistingBlockAndItsSlotBack) {
  Use({});
  const auto names = TestNames({1, 2});
  LeaseView first = client_->Match(names);
  LeaseView second = client_->Match(names);
  client_->Extend(first, names);
  const auto offsets = client_->Reserve(2);
  std::vector<CommitItem> items;
  for (uint32_t i = 0; i < 2; ++i) items.push_back(client_->Fill(offsets[i], i, 0, names));
  const auto view = (*stack_)->Commit(client_->number(), second.lease, names, items);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->depth, 2u);
  EXPECT_NE(view->blocks[0].offset, offsets[0]);
  client_->ExpectLegal(view->blocks, names);
  EXPECT_EQ((*stack_)->Stats().duplicate_blocks, 2u);
  EXPECT_EQ((*stack_)->Stats().reserved_slots, 0u);
  EXPECT_EQ(Tiers(0), 2u);
  ExpectBooksAgree();
}

TEST_F(StackTest, ACommitIsCheckedBeforeAnythingHappens) {
  Use({}, TestSpec("two", 2));
  const auto names = TestNames({1, 2});
  LeaseView lease = client_->Match(names);
  const auto offsets = client_->Reserve(2, 0);
  const CommitItem good = client_->Fill(offsets[0], 0, 0, names);
  const auto commit = [&](std::vector<CommitItem> items) {
    return (*stack_)->Commit(client_->number(), lease.lease, names, items).status();
  };
  CommitItem bad = good;
  bad.part = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(commit({bad})));
  bad = good;
  bad.depth = 2;
  EXPECT_TRUE(absl::IsInvalidArgument(commit({bad})));
  bad = good;
  bad.offset += 4096 * 100;
  EXPECT_TRUE(absl::IsFailedPrecondition(commit({bad})));
  EXPECT_TRUE(absl::IsInvalidArgument(commit({good, good})));
  EXPECT_TRUE(absl::IsInvalidArgument(commit({})));
  TestClient other(*stack_, space_);
  EXPECT_FALSE((*stack_)->Commit(other.number(), lease.lease, names, {&good, 1}).ok());
  EXPECT_FALSE((*stack_)->ReservedBytes(other.number(), good.offset).ok());
  EXPECT_EQ((*stack_)->Stats().places, 0u);
  EXPECT_TRUE(commit({good}).ok());
  EXPECT_TRUE((*stack_)->Abort(client_->number(), {&offsets[1], 1}).ok());
  EXPECT_FALSE((*stack_)->Abort(client_->number(), {&offsets[1], 1}).ok());
  ExpectBooksAgree();
}

TEST_F(StackTest, APlaceShowsOnceAllPartsAreThereAndExpiresElse) {
  Use({}, TestSpec("two", 2));
  const auto names = TestNames({1, 2});
  LeaseView lease = client_->Match(names);
  const auto offsets = client_->Reserve(2, 0);
  std::vector<CommitItem> items;
  for (uint32_t i = 0; i < 2; ++i) items.push_back(client_->Fill(offsets[i], i, 0, names));
  ASSERT_TRUE((*stack_)->Commit(client_->number(), lease.lease, names, items).ok());
  EXPECT_EQ(client_->Match(names).depth, 0u);
  LeaseView other = client_->Match(names);
  const CommitItem item = client_->Fill(client_->Reserve(1, 1)[0], 0, 1, names);
  ASSERT_TRUE((*stack_)->Commit(client_->number(), other.lease, names, {&item, 1}).ok());
  EXPECT_EQ(client_->Match(names).depth, 1u);
  (*stack_)->ExpireLeases(client_->number());
  stack_->Advance(std::chrono::seconds(60));
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().places, 1u);
  EXPECT_EQ(client_->Match(names).depth, 1u);
  ExpectBooksAgree();
}

TEST_F(StackTest, AWindowPartIsNeededInItsWindowOnly) {
  SpaceSpec spec = TestSpec("hybrid", 2);
  spec.parts[1].window_tokens = 32;  // two places
  Use({}, spec);
  const auto names = TestNames({1, 2, 3, 4, 5});
  LeaseView lease = client_->Match(names);
  std::vector<CommitItem> items;
  const auto full = client_->Reserve(5, 0);
  for (uint32_t i = 0; i < 5; ++i) items.push_back(client_->Fill(full[i], i, 0, names));
  const auto window = client_->Reserve(2, 1);
  for (uint32_t i = 0; i < 2; ++i) items.push_back(client_->Fill(window[i], 2 + i, 1, names));
  ASSERT_TRUE((*stack_)->Commit(client_->number(), lease.lease, names, items).ok());
  const LeaseView found = client_->Match(names);
  EXPECT_EQ(found.depth, 4u);  // the window part is at places 2 and 3
  EXPECT_EQ(found.blocks.size(), 4u + 2u);
  EXPECT_EQ(client_->Match(TestNames({1, 2, 3})).depth, 0u);
}

TEST_F(StackTest, BlocksSinkWhenRoomIsNeededAndRiseInPrefixOrder) {
  Use({.warm_blocks = 16, .cold_blocks = 64, .chunk_blocks = 8});
  std::vector<std::vector<Name>> paths;
  for (uint64_t i = 0; i < 5; ++i) {
    std::vector<uint64_t> values;
    for (uint64_t k = 0; k < 8; ++k) values.push_back(100 * i + k);
    paths.push_back(TestNames(values));
    Write(paths.back());
    ExpectBooksAgree();
  }
  stack_->Settle();
  EXPECT_LE((*stack_)->Stats().tiers[0].used_bytes, 16 * kTestBlockBytes);
  EXPECT_GE(Tiers(1), 24u);
  for (const auto& path : paths) {
    LeaseView lease = client_->Match(path);
    ASSERT_EQ(lease.depth, 8u);
    EXPECT_EQ(client_->Load(lease, path), 8u);
    EXPECT_TRUE(client_->load_status.ok());
    client_->Release(lease);
    ExpectBooksAgree();
  }
  const StackStats stats = (*stack_)->Stats();
  EXPECT_GT(stats.tiers[0].promotions, 20u);
  EXPECT_GT(stats.tiers[0].demotions, 20u);
  EXPECT_EQ(stats.corrupt_blocks, 0u);
}

TEST_F(StackTest, ALeaseKeepsItsPathAndAFullArenaIsRefusedInTime) {
  Use({.warm_blocks = 8, .cold_blocks = 64, .chunk_blocks = 8});
  const auto names = TestNames({1, 2, 3, 4, 5, 6});
  LeaseView held = client_->Match(names);
  ASSERT_EQ(client_->Extend(held, names), 6u);
  EXPECT_EQ(client_->Reserve(2).size(), 2u);
  EXPECT_TRUE(client_->Reserve(1, 0, 50).empty());
  EXPECT_TRUE(absl::IsResourceExhausted(client_->reserve_status)) << client_->reserve_status;
  client_->ExpectLegal(client_->Match(names).blocks, names);
  (*stack_)->ExpireLeases(client_->number());
  EXPECT_EQ(client_->Reserve(1).size(), 1u);
  ExpectBooksAgree();
}

TEST_F(StackTest, ALoadWithoutAnySlotEndsEarly) {
  Use({.warm_blocks = 8, .cold_blocks = 64, .chunk_blocks = 8});
  const auto cold = TestNames({1, 2, 3});
  Write(cold);
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm), (std::pair<uint64_t, uint64_t>{3, 0}));
  EXPECT_EQ(client_->Reserve(8).size(), 8u);
  LeaseView lease = client_->Match(cold);
  EXPECT_EQ(lease.depth, 3u);
  EXPECT_EQ(lease.blocks[0].tier, TierKind::kCold);
  EXPECT_EQ(client_->Load(lease, cold), 0u);
  EXPECT_TRUE(client_->load_status.ok());
  EXPECT_GT((*stack_)->Stats().misses_by_reason[static_cast<int>(MissReason::kNoSlot)], 0u);
}

TEST_F(StackTest, TwoLoadsOfOnePathReadItOnce) {
  Use({});
  const auto names = TestNames({1, 2, 3, 4});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  LeaseView a = client_->Match(names);
  LeaseView b = client_->Match(names);
  size_t ready = 0;
  int done = 0;
  for (const LeaseView* lease : {&a, &b}) {
    (*stack_)->Load(
        client_->number(), lease->lease,
        [&](std::vector<BlockView> blocks) {
          ready += blocks.size();
          return true;
        },
        [&](absl::Status status) { done += status.ok() ? 1 : 100; });
  }
  stack_->Settle();
  EXPECT_EQ(done, 2);
  EXPECT_EQ(ready, 8u);
  EXPECT_EQ((*stack_)->Stats().tiers[0].promotions, 4u);
}

TEST_F(StackTest, ALoadThatNobodyWaitsForStopsPromoting) {
  Use({.warm_blocks = 64, .cold_blocks = 64, .chunk_blocks = 16});
  std::vector<uint64_t> values(40);
  std::iota(values.begin(), values.end(), 1);
  const auto names = TestNames(values);
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  const LeaseView lease = client_->Match(names);
  ASSERT_EQ(lease.depth, 40u);
  int calls = 0;
  absl::Status end;
  (*stack_)->Load(
      client_->number(), lease.lease,
      [&](std::vector<BlockView>) {
        ++calls;
        return false;
      },
      [&](absl::Status status) { end = status; });
  stack_->Settle();
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(absl::IsCancelled(end)) << end;
  EXPECT_LE((*stack_)->Stats().tiers[0].promotions, kMaxReadsPerLoad);
  ExpectBooksAgree();
  EXPECT_EQ(client_->Load(lease, names), 40u) << "the lease is as good as before";
}

TEST_F(StackTest, ACommitOverAColdBlockWarmsIt) {
  Use({});
  const auto names = TestNames({1, 2});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  LeaseView lease = client_->Match({});
  ASSERT_EQ(client_->Extend(lease, names), 2u);
  const LeaseView warm = client_->Match(names);
  EXPECT_EQ(warm.blocks[1].tier, TierKind::kWarm);
  client_->ExpectLegal(warm.blocks, names);
  EXPECT_EQ((*stack_)->Stats().duplicate_blocks, 0u);
  ExpectBooksAgree();
}

TEST_F(StackTest, ADamagedColdBlockIsAMissAndAHoleThatACommitFills) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  stack_->SetFaults({.flip = 1});
  LeaseView lease = client_->Match(names);
  ASSERT_EQ(lease.depth, 3u);
  EXPECT_EQ(client_->Load(lease, names), 0u);
  EXPECT_TRUE(client_->load_status.ok());
  EXPECT_GT((*stack_)->Stats().corrupt_blocks, 0u);
  stack_->SetFaults({});
  client_->Release(lease);
  EXPECT_EQ(client_->Match(names).depth, 0u);
  LeaseView again = client_->Match(names);
  ASSERT_EQ(client_->Extend(again, names), 3u);
  client_->ExpectLegal(client_->Match(names).blocks, names);
  ExpectBooksAgree();
}

TEST_F(StackTest, WithoutAColdTierTheOldestLeavesAreDropped) {
  Use({.warm_blocks = 8, .cold_blocks = 0, .chunk_blocks = 8});
  Write(TestNames({1, 2, 3, 4}));
  Write(TestNames({11, 12, 13, 14}));
  Write(TestNames({21, 22}));
  EXPECT_LT(client_->Match(TestNames({1, 2, 3, 4})).depth, 4u);
  EXPECT_EQ(client_->Match(TestNames({21, 22})).depth, 2u);
  EXPECT_GT((*stack_)->Stats().tiers[0].evictions, 0u);
  (*stack_)->ExpireLeases(client_->number());
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ((*stack_)->Stats().places, 0u);
  EXPECT_EQ((*stack_)->Stats().tiers[0].used_bytes, 0u);
}

TEST_F(StackTest, AFullColdTierLosesItsOldestLeaves) {
  Use({.warm_blocks = 8, .cold_blocks = 10, .chunk_blocks = 8});
  for (uint64_t i = 0; i < 8; ++i) {
    Write(TestNames({10 * i, 10 * i + 1, 10 * i + 2, 10 * i + 3}));
    stack_->Settle();
    const TierStats cold = (*stack_)->Stats().tiers[1];
    ASSERT_LE(cold.used_bytes, cold.capacity_bytes * 5 / 4) << "a segment more";
    ExpectBooksAgree();
  }
  EXPECT_LT(client_->Match(TestNames({0, 1, 2, 3})).depth, 4u);
  EXPECT_EQ(client_->Match(TestNames({70, 71, 72, 73})).depth, 4u);
  EXPECT_GT((*stack_)->Stats().tiers[1].evictions, 0u);
}

TEST_F(StackTest, AWarmPinPromotesAndStaysWarm) {
  Use({.warm_blocks = 8, .cold_blocks = 64, .chunk_blocks = 8});
  const auto pinned = TestNames({1, 2, 3});
  Write(pinned);
  FlushTier(*stack_, TierKind::kWarm);
  const auto pin = (*stack_)->Pin(space_, pinned, std::chrono::hours(1), TierKind::kWarm);
  ASSERT_TRUE(pin.ok());
  stack_->Settle();
  for (uint64_t i = 1; i < 6; ++i) Write(TestNames({100 * i, 100 * i + 1, 100 * i + 2}));
  const LeaseView lease = client_->Match(pinned);
  ASSERT_EQ(lease.depth, 3u);
  for (const BlockView& block : lease.blocks) EXPECT_EQ(block.tier, TierKind::kWarm);
  client_->Release(lease);
  EXPECT_TRUE((*stack_)->Unpin(pin->pin).ok());
  EXPECT_TRUE(absl::IsNotFound((*stack_)->Unpin(pin->pin)));
}

TEST_F(StackTest, PrefetchPromotesWithoutALease) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  const auto prefetch = (*stack_)->Prefetch(client_->number(), space_, names);
  ASSERT_TRUE(prefetch.ok());
  EXPECT_EQ(prefetch->matched_depth, 3u);
  EXPECT_EQ(prefetch->promoting_blocks, 3u);
  stack_->Settle();
  EXPECT_EQ(client_->Match(names).blocks[2].tier, TierKind::kWarm);
  ExpectBooksAgree();
}

TEST_F(StackTest, DeletedPlacesAreNotMatchedAndGoWhenTheirLeasesEnd) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  const auto branch = TestNames({1, 5});
  Write(names);
  Write(branch);
  LeaseView held = client_->Match(names);
  const auto deleted = (*stack_)->Delete(FingerprintOf(spec_), TestNames({1, 2}));
  ASSERT_TRUE(deleted.ok());
  EXPECT_EQ(*deleted, 2u);
  EXPECT_EQ(client_->Match(names).depth, 1u);
  client_->ExpectLegal(held.blocks, names);
  const auto longer = TestNames({1, 2, 3, 4});
  EXPECT_EQ(client_->Extend(held, longer), 4u);  // and goes with what it stands on
  EXPECT_EQ(client_->Match(longer).depth, 1u);
  EXPECT_EQ((*stack_)->Stats().places, 5u);
  (*stack_)->ExpireLeases(client_->number());
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().places, 2u);
  EXPECT_EQ(*(*stack_)->Delete(FingerprintOf(spec_), {}), 2u);
  EXPECT_EQ((*stack_)->Stats().places, 0u);
  EXPECT_EQ((*stack_)->Stats().tiers[0].used_bytes, 0u);
  ExpectBooksAgree();
}

TEST_F(StackTest, ReservationsOfAProcessThatMayStillWriteAreHeld) {
  Use({.warm_blocks = 8, .cold_blocks = 8, .chunk_blocks = 8});
  EXPECT_EQ(client_->Reserve(8).size(), 8u);
  (*stack_)->RemoveClient(client_->number(), Departure::kLost);
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, 8u);
  TestClient other(*stack_, space_);  // the same process: its slots come back when a lease is over
  EXPECT_TRUE(other.Reserve(1, 0, 50).empty());
  ExpectBooksAgree();
  stack_->Advance(std::chrono::seconds(11));
  (*stack_)->Tick();
  EXPECT_EQ(other.Reserve(8).size(), 8u);
  (*stack_)->RemoveClient(other.number(), Departure::kProcessGone);
  EXPECT_EQ((*stack_)->Stats().quarantined_slots, 0u);
  EXPECT_EQ((*stack_)->Stats().tiers[0].used_bytes, 0u);
}

TEST_F(StackTest, ReservationsOfOneWhoSaidGoodbyeComeBackWhenALeaseIsOver) {
  Use({.warm_blocks = 8, .cold_blocks = 8, .chunk_blocks = 8});
  const auto slots = [&] { return (*stack_)->Stats().quarantined_slots; };
  const uint64_t start_time = *ProcessStartTime(::getpid());  // of one that lives
  for (const Departure how : {Departure::kGoodbye, Departure::kLost}) {
    const ClientNumber client = *(*stack_)->AddClient(::getpid(), start_time, nullptr);
    bool granted = false;
    (*stack_)->Reserve(client, space_, 0, 4, std::chrono::milliseconds(0),
                       [&](const auto& result) { granted = result.ok(); });
    StepStrand();
    ASSERT_TRUE(granted);
    (*stack_)->RemoveClient(client, how);
    (*stack_)->Tick();
    EXPECT_EQ(slots(), 4u) << "a copy may be in the midst of it";
    EXPECT_TRUE((*stack_)->Awaits(::getpid(), start_time));
    stack_->Advance(std::chrono::seconds(11));
    (*stack_)->Tick();
    EXPECT_EQ(slots(), how == Departure::kGoodbye ? 0u : 4u);
    EXPECT_EQ((*stack_)->Awaits(::getpid(), start_time), slots() > 0);
  }
  ExpectBooksAgree();
}

TEST_F(StackTest, ALeaseEndsByTheNumberThatItsClientGaveIt) {
  Use({});
  TestClient other(*stack_, space_);
  const LeaseView lease = client_->Match({});
  const LeaseView same_number = other.Match({});
  client_->Match({});  // without one
  (*stack_)->NameLease(client_->number(), lease.lease, 5);
  (*stack_)->NameLease(other.number(), same_number.lease, 5);
  const std::vector<uint64_t> numbers = {0, 5, 6};
  (*stack_)->ReleaseNamed(client_->number(), numbers);
  EXPECT_EQ((*stack_)->Stats().leases, 2u);
  EXPECT_FALSE((*stack_)->CheckLease(client_->number(), lease.lease).ok());
  (*stack_)->ReleaseNamed(client_->number(), numbers);  // once more
  EXPECT_EQ((*stack_)->Stats().leases, 2u);
}

// No process stands for a remote session: what it was granted the daemon's own workers may fill.
TEST_F(StackTest, ReservationsOfARemoteSessionAreHeldUntilItsWorkIsOver) {
  for (const bool clients_fill : {true, false}) {
    Use({.warm_blocks = 8, .cold_blocks = 8, .chunk_blocks = 8, .clients_fill = clients_fill});
    const ClientNumber remote = *(*stack_)->AddClient(0, 7, nullptr);
    bool granted = false;
    (*stack_)->Reserve(remote, space_, 0, 8, std::chrono::milliseconds(0),
                       [&](const auto& result) { granted = result.ok(); });
    StepStrand();
    ASSERT_TRUE(granted);
    (*stack_)->RemoveClient(remote, Departure::kLost);
    (*stack_)->Tick();
    stack_->Settle();
    EXPECT_EQ((*stack_)->Stats().quarantined_slots, 8u);
    EXPECT_TRUE(client_->Reserve(1, 0, 50).empty());
    (*stack_)->ProcessGone(0, 7);
    EXPECT_EQ(client_->Reserve(8).size(), 8u);
    client_.reset();
  }
}

TEST_F(StackTest, DropArenaGivesTheMemoryBackAndLeavesCold) {
  Use({});
  Write(TestNames({1, 2}));
  FlushTier(*stack_, TierKind::kWarm);
  Write(TestNames({3}));
  bool done = false;
  (*stack_)->DropArena([&](absl::Status status, uint64_t blocks, uint64_t kept) {
    EXPECT_TRUE(status.ok());
    EXPECT_EQ(blocks, 1u);
    EXPECT_EQ(kept, 0u);
    done = true;
  });
  stack_->SettleUntil(done);
  EXPECT_EQ(client_->Match(TestNames({1, 2})).depth, 2u);
  EXPECT_EQ(client_->Match(TestNames({3})).depth, 0u);
  ExpectBooksAgree();
}

TEST_F(StackTest, SizesShareTheArenaChunkByChunk) {
  Use({.warm_blocks = 16, .cold_blocks = 64, .chunk_blocks = 8});
  for (uint64_t i = 0; i < 4; ++i) Write(TestNames({10 * i, 10 * i + 1, 10 * i + 2, 10 * i + 3}));
  SpaceSpec large = TestSpec("large");
  large.parts[0].block_bytes = 4 * kTestBlockBytes;
  const auto space = (*stack_)->OpenSpace(large);
  ASSERT_TRUE(space.ok());
  TestClient other(*stack_, *space);
  EXPECT_EQ(other.Reserve(2, 0, 5000).size(), 2u) << other.reserve_status;
  ExpectBooksAgree();
  EXPECT_EQ(client_->Match(TestNames({30, 31, 32, 33})).depth, 4u);
}

TEST_F(StackTest, ABlockThatCanNeverFitIsRefusedWithAdvice) {
  Use({.warm_blocks = 8, .cold_blocks = 8, .chunk_blocks = 8});
  SpaceSpec spec = TestSpec("huge");
  spec.parts[0].block_bytes = 16 * kTestBlockBytes;
  const auto refused = (*stack_)->OpenSpace(spec);
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status()));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("warm_capacity"));
  spec.parts[0].block_bytes = 8 * kTestBlockBytes;
  stack_->sizes().cold_blocks = 4;
  stack_->Restart();
  const auto cold = (*stack_)->OpenSpace(spec);
  EXPECT_THAT(std::string(cold.status().message()), HasSubstr("cold_capacity"));
}

TEST_F(StackTest, SpacesAreToldApartAndCounted) {
  Use({});
  Write(TestNames({1, 2}));
  EXPECT_EQ(*(*stack_)->OpenSpace(spec_), space_);
  const uint32_t other = *(*stack_)->OpenSpace(TestSpec("other"));
  EXPECT_NE(other, space_);
  EXPECT_EQ((*stack_)->Match(client_->number(), other, TestNames({1, 2}))->depth, 0u);
  EXPECT_EQ((*stack_)->Spaces()[0].places, 2u);
  EXPECT_EQ((*stack_)->Spaces()[0].warm_bytes, 2 * kTestBlockBytes);
  Restart();  // the empty one is forgotten
  ASSERT_EQ((*stack_)->Spaces().size(), 1u);
  EXPECT_EQ((*stack_)->Spaces()[0].fingerprint, FingerprintOf(spec_));
  EXPECT_EQ((*stack_)->Spaces()[0].spec.model, "test");
}

TEST_F(StackTest, AFullCatalogMakesRoomByDroppingTheOldest) {
  Use({.warm_blocks = 64, .cold_blocks = 64, .chunk_blocks = 8, .max_places = 40});
  for (uint64_t i = 0; i < 20; ++i) Write(TestNames({10 * i, 10 * i + 1, 10 * i + 2}));
  EXPECT_LE((*stack_)->Stats().places, 40u);
  EXPECT_EQ(client_->Match(TestNames({190, 191, 192})).depth, 3u);
  ExpectBooksAgree();
}

TEST_F(StackTest, LeasesAndClientsAreBounded) {
  Use({});
  for (int i = 0; i < 63; ++i) ASSERT_TRUE((*stack_)->Match(client_->number(), space_, {}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted((*stack_)->Match(client_->number(), space_, {}).status()));
  for (int i = 1; i < 64; ++i) ASSERT_TRUE((*stack_)->AddClient(TestClient::kPid, 1, nullptr).ok());
  EXPECT_TRUE(
      absl::IsResourceExhausted((*stack_)->AddClient(TestClient::kPid, 1, nullptr).status()));
  EXPECT_FALSE((*stack_)->Match(ClientNumber{77}, space_, {}).ok());
  EXPECT_TRUE(absl::IsNotFound((*stack_)->Match(client_->number(), 99, {}).status()));
}

}  // namespace
}  // namespace thermocline
