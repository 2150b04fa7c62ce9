// The division of a tier among tenants: the rule in small cases, and held against its promises over
// random histories.
#include "tiers/tier_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <numeric>
#include <random>
#include <thread>

namespace thermocline {
namespace {

uint64_t Seed() {
  const char* given = std::getenv("TC_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

TEST(TierBudgetTest, WhatNobodyUsesAnybodyMayBorrow) {
  TierBudget budget(8, {{2, 8}, {4, 6}});
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(budget.Take(0)) << i;
  EXPECT_FALSE(budget.Take(0));
  EXPECT_FALSE(budget.Want(0)) << "it has all that there is";
  EXPECT_EQ(budget.Owed(0), 0u) << "nobody asks";
}

TEST(TierBudgetTest, AQuotaIsNeverExceeded) {
  TierBudget budget(8, {{0, 3}, {0, 8}});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(budget.Take(0));
  EXPECT_FALSE(budget.Take(0));
  EXPECT_EQ(budget.Spare(0), 0u);
  EXPECT_FALSE(budget.Want(0));
  EXPECT_EQ(budget.Spare(1), 5u);
}

TEST(TierBudgetTest, WhoIsBelowItsShareGetsOneFromAboveAndNobodyElseTakesIt) {
  TierBudget budget(4, {{2, 4}, {1, 4}, {0, 4}});
  int woken[3] = {};
  for (size_t i = 0; i < 3; ++i) budget.SetWake(i, [&woken, i] { ++woken[i]; });
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(budget.Take(2));
  EXPECT_FALSE(budget.Take(0));
  EXPECT_TRUE(budget.Want(0));
  EXPECT_TRUE(budget.Want(0)) << "asking twice is asking once";
  EXPECT_EQ(budget.Owed(2), 1u);
  EXPECT_EQ(woken[2], 1);
  budget.Give(2, 1);
  EXPECT_EQ(woken[0], 1);
  EXPECT_EQ(budget.Owed(2), 0u);
  EXPECT_EQ(budget.Spare(2), 0u) << "it is kept for who asked";
  EXPECT_FALSE(budget.Take(2));
  EXPECT_EQ(budget.Spare(1), 0u) << "also from one that is not as far below its share";
  EXPECT_TRUE(budget.Take(0));
  EXPECT_TRUE(budget.Want(1));
  EXPECT_EQ(budget.Owed(2), 1u);
  EXPECT_EQ(budget.Owed(0), 0u) << "it is within its share";
  budget.Unwant(1);
  EXPECT_EQ(budget.Owed(2), 0u);
}

TEST(TierBudgetTest, WhatIsBorrowedEvensOutAndThenStaysWhereItIs) {
  TierBudget budget(9, {{2, 9}, {0, 9}});
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(budget.Take(0));
  int moved = 0;
  for (; budget.Want(1); ++moved) {
    ASSERT_EQ(budget.Owed(0), 1u);
    budget.Give(0, 1);
    ASSERT_TRUE(budget.Take(1));
  }
  EXPECT_EQ(moved, 3);
  EXPECT_EQ(budget.Held(0), 6u)
      << "2 of its own and 4 borrowed, beside 3: the next would swap them";
  EXPECT_FALSE(budget.Want(0));
}

TEST(TierBudgetTest, WhatAnEarlierLifeHeldTooMuchIsOwed) {
  TierBudget budget(4, {{1, 2}, {1, 4}});
  budget.Adopt(0, 3);  // its quota was lowered
  EXPECT_EQ(budget.Owed(0), 1u);
  budget.Adopt(1, 3);  // and the capacity
  EXPECT_EQ(budget.Owed(0) + budget.Owed(1), 2u);
  EXPECT_FALSE(budget.Take(1));
  budget.Give(0, 1);
  budget.Give(1, 1);
  EXPECT_EQ(budget.Owed(0) + budget.Owed(1), 0u);
}

// Members take, give, ask and forget at random; lenders pay when they come to it. Whatever the
// order, nobody is above its quota, all together are not above the capacity, and who asks below its
// share gets a unit as soon as its lenders have paid.
TEST(TierBudgetTest, HoldsItsPromisesOverRandomHistories) {
  const uint64_t seed = Seed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t most) { return random() % (most + 1); };
  for (int history = 0; history < 300; ++history) {
    const uint64_t capacity = 1 + below(20);
    uint64_t unpromised = capacity;
    std::vector<TierBudget::Limits> limits(1 + below(4));
    for (auto& [share, quota] : limits) {
      share = below(unpromised);
      unpromised -= share;
      quota = share + below(capacity - share);
    }
    TierBudget budget(capacity, limits);
    const auto pay = [&] {
      for (size_t i = 0; i < limits.size(); ++i) {
        const uint64_t owed = budget.Owed(i);
        ASSERT_LE(owed, budget.Held(i));
        ASSERT_TRUE(owed == 0 || budget.Held(i) - owed >= limits[i].share) << "a share is not lent";
        if (owed > 0) budget.Give(i, owed);
      }
    };
    for (int step = 0; step < 200; ++step) {
      const size_t member = below(limits.size() - 1);
      switch (below(5)) {
        case 0:
        case 1:
          if (!budget.Take(member)) budget.Want(member);
          break;
        case 2:
          if (budget.Held(member) > 0) budget.Give(member, 1 + below(budget.Held(member) - 1));
          break;
        case 3:
          budget.Unwant(member);
          break;
        default:
          pay();
      }
      uint64_t held = 0;
      for (size_t i = 0; i < limits.size(); ++i) {
        ASSERT_LE(budget.Held(i), limits[i].quota);
        held += budget.Held(i);
      }
      ASSERT_LE(held, capacity);
    }
    for (size_t i = 0; i < limits.size(); ++i) budget.Unwant(i);
    for (size_t i = 0; i < limits.size(); ++i) {
      while (budget.Held(i) < limits[i].share) {
        if (budget.Take(i)) continue;
        ASSERT_TRUE(budget.Want(i)) << "member " << i << " of history " << history;
        pay();
        ASSERT_TRUE(budget.Take(i)) << "member " << i << " of history " << history;
      }
    }
  }
}

TEST(TierBudgetTest, IsSharedByThreads) {
  TierBudget budget(6, {{2, 6}, {2, 6}, {2, 6}});
  std::atomic<uint64_t> most{0};
  std::vector<std::thread> threads;
  for (size_t member = 0; member < 3; ++member) {
    threads.emplace_back([&, member] {
      for (int i = 0; i < 2000; ++i) {
        if (!budget.Take(member)) budget.Want(member);
        const uint64_t held = budget.Held(member);
        if (held > most) most = held;
        if (held > 2 || budget.Owed(member) > 0) budget.Give(member, 1);
      }
      budget.Unwant(member);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(budget.Held(0) + budget.Held(1) + budget.Held(2), 6u);
}

}  // namespace
}  // namespace thermocline
