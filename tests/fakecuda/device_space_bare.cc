// Device memory without kernels.
#include <sys/mman.h>

#include <atomic>

#include "base/check.h"
#include "tests/fakecuda/device_space.h"

namespace thermocline::fakecuda {
namespace {

constexpr size_t kSpaceBytes = size_t{256} << 30;
constexpr size_t kGapBytes = 4096;

char* Space() {
  static char* const space = [] {
    void* const memory =
        mmap(nullptr, kSpaceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TC_CHECK(memory != MAP_FAILED);
    return static_cast<char*>(memory);
  }();
  return space;
}

}  // namespace

char* ReserveSpace(size_t bytes, size_t alignment) {
  static std::atomic<size_t> used = 0;
  // From a multiple of the alignment on, wherever the space itself begins.
  const size_t whole = bytes + alignment + kGapBytes;
  const size_t begin = used.fetch_add((whole + kGapBytes - 1) / kGapBytes * kGapBytes);
  TC_CHECK(begin + whole <= kSpaceBytes);
  const auto address = reinterpret_cast<uintptr_t>(Space() + begin);
  return Space() + begin + (alignment - address % alignment) % alignment;
}

void ReleaseSpace(char* begin, size_t bytes) {
  TC_CHECK(mmap(begin, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                -1, 0) == begin);
}

bool IsDeviceSpace(const void* pointer) {
  return pointer >= Space() && pointer < Space() + kSpaceBytes;
}

void AddRange(char*, size_t) {}
void RemoveRange(char*) {}

}  // namespace thermocline::fakecuda
