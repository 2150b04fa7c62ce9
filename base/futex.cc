#include "base/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace thermocline {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

void FutexWait(const std::atomic<uint32_t>& word, uint32_t expected,
               std::chrono::steady_clock::time_point deadline) {
  // steady_clock is CLOCK_MONOTONIC, which is what an absolute time of this call means.
  const auto at = std::chrono::ceil<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
  if (at <= 0) return;
  const timespec until{.tv_sec = at / 1'000'000'000, .tv_nsec = at % 1'000'000'000};
  ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, expected, &until, nullptr, FUTEX_BITSET_MATCH_ANY);
}

void FutexWake(const std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace thermocline
