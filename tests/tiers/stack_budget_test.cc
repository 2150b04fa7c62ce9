// Stacks of two tenants that share warm memory and disk space: what one does to the other, stepped
// by hand.
#include <gtest/gtest.h>

#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

constexpr uint64_t kChunkBlocks = 8;
constexpr uint64_t kChunks = 8;

/// A tenant with a stack of its own; its blocks are paths of one place, told apart by a number.
struct Household {
  Household(const SteppedStack::Sizes& sizes) : stack(sizes) { Connect(); }
  void Connect() {
    space = *stack->OpenSpace(TestSpec());
    client = std::make_unique<TestClient>(stack, space);
  }
  void Restart() {
    client.reset();
    stack.Restart();
    Connect();
    stack->EndGrace();
  }
  std::vector<Name> NamesOf(uint64_t number) const { return {TestName(number + 1)}; }
  bool IsWarm(uint64_t number) {
    const LeaseView lease = client->Match(NamesOf(number));
    const bool warm = lease.depth == 1 && lease.blocks[0].tier == TierKind::kWarm;
    client->ExpectLegal(lease.blocks, NamesOf(number));
    client->Release(lease);
    return warm;
  }
  uint64_t CountWarm(uint64_t from, uint64_t to) {
    uint64_t warm = 0;
    for (uint64_t number = from; number < to; ++number) warm += IsWarm(number) ? 1 : 0;
    return warm;
  }

  SteppedStack stack;
  uint32_t space = 0;
  std::unique_ptr<TestClient> client;
};

class StackBudgetTest : public ::testing::Test {
 protected:
  /// `a` and `b`: shares in chunks; quotas are all there is.
  void Use(uint64_t a, uint64_t b, uint64_t cold_chunks = 0, uint32_t pin_quota_percent = 1000) {
    warm_ = std::make_shared<TierBudget>(kChunks, Limits({{a, kChunks}, {b, kChunks}}));
    if (cold_chunks > 0) {
      cold_ =
          std::make_shared<TierBudget>(cold_chunks, Limits({{2, cold_chunks}, {2, cold_chunks}}));
    }
    for (size_t member = 0; member < 2; ++member) {
      SteppedStack::Sizes sizes{.warm_blocks = kChunks * kChunkBlocks,
                                .cold_blocks = cold_chunks * kChunkBlocks,
                                .chunk_blocks = kChunkBlocks,
                                .pin_quota_percent = pin_quota_percent};
      sizes.warm_account = BudgetAccount(warm_, member);
      if (cold_) sizes.cold_account = BudgetAccount(cold_, member);
      houses_.push_back(std::make_unique<Household>(sizes));
    }
  }
  using Limits = std::vector<TierBudget::Limits>;
  Household& a() { return *houses_[0]; }
  Household& b() { return *houses_[1]; }

  /// Both strands and disks go on by turns, as they do on two threads.
  void Settle() {
    int steps = 0;
    while (a().stack.Step() || b().stack.Step()) ASSERT_LT(++steps, kMaxSteps);
  }
  void Tick() {
    for (const auto& house : houses_) {
      house->stack.Advance(std::chrono::seconds(1));
      house->stack->Tick();
    }
    Settle();
  }
  /// Commits one block; whether it could.
  bool Store(Household& house, uint64_t number, uint32_t wait_s = 5) {
    TestClient& client = *house.client;
    LeaseView lease = client.Match(house.NamesOf(number));
    if (lease.depth == 0) {
      std::vector<uint64_t> offsets;
      bool done = false;
      house.stack->Reserve(
          client.number(), house.space, 0, 1, std::chrono::seconds(wait_s),
          [&](absl::StatusOr<std::vector<uint64_t>> result) {
            if (result.ok()) offsets = *result;
            done = true;
          },
          0);
      Settle();
      for (uint32_t i = 0; i < 2 * wait_s && !done; ++i) Tick();
      EXPECT_TRUE(done);
      if (offsets.empty()) {
        client.Release(lease);
        return false;
      }
      const std::vector<CommitItem> item = {client.Fill(offsets[0], 0, 0, house.NamesOf(number))};
      const auto view =
          house.stack->Commit(client.number(), lease.lease, house.NamesOf(number), item);
      EXPECT_TRUE(view.ok()) << view.status();
    }
    client.Release(lease);
    Settle();
    return true;
  }
  uint64_t StoreAll(Household& house, uint64_t from, uint64_t to) {
    uint64_t stored = 0;
    for (uint64_t number = from; number < to; ++number) stored += Store(house, number) ? 1 : 0;
    return stored;
  }
  /// a's disk is full of what it has in memory, too, and b wants its share.
  void Owe() {
    Use(6, 2, 4);
    constexpr uint64_t kBlocks = 4 * kChunkBlocks - 8;
    ASSERT_EQ(StoreAll(a(), 0, kBlocks), kBlocks);
    ASSERT_EQ(FlushTier(a().stack, TierKind::kWarm).second, 0u);
    for (uint64_t number = 0; number < kBlocks; ++number) {
      const LeaseView lease = a().client->Match(a().NamesOf(number));
      ASSERT_EQ(a().client->Load(lease, a().NamesOf(number)), 1u);
      a().client->Release(lease);
    }
    const BudgetAccount another(cold_, 1);
    while (another.Take()) {
    }
    another.Want();
    ASSERT_GT(cold_->Owed(0), 0u);
  }
  void ExpectSane() {
    for (const auto& house : houses_) {
      const absl::Status audit = house->stack->Audit();
      EXPECT_TRUE(audit.ok()) << audit;
    }
    EXPECT_LE(warm_->Held(0) + warm_->Held(1), kChunks);
  }

