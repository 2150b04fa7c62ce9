#include "client/mapped_slabs.h"

#include <utility>
#include <vector>

namespace thermocline {
inline namespace client_v1 {

std::shared_ptr<std::byte> MappedSlabs::Find(uint64_t slab, uint64_t end_bytes,
                                             const std::function<absl::StatusOr<Slab>()>& map) {
  const auto within = [&](const Slab& found) {
    return end_bytes <= found.bytes ? found.data : nullptr;
  };
  {
    MutexLock lock(mutex_);
    if (const auto known = entries_.find(slab); known != entries_.end()) {
      Entry& entry = known->second;
      const Time now = std::chrono::steady_clock::now();
      if (entry.slab.data != nullptr) {
        entry.used = now;
        return within(entry.slab);
      }
      if (now < entry.used + kRefusal) return nullptr;
    }
  }
  absl::StatusOr<Slab> mapped = map();
  MutexLock lock(mutex_);
  Entry& entry = entries_[slab];  // which another thread may have mapped meanwhile
  entry.used = std::chrono::steady_clock::now();
  if (entry.slab.data == nullptr && mapped.ok()) entry.slab = *std::move(mapped);
  return within(entry.slab);
}

void MappedSlabs::DropIdle(Time now) {
  std::vector<Slab> dropped;  // outside of the lock
  MutexLock lock(mutex_);
  for (auto next = entries_.begin(); next != entries_.end();) {
    Entry& entry = next->second;
    // Another owner can only come by Find, and from one that there is.
    const bool idle = entry.slab.data.use_count() <= 1 && now > entry.used + kIdle;
    if (!idle) {
      ++next;
      continue;
    }
    dropped.push_back(std::move(entry.slab));
    next = entries_.erase(next);
  }
}

}  // namespace client_v1
}  // namespace thermocline
