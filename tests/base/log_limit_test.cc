#include "base/log_limit.h"

#include <gtest/gtest.h>

namespace thermocline {
namespace {

using std::chrono::milliseconds;

TEST(LogLimitTest, AFloodBecomesABurstAndThenALineASecondThatCountsTheRest) {
  LogLimit limit;
  ManualClock clock;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(limit.Admit(clock.Now()), 0u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(limit.Admit(clock.Now()), std::nullopt);
  clock.Advance(milliseconds(999));
  EXPECT_EQ(limit.Admit(clock.Now()), std::nullopt);
  clock.Advance(milliseconds(1));
  EXPECT_EQ(limit.Admit(clock.Now()), 1001u);
  EXPECT_EQ(limit.Admit(clock.Now()), std::nullopt);
  clock.Advance(milliseconds(2500));
  EXPECT_EQ(limit.Admit(clock.Now()), 1u);
  EXPECT_EQ(limit.Admit(clock.Now()), 0u);
  EXPECT_EQ(limit.Admit(clock.Now()), std::nullopt);
}

TEST(LogLimitTest, AfterAQuietTimeTheWholeBurstIsThereAgainAndNoMore) {
  LogLimit limit;
  ManualClock clock;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(limit.Admit(clock.Now()).has_value());
    EXPECT_FALSE(limit.Admit(clock.Now()).has_value());
    clock.Advance(std::chrono::hours(1));
  }
}

}  // namespace
}  // namespace thermocline
