// Calls, by their sessions' numbers for them, of which a client has said that it got no answer. The
// call itself may come to the strand after that: gRPC keeps no order among calls, and learns late
// that a caller has gone.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>

#include "base/mutex.h"

namespace thermocline {

/// Remembers the last ones: whoever is late is so by moments.
/// Thread: any.
class GivenUpCalls {
 public:
  void Add(uint64_t session, std::span<const uint64_t> calls) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    for (const uint64_t call : calls) given_up_.emplace_back(session, call);
    while (given_up_.size() > kMost) given_up_.pop_front();
  }
  bool Contains(uint64_t session, uint64_t call) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return std::find(given_up_.begin(), given_up_.end(), std::pair(session, call)) !=
           given_up_.end();
  }

 private:
  static constexpr size_t kMost = 1024;
  Mutex mutex_;
  std::deque<std::pair<uint64_t, uint64_t>> given_up_ TC_GUARDED_BY(mutex_);
};

}  // namespace thermocline
