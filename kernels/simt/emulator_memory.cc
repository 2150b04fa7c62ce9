// Emulated global memory: one arena, so that the checker finds the shadow of a byte by its offset;
// allocations lie apart, and what was freed is not handed out again while room is left: a kernel
// that keeps a pointer too long is caught.
#include <sys/mman.h>

#include <cstring>
#include <map>

#include "base/check.h"
#include "base/mutex.h"
#include "kernels/simt/emulator_state.h"
#include "kernels/simt/stream_device.h"

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
constexpr size_t kPageBytes = 4096;

struct Heap {
  Mutex mutex;
  size_t used TC_GUARDED_BY(mutex) = kPageBytes;
  std::map<const char*, DeviceRange> ranges TC_GUARDED_BY(mutex);
  std::map<const char*, size_t> reserved TC_GUARDED_BY(mutex);

  /// Begins anew when nothing is left of what there was.
  void Recycle() TC_REQUIRES(mutex) {
    if (ranges.empty() && reserved.empty()) used = kPageBytes;
  }
};

/// Never destroyed: a stream's thread may run a kernel while the program ends.
Heap& TheHeap() {
  static Heap& heap = *new Heap;
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
  heap.Recycle();
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

void CopyToDevice(void* to, const void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(to, host, bytes);
}

void CopyFromDevice(void* host, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(host, from, bytes);
}

void FillDevice(void* at, int byte, size_t bytes) { std::memset(at, byte, bytes); }

char* ReserveDeviceSpace(size_t bytes, size_t alignment) {
  Heap& heap = TheHeap();
  MutexLock lock(heap.mutex);
  heap.Recycle();
  const size_t begin = (heap.used + kPageBytes + alignment - 1) / alignment * alignment;
  const size_t end = (begin + bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  if (end + kPageBytes > kDeviceArenaBytes) Fail("emulated device memory has no addresses left");
  heap.used = end;
  heap.reserved[DeviceArena() + begin] = end - begin;
  TC_CHECK(mprotect(DeviceArena() + begin, end - begin, PROT_NONE) == 0);
  return DeviceArena() + begin;
}

void ReleaseDeviceSpace(char* begin) {
  Heap& heap = TheHeap();
  MutexLock lock(heap.mutex);
  const auto found = heap.reserved.find(begin);
  TC_CHECK(found != heap.reserved.end());
  TC_CHECK(mmap(begin, found->second, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == begin);
  heap.reserved.erase(found);
}

void AddDeviceRange(char* begin, size_t bytes) {
  Heap& heap = TheHeap();
  MutexLock lock(heap.mutex);
  TC_CHECK(InDeviceArena(begin));
  heap.ranges[begin] = {begin, bytes};
}

void RemoveDeviceRange(char* begin) {
  Heap& heap = TheHeap();
  MutexLock lock(heap.mutex);
  TC_CHECK(heap.ranges.erase(begin) == 1);
}

}  // namespace thermocline::simt
