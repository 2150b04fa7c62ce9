// The two ends of the ring of commits, in one process: what the client's queue enqueues is what the
// daemon's ring takes out, in its order, and what is answered reaches whoever waits for it.
#include "daemon/put_ring.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <thread>

#include "client/put_queue.h"
#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class PutRingTest : public ::testing::Test {
 protected:
  PutRingTest()
      : queue_(*area_, readers_,
               {.wake = [this] { ++wakes_; },
                .alive = [this] { return alive_; },
                .abort = [this](Magazine::Slot slot) { aborted_.push_back(slot.offset); },
                .unstage = [](uint64_t) {},
                .want = [this](uint32_t) { return want_; },
                .granted =
                    [this](const Magazine::Want& want, uint64_t grant,
                           std::span<const uint64_t> offsets) {
                      EXPECT_EQ(want.kind, want_.kind);
                      granted_.push_back({grant, {offsets.begin(), offsets.end()}});
                    }}) {}

  static v1::CommitRequest Commit(uint64_t first_offset, int items, size_t name_bytes = 64) {
    v1::CommitRequest request;
    request.mutable_names()->set_tokens(std::string(name_bytes, 'n'));
    for (int i = 0; i < items; ++i) request.add_items()->set_offset(first_offset + i);
    return request;
  }
  /// What the daemon takes out next.
  v1::CommitRequest Take() {
    const auto next = ring_.Next();
    EXPECT_TRUE(next.ok() && next->has_value());
    v1::CommitRequest request;
    EXPECT_TRUE(next.ok() && next->has_value() && request.ParseFromString((*next)->bytes));
    return request;
  }
  static Deadline In(int ms) { return steady_clock::now() + milliseconds(ms); }

  CatalogMemory catalog_ = CatalogMemory::Create({.node_count = 64}, 1).value();
  std::shared_ptr<ControlArea> area_ = std::make_shared<ControlArea>();
  LocalReaders readers_{catalog_.catalog(), *area_};
  PutRing ring_{area_};
  std::atomic<int> wakes_{0};
  absl::Status alive_;
  std::vector<uint64_t> aborted_;
  Magazine::Want want_;
  std::vector<std::pair<uint64_t, std::vector<uint64_t>>> granted_;  // by its name
  PutQueue queue_;
};

TEST_F(PutRingTest, WhatIsEnqueuedComesOutInItsOrder) {
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(queue_.Enqueue(Commit(i * 100, 3), In(0)).ok());
  }
  for (uint64_t i = 0; i < 10; ++i) {
    const v1::CommitRequest taken = Take();
    ASSERT_EQ(taken.items_size(), 3);
    EXPECT_EQ(taken.items(0).offset(), i * 100);
  }
  EXPECT_FALSE(ring_.Next()->has_value());
}

TEST_F(PutRingTest, OnlyADaemonThatSleepsIsWoken) {
  ASSERT_TRUE(queue_.Enqueue(Commit(0, 1), In(0)).ok());
  EXPECT_EQ(wakes_, 0) << "it has not said that it sleeps";
  EXPECT_FALSE(ring_.Sleep()) << "there is something";
  Take();
  EXPECT_TRUE(ring_.Sleep());
  ASSERT_TRUE(queue_.Enqueue(Commit(1, 1), In(0)).ok());
  ASSERT_TRUE(queue_.Enqueue(Commit(2, 1), In(0)).ok());
  EXPECT_EQ(wakes_, 1) << "once is enough";
}

