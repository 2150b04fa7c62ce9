// What every tier must do, run over each of them: instantiate TierConformance with a TierMaker in a
// test program of one's own.
#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/tier.h"

namespace thermocline {

/// How to make a tier of one kind.
struct TierMaker {
  std::string name;
  bool survives_reopening = false;
  /// An empty or reopened tier in `directory` for at least `blocks` blocks of `block_bytes`.
  std::function<std::unique_ptr<Tier>(const std::string& directory, uint64_t block_bytes,
                                      uint64_t blocks)>
      make;
  bool has_segments = false;  // room comes back by segments
};
inline void PrintTo(const TierMaker& maker, std::ostream* out) { *out << maker.name; }

class TierConformance : public ::testing::TestWithParam<TierMaker> {
 protected:
  static constexpr uint64_t kBlockBytes = 8192;
  static constexpr uint64_t kBlocks = 8;

  TierConformance() { Reopen(); }
  void Reopen() {
    tier_.reset();
    tier_ = GetParam().make(directory_.path(), kBlockBytes, kBlocks);
    ASSERT_NE(tier_, nullptr);
  }
  absl::Status Put(uint64_t id, uint32_t part = 0, uint64_t bytes = kBlockBytes) {
    const auto payload = TestPayload(id, part, bytes);
    return tier_->Put(TestHeader(id, part, payload), payload);
  }
  /// Whether the block is there; its bytes must be right then.
  bool Has(uint64_t id, uint32_t part = 0, uint64_t bytes = kBlockBytes) {
    std::vector<std::byte> room(kBlockBytes, std::byte{0x5a});
    const auto header = tier_->Get({id, static_cast<uint16_t>(part)}, room);
    EXPECT_TRUE(header.ok()) << header.status();
    if (!header.ok() || !header->has_value()) return false;
    const auto payload = TestPayload(id, part, bytes);
    const BlockHeader expected = TestHeader(id, part, payload);
    EXPECT_EQ(std::memcmp(&**header, &expected, sizeof expected), 0);
    EXPECT_EQ(std::memcmp(room.data(), payload.data(), payload.size()), 0);
    return true;
  }
  /// Whether it keeps to its capacity. What a medium adds to a block is known only afterwards.
  bool IsWithinCapacity() const {
    const TierUsage usage = tier_->Usage();
    return usage.used_bytes <= usage.capacity_bytes + (GetParam().has_segments ? kBlockBytes : 0);
  }
  /// By one PutAll.
  void PutTogether(const std::vector<uint64_t>& ids) {
    std::vector<std::vector<std::byte>> payloads;
    std::vector<BlockRecord> records;
    for (const uint64_t id : ids) {
      payloads.push_back(TestPayload(id, 0, kBlockBytes));
      records.emplace_back(TestHeader(id, 0, payloads.back()));
    }
    std::vector<TierPut> puts;
    for (size_t i = 0; i < ids.size(); ++i) {
      puts.push_back({.record = &records[i], .payload = payloads[i]});
    }
    tier_->PutAll(puts);
    for (const TierPut& put : puts) ASSERT_TRUE(put.status.ok()) << put.status;
  }
  static std::vector<uint64_t> IdsOf(const TierSegment& segment) {
    std::vector<uint64_t> ids;
    for (const BlockRef ref : segment.blocks) ids.push_back(ref.id);
    return ids;
  }
  std::map<std::pair<uint64_t, int>, int> Listed() {
    std::map<std::pair<uint64_t, int>, int> listed;
    EXPECT_TRUE(tier_
                    ->ForEach([&](const BlockHeader& header) {
                      ++listed[{header.id, header.part}];
                      return true;
                    })
                    .ok());
    return listed;
  }

