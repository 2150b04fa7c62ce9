// What every tier must do, run over each of them: instantiate TierConformance with a TierMaker in a
// test program of one's own.
#pragma once
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
