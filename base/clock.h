// The time, behind an interface, so that leases and TTLs can be tested without waiting.
#pragma once
#include <atomic>
#include <chrono>

namespace thermocline {

using SteadyTime = std::chrono::steady_clock::time_point;
using WallTime = std::chrono::system_clock::time_point;

/// Thread: any.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Never goes back; comparable between processes of one machine (CLOCK_MONOTONIC). Deadlines.
  virtual SteadyTime Now() const = 0;
  /// The time of day, which may be set. What is stored, and what people read.
  virtual WallTime WallNow() const = 0;

  /// The machine's clock; lives for ever.
  static const Clock& Real();
};

/// A clock that stands still until it is told otherwise.
class ManualClock : public Clock {
 public:
  SteadyTime Now() const override { return SteadyTime(elapsed()); }
  WallTime WallNow() const override {
    return WallTime(std::chrono::seconds(1'700'000'000) + elapsed());
  }
  void Advance(std::chrono::nanoseconds by) { elapsed_ns_ += by.count(); }

 private:
  std::chrono::nanoseconds elapsed() const { return std::chrono::nanoseconds(elapsed_ns_); }
  // Not zero: a time before the first one must not wrap.
  std::atomic<int64_t> elapsed_ns_{std::chrono::nanoseconds(std::chrono::hours(1)).count()};
};

inline const Clock& Clock::Real() {
  class RealClock : public Clock {
    SteadyTime Now() const override { return std::chrono::steady_clock::now(); }
    WallTime WallNow() const override { return std::chrono::system_clock::now(); }
  };
  static const RealClock clock;
  return clock;
}

}  // namespace thermocline