  ScratchDirectory directory_;
  std::unique_ptr<Tier> tier_;
};

TEST_P(TierConformance, BeginsEmpty) {
  EXPECT_FALSE(Has(1));
  EXPECT_TRUE(Listed().empty());
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
  EXPECT_EQ(tier_->Usage().block_count, 0u);
  EXPECT_GT(tier_->Usage().capacity_bytes, 0u);
  EXPECT_EQ(tier_->State(), "ok");
}

TEST_P(TierConformance, WhatWasPutComesBackWithItsHeader) {
  ASSERT_TRUE(Put(1).ok());
  ASSERT_TRUE(Put(2).ok());
  EXPECT_TRUE(Has(1));
  EXPECT_TRUE(Has(2));
  EXPECT_FALSE(Has(3));
  EXPECT_EQ(tier_->Usage().block_count, 2u);
}

TEST_P(TierConformance, PartsOfOnePlaceAreBlocksOfTheirOwn) {
  ASSERT_TRUE(Put(1, 0).ok());
  ASSERT_TRUE(Put(1, 7).ok());
  EXPECT_TRUE(Has(1, 0));
  EXPECT_TRUE(Has(1, 7));
  EXPECT_FALSE(Has(1, 3));
  ASSERT_TRUE(tier_->Erase({1, 0}).ok());
  EXPECT_FALSE(Has(1, 0));
  EXPECT_TRUE(Has(1, 7));
}

TEST_P(TierConformance, SeveralAreErasedAtOnceAbsentOnesToo) {
  for (const uint64_t id : {1, 2, 3, 4}) ASSERT_TRUE(Put(id).ok());
  const std::vector<BlockRef> refs = {{1, 0}, {9, 0}, {3, 0}, {4, 1}};
  ASSERT_TRUE(tier_->EraseAll(refs).ok());
  ASSERT_TRUE(tier_->EraseAll(refs).ok());
  ASSERT_TRUE(tier_->EraseAll({}).ok());
  for (const uint64_t id : {1, 2, 3, 4}) EXPECT_EQ(Has(id), id % 2 == 0) << id;
  EXPECT_EQ(tier_->Usage().block_count, 2u);
  const std::vector<SegmentSize> sizes = tier_->SegmentSizes();
  EXPECT_EQ(sizes.size(), GetParam().has_segments ? 2u : 0u);
  for (const auto& [sequence, bytes] : sizes) {
    const auto segment = tier_->SegmentFrom(sequence);
    ASSERT_TRUE(segment.has_value());
    EXPECT_EQ(segment->sequence, sequence);
    EXPECT_EQ(segment->bytes, bytes);
  }
  EXPECT_TRUE(tier_->TakeLost().empty());
  EXPECT_FALSE(tier_->RefusesWrites());
}

TEST_P(TierConformance, InnerNamesComeBackWithTheirBlockAndCount) {
  const auto payload = TestPayload(1, 0, kBlockBytes);
  const BlockRecord record = TestRecord(1, 64, payload);
  std::vector<std::byte> room(kBlockBytes);
  const auto expect_found = [&] {
    const auto found = tier_->Get({1, 0}, room);
    ASSERT_TRUE(found.ok() && found->has_value()) << found.status();
    EXPECT_EQ((*found)->inner, record.inner);
    EXPECT_EQ(room, payload);
    std::vector<Name> listed;
    ASSERT_TRUE(tier_
                    ->ForEach([&](const BlockRecord& block) {
                      listed = block.inner;
                      return true;
                    })
                    .ok());
    EXPECT_EQ(listed, record.inner);
  };
  ASSERT_TRUE(tier_->Put(record, payload).ok());
  expect_found();
  BlockRecord unsealed = record;
  unsealed.inner[5].word[3] ^= 1;
  EXPECT_TRUE(absl::IsDataLoss(tier_->Put(unsealed, payload)));
  if (GetParam().survives_reopening) {
    const uint64_t used = tier_->Usage().used_bytes;
    Reopen();
    EXPECT_EQ(tier_->Usage().used_bytes, used);
    expect_found();
  }
  ASSERT_TRUE(tier_->Erase({1, 0}).ok());
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
}

TEST_P(TierConformance, IdsThatDifferInAnyByteDiffer) {
  std::vector<uint64_t> ids;
  for (int shift = 0; shift < 64; shift += 8) ids.push_back(uint64_t{3} << shift);
  for (uint64_t id : ids) ASSERT_TRUE(Put(id).ok());
  for (uint64_t id : ids) EXPECT_TRUE(Has(id)) << id;
}

TEST_P(TierConformance, ErasedIsAbsentAndAbsentMayBeErased) {
  ASSERT_TRUE(Put(1).ok());
  ASSERT_TRUE(tier_->Erase({1, 0}).ok());
  ASSERT_TRUE(tier_->Erase({1, 0}).ok());
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
  EXPECT_EQ(tier_->Usage().block_count, 0u);
}

TEST_P(TierConformance, PutReplacesTheOlderCopy) {
  ASSERT_TRUE(Put(1).ok());
  const auto payload = TestPayload(99, 0, kBlockBytes);
  BlockHeader header = TestHeader(1, 0, payload);
  header.sequence = 1234;
  header.Seal();
  ASSERT_TRUE(tier_->Put(header, payload).ok());
  std::vector<std::byte> room(kBlockBytes);
  const auto found = tier_->Get({1, 0}, room);
  ASSERT_TRUE(found.ok() && found->has_value());
  EXPECT_EQ((*found)->sequence, 1234u);
  EXPECT_EQ(room, payload);
  EXPECT_EQ(tier_->Usage().block_count, 1u);
  EXPECT_EQ(Listed().size(), 1u);
}

TEST_P(TierConformance, TheCapacityIsHardAndFullIsRefused) {
  uint64_t id = 1;
  absl::Status status;
  while ((status = Put(id)).ok()) {
    ++id;
    ASSERT_TRUE(IsWithinCapacity());
    ASSERT_LT(id, 10 * kBlocks);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GE(id - 1, kBlocks);
  EXPECT_FALSE(Has(id));
  for (uint64_t earlier = 1; earlier < id; ++earlier) EXPECT_TRUE(Has(earlier));
  ASSERT_TRUE(tier_->Erase({1, 0}).ok());
  EXPECT_TRUE(Put(id).ok());
  EXPECT_TRUE(Has(id));
  EXPECT_TRUE(IsWithinCapacity());
}

TEST_P(TierConformance, APayloadThatItsHeaderDoesNotFitIsRefused) {
  auto payload = TestPayload(1, 0, kBlockBytes);
  const BlockHeader header = TestHeader(1, 0, payload);
  payload[100] ^= std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(tier_->Put(header, payload)));
  payload[100] ^= std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(tier_->Put(header, std::span(payload).first(kBlockBytes - 16))));
  BlockHeader unsealed = header;
  unsealed.id = 5;
  EXPECT_TRUE(absl::IsDataLoss(tier_->Put(unsealed, payload)));
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
}

