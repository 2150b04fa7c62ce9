// Tables by id, and sorting by it: against the standard library's, and what they promise beyond it.
#include "base/id_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/sort_by_id.h"

namespace thermocline {
namespace {

uint64_t Seed() {
  const char* const given = std::getenv("TC_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

// Runs of neighbours from several epochs, as a daemon gives them.
uint64_t RandomId(std::mt19937_64& random) {
  return (random() % 3 + 1) << 32 | (random() % 2000 + 1);
}

TEST(IdTableTest, AgreesWithTheStandardLibrary) {
  const uint64_t seed = Seed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  IdTable<uint32_t> table;
  std::unordered_map<uint64_t, uint32_t> model;
  for (int step = 0; step < 200000; ++step) {
    const uint64_t id = RandomId(random);
    // Fills up and empties in turn, so that gaps are closed at every load.
    const bool fills = step / 20000 % 2 == 0;
    if (random() % 4 < (fills ? 3u : 1u)) {
      const auto value = static_cast<uint32_t>(random());
      const auto [stored, fresh] = table.Insert(id, value);
      const auto [at, expected] = model.try_emplace(id, value);
      ASSERT_EQ(fresh, expected);
      ASSERT_EQ(*stored, at->second);
    } else {
      ASSERT_EQ(table.Erase(id), model.erase(id) > 0);
    }
    const uint64_t other = RandomId(random);
    const uint32_t* const found = table.Find(other);
    const auto expected = model.find(other);
    ASSERT_EQ(found != nullptr, expected != model.end());
    ASSERT_EQ(found == nullptr ? 0 : *found, found == nullptr ? 0 : expected->second);
    ASSERT_EQ(table.size(), model.size());
  }
  size_t visited = 0;
  table.ForEach([&](uint64_t id, uint32_t value) {
    EXPECT_EQ(model.at(id), value);
    ++visited;
  });
  EXPECT_EQ(visited, model.size());
}

TEST(IdTableTest, NoIdIsZero) {
  IdTable<uint32_t> table;
  EXPECT_EQ(table.Find(0), nullptr);
  EXPECT_FALSE(table.Erase(0));
  EXPECT_DEATH(table.Insert(0, 1), "id != 0");
}

TEST(IdMapTest, AValueStaysWhereItIs) {
  IdMap<std::string> map;
  std::string& first = map.Add(7);
  first = "seven";
  for (uint64_t id = 100; id < 20000; ++id) map.Add(id) = std::to_string(id);
  map.Reserve(100000);
  EXPECT_EQ(&map.at(7), &first);
  EXPECT_EQ(first, "seven");
  for (uint64_t id = 100; id < 20000; id += 2) map.Erase(id);
  map.Erase(100);  // absent is fine
  EXPECT_EQ(map.size(), 1u + 19900 / 2);
  EXPECT_FALSE(map.contains(100));
  EXPECT_EQ(map.Find(100), nullptr);
  EXPECT_EQ(map.at(101), "101");
  EXPECT_EQ(map.Ids().size(), map.size());
  EXPECT_EQ(map.Add(100), "") << "a place that is used again holds a new value";
  EXPECT_EQ(&map.at(7), &first);
  EXPECT_DEATH(map.Add(7), "fresh");
  EXPECT_DEATH(map.at(102), "found != nullptr");
}

TEST(SortByIdTest, IsStableOverAllDigits) {
  const uint64_t seed = Seed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  struct Item {
    uint64_t id = 0;
    uint32_t number = 0;
    bool operator==(const Item&) const = default;
  };
  for (const uint64_t mask : {uint64_t{0}, uint64_t{0xff}, uint64_t{3} << 62, ~uint64_t{0}}) {
    for (const uint32_t count : {0u, 1u, 2u, 5000u}) {
      std::vector<Item> items;
      for (uint32_t i = 0; i < count; ++i) items.push_back({random() & mask, i});
      std::vector<Item> expected = items;
      std::stable_sort(expected.begin(), expected.end(),
                       [](const Item& a, const Item& b) { return a.id < b.id; });
      SortById(items);
      EXPECT_EQ(items, expected) << "mask " << mask << ", count " << count;
    }
  }
}

}  // namespace
}  // namespace thermocline
