// Items done at once: each of them once, whatever their number.
#include "base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/large_array.h"

namespace thermocline {
namespace {

TEST(InParallelTest, EveryItemIsDoneOnceAndIsDoneAfterwards) {
  for (const size_t count : {0u, 1u, 2u, 3u, 1000u}) {
    std::vector<int> done(count);  // plain: returning orders them
    InParallel(count, [&](size_t item) { ++done[item]; });
    EXPECT_EQ(std::count(done.begin(), done.end(), 1), static_cast<ptrdiff_t>(count));
  }
}

TEST(LargeVectorTest, KeepsItsItemsFromTheHeapToMappingsAndBack) {
  LargeVector<uint32_t> items;
  for (uint32_t i = 0; i < 3'000'000; ++i) items.push_back(i);
  LargeVector<uint32_t> copy = items;
  items.resize(1000);
  items.shrink_to_fit();
  for (uint32_t i = 0; i < items.size(); ++i) ASSERT_EQ(items[i], i);
  for (uint32_t i = 0; i < copy.size(); ++i) ASSERT_EQ(copy[i], i);
}

}  // namespace
}  // namespace thermocline