TEST_P(TierConformance, TheListHasEveryBlockOnceAndStopsWhenTold) {
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(Put(id, id % 3).ok());
  ASSERT_TRUE(tier_->Erase({4, 1}).ok());
  const std::map<std::pair<uint64_t, int>, int> expected = {
      {{1, 1}, 1}, {{2, 2}, 1}, {{3, 0}, 1}, {{5, 2}, 1}};
  EXPECT_EQ(Listed(), expected);
  int visits = 0;
  ASSERT_TRUE(tier_->ForEach([&](const BlockHeader&) { return ++visits < 2; }).ok());
  EXPECT_EQ(visits, 2);
}

TEST_P(TierConformance, ReopenedItHasWhatItCanKeep) {
  if (!GetParam().survives_reopening) GTEST_SKIP() << "this tier's medium ends with it";
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(Put(id).ok());
  ASSERT_TRUE(tier_->Erase({3, 0}).ok());
  const uint64_t used = tier_->Usage().used_bytes;
  ASSERT_TRUE(tier_->Sync().ok());
  Reopen();
  EXPECT_EQ(tier_->Usage().used_bytes, used);
  EXPECT_EQ(tier_->Usage().block_count, 4u);
  EXPECT_EQ(Listed().size(), 4u);
  for (uint64_t id = 1; id <= 5; ++id) EXPECT_EQ(Has(id), id != 3);
}

