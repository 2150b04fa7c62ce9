#include "catalog/reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

class ReaderTest : public ::testing::Test {
 protected:
  ReaderTest()
      : small_({.node_count = 1000, .run_places = 4}),
        reader_(small_.memory.catalog(), small_.pins) {}

  // A path of `depth` places whose words are warm in parts [0, parts).
  Place AddWarm(size_t depth, uint32_t parts) {
    names_.clear();
    for (uint64_t symbol = 1; symbol <= depth; ++symbol) names_.push_back(NameOf(symbol));
    const Place end = small_.Add(names_);
    for (Place place = end; !small_.writer.IsRoot(place); place = small_.writer.Parent(place)) {
      for (uint32_t part = 0; part < parts; ++part) {
        small_.writer.SetWord(place, part,
                              Word().WithWarmSlot(100 * (part + 1) + small_.writer.Depth(place)));
      }
    }
    return end;
  }
  // Takes the bytes of a part at `depth` (from 1) away.
  void Punch(size_t depth, uint32_t part) {
    const Place place = small_.writer.Find(small_.root, std::span(names_).first(depth)).place;
    Movement move{place, part};
    ASSERT_EQ(small_.writer.BeginMove({&move, 1}), 1u);
    small_.writer.FinishMove(place, part, Word().WithColdCopy(true));
  }
  size_t Usable(std::span<const PartRule> rules, uint32_t block_places = 1) {
    const Reader::Match match = reader_.MatchAndPin(small_.root, names_, 1, rules, block_places);
    EXPECT_EQ(match.depth, names_.size());
    reader_.Unpin(1);
    return match.usable;
  }

  static constexpr PartRule kFull{};
  SmallCatalog small_;
  Reader reader_;
  std::vector<Name> names_;
};

