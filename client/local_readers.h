// Matches without a message: readers of the daemon's catalog, each with two pins of the session's
// control area (catalog/reader.h), kept for the next lease when one ends.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "catalog/reader.h"
#include "proto/shm_layout.h"

namespace thermocline {
inline namespace client_v1 {

/// Owner: of one lease at a time. What it has pinned stays so until it is given back.
struct LocalReader {
  static constexpr uint32_t kLeasePin = 1;  // of the reader's two

  Reader reader;
  uint32_t pin = 0;                // the number of kLeasePin in the control area
  std::atomic<uint64_t>& own_pin;  // that one
};

/// Thread: any. Owner: borrows the memory of the catalog and of the control area.
class LocalReaders {
 public:
  LocalReaders(const Catalog& catalog, ControlArea& area) : catalog_(catalog), area_(area) {}

  /// nullptr when as many as there are pins are lent.
  std::unique_ptr<LocalReader> Take() TC_EXCLUDES(mutex_);
  void GiveBack(std::unique_ptr<LocalReader> reader) TC_EXCLUDES(mutex_);

  /// What a match came to: blocks, unless it says otherwise.
  struct Outcome {
    uint64_t warm_hits = 0;
    uint64_t absent = 0;
    uint64_t requested_tokens = 0;
    uint64_t hit_tokens = 0;
    uint64_t hit_bytes = 0;
  };
  /// Tells the daemon of a match: of its outcome for the counters, of its end for the policy.
  void Count(Place end, const Outcome& outcome) { Count({&end, 1}, outcome); }
  /// Of several, each by itself; those of a match of nothing say nothing.
  void Count(std::span<const Place> ends, const Outcome& outcome);

 private:
  const Catalog catalog_;
  ControlArea& area_;
  Mutex mutex_;
  uint32_t made_ TC_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<LocalReader>> free_ TC_GUARDED_BY(mutex_);
};

}  // namespace client_v1
}  // namespace thermocline
