// Waiting for another's answer: never past the deadline, never for a wake-up that was missed, and
// without a core of its own where answers are slow.
#include "client/adaptive_wait.h"

#include <gtest/gtest.h>
#include <time.h>

#include <thread>

#include "base/fence.h"
#include "base/futex.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

steady_clock::time_point In(int ms) { return steady_clock::now() + milliseconds(ms); }

double CpuMilliseconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

class AdaptiveWaitTest : public ::testing::Test {
 protected:
  /// As whoever answers does it: a wake-up only where somebody sleeps.
  void Answer() {
    word_.fetch_add(1, std::memory_order_release);
    FullFence();
    if (sleepers_.load(std::memory_order_relaxed) == 0) return;
    ++wakes_;
    FutexWake(word_);
  }
  bool Wait(uint32_t old, int ms) { return wait_.Until(word_, old, sleepers_, In(ms)); }

  AdaptiveWait wait_;
  std::atomic<uint32_t> word_{0};
  std::atomic<uint32_t> sleepers_{0};
  uint64_t wakes_ = 0;  // of the thread that answers
};

TEST_F(AdaptiveWaitTest, WhatHasHappenedIsNotWaitedFor) {
  Answer();
  EXPECT_TRUE(Wait(0, 0));
  EXPECT_FALSE(Wait(1, -1)) << "a deadline that has passed";
}

TEST_F(AdaptiveWaitTest, ADeadlineEndsTheWaitAndItTakesNoCoreMeanwhile) {
  const double cpu_before = CpuMilliseconds();
  const auto start = steady_clock::now();
  EXPECT_FALSE(Wait(0, 300));
  EXPECT_GE(steady_clock::now() - start, milliseconds(300));
  EXPECT_LT(CpuMilliseconds() - cpu_before, 100) << "it slept";
  EXPECT_EQ(sleepers_.load(), 0u);
}

TEST_F(AdaptiveWaitTest, SlowAnswersAreSleptFor) {
  constexpr int kRounds = 40;
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) {
      std::this_thread::sleep_for(milliseconds(5));
      Answer();
    }
  });
  const double cpu_before = CpuMilliseconds();
  for (int round = 0; round < kRounds; ++round) ASSERT_TRUE(Wait(word_.load(), 20'000));
  EXPECT_LT(CpuMilliseconds() - cpu_before, kRounds * 5 / 2.0);
  stop = true;
  other.join();
  EXPECT_GT(wakes_, 0u);
}

// In turns, as fast as both can: every answer is either seen or slept for and woken.
TEST_F(AdaptiveWaitTest, NoWakeUpIsMissedHoweverFastTheyAre) {
  constexpr uint32_t kTurns = 20'000;
  AdaptiveWait others;
  std::atomic<uint32_t> question{0}, asleep{0};
  std::thread other([&] {
    for (uint32_t turn = 0; turn < kTurns; ++turn) {
      ASSERT_TRUE(others.Until(question, turn, asleep, In(60'000))) << turn;
      Answer();
    }
  });
  for (uint32_t turn = 0; turn < kTurns; ++turn) {
    question.fetch_add(1, std::memory_order_release);
    FullFence();
    if (asleep.load(std::memory_order_relaxed) > 0) FutexWake(question);
    ASSERT_TRUE(Wait(turn, 60'000)) << turn;
  }
  other.join();
  EXPECT_EQ(sleepers_.load(), 0u);
}

}  // namespace
}  // namespace thermocline