  std::shared_ptr<TierBudget> warm_, cold_;
  std::vector<std::unique_ptr<Household>> houses_;
};

TEST_F(StackBudgetTest, OneAloneMayUseNearlyAllMemory) {
  Use(2, 2);
  EXPECT_EQ(StoreAll(a(), 0, 60), 60u);
  EXPECT_EQ(a().CountWarm(0, 60), 60u);
  EXPECT_EQ(warm_->Held(0), kChunks);
  ExpectSane();
}

TEST_F(StackBudgetTest, AFloodTakesNothingOfTheShareOfAnother) {
  Use(4, 2);
  // Within its share, less what a stack keeps free for the next put.
  ASSERT_EQ(StoreAll(a(), 0, 30), 30u);
  const uint64_t flood = 4 * kChunks * kChunkBlocks;
  EXPECT_EQ(StoreAll(b(), 0, flood), flood);
  EXPECT_EQ(a().CountWarm(0, 30), 30u);
  EXPECT_GE(warm_->Held(1), kChunks - 5) << "what is not promised is used";
  ExpectSane();
}

TEST_F(StackBudgetTest, WhoComesAfterTheFloodGetsItsShareBack) {
  Use(4, 2);
  const uint64_t flood = 2 * kChunks * kChunkBlocks;
  ASSERT_EQ(StoreAll(b(), 0, flood), flood);
  ASSERT_EQ(warm_->Held(1), kChunks);
  EXPECT_EQ(StoreAll(a(), 0, 30), 30u);
  EXPECT_EQ(a().CountWarm(0, 30), 30u);
  EXPECT_GE(warm_->Held(0), 4u);
  const uint64_t latest = b().CountWarm(flood - 20, flood);
  EXPECT_GE(latest, 18u) << "of the flood's blocks the oldest gave way, wherever they lay";
  ExpectSane();
  // And it stays so when both go on.
  for (uint64_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(Store(b(), flood + i));
    ASSERT_TRUE(Store(a(), i % 30));
  }
  EXPECT_EQ(a().CountWarm(0, 30), 30u);
  ExpectSane();
}

TEST_F(StackBudgetTest, ABlockThatIsReadStaysWhereItIsAndItsChunkComesLater) {
  Use(7, 0);
  ASSERT_EQ(StoreAll(b(), 0, 60), 60u);
  std::vector<LeaseView> leases;  // one in each chunk
  for (uint64_t number = 0; number < 60; number += 4) {
    leases.push_back(b().client->Match(b().NamesOf(number)));
    ASSERT_EQ(leases.back().depth, 1u);
  }
  EXPECT_FALSE(Store(a(), 0, 1)) << "none of the chunks can be emptied";
  for (uint64_t i = 0; i < leases.size(); ++i) {
    b().client->ExpectLegal(leases[i].blocks, b().NamesOf(i * 4));
    b().client->Release(leases[i]);
  }
  EXPECT_EQ(StoreAll(a(), 0, 50), 50u);
  EXPECT_EQ(a().CountWarm(0, 50), 50u);
  ExpectSane();
}

TEST_F(StackBudgetTest, WithAColdTierWhatGivesWayIsKeptThere) {
  Use(4, 0, 16);
  ASSERT_EQ(StoreAll(b(), 0, 60), 60u);
  ASSERT_EQ(StoreAll(a(), 0, 30), 30u);
  EXPECT_EQ(a().CountWarm(0, 30), 30u);
  uint64_t found = 0;
  for (uint64_t number = 0; number < 60; ++number) {
    const LeaseView lease = b().client->Match(b().NamesOf(number));
    found += lease.depth;
    b().client->Release(lease);
  }
  EXPECT_EQ(found, 60u);
  ExpectSane();
}

