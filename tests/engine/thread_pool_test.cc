#include "engine/thread_pool.h"

#include <gtest/gtest.h>

#include <numeric>

namespace thermocline {
namespace {

TEST(ThreadPoolTest, EveryThreadRunsTheWorkOnce) {
  for (const int threads : {1, 2, 5}) {
    auto pool = ThreadPool::Make(threads);
    ASSERT_TRUE(pool.ok());
    EXPECT_EQ((*pool)->threads(), threads);
    std::vector<int> runs(threads);
    for (int i = 0; i < 100; ++i) (*pool)->Run([&](int thread) { ++runs[thread]; });
    EXPECT_EQ(runs, std::vector<int>(threads, 100));
  }
}

/// Each stage reads what its neighbours wrote in the stage before, unsynchronised but for the
/// barrier: ThreadSanitizer sees a barrier that does not order, the sums one that does not wait.
TEST(ThreadPoolTest, BarrierOrdersTheStages) {
  constexpr int kThreads = 4, kStages = 300;
  auto pool = ThreadPool::Make(kThreads);
  ASSERT_TRUE(pool.ok());
  std::vector<int> values(kThreads, 1), next(kThreads);
  (*pool)->Run([&](int thread) {
    for (int stage = 0; stage < kStages; ++stage) {
      next[thread] = (values[thread] + values[(thread + 1) % kThreads]) % 1009;
      (*pool)->Barrier();
      values[thread] = next[thread];
      (*pool)->Barrier();
    }
  });
  int expected = 1;
  for (int stage = 0; stage < kStages; ++stage) expected = 2 * expected % 1009;
  EXPECT_EQ(values, std::vector<int>(kThreads, expected));
}

TEST(ThreadPoolTest, ThreadsOutOfRangeAreRefused) {
  EXPECT_FALSE(ThreadPool::Make(-1).ok());
  EXPECT_FALSE(ThreadPool::Make(ThreadPool::kMaxThreads + 1).ok());
  auto pool = ThreadPool::Make(0);
  ASSERT_TRUE(pool.ok());
  EXPECT_GE((*pool)->threads(), 1);
}

}  // namespace
}  // namespace thermocline
