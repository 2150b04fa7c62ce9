#include "catalog/writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

TEST(CatalogTest, GeometryOutOfRangeIsRefused) {
  EXPECT_FALSE(Catalog::Bytes({.node_count = 1}).ok());
  EXPECT_FALSE(Catalog::Bytes({.node_count = 100, .run_places = 33}).ok());
  EXPECT_FALSE(Catalog::Bytes({.node_count = 1}).ok());
  EXPECT_FALSE(Catalog::Bytes({.node_count = 100, .table_log2 = 7, .table_log2_max = 6}).ok());
}

TEST(CatalogTest, OpenChecksWhatItIsGiven) {
  SmallCatalog small;
  const size_t bytes = Catalog::Bytes(small.memory.catalog().geometry()).value();
  void* base = reinterpret_cast<char*>(&small.memory.catalog().node(0)) - 4096;
  EXPECT_EQ(Catalog::Open(base, bytes)->epoch(), 1u);
  EXPECT_FALSE(Catalog::Open(base, bytes - 1).ok());
  auto* header = static_cast<CatalogHeader*>(base);
  header->layout_version = 99;
  EXPECT_THAT(std::string(Catalog::Open(base, bytes).status().message()),
              ::testing::HasSubstr("layout version 99"));
  header->layout_version = kCatalogLayoutVersion;
  header->magic = 0;
  EXPECT_FALSE(Catalog::Open(base, bytes).ok());
}

