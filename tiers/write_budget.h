// What may be written to a medium that wears: a budget of bytes a day, spent as a token bucket that
// holds an hour's worth. While any of it is there, the policy says what is worth it (Admits).
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace thermocline {

/// Thread: one.
class WriteBudget {
 public:
  /// `bytes_per_day` 0: no limit. It begins full.
  WriteBudget(const Clock* clock, uint64_t bytes_per_day)
      : clock_(clock),
        per_day_(static_cast<double>(bytes_per_day)),
        level_(per_day_ / kHours),
        filled_(clock->Now()) {}

  bool is_limited() const { return per_day_ > 0; }

  /// As a share of an hour's worth, at most 1. None, or less: nothing may be written.
  double Left() {
    if (!is_limited()) return 1;
    Fill();
    return level_ / (per_day_ / kHours);
  }
  void Spend(uint64_t bytes) {
    if (!is_limited()) return;
    Fill();
    level_ -= static_cast<double>(bytes);
  }

 private:
  static constexpr double kHours = 24;
  void Fill() {
    const SteadyTime now = clock_->Now();
    const std::chrono::duration<double, std::ratio<86400>> days = now - filled_;
    level_ = std::min(level_ + per_day_ * days.count(), per_day_ / kHours);
    filled_ = now;
  }

  const Clock* const clock_;
  const double per_day_;
  double level_;  // bytes
  SteadyTime filled_;
};

}  // namespace thermocline
