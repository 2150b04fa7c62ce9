// Threads that live as long as the model. A forward pass is one piece of work that all threads run
// at once, with barriers between its stages: one wake-up a pass instead of one a stage. A thread
// that waits spins for at most a few dozen pauses and then sleeps in the kernel. Longer spinning
// wins a third on an idle machine and loses five sixths beside a busy process (4,000 pauses: 443
// and 44 tokens/s, against 330 and 240), so it is never the default.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/status.h"

namespace thermocline {

/// Thread: Run from one thread at a time, Barrier from inside the work.
/// Owner:  joins its threads in the destructor.
class ThreadPool {
 public:
  static constexpr int kMaxThreads = 256;
  static constexpr int kSpinPauses = 50;

  /// `threads` counts the caller of Run; 0 = the cores that this process may use.
  /// Errors: InvalidArgument outside 0 .. kMaxThreads, ResourceExhausted if the system refuses one.
  static absl::StatusOr<std::unique_ptr<ThreadPool>> Make(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return thread_count_; }

  /// Runs work(0) on the caller and work(1) ... on the others, and returns when all have.
  void Run(const std::function<void(int thread)>& work);

  /// Returns once every thread has called it: what one wrote before, all read after.
  void Barrier();

 private:
  explicit ThreadPool(int threads) : thread_count_(threads) {}
  void Loop(int thread);
  static void AwaitChange(const std::atomic<uint32_t>& value, uint32_t old);

  const int thread_count_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* work_ = nullptr;  // published by generation_
  bool stop_ = false;                               // likewise
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
};

}  // namespace thermocline