TEST_P(TierConformance, SeveralPutsAreAnsweredEachForItself) {
  std::vector<std::vector<std::byte>> payloads;
  std::vector<BlockRecord> records;
  for (uint64_t id = 1; id <= 4; ++id) {
    payloads.push_back(TestPayload(5 - id, 0, kBlockBytes));
    records.emplace_back(TestHeader(5 - id, 0, payloads.back()));
  }
  payloads[1][77] ^= std::byte{1};
  std::vector<TierPut> puts;
  for (size_t i = 0; i < 4; ++i) puts.push_back({.record = &records[i], .payload = payloads[i]});
  puts[2].payload = puts[2].payload.first(kBlockBytes / 2);
  tier_->PutAll(puts);
  EXPECT_TRUE(puts[0].status.ok()) << puts[0].status;
  EXPECT_TRUE(absl::IsDataLoss(puts[1].status)) << puts[1].status;
  EXPECT_TRUE(absl::IsDataLoss(puts[2].status)) << puts[2].status;
  EXPECT_TRUE(puts[3].status.ok()) << puts[3].status;
  EXPECT_TRUE(Has(4));
  EXPECT_FALSE(Has(3));
  EXPECT_FALSE(Has(2));
  EXPECT_TRUE(Has(1));
  EXPECT_EQ(tier_->Usage().block_count, 2u);
}

TEST_P(TierConformance, OfSeveralPutsThoseAreRefusedThatDoNotFit) {
  std::vector<std::vector<std::byte>> payloads;
  std::vector<BlockRecord> records;
  for (uint64_t id = 1; id <= 4 * kBlocks; ++id) {
    payloads.push_back(TestPayload(id, 0, kBlockBytes));
    records.emplace_back(TestHeader(id, 0, payloads.back()));
  }
  std::vector<TierPut> puts;
  for (size_t i = 0; i < records.size(); ++i) {
    puts.push_back({.record = &records[i], .payload = payloads[i]});
  }
  tier_->PutAll(puts);
  size_t stored = 0;
  while (stored < puts.size() && puts[stored].status.ok()) ++stored;
  EXPECT_GE(stored, kBlocks);
  EXPECT_LT(stored, puts.size());
  for (size_t i = stored; i < puts.size(); ++i) {
    EXPECT_TRUE(absl::IsResourceExhausted(puts[i].status)) << puts[i].status;
    EXPECT_FALSE(Has(records[i].id));
  }
  for (size_t i = 0; i < stored; ++i) EXPECT_TRUE(Has(records[i].id));
  EXPECT_TRUE(IsWithinCapacity());
}

TEST_P(TierConformance, OfTwoCopiesInOnePutAllTheNewerStays) {
  const auto old = TestPayload(1, 0, kBlockBytes), fresh = TestPayload(99, 0, kBlockBytes);
  const BlockRecord first(TestHeader(1, 0, old));
  BlockRecord second(TestHeader(1, 0, fresh));
  second.sequence = 4321;
  second.Seal();
  TierPut puts[] = {{.record = &first, .payload = old}, {.record = &second, .payload = fresh}};
  tier_->PutAll(puts);
  ASSERT_TRUE(puts[0].status.ok() && puts[1].status.ok());
  std::vector<std::byte> room(kBlockBytes);
  const auto found = tier_->Get({1, 0}, room);
  ASSERT_TRUE(found.ok() && found->has_value());
  EXPECT_EQ((*found)->sequence, 4321u);
  EXPECT_EQ(room, fresh);
  EXPECT_EQ(tier_->Usage().block_count, 1u);
}

TEST_P(TierConformance, ATierOfSingleBlocksHasNoSegments) {
  if (GetParam().has_segments) GTEST_SKIP() << "this one has";
  ASSERT_TRUE(Put(1).ok());
  EXPECT_FALSE(tier_->SegmentFrom(0));
  EXPECT_TRUE(absl::IsNotFound(tier_->DropSegment(1, {})));
  EXPECT_TRUE(absl::IsUnimplemented(tier_->Fold({}).status()));
  EXPECT_TRUE(Has(1));
}

