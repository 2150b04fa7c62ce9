// How many slots are held ahead, and what is asked for to hold so many.
#include "client/magazine.h"

#include <gtest/gtest.h>

namespace thermocline {
namespace {

constexpr Magazine::Kind kSmall{.space = 1, .part = 0, .bytes = 4096};
constexpr Magazine::Kind kLarge{.space = 1, .part = 1, .bytes = 8192};
constexpr Magazine::Kind kOther{.space = 2, .part = 0, .bytes = 4096};

/// Slots of a kind, by made-up offsets.
std::vector<Magazine::Slot> Slots(size_t count) {
  return std::vector<Magazine::Slot>(count, {.offset = 4096, .grant = 1});
}

TEST(MagazineTest, WhatIsTakenIsWhatACommitAsksFor) {
  Magazine magazine;
  EXPECT_EQ(magazine.Lacking(1, 23).count, 0u) << "nobody has taken any";
  const Magazine::Want eight = magazine.Ahead(kSmall, 8);
  EXPECT_EQ(eight.count, 8u);
  magazine.Came(eight, Slots(8));
  EXPECT_EQ(magazine.Lacking(1, 23).count, 0u);
  EXPECT_EQ(magazine.Take(kSmall, 3).size(), 3u);
  EXPECT_EQ(magazine.Lacking(2, 23).count, 0u) << "of another space";
  const Magazine::Want two = magazine.Lacking(1, 2);
  EXPECT_EQ(two.kind, kSmall);
  EXPECT_EQ(two.count, 2u) << "no more than fit";
  const Magazine::Want rest = magazine.Lacking(1, 23);
  EXPECT_EQ(rest.count, 1u);
  EXPECT_EQ(magazine.Lacking(1, 23).count, 0u) << "they are on their way";
  magazine.Came(two, Slots(2));
  magazine.Came(rest, {});
  EXPECT_EQ(magazine.Lacking(1, 23).count, 1u) << "it did not come";
  EXPECT_EQ(magazine.Take(kSmall, 100).size(), 7u);
}

TEST(MagazineTest, WhatIsLackingMostIsAskedForFirst) {
  Magazine magazine;
  for (const Magazine::Kind& kind : {kSmall, kLarge, kOther}) {
    magazine.Came(magazine.Ahead(kind, 4), Slots(4));
  }
  magazine.Take(kSmall, 1);
  magazine.Take(kLarge, 2);
  magazine.Take(kOther, 3);
  EXPECT_EQ(magazine.Lacking(1, 23).kind, kLarge);
  EXPECT_EQ(magazine.Lacking(1, 23).kind, kSmall);
  EXPECT_EQ(magazine.Lacking(2, 23).count, 3u);
}

/// Else each of many threads that miss at once would ask for all that is to be held.
TEST(MagazineTest, WhatIsOnItsWayToAnotherThreadIsNotAskedForAgain) {
  Magazine magazine;
  uint32_t asked = 0;
  for (int thread = 0; thread < 60; ++thread) asked += magazine.Ahead(kSmall, 4).count;
  EXPECT_EQ(asked, 256u) << "the most that is held";
}

TEST(MagazineTest, WhatNobodyNeedsGoesBackWhateverIsOnItsWay) {
  Magazine magazine;
  magazine.Came(magazine.Ahead(kSmall, 4), Slots(4));
  magazine.Take(kSmall, 2);
  const Magazine::Want want = magazine.Lacking(1, 23);
  EXPECT_EQ(magazine.TakeIdle(true).size(), 2u);
  magazine.Came(want, Slots(2));
  EXPECT_EQ(magazine.Lacking(1, 23).count, 0u) << "none are held any more";
  EXPECT_TRUE(magazine.TakeIdle(false).empty());
  EXPECT_TRUE(magazine.TakeIdle(false).empty());
  EXPECT_EQ(magazine.TakeIdle(false).size(), 2u);
}

}  // namespace
}  // namespace thermocline
