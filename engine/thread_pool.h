// Threads that live as long as the model. A forward pass is one piece of work that all threads run
// at once, stage by stage: one wake-up a pass instead of one a stage. The items of a stage have no
// fixed owner. Each thread begins with a run of its own, so that neighbours seldom touch the same
// counter, and then takes what others have not begun; the stage is over when its items are done,
// not when its threads have come. So a thread that the system has put aside holds up at most the
// one item that it is in, and finds the stages that it missed closed.
//   A thread that waits spins for a moment, and then sleeps in the kernel, where it frees its core
// for the one it waits for. How long matters little beside a busy process, because waiting for a
// sleeping thread is rare: once in a time slice, not once in a stage.
//   Counters carry the number of their stage, which only grows, so that nothing is ever reset and
// a late thread cannot take an item of a stage that is over.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/status.h"

namespace thermocline {

/// Thread: Run from one thread at a time, Share from inside the work.
/// Owner:  joins its threads in the destructor.
class ThreadPool {
 public:
  static constexpr int kMaxThreads = 256;
  /// Items of one stage.
  static constexpr int kMaxItems = (1 << 24) - 1;

  /// `threads` counts the caller of Run; 0 = the cores that this process may use.
  /// Errors: InvalidArgument outside 0 .. kMaxThreads, ResourceExhausted if the system refuses one.
  static absl::StatusOr<std::unique_ptr<ThreadPool>> Make(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return thread_count_; }

  /// Runs work(0) on the caller and work(i) on every other thread that wakes before that returns;
  /// returns when all that began have ended. What must be done goes through Share.
  void Run(const std::function<void(int thread)>& work);

  /// The next stage: f(0) .. f(count - 1) are each called by one thread, and all have returned when
  /// Share does; what they wrote, the calls of the next stage read. Every thread of a Run calls
  /// Share with the same counts in the same order, and between two calls reads nothing that an f
  /// writes: other threads may be stages ahead.
  template <class F>
  void Share(int thread, int count, F f) {
    const uint64_t stage = Enter(thread, count);
    int done = 0;
    for (int i = 0; i < thread_count_ && IsOpen(stage); ++i) {
      const int owner = (thread + i) % thread_count_;
      const int begin = FirstItem(owner, count), items = FirstItem(owner + 1, count) - begin;
      for (int item; (item = Take(owner, stage, items)) < items; ++done) f(begin + item);
    }
    Leave(stage, count, done);
  }

 private:
  struct alignas(64) Member {
    std::atomic<uint64_t> taken{0};  // the stage and how many items of the run, see Take
    uint64_t next_stage = 0;         // of the thread itself
  };

  explicit ThreadPool(int threads) : thread_count_(threads), members_(threads) {}
  void Loop(int thread);
  int FirstItem(int owner, int count) const {
    return static_cast<int>(int64_t{count} * owner / thread_count_);
  }
  bool IsOpen(uint64_t stage) const { return stage_.load(std::memory_order_acquire) == stage; }
  uint64_t Enter(int thread, int count);
  int Take(int owner, uint64_t stage, int items);
  void Leave(uint64_t stage, int count, int done);

  const int thread_count_;
  std::vector<std::thread> threads_;
  std::vector<Member> members_;
  const std::function<void(int)>* work_ = nullptr;  // published by runs_
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> runs_{0};    // odd while one is open to those who wake
  alignas(64) std::atomic<uint32_t> inside_{0};  // threads in a run, or looking whether it is open
  alignas(64) std::atomic<uint64_t> stage_{1};   // the one that is under way
  alignas(64) std::atomic<int> done_{0};         // its items that are done
};

}  // namespace thermocline
