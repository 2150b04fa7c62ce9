// Emulated global memory: one arena, so that the checker finds the shadow of a byte by its offset;
// allocations lie apart, and what was freed is not handed out again while room is left: a kernel
// that keeps a pointer too long is caught.
#include <sys/mman.h>

#include <cstring>
#include <map>

#include "base/check.h"
#include "base/mutex.h"
#include "kernels/simt/emulator_state.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) (void(address), void(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) (void(address), void(bytes))
#endif

namespace thermocline::simt {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kRedZoneBytes = 512;

struct Heap {
  Mutex mutex;
  size_t used TC_GUARDED_BY(mutex) = 4096;
  std::map<const char*, DeviceRange> ranges TC_GUARDED_BY(mutex);
};

Heap& TheHeap() {
  static Heap heap;
  return heap;
}

}  // namespace

char* DeviceArena() {
  static char* const arena = [] {
    void* const memory = mmap(nullptr, kDeviceArenaBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TC_CHECK(memory != MAP_FAILED);
    return static_cast<char*>(memory);
  }();
  return arena;
}

bool InDeviceArena(const void* pointer) {
  const char* const at = static_cast<const char*>(pointer);
  return at >= DeviceArena() && at < DeviceArena() + kDeviceArenaBytes;
}

const DeviceRange* DeviceRangeBefore(const void* pointer) {
  Heap& heap = TheHeap();
  MutexLock lock(heap.mutex);
  auto after = heap.ranges.upper_bound(static_cast<const char*>(pointer));
  return after == heap.ranges.begin() ? nullptr : &std::prev(after)->second;
}

void* AllocateDevice(size_t bytes) {
  Heap& heap = TheHeap();
  MutexLock lock(heap.mutex);
  if (heap.ranges.empty()) heap.used = 4096;
  const size_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment + kRedZoneBytes;
  if (heap.used + whole > kDeviceArenaBytes) Fail("emulated device memory is full");
  char* const begin = DeviceArena() + heap.used;
  heap.used += whole;
  ASAN_POISON_MEMORY_REGION(begin, whole);
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
  std::memset(begin, 0xff, bytes);
  heap.ranges[begin] = {begin, bytes};
  return begin;
}

void FreeDevice(void* pointer) {
  if (pointer == nullptr) return;
  Heap& heap = TheHeap();
  MutexLock lock(heap.mutex);
  const auto found = heap.ranges.find(static_cast<const char*>(pointer));
  if (found == heap.ranges.end()) Fail("free of %p, which is no device memory", pointer);
  ASAN_POISON_MEMORY_REGION(found->second.begin, found->second.bytes);
  heap.ranges.erase(found);
}

}  // namespace thermocline::simt
