#include "base/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

namespace thermocline {
namespace {

using std::chrono::milliseconds;

TEST(ExecutorTest, RunsEveryTaskThatItAccepted) {
  std::atomic<int> ran = 0;
  {
    Executor executor({.name = "test", .thread_count = 3});
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(executor.Post([&] { ++ran; }));
  }
  EXPECT_EQ(ran, 1000);
}

TEST(ExecutorTest, AFullQueueRefusesAndACompletionIsStillTaken) {
  Executor executor({.name = "test", .queue_limit = 2});
  std::latch go(1);
  std::atomic<int> ran = 0;
  const auto wait = [&] { go.wait(), ++ran; };
  ASSERT_TRUE(executor.Post(wait));
  ASSERT_TRUE(executor.Post(wait));
  EXPECT_FALSE(executor.Post(wait));
  EXPECT_EQ(executor.queued(), 2u);
  EXPECT_TRUE(executor.PostCompletion(wait));
  go.count_down();
  executor.Stop();
  EXPECT_EQ(ran, 3);
}

TEST(ExecutorTest, StopDrainsWithTheCompletionsOfDrainingTasks) {
  Executor executor({.name = "test"});
  std::latch started(1);
  std::latch go(1);
  std::atomic<int> ran = 0;
  ASSERT_TRUE(executor.Post([&] {
    started.count_down();
    go.wait();
    EXPECT_FALSE(executor.Post([&] { ++ran; }));  // new work is refused once it stops
    EXPECT_TRUE(executor.PostCompletion([&] {
      ++ran;
      EXPECT_TRUE(executor.PostCompletion([&] { ++ran; }));
    }));
  }));
  started.wait();
  std::thread stopper([&] { executor.Stop(); });
  while (executor.Post([] {})) std::this_thread::yield();
  go.count_down();
  stopper.join();
  EXPECT_EQ(ran, 2);
  EXPECT_FALSE(executor.Post([] {}));
  EXPECT_FALSE(executor.PostCompletion([] {}));
  EXPECT_FALSE(executor.PostAfter(milliseconds(1), [] {}));
}

TEST(ExecutorTest, TimersFireInTimeAndUnfiredOnesAreDropped) {
  auto executor = std::make_unique<Executor>(Executor::Options{.name = "test", .queue_limit = 2});
  const auto begin = std::chrono::steady_clock::now();
  std::latch fired(1);
  std::chrono::steady_clock::duration after{};
  ASSERT_TRUE(executor->PostAfter(milliseconds(20), [&] {
    after = std::chrono::steady_clock::now() - begin;
    fired.count_down();
  }));
  fired.wait();
  EXPECT_GE(after, milliseconds(20));

  const auto alive = std::make_shared<int>(0);
  // A timer that holds a strand holds the executor's state, which holds the timer.
  Strand strand = executor->MakeStrand();
  ASSERT_TRUE(executor->PostAfter(std::chrono::hours(1), [alive, strand] { FAIL(); }));
  ASSERT_TRUE(strand.PostAfter(std::chrono::hours(1), [alive, strand] { FAIL(); }));
  EXPECT_FALSE(executor->PostAfter(std::chrono::hours(1), [] {}));  // two at most
  executor.reset();
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_FALSE(strand.Post([] {}));  // outlives the executor
}

TEST(ExecutorTest, TasksAreMoveOnlyAndDieBeforeStopReturns) {
  std::shared_ptr<int> alive = std::make_shared<int>(0);
  Executor executor({.name = "test", .thread_count = 2});
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(executor.Post([alive, owned = std::make_unique<int>(i)] {}));
  }
  executor.Stop();
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(StrandTest, TasksOfAStrandRunInOrderAndOneAtATime) {
  Executor executor({.name = "test", .thread_count = 4, .queue_limit = 100'000});
  Strand strand = executor.MakeStrand();
  Strand other = executor.MakeStrand();
  std::vector<int> order;  // unguarded: ThreadSanitizer would see two tasks at once
  std::atomic<int> inside = 0;
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(strand.Post([&, i] {
      EXPECT_EQ(++inside, 1);
      EXPECT_TRUE(strand.running_here());
      EXPECT_FALSE(other.running_here());
      order.push_back(i);
      --inside;
    }));
    ASSERT_TRUE(other.Post([] {}));
  }
  executor.Stop();
  ASSERT_EQ(order.size(), 5000u);
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(StrandTest, ATimerThatGoesOnByItselfIsNotRefused) {
  Executor executor({.name = "test", .queue_limit = 1});
  Strand strand = executor.MakeStrand();
  ASSERT_TRUE(strand.PostAfter(std::chrono::hours(1), [] {}));
  EXPECT_FALSE(strand.PostAfter(milliseconds(1), [] {}));
  std::latch fired(1);
  EXPECT_TRUE(strand.PostCompletionAfter(milliseconds(1), [&] { fired.count_down(); }));
  fired.wait();
  executor.Stop();
  EXPECT_FALSE(strand.PostCompletionAfter(milliseconds(1), [] {}));
}

TEST(ShareTest, WhoFloodsDelaysNobodyByMoreThanATask) {
  Executor executor({.name = "test", .queue_limit = 1000});
  Share flood = executor.MakeShare();
  Share other = executor.MakeShare();
  Share third = executor.MakeShare();
  std::latch begun(1), go(1);
  std::atomic<int> flooded = 0;
  ASSERT_TRUE(flood.Post([&] {
    begun.count_down();
    go.wait();
  }));
  begun.wait();
  for (int i = 0; i < 999; ++i) ASSERT_TRUE(flood.Post([&] { ++flooded; }));
  EXPECT_FALSE(flood.Post([] {})) << "it is full by itself";
  std::vector<int> before;  // of the flood's tasks, when one of the others ran
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(other.Post([&] { before.push_back(flooded); }));
    ASSERT_TRUE(third.Post([&] { before.push_back(flooded); }));
  }
  ASSERT_TRUE(executor.Post([] {})) << "nor does it fill the executor's own queue";
  EXPECT_EQ(executor.queued(), 1007u);
  go.count_down();
  executor.Stop();
  EXPECT_EQ(flooded, 999);
  EXPECT_EQ(before, (std::vector<int>{1, 1, 2, 2, 3, 3}));
  EXPECT_FALSE(other.Post([] {}));  // outlives the executor
  EXPECT_FALSE(other.PostCompletion([] {}));
}

TEST(ShareTest, CompletionsBeyondTheLimitAreTakenAndAllRun) {
  Executor executor({.name = "test", .thread_count = 3, .queue_limit = 2});
  std::vector<std::thread> posters;
  std::atomic<int> ran = 0;
  for (int i = 0; i < 4; ++i) {
    posters.emplace_back([&executor, &ran] {
      Share share = executor.MakeShare();
      for (int task = 0; task < 1000; ++task) ASSERT_TRUE(share.PostCompletion([&] { ++ran; }));
    });
  }
  for (std::thread& poster : posters) poster.join();
  executor.Stop();
  EXPECT_EQ(ran, 4000);
}

}  // namespace
}  // namespace thermocline
