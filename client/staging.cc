#include "client/staging.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/check.h"
#include "base/units.h"

namespace thermocline {
inline namespace client_v1 {

StagingMemory::~StagingMemory() {
  if (there()) ::munmap(base_, bytes_);
}

absl::Status StagingMemory::Map(UniqueFd fd, uint64_t bytes) {
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return ErrnoStatus(errno, "map the session's staging memory");
  base_ = static_cast<std::byte*>(base);
  bytes_ = bytes;
  return absl::OkStatus();
}

// The first gap that is long enough: there are as many pieces as slots in one client's hands.
std::optional<uint64_t> StagingMemory::Take(uint64_t bytes) {
  const uint64_t length = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  MutexLock lock(mutex_);
  uint64_t begin = 0;
  for (const auto& [next, end] : taken_) {
    if (next - begin >= length) break;
    begin = end;
  }
  if (length > bytes_ || begin > bytes_ - length) return std::nullopt;
  taken_.emplace(begin, begin + length);
  return begin;
}

void StagingMemory::Give(uint64_t offset) {
  MutexLock lock(mutex_);
  TC_CHECK(taken_.erase(offset) == 1);
}

}  // namespace client_v1
}  // namespace thermocline