TEST_P(TierConformance, SegmentsAreListedFromTheOldestWithWhatIsLeftOfThem) {
  if (!GetParam().has_segments) GTEST_SKIP() << "it has single blocks";
  PutTogether({1, 2, 3});
  PutTogether({4, 5});
  const auto first = tier_->SegmentFrom(0);
  ASSERT_TRUE(first);
  EXPECT_THAT(IdsOf(*first), ::testing::UnorderedElementsAre(1, 2, 3));
  const auto second = tier_->SegmentFrom(first->sequence + 1);
  ASSERT_TRUE(second);
  EXPECT_GT(second->sequence, first->sequence);
  EXPECT_THAT(IdsOf(*second), ::testing::UnorderedElementsAre(4, 5));
  EXPECT_FALSE(tier_->SegmentFrom(second->sequence + 1));
  EXPECT_GE(first->bytes, 3 * kBlockBytes);
  EXPECT_GE(tier_->Usage().used_bytes, first->bytes + second->bytes);
  ASSERT_TRUE(tier_->Erase({2, 0}).ok());
  const auto less = tier_->SegmentFrom(0);
  ASSERT_TRUE(less);
  EXPECT_THAT(IdsOf(*less), ::testing::UnorderedElementsAre(1, 3));
  EXPECT_EQ(less->bytes, first->bytes) << "the medium has it in one piece";
  PutTogether({1});  // it has moved
  EXPECT_THAT(IdsOf(*tier_->SegmentFrom(0)), ::testing::UnorderedElementsAre(3));
  ASSERT_TRUE(tier_->Erase({3, 0}).ok());
  EXPECT_EQ(tier_->SegmentFrom(0)->sequence, second->sequence) << "its room has come back";
  EXPECT_TRUE(Has(1));
}

TEST_P(TierConformance, ADroppedSegmentLeavesWhatIsKeptAndGivesItsRoomBack) {
  if (!GetParam().has_segments) GTEST_SKIP() << "it has single blocks";
  PutTogether({1, 2, 3, 4});
  PutTogether({5});
  const TierSegment segment = *tier_->SegmentFrom(0);
  const uint64_t before = tier_->Usage().used_bytes;
  EXPECT_EQ(tier_->Usage().kept_bytes, 0u);
  const BlockRef keep[] = {{3, 0}, {1, 0}, {3, 0}, {5, 0}, {77, 0}};  // twice; another's; absent
  ASSERT_TRUE(tier_->DropSegment(segment.sequence, keep).ok());
  for (uint64_t id = 1; id <= 5; ++id) EXPECT_EQ(Has(id), id != 2 && id != 4) << id;
  EXPECT_EQ(tier_->Usage().block_count, 3u);
  EXPECT_EQ(Listed().size(), 3u);
  EXPECT_LT(tier_->Usage().used_bytes, before - kBlockBytes);
  EXPECT_GE(tier_->Usage().kept_bytes, 3 * kBlockBytes);
  EXPECT_LT(tier_->Usage().kept_bytes, 4 * kBlockBytes);
  EXPECT_EQ(tier_->SegmentFrom(0)->blocks.size(), 3u) << "of two segments there is one";
  EXPECT_TRUE(absl::IsNotFound(tier_->DropSegment(segment.sequence, {})));
  if (GetParam().survives_reopening) {
    const uint64_t used = tier_->Usage().used_bytes;
    Reopen();
    for (uint64_t id = 1; id <= 5; ++id) EXPECT_EQ(Has(id), id != 2 && id != 4) << id;
    EXPECT_EQ(tier_->Usage().used_bytes, used);
  }
  while (const auto next = tier_->SegmentFrom(0)) {
    ASSERT_TRUE(tier_->DropSegment(next->sequence, {}).ok());
  }
  EXPECT_EQ(tier_->Usage().block_count, 0u);
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
}

