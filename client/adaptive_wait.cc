#include "client/adaptive_wait.h"

#include <sched.h>

#include <algorithm>

#include "base/fence.h"
#include "base/futex.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

// An answer that takes longer is slept for: a wake-up adds little to it.
constexpr int64_t kLongestSpinNs = 50'000;
constexpr int kLooksBetweenClocks = 32;

/// Who spins on the only core waits for one who cannot run.
bool HasCoreToSpare() {
  static const bool has = [] {
    cpu_set_t cores;
    return ::sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) > 1;
  }();
  return has;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

bool AdaptiveWait::Until(const std::atomic<uint32_t>& word, uint32_t old,
                         std::atomic<uint32_t>& sleepers, steady_clock::time_point deadline) {
  const auto changed = [&] { return word.load(std::memory_order_acquire) != old; };
  const steady_clock::time_point start = steady_clock::now();
  const int64_t spin_ns = HasCoreToSpare() ? spin_ns_.load(std::memory_order_relaxed) : 0;
  const steady_clock::time_point spin_until = std::min(deadline, start + nanoseconds(spin_ns));
  while (!changed() && steady_clock::now() < spin_until) {
    for (int look = 0; look < kLooksBetweenClocks && !changed(); ++look) Pause();
  }
  if (!changed()) {
    sleepers.fetch_add(1, std::memory_order_relaxed);
    FullFence();
    while (!changed() && steady_clock::now() < deadline) FutexWait(word, old, deadline);
    sleepers.fetch_sub(1, std::memory_order_relaxed);
  }
  const int64_t took_ns = nanoseconds(steady_clock::now() - start).count();
  const bool quick = changed() && took_ns <= kLongestSpinNs;
  spin_ns_.store(quick ? std::min(2 * took_ns, kLongestSpinNs) : spin_ns / 2,
                 std::memory_order_relaxed);
  return changed();
}

}  // namespace client_v1
}  // namespace thermocline
