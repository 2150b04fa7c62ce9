#include "catalog/slabs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kChunk = 16 * kPageBytes;

SlabOptions Options(uint64_t capacity_bytes) {
  return {.capacity_bytes = capacity_bytes, .chunk_bytes = kChunk, .first_page = 512};
}

uint32_t Take(SlabAllocator& slabs, uint64_t slot_bytes) {
  auto slot = slabs.Reserve(slot_bytes).value();
  EXPECT_TRUE(slot.has_value());
  return slot ? std::move(*slot).Commit() : 0;
}
bool IsFull(SlabAllocator& slabs, uint64_t slot_bytes) {
  return !slabs.Reserve(slot_bytes).value().has_value();
}

TEST(SlabTest, SlotsAreWholePages) {
  EXPECT_EQ(SlabAllocator::SlotBytes(1), kPageBytes);
  EXPECT_EQ(SlabAllocator::SlotBytes(kPageBytes), kPageBytes);
  EXPECT_EQ(SlabAllocator::SlotBytes(kPageBytes + 16), 2 * kPageBytes);
}

TEST(SlabTest, AbortedReservationsComeBack) {
  SlabAllocator slabs(Options(kChunk));
  uint32_t page = 0;
  {
    auto slot = slabs.Reserve(8 * kPageBytes).value();
    page = slot->page();
    EXPECT_EQ(slabs.reserved_bytes(), 8 * kPageBytes);
    EXPECT_EQ(slabs.used_bytes(), 0u);
  }
  EXPECT_EQ(slabs.reserved_bytes(), 0u);
  EXPECT_EQ(Take(slabs, 8 * kPageBytes), page);
  EXPECT_EQ(slabs.used_bytes(), 8 * kPageBytes);
}

TEST(SlabTest, FreedSlotIsReused) {
  SlabAllocator slabs(Options(kChunk));
  const uint32_t first = Take(slabs, 8 * kPageBytes);
  const uint32_t second = Take(slabs, 8 * kPageBytes);
  EXPECT_EQ(first, 512u);
  EXPECT_EQ(second, 520u);
  EXPECT_TRUE(IsFull(slabs, 8 * kPageBytes));
  slabs.Free(first);
  EXPECT_EQ(Take(slabs, 8 * kPageBytes), first);
}

TEST(SlabTest, CapacityIsHardAndTheLastChunkMayBeShort) {
  SlabAllocator slabs(Options(kChunk + 3 * kPageBytes + 1));
  EXPECT_EQ(slabs.capacity_bytes(), kChunk + 3 * kPageBytes);
  EXPECT_EQ(slabs.FreeSlots(kPageBytes), 19u);
  EXPECT_EQ(slabs.FreeSlots(4 * kPageBytes), 4u);  // the short chunk holds none
  for (int i = 0; i < 4; ++i) Take(slabs, 4 * kPageBytes);
  EXPECT_TRUE(IsFull(slabs, 4 * kPageBytes));
  for (int i = 0; i < 3; ++i) Take(slabs, kPageBytes);
  EXPECT_TRUE(IsFull(slabs, kPageBytes));
  EXPECT_EQ(slabs.used_bytes(), slabs.capacity_bytes());
  EXPECT_EQ(slabs.lent_bytes(), slabs.capacity_bytes());
}

