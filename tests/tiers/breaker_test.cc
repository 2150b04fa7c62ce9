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

TEST(WriteBudgetTest, AdmitsAllThenWhatIsReusedThenNothing) {
  ManualClock clock;
  WriteBudget budget(&clock, 2400);  // 100 an hour
  EXPECT_TRUE(budget.Admits(false));
  budget.Spend(60);
  EXPECT_FALSE(budget.Admits(false));
  EXPECT_TRUE(budget.Admits(true));
  budget.Spend(60);
  EXPECT_FALSE(budget.Admits(true));
  clock.Advance(std::chrono::minutes(15));  // from 20 below to 5
  EXPECT_TRUE(budget.Admits(true));
  EXPECT_FALSE(budget.Admits(false));
  clock.Advance(hours(30));
  budget.Spend(49);
  EXPECT_TRUE(budget.Admits(false)) << "it holds an hour's worth";
  budget.Spend(2);
  EXPECT_FALSE(budget.Admits(false));
}

TEST(WriteBudgetTest, WithoutALimitEverythingIsAdmitted) {
  ManualClock clock;
  WriteBudget budget(&clock, 0);
  budget.Spend(uint64_t{1} << 60);
  EXPECT_TRUE(budget.Admits(false));
}

}  // namespace
}  // namespace thermocline