TEST_F(PutRingTest, AnAnswerReachesItsCommit) {
  const auto first = *queue_.Enqueue(Commit(100, 3), In(0));
  const auto second = *queue_.Enqueue(Commit(200, 2), In(0));
  EXPECT_FALSE(queue_.Answered(*first));
  EXPECT_TRUE(absl::IsDeadlineExceeded(queue_.Await(*first, In(20))));
  PutRing::Answer answer{.status = absl::DataLossError("spoiled"), .depth = 0};
  answer.kept[0] = 0b101;
  ring_.Tell(answer);
  ASSERT_TRUE(queue_.Await(*first, In(60'000)).ok());
  EXPECT_TRUE(absl::IsDataLoss(first->status));
  EXPECT_EQ(first->status.message(), "spoiled");
  EXPECT_EQ(first->kept, (std::vector<Magazine::Slot>{{100, 0}, {102, 0}}));
  EXPECT_FALSE(queue_.Answered(*second));
  ring_.Tell({.depth = 7});
  ASSERT_TRUE(queue_.Await(*second, In(60'000)).ok());
  EXPECT_TRUE(second->status.ok());
  EXPECT_EQ(second->depth, 7u);
  EXPECT_TRUE(second->kept.empty());
  EXPECT_TRUE(aborted_.empty()) << "whoever asked for them gives them back";
}

TEST_F(PutRingTest, WhoSleepsIsWokenByTheAnswer) {
  const auto put = *queue_.Enqueue(Commit(0, 1), In(0));
  std::thread daemon([&] {
    while (area_->client_sleepers.load() == 0) std::this_thread::yield();
    ring_.Tell({.depth = 1});
  });
  const auto begin = steady_clock::now();
  EXPECT_TRUE(queue_.Await(*put, In(60'000)).ok());
  EXPECT_LT(steady_clock::now() - begin, milliseconds(30'000));
  daemon.join();
  EXPECT_EQ(area_->client_sleepers.load(), 0u);
}

TEST_F(PutRingTest, SlotsOfAnAbandonedCommitGoBackOnceItIsAnswered) {
  auto put = *queue_.Enqueue(Commit(100, 2), In(0));
  queue_.Abandon(std::move(put), nullptr);
  EXPECT_TRUE(aborted_.empty());
  PutRing::Answer answer{.status = absl::FailedPreconditionError("no")};
  answer.kept[0] = 0b11;
  ring_.Tell(answer);
  queue_.Collect();
  EXPECT_EQ(aborted_, (std::vector<uint64_t>{100, 101}));
}

TEST_F(PutRingTest, SlotsThatACommitAsksForComeWithItsAnswer) {
  want_ = {.kind = {.space = 1, .part = 3, .bytes = 4096}, .count = kPutGrants};
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(queue_.Enqueue(Commit(i, 1), In(0)).ok());
  for (int i = 0; i < 4; ++i) {
    const auto taken = ring_.Next();
    ASSERT_TRUE(taken.ok() && taken->has_value());
    EXPECT_EQ((*taken)->wants.count, kPutGrants);
    EXPECT_EQ((*taken)->wants.part, 3);
  }
  const std::vector<uint64_t> all(kPutGrants, 8192);
  ring_.Tell({.granted = all});
  ring_.Tell({.granted = {4096, 12288}});
  ring_.Tell({});
  ring_.Tell({.status = absl::FailedPreconditionError(std::string(500, 'x'))});
  queue_.Collect();
  const std::vector<std::pair<uint64_t, std::vector<uint64_t>>> expected = {
      {kPutGrant | 1, all},
      {kPutGrant | 2, {4096, 12288}},
      {kPutGrant | 3, {}},
      {kPutGrant | 4, {}}};
  EXPECT_EQ(granted_, expected);
}

TEST_F(PutRingTest, AFullRingTakesNoMoreUntilTheDaemonHasAnswered) {
  for (uint32_t i = 0; i < kPutAnswers; ++i) {
    ASSERT_TRUE(queue_.Enqueue(Commit(i, 1), In(0)).ok());
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(queue_.Enqueue(Commit(99, 1), In(20)).status()));
  Take();
  ring_.Tell({});
  EXPECT_TRUE(queue_.Enqueue(Commit(99, 1), In(20)).ok());
}

TEST_F(PutRingTest, ALostSessionEndsTheWait) {
  const auto put = *queue_.Enqueue(Commit(0, 1), In(0));
  alive_ = absl::UnavailableError("gone");
  EXPECT_TRUE(absl::IsUnavailable(queue_.Await(*put, In(60'000))));
}

// Frames of all sizes, through many turns of the ring, with both ends at work.
TEST_F(PutRingTest, NothingIsLostOrChangedWhoeverIsFaster) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  constexpr int kCommits = 4000;
  std::thread daemon([&] {
    std::mt19937_64 random(seed + 1);
    for (int i = 0; i < kCommits;) {
      const auto next = ring_.Next();
      ASSERT_TRUE(next.ok()) << next.status();
      if (!next->has_value()) {
        if (ring_.Sleep()) {
          while (area_->daemon_sleeps.load() != 0) std::this_thread::yield();
        }
        continue;
      }
      v1::CommitRequest taken;
      ASSERT_TRUE(taken.ParseFromString((*next)->bytes));
      ASSERT_EQ(taken.items(0).offset(), uint64_t(i));
      ASSERT_EQ(taken.names().tokens(), std::string(taken.names().tokens().size(), 'n'));
      PutRing::Answer answer{.depth = uint32_t(i)};
      answer.kept[0] =
          taken.items_size() == 64 ? ~uint64_t{0} : (uint64_t{1} << (taken.items_size() % 64)) - 1;
      if (random() % 8 == 0) std::this_thread::yield();
      ring_.Tell(answer);
      ++i;
    }
  });
  std::mt19937_64 random(seed);
  std::deque<std::shared_ptr<EnqueuedPut>> puts;
  for (int i = 0; i < kCommits; ++i) {
    const int items = 1 + static_cast<int>(random() % 64);
    auto put = queue_.Enqueue(Commit(i, items, 4 * (random() % 15'000)), In(60'000));
    ASSERT_TRUE(put.ok()) << put.status();
    puts.push_back(*std::move(put));
    while (puts.size() > random() % 40) {
      ASSERT_TRUE(queue_.Await(*puts.front(), In(60'000)).ok());
      ASSERT_EQ(puts.front()->depth, puts.front()->number - 1);
      ASSERT_EQ(puts.front()->kept, puts.front()->slots);
      puts.pop_front();
    }
  }
  queue_.AwaitAll(In(60'000));
  daemon.join();
}

}  // namespace
}  // namespace thermocline