TEST(SlabTest, ASlotThatFitsNoChunkIsAnError) {
  SlabAllocator slabs(Options(4 * kChunk));
  EXPECT_EQ(slabs.Reserve(kChunk + kPageBytes).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(slabs.Reserve(100).status().code(), absl::StatusCode::kInvalidArgument);
  SlabAllocator small(Options(2 * kPageBytes));
  EXPECT_EQ(small.Reserve(3 * kPageBytes).status().code(), absl::StatusCode::kInvalidArgument);
  SlabAllocator none(Options(0));
  EXPECT_EQ(none.Reserve(kPageBytes).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SlabTest, AnEmptyChunkGoesToAnotherSize) {
  std::vector<std::pair<uint32_t, uint64_t>> lent;
  SlabOptions options = Options(2 * kChunk);
  options.lend = [&](uint32_t chunk, uint64_t slot_bytes) {
    lent.emplace_back(chunk, slot_bytes);
    return absl::OkStatus();
  };
  SlabAllocator slabs(options);
  std::vector<uint32_t> small;
  for (int i = 0; i < 17; ++i) small.push_back(Take(slabs, kPageBytes));
  EXPECT_TRUE(IsFull(slabs, kChunk));
  EXPECT_THAT(slabs.OtherChunks(kChunk), ElementsAre(1u, 0u));
  EXPECT_THAT(slabs.UsedPages(1), ElementsAre(small[16]));
  slabs.Free(small[16]);
  EXPECT_EQ(slabs.FreeSlots(kChunk), 1u);
  EXPECT_EQ(Take(slabs, kChunk), 512u + 16u);
  EXPECT_TRUE(IsFull(slabs, kPageBytes));
  EXPECT_THAT(lent, ElementsAre(std::pair(0u, kPageBytes), std::pair(1u, kPageBytes),
                                std::pair(1u, kChunk)));
}

TEST(SlabTest, AFailedLendLeavesTheChunksThatAreLent) {
  int room = 1;
  int calls = 0;
  SlabOptions options = Options(3 * kChunk);
  options.lend = [&](uint32_t, uint64_t) {
    ++calls;
    return --room < 0 ? absl::ResourceExhaustedError("full") : absl::OkStatus();
  };
  SlabAllocator slabs(options);
  const uint32_t page = Take(slabs, kChunk);
  EXPECT_EQ(slabs.FreeSlots(kChunk), 2u);  // as far as anybody knows
  EXPECT_TRUE(IsFull(slabs, kChunk));
  EXPECT_EQ(slabs.lend_status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(slabs.FreeSlots(kChunk), 0u);
  EXPECT_EQ(slabs.FreeSlots(kPageBytes), 0u);
  EXPECT_TRUE(IsFull(slabs, kChunk));
  EXPECT_EQ(calls, 2);  // it was not tried again
  slabs.Free(page);
  EXPECT_EQ(slabs.FreeSlots(kChunk), 1u);
  EXPECT_EQ(Take(slabs, kChunk), page);
  slabs.RetryLending();
  EXPECT_TRUE(IsFull(slabs, kChunk));
  EXPECT_EQ(calls, 3);
  slabs.RetryLending();
  room = 2;
  EXPECT_EQ(slabs.FreeSlots(kChunk), 2u);
  Take(slabs, kChunk);
  EXPECT_TRUE(slabs.lend_status().ok());
  EXPECT_EQ(slabs.FreeSlots(kChunk), 1u);
  EXPECT_EQ(slabs.lent_bytes(), 2 * kChunk);
}

TEST(SlabTest, EmptyChunksCanBeReclaimed) {
  SlabAllocator slabs(Options(2 * kChunk));
  const uint32_t page = Take(slabs, kPageBytes);
  EXPECT_FALSE(slabs.ReclaimEmptyChunk());
  slabs.Free(page);
  EXPECT_EQ(slabs.ReclaimEmptyChunk(), 0u);
  EXPECT_FALSE(slabs.ReclaimEmptyChunk());
  EXPECT_EQ(slabs.lent_bytes(), 0u);
}

TEST(SlabTest, RestoreTakesWhatFitsAndRefusesTheRest) {
  SlabAllocator slabs(Options(2 * kChunk));
  EXPECT_FALSE(slabs.RestoreChunk(2, kPageBytes).ok());
  EXPECT_FALSE(slabs.RestoreChunk(1, kChunk + kPageBytes).ok());
  EXPECT_FALSE(slabs.RestoreSlot(512).ok());
  ASSERT_TRUE(slabs.RestoreChunk(1, 5 * kPageBytes).ok());
  EXPECT_TRUE(slabs.RestoreSlot(528 + 5).ok());
  EXPECT_FALSE(slabs.RestoreSlot(528 + 6).ok());
  EXPECT_FALSE(slabs.RestoreSlot(528 + 15).ok());  // the rest behind three slots
  EXPECT_FALSE(slabs.RestoreSlot(3).ok());
  EXPECT_EQ(slabs.used_bytes(), 5 * kPageBytes);
  EXPECT_THAT(std::vector({Take(slabs, 5 * kPageBytes), Take(slabs, 5 * kPageBytes)}),
              UnorderedElementsAre(528u, 538u));
}

TEST(SlabDeathTest, FreeingTwiceIsAnError) {
  SlabAllocator slabs(Options(kChunk));
  const uint32_t page = Take(slabs, kPageBytes);
  Take(slabs, kPageBytes);
  slabs.Free(page);
  EXPECT_DEATH(slabs.Free(page), "check failed");
  EXPECT_DEATH(slabs.Free(3), "check failed");
}

// Slots never overlap, sums agree, and what the counters promise can be had.
TEST(SlabTest, RandomWalkKeepsEveryPageOnce) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const uint64_t sizes[] = {1, 2, 3, 5, 8, 16};
  SlabAllocator slabs(Options(9 * kChunk + 7 * kPageBytes));
  std::map<uint32_t, uint64_t> taken;  // page to pages
  for (int step = 0; step < 60000; ++step) {
    const uint64_t pages = sizes[random() % std::size(sizes)];
    const bool fills = step / 500 % 2 == 0;
    if (taken.empty() || random() % 8 < (fills ? 6u : 2u)) {
      const uint64_t promised = slabs.FreeSlots(pages * kPageBytes);
      auto slot = slabs.Reserve(pages * kPageBytes).value();
      ASSERT_EQ(slot.has_value(), promised > 0);
      if (!slot) continue;
      ASSERT_EQ(slabs.FreeSlots(pages * kPageBytes), promised - 1);
      if (random() % 4 == 0) continue;  // aborted
      const uint32_t page = std::move(*slot).Commit();
      const auto next = taken.lower_bound(page);
      ASSERT_TRUE(next == taken.end() || next->first >= page + pages);
      if (next != taken.begin()) {
        ASSERT_LE(std::prev(next)->first + std::prev(next)->second, page);
      }
      ASSERT_LE(page + pages, 512 + slabs.capacity_bytes() / kPageBytes);
      taken[page] = pages;
    } else {
      auto gone = taken.lower_bound(512 + random() % 152);
      if (gone == taken.end()) gone = taken.begin();
      ASSERT_EQ(slabs.SlotBytesOf(gone->first), gone->second * kPageBytes);
      slabs.Free(gone->first);
      taken.erase(gone);
    }
    uint64_t used = 0;
    for (const auto& [page, count] : taken) used += count * kPageBytes;
    ASSERT_EQ(slabs.used_bytes(), used);
    ASSERT_EQ(slabs.reserved_bytes(), 0u);
    ASSERT_LE(slabs.used_bytes(), slabs.lent_bytes());
    ASSERT_LE(slabs.lent_bytes(), slabs.capacity_bytes());
  }
}

}  // namespace
}  // namespace thermocline
