// Work that falls apart into items, done by a few threads at once while its caller waits.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <future>
#include <thread>
#include <vector>

namespace thermocline {

inline constexpr size_t kMaxParallelThreads = 4;

/// Calls body(0) to body(count - 1), each once, in no order, and returns when all are done. Where
/// no thread is to be had, the caller's does it all.
inline void InParallel(size_t count, const std::function<void(size_t item)>& body) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t item = next++; item < count; item = next++) body(item);
  };
  const size_t threads = std::min(
      {count, kMaxParallelThreads, static_cast<size_t>(std::thread::hardware_concurrency())});
  std::vector<std::future<void>> others;
  while (others.size() + 1 < threads) others.push_back(std::async(work));
  work();
  for (const std::future<void>& other : others) other.wait();
}

}  // namespace thermocline
