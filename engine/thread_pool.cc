#include "engine/thread_pool.h"

#include <sched.h>

#include <string>
#include <system_error>

namespace thermocline {
namespace {

int UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  const int cores = CPU_COUNT(&set);
  return cores < 1 ? 1 : cores > ThreadPool::kMaxThreads ? ThreadPool::kMaxThreads : cores;
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

absl::StatusOr<std::unique_ptr<ThreadPool>> ThreadPool::Make(int threads) {
  if (threads < 0 || threads > kMaxThreads) {
    return absl::InvalidArgumentError(std::to_string(threads) +
                                      " threads; it must be 0 (all cores) to " +
                                      std::to_string(kMaxThreads));
  }
  if (threads == 0) threads = UsableCores();
  std::unique_ptr<ThreadPool> pool(new ThreadPool(threads));
  try {
    for (int i = 1; i < threads; ++i)
      pool->workers_.emplace_back([p = pool.get(), i] { p->Loop(i); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError("cannot start " + std::to_string(threads) +
                                        " threads: " + error.what() + "; ask for fewer");
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Loop(int thread) {
  for (uint32_t seen = 0;; ++seen) {
    AwaitChange(generation_, seen);
    if (stop_) return;
    (*work_)(thread);
    Barrier();
  }
}

void ThreadPool::Run(const std::function<void(int)>& work) {
  work_ = &work;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  Barrier();
}

void ThreadPool::Barrier() {
  if (thread_count_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < thread_count_) {
    AwaitChange(phase_, phase);
    return;
  }
  arrived_.store(0, std::memory_order_relaxed);
  phase_.fetch_add(1, std::memory_order_release);
  phase_.notify_all();
}

void ThreadPool::AwaitChange(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpinPauses; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace thermocline
