// The slabs of a device's memory that a session reads in, or fills. Each is mapped when a lease
// first needs it, and let go of when none has for a while: what the daemon has given back to the
// device is not free there before.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "base/mutex.h"
#include "base/status.h"

namespace thermocline {
inline namespace client_v1 {

/// Thread: any.
class MappedSlabs {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kIdle{10};  // after its last use
  static constexpr std::chrono::seconds kRefusal{
      5};  // until one that could not be had is tried again

  struct Slab {
    std::shared_ptr<std::byte> data;  // shared by who reads there
    uint64_t bytes = 0;
  };
  /// The slab's start; `map` has it, unless it is mapped. nullptr when it cannot be had, or ends
  /// before `end_bytes`.
  std::shared_ptr<std::byte> Find(uint64_t slab, uint64_t end_bytes,
                                  const std::function<absl::StatusOr<Slab>()>& map)
      TC_EXCLUDES(mutex_);
  /// Lets go of those that nobody reads in, and has not for a while.
  void DropIdle(Time now) TC_EXCLUDES(mutex_);

 private:
  struct Entry {
    Slab slab;  // no data: it could not be had
    Time used{};
  };
  Mutex mutex_;  // not held while a slab is mapped
  std::map<uint64_t, Entry> entries_ TC_GUARDED_BY(mutex_);
};

}  // namespace client_v1
}  // namespace thermocline
