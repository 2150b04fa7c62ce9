// Where a client fills what it commits when it may not write in the arena: memory of its session,
// of which it gives itself pieces.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

#include "base/mutex.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {
inline namespace client_v1 {

/// Thread: any. Owner: unmaps in its destructor.
class StagingMemory {
 public:
  StagingMemory() = default;
  ~StagingMemory();
  StagingMemory(const StagingMemory&) = delete;
  StagingMemory& operator=(const StagingMemory&) = delete;

  /// Errors: ResourceExhausted when it cannot be mapped.
  absl::Status Map(UniqueFd fd, uint64_t bytes);
  /// False: the session has none, and slots are filled in place.
  bool there() const { return base_ != nullptr; }
  std::byte* At(uint64_t offset) const { return base_ + offset; }

  /// A piece of whole pages, by its offset. Nothing when no gap is as long.
  std::optional<uint64_t> Take(uint64_t bytes) TC_EXCLUDES(mutex_);
  void Give(uint64_t offset) TC_EXCLUDES(mutex_);

 private:
  std::byte* base_ = nullptr;
  uint64_t bytes_ = 0;
  Mutex mutex_;
  std::map<uint64_t, uint64_t> taken_ TC_GUARDED_BY(mutex_);  // end by begin
};

}  // namespace client_v1
}  // namespace thermocline
