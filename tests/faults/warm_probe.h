// A client that does nothing but hit: gets one warm value after the other while something is done
// to the disk, and remembers the longest that one took, and every one that was not right.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/faults/subject.h"

namespace thermocline::faults {

struct WarmPace {
  int gets = 0;
  int not_right = 0;
  double median_ms = 0;
  double longest_ms = 0;
};

/// Thread: one; works on its own.
class WarmProbe {
 public:
  /// Of the keys [first, first + count), which must be warm for good.
  WarmProbe(const Subject& subject, int first, int count);
  ~WarmProbe();
  WarmProbe(const WarmProbe&) = delete;
  WarmProbe& operator=(const WarmProbe&) = delete;

  /// How many gets were right until now.
  int right() const { return right_; }
  /// Ends it.
  WarmPace Stop();

 private:
  void Run(int first, int count);

  Caller caller_;
  std::atomic<bool> stops_ = false;
  std::vector<double> times_ms_;
  int not_right_ = 0;
  std::atomic<int> right_ = 0;
  std::thread thread_;
};

}  // namespace thermocline::faults
