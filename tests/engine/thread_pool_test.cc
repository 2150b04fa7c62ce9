#include "engine/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace thermocline {
namespace {

std::unique_ptr<ThreadPool> MakePool(int threads) {
  auto pool = ThreadPool::Make(threads);
  EXPECT_TRUE(pool.ok());
  return std::move(*pool);
}

TEST(ThreadPoolTest, EveryItemIsDoneOnceBeforeShareReturns) {
  for (const int threads : {1, 2, 5}) {
    const auto pool = MakePool(threads);
    EXPECT_EQ(pool->threads(), threads);
    for (const int items : {1, 2, 3, 7, 100}) {
      std::vector<int> done(items);
      for (int run = 0; run < 50; ++run) {
        pool->Run([&](int thread) {
          for (int stage = 0; stage < 3; ++stage) {
            pool->Share(thread, items, [&](int item) { ++done[item]; });
          }
        });
        ASSERT_EQ(done, std::vector<int>(items, 3 * (run + 1)));
      }
    }
  }
}

/// Each stage reads what its neighbours wrote in the stage before, unsynchronised but for Share:
/// ThreadSanitizer sees stages that are not ordered, the sums stages that do not wait.
TEST(ThreadPoolTest, StagesAreOrdered) {
  constexpr int kItems = 6, kStages = 300;
  const auto pool = MakePool(4);
  std::vector<int> values(kItems, 1), next(kItems);
  pool->Run([&](int thread) {
    for (int stage = 0; stage < kStages; ++stage) {
      pool->Share(thread, kItems,
                  [&](int i) { next[i] = (values[i] + values[(i + 1) % kItems]) % 1009; });
      pool->Share(thread, kItems, [&](int i) { values[i] = next[i]; });
    }
  });
  int expected = 1;
  for (int stage = 0; stage < kStages; ++stage) expected = 2 * expected % 1009;
  EXPECT_EQ(values, std::vector<int>(kItems, expected));
}

/// A barrier would wait for ever.
TEST(ThreadPoolTest, ThreadPutAsideHoldsNobodyUp) {
  const auto pool = MakePool(2);
  for (int run = 0; run < 100; ++run) {
    std::atomic<bool> over{false};
    std::atomic<int> done{0}, late{0};
    pool->Run([&](int thread) {
      while (thread != 0 && !over) std::this_thread::yield();
      for (int stage = 0; stage < 20; ++stage) {
        pool->Share(thread, 10, [&](int) { ++(over ? late : done); });
      }
      over = true;
    });
    ASSERT_EQ(done, 200);
    ASSERT_EQ(late, 0);
  }
}

/// Uneven items: whoever is free takes what others have not begun.
TEST(ThreadPoolTest, ThreadTakesItemsOfAnother) {
  const auto pool = MakePool(2);
  std::atomic<int> done{0};
  pool->Run([&](int thread) {
    pool->Share(thread, 10, [&](int item) {
      // The first item of the caller's run ends only when all others have.
      while (item == 0 && done < 9) std::this_thread::yield();
      ++done;
    });
  });
  EXPECT_EQ(done, 10);
}

TEST(ThreadPoolTest, ThreadsOutOfRangeAreRefused) {
  EXPECT_FALSE(ThreadPool::Make(-1).ok());
  EXPECT_FALSE(ThreadPool::Make(ThreadPool::kMaxThreads + 1).ok());
  EXPECT_GE(MakePool(0)->threads(), 1);
}

}  // namespace
}  // namespace thermocline