TEST(WriterTest, RootsComeAndGo) {
  SmallCatalog small;
  Writer& writer = small.writer;
  EXPECT_EQ(writer.AddRoot(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(writer.AddRoot(1).status().code(), absl::StatusCode::kAlreadyExists);
  const Root other = writer.AddRoot(2).value();
  EXPECT_EQ(writer.FindRoot(2), other);
  const Place place = writer.Append(Writer::RootPlace(other), NameOf(1), 1).value();
  EXPECT_EQ(writer.RootOf(place), other);
  EXPECT_EQ(writer.RemoveRoot(other).code(), absl::StatusCode::kFailedPrecondition);
  writer.Drop({{place}});
  EXPECT_TRUE(writer.RemoveRoot(other).ok());
  EXPECT_FALSE(writer.FindRoot(2));
  EXPECT_EQ(writer.node_count(), 1u);
}

TEST(WriterTest, SpacesDoNotSeeEachOther) {
  SmallCatalog small;
  const Root other = small.writer.AddRoot(2).value();
  small.Add({1, 2, 3});
  EXPECT_EQ(small.writer.Find(other, NamesOf({1, 2, 3})).depth, 0u);
  EXPECT_EQ(small.writer.Find(small.root, NamesOf({1, 2, 3})).depth, 3u);
}

TEST(WriterTest, PathsForkAnywhere) {
  SmallCatalog small({.node_count = 100, .run_places = 4});
  Writer& writer = small.writer;
  const Place trunk = small.Add({1, 2, 3, 4, 5, 6});
  const Place fork = small.Add({1, 2, 9});
  EXPECT_EQ(writer.Depth(trunk), 6u);
  EXPECT_EQ(writer.Depth(fork), 3u);
  const Writer::Found second = writer.Find(small.root, NamesOf({1, 2, 7}));
  EXPECT_EQ(second.depth, 2u);
  std::vector<uint64_t> children;
  writer.VisitChildren(second.place,
                       [&](Place child) { children.push_back(writer.NameOf(child).word[0]); });
  EXPECT_THAT(children, UnorderedElementsAre(3000, 9000));
  EXPECT_EQ(writer.Parent(fork), second.place);
  EXPECT_TRUE(writer.IsLeaf(trunk));
  EXPECT_TRUE(writer.IsLeaf(fork));
  EXPECT_FALSE(writer.IsLeaf(second.place));
  EXPECT_EQ(writer.NamesOf(fork), NamesOf({1, 2, 9}));
  size_t visited = 0;
  writer.VisitSubtree(Writer::RootPlace(small.root), [&](Place) { ++visited; });
  EXPECT_EQ(visited, 7u);
  EXPECT_EQ(writer.place_count(), 7u);
}

TEST(WriterTest, AppendRefusesWhatIsThere) {
  SmallCatalog small;
  small.Add({1, 2, 3});
  small.Add({1, 8});
  const Place first = small.writer.Find(small.root, NamesOf({1})).place;
  EXPECT_EQ(small.writer.Append(first, NameOf(2), 77).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(small.writer.Append(first, NameOf(8), 77).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(WriterTest, IdsFindPlacesUntilTheyAreDropped) {
  SmallCatalog small;
  const Place place = small.Add({1, 2});
  EXPECT_EQ(small.writer.IdOf(place), 2u);
  EXPECT_EQ(small.writer.PlaceOf(2), place);
  EXPECT_EQ(small.writer.IdOf(Writer::RootPlace(small.root)), 0u);
  small.writer.Drop({{place}});
  EXPECT_FALSE(small.writer.PlaceOf(2));
  EXPECT_TRUE(small.writer.PlaceOf(1));
}

TEST(WriterTest, FullNodesAndTableAreErrorsUntilSomethingGoes) {
  SmallCatalog nodes({.node_count = 3, .run_places = 1});
  const Place only = nodes.Add({1});
  EXPECT_EQ(nodes.writer.Append(only, NameOf(2), 9).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(nodes.writer.AddRoot(5).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(nodes.writer.Drop({{only}}).dropped.size(), 1u);
  EXPECT_TRUE(nodes.writer.Append(Writer::RootPlace(nodes.root), NameOf(2), 9).ok());

  SmallCatalog table({.node_count = 2000, .run_places = 1, .table_log2 = 6, .table_log2_max = 6});
  uint64_t symbol = 1;
  absl::Status status;
  for (; status.ok() && symbol < 2000; ++symbol) {
    status = table.writer.Append(Writer::RootPlace(table.root), NameOf(symbol), symbol).status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(table.writer.place_count(), 7u * 64);
  EXPECT_EQ(table.writer.Find(table.root, NamesOf({448})).depth, 1u);
}

TEST(WriterTest, TheTableGrowsAndKeepsEveryChild) {
  SmallCatalog small({.node_count = 20000, .run_places = 2});
  for (uint64_t symbol = 1; symbol <= 15000; ++symbol) small.Add({symbol});
  EXPECT_GT(small.memory.catalog().table_log2().load(), 6u);
  for (uint64_t symbol = 1; symbol <= 15000; ++symbol) {
    ASSERT_EQ(small.writer.Find(small.root, NamesOf({symbol})).depth, 1u) << symbol;
  }
}

TEST(WriterTest, DropStopsAtTheLastForkAndTellsNewLeaves) {
  SmallCatalog small;
  small.Add({1, 2, 3, 4});
  const Place fork = small.Add({1, 2, 9});
  const Place first = small.writer.Find(small.root, NamesOf({1})).place;
  DropResult result = small.writer.Drop({{first}});
  EXPECT_EQ(result.dropped.size(), 2u);  // 3 and 4
  EXPECT_THAT(result.leaves, IsEmpty());
  EXPECT_EQ(small.writer.Find(small.root, NamesOf({1, 2, 3})).depth, 2u);
  result = small.writer.Drop({{fork}});
  EXPECT_THAT(result.leaves, ElementsAre(Place{first.node, 2}));
  result = small.writer.Drop({{first}});
  EXPECT_EQ(result.dropped.size(), 2u);
  EXPECT_THAT(result.leaves, IsEmpty());  // the root is no place
  EXPECT_EQ(small.writer.place_count(), 0u);
  EXPECT_EQ(small.writer.node_count(), 1u);
}

/// Two ends of one fork: 1 2 3 4 and, in a run behind its second place, 1 2 7. That run may have
/// been given its node before or after the other.
struct Fork {
  explicit Fork(bool older_behind) {
    const Place reused = small.Add({9});
    small.Add({1, 2, 3, 4});
    if (older_behind) small.writer.Drop({{reused}});
    behind = small.Add({1, 2, 7});
    last = small.writer.Find(small.root, NamesOf({1, 2, 3, 4})).place;
    EXPECT_EQ(behind.node < last.node, older_behind);
  }
  DropResult DropBothSides() {
    const Place batch[] = {{last.node, 3}, behind};
    return small.writer.Drop(batch);
  }

  SmallCatalog small{{.node_count = 100, .run_places = 8}};
  Place behind, last;
};

TEST(WriterTest, OfAForkThatAPinSavesInTheSameDropNoLeafIsTold) {
  for (const bool older_behind : {false, true}) {
    Fork fork(older_behind);
    fork.small.writer.SetPin(fork.small.area, 1, fork.last);
    EXPECT_THAT(fork.DropBothSides().leaves, IsEmpty());
  }
}

TEST(WriterTest, ALeafIsToldOnceThoughBothItsSidesGoInOneDrop) {
  for (const bool older_behind : {false, true}) {
    Fork fork(older_behind);
    EXPECT_THAT(fork.DropBothSides().leaves, ElementsAre(Place{fork.last.node, 2}));
  }
}

TEST(WriterTest, OneBatchMayNameARunTwice) {
  SmallCatalog small;
  const Place last = small.Add({1, 2, 3, 4});
  const Place third{last.node, 3};
  const Place batch[] = {last, third, last};
  EXPECT_EQ(small.writer.Drop(batch).dropped.size(), 2u);
}

TEST(WriterTest, DropGivesBackWordsAndForgetsThem) {
  SmallCatalog small;
  const Place place = small.Add({1});
  small.writer.SetWord(place, 0, Word().WithWarmSlot(5));
  small.writer.SetWord(place, 7, Word().WithHotSlot(6));
  const DropResult result = small.writer.Drop({{place}});
  EXPECT_EQ(result.dropped[0].words[0].warm_slot(), 5u);
  EXPECT_EQ(result.dropped[0].words[7].hot_slot(), 6u);
  const Place again = small.Add({2});
  EXPECT_EQ(again.node, place.node);
  EXPECT_TRUE(small.writer.word(again, 0).empty());
  EXPECT_TRUE(small.writer.word(again, 7).empty());
}

TEST(WriterTest, PinsSaveThePathAboveThem) {
  SmallCatalog small({.node_count = 100, .run_places = 4});
  const Place deep = small.Add({1, 2, 3, 4, 5, 6});
  small.Add({1, 2, 3, 4, 5, 6, 7, 8, 9});
  small.writer.SetPin(small.area, 1, deep);
  DropResult result = small.writer.Drop(
      {{small.writer.Find(small.root, small.writer.NamesOf(Place{deep.node, 4})).place}});
  EXPECT_EQ(result.dropped.size(), 0u);  // a child hangs behind
  while (small.writer.place_count() > 6) {
    std::vector<Place> leaves;
    small.writer.VisitSubtree(Writer::RootPlace(small.root), [&](Place place) {
      if (small.writer.IsLeaf(place)) leaves.push_back(place);
    });
    ASSERT_FALSE(small.writer.Drop(leaves).dropped.empty());
  }
  EXPECT_TRUE(small.writer.Drop({{deep}}).dropped.empty());
  EXPECT_EQ(small.writer.Find(small.root, NamesOf({1, 2, 3, 4, 5, 6})).depth, 6u);
  small.writer.ForgetPins(small.area);
  EXPECT_EQ(small.writer.Drop({{deep}}).dropped.size(), 1u);
}

TEST(WriterTest, MovesAreGrantedBelowPinsOnly) {
  SmallCatalog small({.node_count = 100, .run_places = 4});
  const Place deep = small.Add({1, 2, 3, 4, 5, 6});
  std::vector<Movement> batch;
  for (Place place = deep; !small.writer.IsRoot(place); place = small.writer.Parent(place)) {
    small.writer.SetWord(place, 2, Word().WithWarmSlot(100 + small.writer.Depth(place)));
    batch.push_back({place, 2});
  }
  batch.push_back({deep, 3});  // has no bytes
  batch.push_back({deep, 2});  // twice
  small.writer.SetPin(small.area, 63, small.writer.Parent(deep));
  EXPECT_EQ(small.writer.BeginMove(batch), 1u);
  EXPECT_TRUE(batch[0].granted);
  EXPECT_EQ(batch[0].before.warm_slot(), 106u);
  EXPECT_TRUE(small.writer.word(deep, 2).moving());
  for (size_t i = 1; i < batch.size(); ++i) {
    EXPECT_FALSE(batch[i].granted) << i;
    if (i < 6) {
      EXPECT_FALSE(small.writer.word(batch[i].place, 2).moving()) << i;
    }
  }
  EXPECT_TRUE(small.writer.Drop({{deep}}).dropped.empty()) << "its word is moving";
  small.writer.FinishMove(deep, 2, Word().WithColdCopy(true));
  EXPECT_EQ(small.writer.word(deep, 2), Word().WithColdCopy(true));
  EXPECT_EQ(small.writer.Drop({{deep}}).dropped.size(), 1u);
}

TEST(WriterTest, MadeUpPinsDoNoHarm) {
  SmallCatalog small({.node_count = 100, .run_places = 4});
  const Place deep = small.Add({1, 2, 3, 4, 5, 6});
  std::mt19937_64 random(7);
  for (uint32_t pin = 0; pin < 64; ++pin) {
    small.pins[pin].store(pin % 2 ? random() : (99ull + pin) << 16 | 9);
  }
  small.pins[5].store(PlaceBits({deep.node, 0xffff}));
  small.pins[6].store(~uint64_t{0});
  small.pins[7].store(PlaceBits({deep.node, 0}));
  EXPECT_EQ(small.writer.Drop({{deep}}).dropped.size(), 1u);
}

TEST(CatalogMemoryTest, ReadersMapItReadOnlyAndNobodyCanCutIt) {
  SmallCatalog small;
  const Place place = small.Add({1, 2});
  small.writer.SetChecksum(place, 3, 77);
  small.writer.SetWord(place, 3, Word().WithWarmSlot(9));
  const auto mapped = CatalogMemory::Open(UniqueFd(::dup(small.memory.fd())));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  const Catalog& catalog = mapped->catalog();
  EXPECT_EQ(catalog.id(place.node, 1).load(), small.writer.IdOf(place));
  EXPECT_EQ(catalog.checksum(3, place.node, 1).load(), 77u);
  EXPECT_EQ(catalog.word(3, place.node, 1).load(), Word().WithWarmSlot(9).bits());
  EXPECT_EQ(::ftruncate(small.memory.fd(), 4096), -1);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, small.memory.fd(), 0),
            MAP_FAILED);
  const std::string path = "/proc/self/fd/" + std::to_string(small.memory.fd());
  const UniqueFd reopened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(reopened);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, reopened.get(), 0),
            MAP_FAILED);
  EXPECT_EQ(::pwrite(reopened.get(), "x", 1, 0), -1);
  EXPECT_DEATH(catalog.word(3, place.node, 1).store(0), "");
}

TEST(CatalogMemoryTest, WhatMayBeCutShortIsRefused) {
  UniqueFd fd(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(fd.get(), 1 << 20), 0);
  const auto mapped = CatalogMemory::Open(std::move(fd));
  EXPECT_EQ(mapped.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(WriterDeathTest, SlotsInUseChangeByTheMovementRuleOnly) {
  SmallCatalog small;
  const Place place = small.Add({1});
  small.writer.SetWord(place, 0, Word().WithWarmSlot(5));
  small.writer.SetWord(place, 0, Word().WithWarmSlot(5).WithChecked(true));
  EXPECT_DEATH(small.writer.SetWord(place, 0, Word().WithWarmSlot(6)), "check failed");
  EXPECT_DEATH(small.writer.FinishMove(place, 0, Word()), "check failed");
}

}  // namespace
}  // namespace thermocline
