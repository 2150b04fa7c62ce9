// Calls, by their session's numbers for them, of which a client has said that it got no answer. The
// call itself may come to the strand after that: gRPC keeps no order among calls, and learns late
// that a caller has gone.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>

#include "daemon/wire.h"

namespace thermocline {

/// Of one session. Remembers the last ones, those of one request in any case: whoever is late is so
/// by moments.
/// Thread: the strand's.
class GivenUpCalls {
 public:
  void Add(std::span<const uint64_t> calls) {
    given_up_.insert(given_up_.end(), calls.begin(), calls.end());
    while (given_up_.size() > kMaxRequestItems) given_up_.pop_front();
  }
  bool Contains(uint64_t call) const {
    return std::find(given_up_.begin(), given_up_.end(), call) != given_up_.end();
  }

 private:
  std::deque<uint64_t> given_up_;
};

}  // namespace thermocline