TEST_F(StackBudgetTest, DiskSpaceIsLentAndComesBack) {
  Use(1, 1, 8);
  // b fills the disk through its memory; a then gets its share of it.
  const uint64_t flood = 16 * kChunkBlocks;
  ASSERT_EQ(StoreAll(b(), 0, flood), flood);
  ASSERT_EQ(FlushTier(b().stack, TierKind::kWarm).second, 0u);
  Settle();
  EXPECT_GE(cold_->Held(1), 7u);
  ASSERT_EQ(StoreAll(a(), 0, 12), 12u);
  bool done = false;
  a().stack->Flush(TierKind::kWarm, [&](absl::Status, uint64_t, uint64_t) { done = true; });
  for (int i = 0; i < 30 && !done; ++i) Tick();
  EXPECT_TRUE(done);
  EXPECT_GE(cold_->Held(0), 2u);
  EXPECT_LE(cold_->Held(0) + cold_->Held(1), 8u);
  uint64_t found = 0;
  for (uint64_t number = 0; number < 12; ++number) {
    const LeaseView lease = a().client->Match(a().NamesOf(number));
    found += lease.depth;
    a().client->Release(lease);
  }
  EXPECT_EQ(found, 12u);
  ExpectSane();
}

// Their blocks are in memory, too, and may leave it once they are on disk again.
TEST_F(StackBudgetTest, AFlushWaitsForTheSegmentsThatGoForAnother) {
  Owe();
  EXPECT_EQ(FlushTier(a().stack, TierKind::kWarm).second, 0u);
  ExpectSane();
}

TEST_F(StackBudgetTest, AFlushWaitsForNoSegmentThatCannotGo) {
  Owe();
  a().stack.SetFaults({.error = 1});
  EXPECT_EQ(FlushTier(a().stack, TierKind::kWarm).second, 0u) << "the copies are there still";
  EXPECT_EQ(a().stack->Stats().tiers[1].block_count, 24u);
  ExpectSane();
}

TEST_F(StackBudgetTest, DiskSpaceThatDoesNotComeIsNotWaitedForForEver) {
  Use(1, 1, 8);
  // b fills the disk and pins what it has there: it owes a unit, and cannot give it.
  for (uint64_t number = 0; number < 8 * kChunkBlocks; ++number) {
    if (!Store(b(), number)) break;
    b().stack->Pin(b().space, b().NamesOf(number), std::chrono::hours(1), TierKind::kNone)
        .IgnoreError();
  }
  b().stack->Flush(TierKind::kWarm, [](absl::Status, uint64_t, uint64_t) {});
  Settle();
  ASSERT_EQ(cold_->Held(1), 8u);
  ASSERT_EQ(StoreAll(a(), 0, 12), 12u);
  bool done = false;
  a().stack->Flush(TierKind::kWarm, [&](absl::Status, uint64_t, uint64_t) { done = true; });
  Tick();
  EXPECT_FALSE(done) << "it may come yet";
  for (int i = 0; i < 30 && !done; ++i) Tick();
  EXPECT_TRUE(done);
  ExpectSane();
}

TEST_F(StackBudgetTest, PinsHoldWhatIsTheTenantsOwnAndNothingOfTheOther) {
  Use(4, 0, 8, 50);
  const auto pin = [](Household& house, uint64_t number) {
    return house.stack
        ->Pin(house.space, house.NamesOf(number), std::chrono::hours(1), TierKind::kWarm)
        .status();
  };
  // Of a share of two units of disk space, and of four chunks, half; records take a little more.
  ASSERT_EQ(StoreAll(a(), 0, 12), 12u);
  uint64_t pinned = 0;
  while (pinned < 12 && pin(a(), pinned).ok()) ++pinned;
  EXPECT_EQ(pinned, kChunkBlocks - 1);
  ASSERT_EQ(StoreAll(b(), 0, 12), 12u) << "it may borrow";
  const absl::Status refused = pin(b(), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_EQ(b().stack->Stats().tiers[0].ttl_pinned_bytes, 0u);
  EXPECT_EQ(a().stack->Stats().tiers[0].ttl_pinned_bytes, pinned * kTestBlockBytes);
  ExpectSane();
}

TEST_F(StackBudgetTest, ARestartHoldsWhatItAdopts) {
  Use(4, 2);
  ASSERT_EQ(StoreAll(a(), 0, 30), 30u);
  const uint64_t held = warm_->Held(0);
  // A new life begins with a new budget.
  const auto fresh = std::make_shared<TierBudget>(kChunks, Limits({{4, kChunks}, {2, kChunks}}));
  a().stack.sizes().warm_account = BudgetAccount(fresh, 0);
  a().Restart();
  Settle();
  EXPECT_EQ(fresh->Held(0), held);
  EXPECT_EQ(a().CountWarm(0, 30), 30u);
}

}  // namespace
}  // namespace thermocline
