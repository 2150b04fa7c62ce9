// How many slots are held ahead, and what is asked for to hold so many.
#include "client/magazine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <set>
#include <thread>

#include "proto/shm_layout.h"

namespace thermocline {
namespace {

constexpr Magazine::Kind kSmall{.space = 1, .part = 0, .bytes = 4096};
constexpr Magazine::Kind kLarge{.space = 1, .part = 1, .bytes = 8192};
constexpr Magazine::Kind kOther{.space = 2, .part = 0, .bytes = 4096};

/// Slots by made-up offsets.
std::vector<Magazine::Slot> Slots(size_t count) {
  static uint64_t last = 0;
  std::vector<Magazine::Slot> slots;
  for (size_t i = 0; i < count; ++i) slots.push_back({.offset = 4096 * ++last, .grant = 1});
  return slots;
}

class MagazineTest : public ::testing::Test {
 protected:
  /// What the daemon takes back of a silent session.
  std::vector<uint64_t> TakeBack() {
    std::vector<uint64_t> offsets;
    for (auto& word : words_) {
      uint64_t bits = word.load();
      if (bits != 0 && word.compare_exchange_strong(bits, 0)) offsets.push_back(AheadOffset(bits));
    }
    return offsets;
  }

  std::array<std::atomic<uint64_t>, 512> words_{};
  Magazine magazine_{words_};
};

TEST_F(MagazineTest, WhatIsTakenIsWhatACommitAsksFor) {
  EXPECT_EQ(magazine_.Lacking(1, 23).count, 0u) << "nobody has taken any";
  const Magazine::Want eight = magazine_.Ahead(kSmall, 8);
  EXPECT_EQ(eight.count, 8u);
  magazine_.Came(eight, Slots(8));
  EXPECT_EQ(magazine_.Lacking(1, 23).count, 0u);
  EXPECT_EQ(magazine_.Take(kSmall, 3).size(), 3u);
  EXPECT_EQ(magazine_.Lacking(2, 23).count, 0u) << "of another space";
  const Magazine::Want two = magazine_.Lacking(1, 2);
  EXPECT_EQ(two.kind, kSmall);
  EXPECT_EQ(two.count, 2u) << "no more than fit";
  const Magazine::Want rest = magazine_.Lacking(1, 23);
  EXPECT_EQ(rest.count, 1u);
  EXPECT_EQ(magazine_.Lacking(1, 23).count, 0u) << "they are on their way";
  magazine_.Came(two, Slots(2));
  magazine_.Came(rest, {});
  EXPECT_EQ(magazine_.Lacking(1, 23).count, 1u) << "it did not come";
  EXPECT_EQ(magazine_.Take(kSmall, 100).size(), 7u);
}

TEST_F(MagazineTest, WhatIsLackingMostIsAskedForFirst) {
  for (const Magazine::Kind& kind : {kSmall, kLarge, kOther}) {
    magazine_.Came(magazine_.Ahead(kind, 4), Slots(4));
  }
  magazine_.Take(kSmall, 1);
  magazine_.Take(kLarge, 2);
  magazine_.Take(kOther, 3);
  EXPECT_EQ(magazine_.Lacking(1, 23).kind, kLarge);
  EXPECT_EQ(magazine_.Lacking(1, 23).kind, kSmall);
  EXPECT_EQ(magazine_.Lacking(2, 23).count, 3u);
}

/// Else each of many threads that miss at once would ask for all that is to be held.
TEST_F(MagazineTest, WhatIsOnItsWayToAnotherThreadIsNotAskedForAgain) {
  uint32_t asked = 0;
  for (int thread = 0; thread < 60; ++thread) asked += magazine_.Ahead(kSmall, 4).count;
  EXPECT_EQ(asked, 256u) << "the most that is held";
}

TEST_F(MagazineTest, WhatNobodyNeedsGoesBackWhateverIsOnItsWay) {
  magazine_.Came(magazine_.Ahead(kSmall, 4), Slots(4));
  magazine_.Take(kSmall, 2);
  const Magazine::Want want = magazine_.Lacking(1, 23);
  EXPECT_EQ(magazine_.TakeIdle(true).size(), 2u);
  magazine_.Came(want, Slots(2));
  EXPECT_EQ(magazine_.Lacking(1, 23).count, 0u) << "none are held any more";
  EXPECT_TRUE(magazine_.TakeIdle(false).empty());
  EXPECT_TRUE(magazine_.TakeIdle(false).empty());
  EXPECT_EQ(magazine_.TakeIdle(false).size(), 2u);
}

TEST_F(MagazineTest, WhatTheDaemonTookBackIsHandedOutToNobody) {
  const std::vector<Magazine::Slot> slots = Slots(6);
  magazine_.Came(magazine_.Ahead(kSmall, 6), slots);
  const std::vector<Magazine::Slot> taken = magazine_.Take(kSmall, 2);
  EXPECT_EQ(taken.size(), 2u);
  std::vector<uint64_t> back = TakeBack();
  std::sort(back.begin(), back.end());
  EXPECT_EQ(back, (std::vector<uint64_t>{slots[0].offset, slots[1].offset, slots[2].offset,
                                         slots[3].offset}));
  EXPECT_TRUE(magazine_.Take(kSmall, 6).empty());
  magazine_.Add(kSmall, taken);
  const std::vector<Magazine::Slot> anew = {{.offset = slots[0].offset, .grant = 2}};
  magazine_.Came(magazine_.Ahead(kSmall, 0), anew);
  EXPECT_EQ(magazine_.Take(kSmall, 6).size(), 3u);
  EXPECT_TRUE(TakeBack().empty());
}

TEST_F(MagazineTest, ASlotThatWasTakenBackAndCameAnewIsHandedOutOnce) {
  const auto slots = Slots(1);
  magazine_.Came(magazine_.Ahead(kSmall, 1), slots);
  EXPECT_EQ(TakeBack().size(), 1u);
  const std::vector<Magazine::Slot> anew = {{.offset = slots[0].offset, .grant = 2}};
  magazine_.Came(magazine_.Ahead(kSmall, 1), anew);
  EXPECT_EQ(magazine_.Take(kSmall, 2), anew);
}

TEST_F(MagazineTest, WhatFindsNoRoomGoesBack) {
  const auto some = Slots(words_.size() - 1), others = Slots(3);
  EXPECT_TRUE(magazine_.Add(kSmall, some).empty());
  EXPECT_EQ(magazine_.Add(kLarge, others),
            (std::vector<Magazine::Slot>{others.begin() + 1, others.end()}));
  magazine_.Ahead(kOther, 8);
  EXPECT_EQ(magazine_.Came({kOther, 8}, Slots(8)).size(), 8u);
  EXPECT_EQ(magazine_.Lacking(kOther.space, 23).count, 0u) << "there is no room for more";
  EXPECT_EQ(magazine_.Take(kSmall, 2).size(), 2u);
  EXPECT_TRUE(magazine_.Add(kOther, Slots(2)).empty());
  EXPECT_EQ(magazine_.Take(kSmall, 512).size() + magazine_.Take(kLarge, 512).size() +
                magazine_.Take(kOther, 512).size(),
            words_.size());
}

TEST_F(MagazineTest, AWordTellsGrantsApart) {
  const uint64_t by_call = 7, by_answer = kPutGrant | 7;
  EXPECT_NE(AheadBits(4096, by_call), AheadBits(4096, by_answer));
  EXPECT_NE(AheadBits(4096, by_call), AheadBits(4096, by_call + 1));
  for (const uint64_t grant : {uint64_t{0}, by_call, by_answer, ~uint64_t{0}}) {
    EXPECT_EQ(AheadOffset(AheadBits(uint64_t{4096} * 0xffffffff, grant)),
              uint64_t{4096} * 0xffffffff);
  }
}

/// Threads that take and put back, and a daemon that takes back at any time.
TEST_F(MagazineTest, ASlotIsOnesAlone) {
  constexpr size_t kSlots = 300;
  std::array<std::atomic<int>, kSlots + 1> owners{};  // by the page
  std::atomic<bool> done = false;
  std::atomic<bool> wrong = false;
  const auto give = [&](uint64_t offset) { --owners[offset / 4096]; };
  const auto own = [&](uint64_t offset) {
    if (++owners[offset / 4096] != 1) wrong = true;
  };
  for (uint64_t page = 1; page <= kSlots; ++page) {
    const std::vector<Magazine::Slot> slot = {{.offset = page * 4096, .grant = 0}};
    magazine_.Add(kSmall, slot);
  }
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (int i = 0; i < 20'000; ++i) {
        const auto slots = magazine_.Take(kSmall, 1 + random() % 4);
        for (const auto& slot : slots) own(slot.offset);
        for (const auto& slot : slots) give(slot.offset);
        magazine_.Add(kSmall, slots);
      }
    });
  }
  std::thread daemon([&] {
    for (uint64_t grant = 1; !done; ++grant) {
      const std::vector<uint64_t> back = TakeBack();
      for (const uint64_t offset : back) own(offset);
      for (const uint64_t offset : back) give(offset);
      for (const uint64_t offset : back) {
        const std::vector<Magazine::Slot> slot = {{.offset = offset, .grant = grant}};
        magazine_.Add(kSmall, slot);
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  daemon.join();
  EXPECT_FALSE(wrong);
  std::set<uint64_t> left;
  for (const auto& slot : magazine_.Take(kSmall, 2 * kSlots)) left.insert(slot.offset);
  EXPECT_EQ(left.size(), kSlots);
}

}  // namespace
}  // namespace thermocline