TEST_P(TierConformance, AFoldMakesOneSegmentOfSeveral) {
  if (!GetParam().has_segments) GTEST_SKIP() << "it has single blocks";
  PutTogether({1, 2});
  PutTogether({3});
  PutTogether({4, 5});
  const uint64_t left = tier_->SegmentSizes().back().sequence;
  ASSERT_TRUE(tier_->Erase({2, 0}).ok());
  const uint64_t before = tier_->Usage().used_bytes;
  const BlockRef blocks[] = {{4, 0}, {1, 0}, {3, 0}, {1, 0}, {77, 0}};  // one twice, one absent
  const auto unread = tier_->Fold(blocks);
  ASSERT_TRUE(unread.ok()) << unread.status();
  EXPECT_TRUE(unread->empty());
  ASSERT_EQ(tier_->SegmentSizes().size(), 2u);
  const TierSegment first = *tier_->SegmentFrom(0), second = *tier_->SegmentFrom(left + 1);
  EXPECT_EQ(first.sequence, left);
  EXPECT_THAT(IdsOf(first), ::testing::ElementsAre(5)) << "it was not named";
  EXPECT_THAT(IdsOf(second), ::testing::UnorderedElementsAre(1, 3, 4));
  EXPECT_LT(tier_->Usage().used_bytes, before + kBlockBytes) << "4 is there twice, 2 is not";
  EXPECT_GE(tier_->Usage().kept_bytes, 3 * kBlockBytes);
  EXPECT_TRUE(tier_->TakeLost().empty());
  for (const bool reopened : {false, true}) {
    if (reopened && GetParam().survives_reopening) Reopen();
    for (uint64_t id = 1; id <= 5; ++id) EXPECT_EQ(Has(id), id != 2) << id;
  }
}

TEST_P(TierConformance, WhatIsKeptIsFoundWhileItsSegmentGoes) {
  if (!GetParam().has_segments) GTEST_SKIP() << "it has single blocks";
  PutTogether({1, 2, 3, 4});
  std::atomic<bool> done = false;
  std::atomic<int> reads = 0, wrong = 0;
  std::vector<std::thread> readers;
  for (uint64_t id = 1; id <= 2; ++id) {
    readers.emplace_back([&, id] {
      const auto payload = TestPayload(id, 0, kBlockBytes);
      std::vector<std::byte> room(kBlockBytes);
      while (!done) {
        const auto found = tier_->Get({id, 0}, room);
        if (!found.ok() || !found->has_value() || room != payload) ++wrong;
        ++reads;
      }
    });
  }
  while (reads < 2) std::this_thread::yield();  // until somebody is at it
  const BlockRef keep[] = {{1, 0}, {2, 0}};
  for (int round = 0; round < 20; ++round) {
    EXPECT_TRUE(tier_->DropSegment(tier_->SegmentFrom(0)->sequence, keep).ok());
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(tier_->Usage().block_count, 2u);
  EXPECT_EQ(tier_->Usage().corrupt_count, 0u);
}

TEST_P(TierConformance, RandomCallsAgreeWithAMap) {
  const uint64_t seed = TestSeed(11);
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::map<uint64_t, bool> model;
  for (int step = 0; step < 400; ++step) {
    const uint64_t id = 1 + random() % 12;
    switch (random() % 4) {
      case 0:
      case 1: {
        const absl::Status status = Put(id);
        if (status.ok()) {
          model[id] = true;
        } else {
          ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
          ASSERT_GE(model.size(), kBlocks);
        }
        break;
      }
      case 2:
        ASSERT_TRUE(tier_->Erase({id, 0}).ok());
        model.erase(id);
        break;
      default:
        ASSERT_EQ(Has(id), model.contains(id)) << "step " << step;
    }
    ASSERT_EQ(tier_->Usage().block_count, model.size());
    ASSERT_TRUE(IsWithinCapacity());
  }
}

TEST_P(TierConformance, ThreadsMayUseDifferentBlocksAtOnce) {
  constexpr int kThreads = 4;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const uint64_t id = 100 + t;
      const auto payload = TestPayload(id, 0, kBlockBytes);
      const BlockHeader header = TestHeader(id, 0, payload);
      std::vector<std::byte> room(kBlockBytes);
      for (int round = 0; round < 20; ++round) {
        if (!tier_->Put(header, payload).ok()) ++wrong;
        const auto found = tier_->Get({id, 0}, room);
        if (!found.ok() || !found->has_value() || room != payload) ++wrong;
        if (!tier_->Erase({id, 0}).ok()) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
}

}  // namespace thermocline
