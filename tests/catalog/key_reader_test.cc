// Batches of unordered keys: found whatever their order, and pinned only while they stand.
#include "catalog/key_reader.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

class KeyReaderTest : public ::testing::Test {
 protected:
  KeyReaderTest() : reader_(small_.memory.catalog()) {}

  Place AddKey(uint64_t symbol, uint32_t slot) {
    const Place place = small_.Add({symbol});
    small_.memory.catalog().checksum(0, place.node, place.count - 1).store(uint64_t{10} * slot);
    small_.writer.SetWord(place, 0, Word().WithWarmSlot(slot));
    return place;
  }
  std::vector<FoundKey> LookUp(const std::vector<Name>& keys) {
    std::vector<FoundKey> found(keys.size());
    reader_.LookUp(small_.root, keys, found);
    return found;
  }
  FoundKey Find(uint64_t symbol) { return LookUp(NamesOf({symbol}))[0]; }

  SmallCatalog small_;
  KeyReader reader_;
};

TEST_F(KeyReaderTest, EachKeyIsFoundInItsPlaceWhateverTheOrder) {
  for (uint32_t i = 0; i < 500; ++i) AddKey(i, 1 + i);
  std::mt19937_64 random(TestSeed());
  std::vector<uint64_t> symbols;
  std::vector<Name> keys;
  for (int i = 0; i < 700; ++i) {  // some twice, a third of them absent
    symbols.push_back(random() % 750);
    keys.push_back(NameOf(symbols.back()));
  }
  const std::vector<FoundKey> found = LookUp(keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(found[i].node != 0, symbols[i] < 500) << symbols[i];
    if (found[i].node == 0) continue;
    const KeyBlock block = reader_.Block(small_.root, found[i], 0);
    EXPECT_EQ(block.word.warm_slot(), 1 + symbols[i]);
    EXPECT_EQ(block.checksum, 10 * (1 + symbols[i]));
    EXPECT_EQ(block.id, 1 + symbols[i]);
  }
  LookUp({});
}

TEST_F(KeyReaderTest, ASearchThatBeganInATableThatWasReplacedFindsItsChild) {
  SmallCatalog growing({.node_count = 4000, .run_places = 1, .table_log2 = 6});
  const Catalog& catalog = growing.memory.catalog();
  const Place parent{growing.root.node, 0};
  for (uint64_t i = 0; i < 100; ++i) growing.Add({i});
  std::vector<Catalog::Search> begun, guessed;
  for (uint64_t i = 0; i < 100; ++i) {
    begun.push_back(catalog.Begin(parent, NameOf(i)));
    guessed.push_back(begun.back());
    catalog.Guess(guessed.back());
  }
  ASSERT_EQ(catalog.table_log2().load(), 6u);
  for (uint64_t i = 100; i < 3000; ++i) growing.Add({i});
  ASSERT_GE(catalog.table_log2().load(), 8u);
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_NE(catalog.End(guessed[i], parent, NameOf(i)).node, 0u) << i;
    catalog.Guess(begun[i]);
    EXPECT_NE(catalog.End(begun[i], parent, NameOf(i)).node, 0u) << i;
  }
}

TEST_F(KeyReaderTest, WhatLiesDeeperIsNoKey) {
  small_.Add({1, 2});
  small_.Add({1, 3});  // a run of its own, below the first
  EXPECT_NE(Find(1).node, 0u);
  EXPECT_EQ(Find(2).node, 0u);
  EXPECT_EQ(Find(3).node, 0u);
}

TEST_F(KeyReaderTest, AnotherSpacesKeysAreNotFound) {
  AddKey(1, 5);
  const std::vector<Name> key = NamesOf({1});
  FoundKey found;
  EXPECT_TRUE(reader_.LookUp(small_.writer.AddRoot(2).value(), key, {&found, 1}));
  EXPECT_EQ(found.node, 0u);
  // A root that has gone, whose node another has taken.
  const Root gone{small_.root.node, 77};
  EXPECT_FALSE(reader_.LookUp(gone, key, {&found, 1}));
  EXPECT_FALSE(reader_.Pin(gone, Find(1), 0, small_.pins[1]).has_value());
}

TEST_F(KeyReaderTest, WhatIsPinnedStays) {
  const Place place = AddKey(1, 5);
  const auto block = reader_.Pin(small_.root, Find(1), 0, small_.pins[1]);
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(block->word.warm_slot(), 5u);
  EXPECT_TRUE(small_.writer.Drop({{place}}).dropped.empty());
  Movement move{place, 0};
  EXPECT_EQ(small_.writer.BeginMove({&move, 1}), 0u);
  small_.pins[1] = 0;
  EXPECT_EQ(small_.writer.Drop({{place}}).dropped.size(), 1u);
}

TEST_F(KeyReaderTest, WhatIsDroppedBetweenTheStagesIsNoneAndPinsNothing) {
  const Place place = AddKey(1, 5);
  const FoundKey found = Find(1);
  ASSERT_EQ(small_.writer.Drop({{place}}).dropped.size(), 1u);
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(reader_.Block(small_.root, found, 0).word.empty());
    EXPECT_FALSE(reader_.Pin(small_.root, found, 0, small_.pins[1]).has_value());
    EXPECT_EQ(small_.pins[1].load(), 0u);
    AddKey(2, 6);  // in the same node
  }
  EXPECT_EQ(Find(1).node, 0u);
  EXPECT_EQ(reader_.Block(small_.root, Find(2), 0).word.warm_slot(), 6u);
}

TEST_F(KeyReaderTest, WhatIsMovingIsNotPinned) {
  const Place place = AddKey(1, 5);
  const FoundKey found = Find(1);
  Movement move{place, 0};
  ASSERT_EQ(small_.writer.BeginMove({&move, 1}), 1u);
  EXPECT_FALSE(reader_.Pin(small_.root, found, 0, small_.pins[1]).has_value());
  small_.writer.FinishMove(place, 0, Word().WithWarmSlot(6));
  const auto block = reader_.Pin(small_.root, found, 0, small_.pins[1]);
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(block->word.warm_slot(), 6u);
}

TEST_F(KeyReaderTest, WhatIsColdIsThereAndNotPinned) {
  const Place place = small_.Add({1});
  small_.writer.SetWord(place, 0, Word().WithColdCopy(true));
  EXPECT_TRUE(reader_.Block(small_.root, Find(1), 0).word.cold_copy());
  EXPECT_FALSE(reader_.Pin(small_.root, Find(1), 0, small_.pins[1]).has_value());
}

}  // namespace
}  // namespace thermocline
