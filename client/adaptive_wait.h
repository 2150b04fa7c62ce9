// Waiting for another process to change a word of shared memory. Whoever answers within
// microseconds is faster than a sleep and a wake-up; whoever does not would be kept from its core
// by one who spins. So how long to spin is learned: nothing at first, twice as long as the last
// answer took when it came quickly, half as long as before when it did not.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

namespace thermocline {
inline namespace client_v1 {

/// Thread: any.
class AdaptiveWait {
 public:
  /// Waits until `word` is not `old` any more. False when the deadline passed first. Whoever
  /// changes the word fences, and wakes those who sleep on it if there are `sleepers`.
  bool Until(const std::atomic<uint32_t>& word, uint32_t old, std::atomic<uint32_t>& sleepers,
             std::chrono::steady_clock::time_point deadline);

 private:
  std::atomic<int64_t> spin_ns_{0};
};

}  // namespace client_v1
}  // namespace thermocline
