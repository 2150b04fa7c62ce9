// How often something is logged that outsiders can bring about at will: so many lines at once, then
// one after the other at an interval. What is left out is counted, and told with the next line.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/mutex.h"

namespace thermocline {

/// Of one kind of event, or of one of its causes.
/// Thread: any.
class LogLimit {
 public:
  static constexpr int kBurst = 10;  // lines
  static constexpr std::chrono::seconds kInterval{1};

  /// How many were left out since the last line, when another may be written; else nothing.
  std::optional<uint64_t> Admit(SteadyTime now = Clock::Real().Now()) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (free_at_ > now + (kBurst - 1) * kInterval) {
      ++left_out_;
      return std::nullopt;
    }
    free_at_ = std::max(free_at_, now) + kInterval;
    return std::exchange(left_out_, 0);
  }

 private:
  Mutex mutex_;
  SteadyTime free_at_ TC_GUARDED_BY(mutex_){};  // when all of the burst may be written again
  uint64_t left_out_ TC_GUARDED_BY(mutex_) = 0;
};

}  // namespace thermocline
