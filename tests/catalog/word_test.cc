#include "catalog/word.h"

#include <gtest/gtest.h>

namespace thermocline {
namespace {

TEST(WordTest, FieldsDoNotTouchEachOther) {
  constexpr Word kWord =
      Word().WithWarmSlot(Word::kMaxSlot).WithHotSlot(0x5a5a5a5).WithChecked(true);
  static_assert(kWord.warm_slot() == Word::kMaxSlot && kWord.hot_slot() == 0x5a5a5a5);
  static_assert(kWord.checked() && !kWord.moving() && !kWord.cold_copy());
  static_assert(kWord.WithWarmSlot(1).hot_slot() == 0x5a5a5a5);
  static_assert(kWord.WithHotSlot(0).warm_slot() == Word::kMaxSlot);
  static_assert(kWord.WithHotSlot(0).WithWarmSlot(0).WithChecked(false).empty());
}

TEST(WordTest, EveryFlagComesAndGoes) {
  const Word word = Word().WithWarmSlot(7);
  EXPECT_TRUE(word.WithMoving(true).moving());
  EXPECT_EQ(word.WithMoving(true).WithMoving(false), word);
  EXPECT_TRUE(word.WithColdCopy(true).cold_copy());
  EXPECT_EQ(word.WithColdCopy(true).WithColdCopy(false), word);
  EXPECT_EQ(Word::FromBits(word.WithChecked(true).bits()), word.WithChecked(true));
}

TEST(WordTest, ReadableWarmNeedsASlotThatStays) {
  EXPECT_FALSE(Word().readable_warm());
  EXPECT_FALSE(Word().WithHotSlot(3).WithColdCopy(true).readable_warm());
  EXPECT_TRUE(Word().WithWarmSlot(3).readable_warm());
  EXPECT_FALSE(Word().WithWarmSlot(3).WithMoving(true).readable_warm());
  EXPECT_FALSE(Word().WithWarmSlot(3).WithDeleted(true).readable_warm());
}

TEST(WordTest, LayoutIsAsWritten) {
  EXPECT_EQ(Word().WithWarmSlot(1).bits(), 1u);
  EXPECT_EQ(Word().WithHotSlot(1).bits(), uint64_t{1} << 28);
  EXPECT_EQ(Word().WithMoving(true).bits(), uint64_t{1} << 56);
  EXPECT_EQ(Word().WithChecked(true).bits(), uint64_t{1} << 57);
  EXPECT_EQ(Word().WithColdCopy(true).bits(), uint64_t{1} << 58);
}

}  // namespace
}  // namespace thermocline
