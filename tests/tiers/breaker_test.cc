// The circuit breaker and the write budget.
#include "tiers/breaker.h"

#include <gtest/gtest.h>

#include "tiers/write_budget.h"

namespace thermocline {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

TEST(BreakerTest, OpensAfterSoManyFailuresInARowAndLetsOneCallThroughAtATime) {
  ManualClock clock;
  Breaker breaker(&clock, 3, milliseconds(100));
  EXPECT_FALSE(breaker.Failed());
  EXPECT_FALSE(breaker.Failed());
  breaker.Succeeded();
  EXPECT_FALSE(breaker.Failed());
  EXPECT_FALSE(breaker.Failed());
  EXPECT_TRUE(breaker.Allows());
  EXPECT_TRUE(breaker.Failed());
  EXPECT_FALSE(breaker.Allows());
  EXPECT_FALSE(breaker.is_closed());
  clock.Advance(milliseconds(100));
  EXPECT_TRUE(breaker.Allows());
  breaker.Try();
  EXPECT_FALSE(breaker.Allows());
  EXPECT_FALSE(breaker.Failed()) << "it has been open all the time";
  clock.Advance(milliseconds(100));
  breaker.Try();
  breaker.Succeeded();
  EXPECT_TRUE(breaker.Allows());
  EXPECT_TRUE(breaker.is_closed());
}

TEST(BreakerTest, ACallThatCouldNotBeMadeIsNoProbe) {
  ManualClock clock;
  Breaker breaker(&clock, 1, std::chrono::milliseconds(5000));
  EXPECT_TRUE(breaker.Failed());
  clock.Advance(std::chrono::seconds(5));
  ASSERT_TRUE(breaker.Allows());
  breaker.Try();
  EXPECT_FALSE(breaker.Allows());
  breaker.GiveBack();
  EXPECT_TRUE(breaker.Allows());
  EXPECT_FALSE(breaker.is_closed()) << "nothing is known yet";
}

TEST(WriteBudgetTest, ItHoldsAnHoursWorthAndFillsByTheDay) {
  ManualClock clock;
  WriteBudget budget(&clock, 2400);  // 100 an hour
  EXPECT_DOUBLE_EQ(budget.Left(), 1);
  budget.Spend(60);
  EXPECT_DOUBLE_EQ(budget.Left(), .4);
  budget.Spend(60);
  EXPECT_DOUBLE_EQ(budget.Left(), -.2);
  clock.Advance(std::chrono::minutes(15));
  EXPECT_DOUBLE_EQ(budget.Left(), .05);
  clock.Advance(hours(30));
  EXPECT_DOUBLE_EQ(budget.Left(), 1);
}

TEST(WriteBudgetTest, WithoutALimitAllIsLeft) {
  ManualClock clock;
  WriteBudget budget(&clock, 0);
  budget.Spend(uint64_t{1} << 60);
  EXPECT_DOUBLE_EQ(budget.Left(), 1);
}

}  // namespace
}  // namespace thermocline
