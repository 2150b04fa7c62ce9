#include "kernels/aligned_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "base/units.h"

namespace thermocline {

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

absl::StatusOr<AlignedBuffer> AlignedBuffer::Make(size_t bytes) {
  // The kernel gives huge pages only to aligned 2 MiB runs: map one more and cut both ends off.
  constexpr size_t kHugePageBytes = 2 * MiB;
  if (bytes > SIZE_MAX / 2) {
    return absl::ResourceExhaustedError("a buffer of more than half the address space");
  }
  const bool huge = bytes >= kHugePageBytes;
  const size_t grain = huge ? kHugePageBytes : kPageBytes;
  const size_t size = RoundUp(bytes == 0 ? 1 : bytes, grain);
  const size_t mapped = huge ? size + kHugePageBytes : size;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError("cannot map " + FormatBytes(mapped) +
                                        " of memory; free some or use a smaller model or context");
  }
  auto* start = static_cast<std::byte*>(base);
  if (huge) {
    const size_t lead =
        RoundUp(reinterpret_cast<uintptr_t>(base), grain) - reinterpret_cast<uintptr_t>(base);
    if (lead > 0) munmap(start, lead);
    start += lead;
    if (mapped - lead > size) munmap(start + size, mapped - lead - size);
    madvise(start, size, MADV_HUGEPAGE);
  }
  AlignedBuffer buffer;
  buffer.data_ = start;
  buffer.size_bytes_ = size;
  return buffer;
}

}  // namespace thermocline
