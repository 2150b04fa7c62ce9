// A circuit breaker (Nygard, Release It!): after so many failures in a row it opens, and nothing is
// asked of what failed for a while; then one call is let through, and its outcome decides.
#pragma once
#include <chrono>
#include <optional>

#include "base/clock.h"

namespace thermocline {

/// Thread: one.
class Breaker {
 public:
  Breaker(const Clock* clock, int failures, std::chrono::milliseconds pause)
      : clock_(clock), failures_(failures), pause_(pause) {}

  /// Whether a call may be made now.
  bool Allows() const { return !open_until_ || clock_->Now() >= *open_until_; }
  /// A call is made. The one that follows a pause begins the next, lest others join it.
  void Try() {
    if (open_until_) open_until_ = clock_->Now() + pause_;
  }
  /// What was tried could not be made after all: the next may be.
  void GiveBack() {
    if (open_until_) open_until_ = clock_->Now();
  }
  void Succeeded() {
    in_a_row_ = 0;
    open_until_.reset();
  }
  /// True when this failure was the one that opened it.
  bool Failed() {
    if (++in_a_row_ < failures_) return false;
    const bool was_closed = !open_until_;
    open_until_ = clock_->Now() + pause_;
    return was_closed;
  }
  bool is_closed() const { return !open_until_; }
  std::chrono::milliseconds pause() const { return pause_; }

 private:
  const Clock* const clock_;
  const int failures_;
  const std::chrono::milliseconds pause_;
  int in_a_row_ = 0;
  std::optional<SteadyTime> open_until_;
};

}  // namespace thermocline
