#include "client/mirror.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/units.h"
#include "hashing/checksum.h"

namespace thermocline {
inline namespace client_v1 {

Mirror::~Mirror() {
  if (data_ != nullptr) ::munmap(data_, mapped_bytes_);
}

absl::Status Mirror::Map(uint64_t arena_bytes) {
  void* memory = ::mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return ErrnoStatus(errno, "take address space for an arena of " + FormatBytes(arena_bytes),
                       "raise this process's limit of address space (ulimit -v)");
  }
  data_ = static_cast<std::byte*>(memory);
  mapped_bytes_ = arena_bytes;
  return absl::OkStatus();
}

void Mirror::Hold(uint64_t offset, uint64_t bytes) {
  TC_CHECK(bytes <= mapped_bytes_ && offset <= mapped_bytes_ - bytes);
  MutexLock lock(mutex_);
  Slot& slot = slots_[offset];
  slot.bytes = std::max(slot.bytes, bytes);
  ++slot.holders;
}

void Mirror::Drop(uint64_t offset) {
  MutexLock lock(mutex_);
  const auto slot = slots_.find(offset);
  TC_CHECK(slot != slots_.end());
  if (--slot->second.holders > 0) return;
  // Under the lock: whoever holds it next must not lose what it puts there.
  (void)::madvise(data_ + offset, slot->second.bytes, MADV_DONTNEED);
  slots_.erase(slot);
}

void Mirror::Store(uint64_t offset, const MirroredBlock& block, uint64_t at,
                   std::string_view piece) {
  MutexLock lock(mutex_);
  Slot& slot = slots_.at(offset);
  TC_CHECK(at <= slot.bytes && piece.size() <= slot.bytes - at);
  if (slot.block == block) return;
  slot.block = {};
  std::memcpy(data_ + offset + at, piece.data(), piece.size());
}

bool Mirror::Land(uint64_t offset, const MirroredBlock& block, uint64_t bytes) {
  MutexLock lock(mutex_);
  Slot& slot = slots_.at(offset);
  TC_CHECK(bytes <= slot.bytes);
  if (slot.block == block) return true;
  const std::span<const std::byte> landed(data_ + offset, bytes);
  if (Checksum(landed) != block.checksum) return false;
  slot.block = block;
  return true;
}

void Mirror::Become(uint64_t offset, const MirroredBlock& block) {
  MutexLock lock(mutex_);
  slots_.at(offset).block = block;
}

bool Mirror::Has(uint64_t offset, const MirroredBlock& block) const {
  MutexLock lock(mutex_);
  const auto slot = slots_.find(offset);
  return slot != slots_.end() && slot->second.block == block;
}

}  // namespace client_v1
}  // namespace thermocline