TEST_F(ReaderTest, MatchPinsTheWholePath) {
  const Place end = AddWarm(10, 1);
  std::vector<Name> longer = names_;
  longer.push_back(NameOf(99));
  const Reader::Match match = reader_.MatchAndPin(small_.root, longer, 3, {{kFull}});
  EXPECT_EQ(match.depth, 10u);
  EXPECT_EQ(match.usable, 10u);
  EXPECT_EQ(reader_.PlaceAt(10), end);
  EXPECT_EQ(small_.writer.Depth(reader_.PlaceAt(5)), 5u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(reader_.word(0, i).warm_slot(), 101 + i);
  EXPECT_TRUE(small_.writer.Drop({{end}}).dropped.empty());
  reader_.Shorten(3, reader_.PlaceAt(9));
  EXPECT_EQ(small_.writer.Drop({{Place{end.node, 1}}}).dropped.size(), 1u);
  reader_.Unpin(3);
  EXPECT_EQ(small_.writer.Drop({{Place{end.node, 1}}}).dropped.size(), 1u);
}

TEST_F(ReaderTest, AMissPinsNothing) {
  AddWarm(3, 1);
  EXPECT_EQ(reader_.MatchAndPin(small_.root, NamesOf({9, 2}), 1, {{kFull}}).depth, 0u);
  EXPECT_EQ(small_.pins[1].load(), 0u);
}

TEST_F(ReaderTest, AForeignRootIsAMiss) {
  AddWarm(3, 1);
  EXPECT_EQ(reader_.MatchAndPin({small_.root.node, 77}, names_, 1, {{kFull}}).depth, 0u);
  EXPECT_EQ(small_.pins[1].load(), 0u);
}

TEST_F(ReaderTest, UsableEndsAtTheFirstHoleOfAFullPart) {
  AddWarm(12, 2);
  const PartRule rules[] = {kFull, kFull};
  EXPECT_EQ(Usable(rules), 12u);
  Punch(8, 1);
  EXPECT_EQ(Usable(rules), 7u);
  Punch(3, 0);
  EXPECT_EQ(Usable(rules), 2u);
  Punch(1, 1);
  EXPECT_EQ(Usable(rules), 0u);
}

TEST_F(ReaderTest, AMovingWordIsNotUsable) {
  AddWarm(6, 1);
  const Place place = small_.writer.Find(small_.root, std::span(names_).first(4)).place;
  Movement move{place, 0};
  ASSERT_EQ(small_.writer.BeginMove({&move, 1}), 1u);
  EXPECT_EQ(Usable({{kFull}}), 3u);
  small_.writer.FinishMove(place, 0, move.before);
  EXPECT_EQ(Usable({{kFull}}), 6u);
}

TEST_F(ReaderTest, AWindowNeedsItsLastPlacesOnly) {
  AddWarm(12, 2);
  const PartRule rules[] = {kFull, {.window_places = 3}};
  for (size_t depth = 1; depth <= 9; ++depth) Punch(depth, 1);
  EXPECT_EQ(Usable(rules), 12u);  // needs 10, 11, 12
  Punch(10, 1);
  EXPECT_EQ(Usable(rules), 0u);
}

TEST_F(ReaderTest, AHoleInAWindowPassesBy) {
  AddWarm(12, 2);
  const PartRule rules[] = {kFull, {.window_places = 3}};
  Punch(5, 1);
  EXPECT_EQ(Usable(rules), 12u);
  Punch(11, 1);
  EXPECT_EQ(Usable(rules), 10u);  // needs 8, 9, 10
  Punch(9, 1);
  EXPECT_EQ(Usable(rules), 8u);  // needs 6, 7, 8
  Punch(10, 0);
  EXPECT_EQ(Usable(rules), 8u);
  Punch(7, 1);
  EXPECT_EQ(Usable(rules), 4u);  // 5 to 8 lack one of 5, 7; 4 needs 2, 3, 4
}

TEST_F(ReaderTest, BlocksOfSeveralPlacesRoundDown) {
  names_.clear();
  for (uint64_t symbol = 1; symbol <= 11; ++symbol) names_.push_back(NameOf(symbol));
  small_.Add(names_);
  for (size_t depth = 2; depth <= 11; depth += 2) {
    const Place place = small_.writer.Find(small_.root, std::span(names_).first(depth)).place;
    small_.writer.SetWord(place, 0, Word().WithWarmSlot(depth));
    if (depth >= 8) small_.writer.SetWord(place, 1, Word().WithWarmSlot(50 + depth));
  }
  EXPECT_EQ(Usable({{kFull}}, 2), 10u);
  const PartRule window3[] = {kFull, {.window_places = 3}};  // two blocks reach into it
  EXPECT_EQ(Usable(window3, 2), 10u);
  const PartRule window5[] = {kFull, {.window_places = 5}};
  EXPECT_EQ(Usable(window5, 2), 0u);
  EXPECT_EQ(Usable({}, 4), 8u);
}

TEST_F(ReaderTest, APlaceThatAnotherHoldsIsAdoptedWithItsWholePath) {
  const auto names = NamesOf({1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  const Place end = small_.Add(names);
  std::vector<Name> seen;
  const uint64_t id = small_.writer.IdOf(end);
  const Reader::Match match = reader_.Adopt(small_.root, end, id, 1, {}, 1, seen);
  EXPECT_EQ(match.depth, names.size());
  EXPECT_EQ(seen, names);
  EXPECT_EQ(reader_.PlaceAt(names.size()), end);
  EXPECT_TRUE(small_.writer.Drop({{end}}).dropped.empty()) << "it is pinned";
  reader_.Unpin(1);
  ASSERT_EQ(small_.writer.Drop({{end}}).dropped.size(), 1u);
  EXPECT_EQ(reader_.Adopt(small_.root, end, id, 1, {}, 1, seen).depth, 0u) << "it has gone";
  EXPECT_TRUE(seen.empty());
  ASSERT_EQ(small_.Add(NamesOf({1, 2, 3, 4, 5, 6, 7, 8, 9, 11})), end) << "another stands there";
  EXPECT_EQ(reader_.Adopt(small_.root, end, id, 1, {}, 1, seen).depth, 0u);
}

TEST_F(ReaderTest, WhatIsToldOfAPlaceNeedNotBeTrue) {
  const Place end = small_.Add(NamesOf({1, 2, 3}));
  const uint64_t id = small_.writer.IdOf(end);
  std::vector<Name> seen;
  const auto adopted = [&](Root root, Place place, uint64_t told) {
    return reader_.Adopt(root, place, told, 1, {}, 1, seen).depth;
  };
  EXPECT_EQ(adopted(small_.root, {end.node, 0}, id), 0u);
  EXPECT_EQ(adopted(small_.root, {end.node, 0xffff}, id), 0u);
  EXPECT_EQ(adopted(small_.root, {0xffffffff, 1}, id), 0u);
  EXPECT_EQ(adopted(small_.root, {0, 1}, id), 0u);
  EXPECT_EQ(adopted(small_.root, end, id + 1), 0u);
  EXPECT_EQ(adopted({small_.root.node, small_.root.tag + 1}, end, id), 0u);
  const Root other = small_.writer.AddRoot(2).value();
  EXPECT_EQ(adopted(other, end, id), 0u) << "it is of another space";
  EXPECT_EQ(adopted(small_.root, end, id), 3u);
}

TEST_F(ReaderTest, ALeaseGrowsAndNeverShrinksByItself) {
  AddWarm(3, 1);
  ASSERT_EQ(reader_.MatchAndPin(small_.root, names_, 1, {{kFull}}).depth, 3u);
  const Place end = AddWarm(9, 1);
  EXPECT_EQ(reader_.Extend(small_.root, names_, 3, 1, {{kFull}}).usable, 9u);
  EXPECT_EQ(small_.pins[0].load(), 0u);
  EXPECT_EQ(small_.pins[1].load(), PlaceBits(end));
  EXPECT_TRUE(small_.writer.Drop({{end}}).dropped.empty());
  EXPECT_EQ(reader_.Extend(small_.root, std::span(names_).first(2), 9, 1, {{kFull}}).depth, 0u);
  EXPECT_EQ(small_.pins[1].load(), PlaceBits(end));
}

}  // namespace
}  // namespace thermocline
