// The checker: what GCC's -fsanitize=thread calls before each load and store of a kernel arrives
// here instead of at libtsan. Every byte of shared and of global memory has a shadow that remembers
// its last write, reads and atomics: which block, which thread, after how many barriers of the
// block and of the warp. Two accesses that no barrier orders are a race, whichever came first: the
// schedule need not hit it. (Shuffles and votes order no memory, as in CUDA.)
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/mutex.h"
#include "kernels/simt/access_statistics.h"
#include "kernels/simt/emulator_state.h"

// The linker's bounds of the program, whose constants a kernel may read.
extern "C" const char __executable_start, _end;

namespace thermocline::simt {
namespace {

/// By how many threads, none ordered after the others, an access was made.
enum class By : uint8_t { kThread, kWarp, kBlock, kGrid };

struct Event {
  uint32_t run = 0;  ///< which block of which launch; 0: never
  uint16_t barrier_epoch = 0;
  uint16_t warp_epoch = 0;
  uint16_t thread = 0;
  By by = By::kThread;
};

struct Shadow {
  Event write, read, atomic;
};

/// One of the kernels that run at the same time on different streams shadows memory at a time.
constinit Mutex shadow_mutex;
constinit std::atomic<uint32_t> runs{0};  ///< of all threads
constinit thread_local uint32_t current_run = 0;
constinit thread_local uint32_t first_run = 0;  ///< of the launch
constinit thread_local bool within = false;     ///< the checker, whose own accesses are not news

Shadow* MapShadow(size_t bytes) {
  void* const memory = mmap(nullptr, bytes * sizeof(Shadow), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TC_CHECK(memory != MAP_FAILED);
  return static_cast<Shadow*>(memory);
}

Shadow* SharedShadow() {
  static thread_local Shadow* const shadow = MapShadow(kSharedArenaBytes);
  return shadow;
}

Shadow* DeviceShadow() {
  static Shadow* const shadow = MapShadow(kDeviceArenaBytes);
  return shadow;
}

/// For addr2line -e PROGRAM.
void* InProgram(const void* instruction) {
  return reinterpret_cast<void*>(static_cast<const char*>(instruction) - &__executable_start);
}

const char* Name(Access access) {
  return access == Access::kRead ? "read" : access == Access::kWrite ? "write" : "atomic";
}

bool IsOrdered(const Event& event, bool shared) {
  const Block& block = *current_block;
  const Lane& self = *current_lane;
  if (event.run < first_run) return true;
  if (event.by == By::kGrid) return shared;
  if (event.run != current_run) return shared;
  if (event.barrier_epoch != static_cast<uint16_t>(block.barrier_epoch)) return true;
  if (event.by == By::kBlock) return false;
  if (event.by == By::kThread && event.thread == self.linear) return true;
  return event.thread / kLanes == self.linear / kLanes && event.warp_epoch < self.warp_epoch;
}

Event Here() {
  return {current_run, static_cast<uint16_t>(current_block->barrier_epoch),
          static_cast<uint16_t>(current_lane->warp_epoch),
          static_cast<uint16_t>(current_lane->linear), By::kThread};
}

/// Adds this access to others of its kind, so that a later one is measured against all of them.
void Merge(Event& event) {
  const Event now = Here();
  By by = By::kThread;
  if (event.run >= first_run && event.run != 0) {
    if (event.run != now.run || event.by == By::kGrid) {
      by = By::kGrid;
    } else if (event.barrier_epoch == now.barrier_epoch) {
      if (event.by == By::kBlock || event.thread / kLanes != now.thread / kLanes) {
        by = By::kBlock;
      } else if (event.warp_epoch >= now.warp_epoch &&
                 (event.by == By::kWarp || event.thread != now.thread)) {
        by = By::kWarp;
      }
    }
  }
  event = now;
  event.by = by;
}

void CheckOrder(const Event& event, Access before, Access now, const void* pointer, bool shared,
                const void* instruction) {
  if (event.run == 0 || IsOrdered(event, shared)) return;
  Fail(
      "data race on %s memory: %s at %p by thread %u of block %u after %s by thread %u of %s, with "
      "no barrier between them; instruction %p",
      shared ? "shared" : "global", Name(now), pointer, current_lane->linear, current_block->id,
      Name(before), event.thread, event.run == current_run ? "the same block" : "another block",
      InProgram(instruction));
}

void NoteByte(Shadow& shadow, Access access, const void* pointer, bool shared,
              const void* instruction) {
  CheckOrder(shadow.write, Access::kWrite, access, pointer, shared, instruction);
  if (access != Access::kRead) {
    CheckOrder(shadow.read, Access::kRead, access, pointer, shared, instruction);
  }
  if (access != Access::kAtomic) {
    CheckOrder(shadow.atomic, Access::kAtomic, access, pointer, shared, instruction);
  }
  switch (access) {
    case Access::kRead:
      Merge(shadow.read);
      break;
    case Access::kAtomic:
      Merge(shadow.atomic);
      break;
    case Access::kWrite:
      shadow = {.write = Here(), .read = {}, .atomic = {}};
      break;
  }
}

Shadow* FindShared(const char* at, size_t bytes, Access access, const void* instruction) {
  const Block& block = *current_block;
  bool inside = at + bytes <= block.shared + block.dynamic_bytes;
  for (const SharedRange& object : block.shared_objects) {
    inside |= at >= object.begin && at + bytes <= object.begin + object.bytes;
  }
  if (!inside) {
    Fail(
        "%s of %zu bytes of shared memory out of bounds, at byte %zd (%zu are dynamic); "
        "instruction %p",
        Name(access), bytes, at - block.shared, block.dynamic_bytes, InProgram(instruction));
  }
  return SharedShadow() + (at - block.shared);
}

Shadow* FindDevice(const char* at, size_t bytes, Access access, const void* instruction) {
  const DeviceRange* const range = DeviceRangeBefore(at);
  if (range == nullptr || at + bytes > range->begin + range->bytes) {
    Fail(
        "%s of %zu bytes of global memory out of bounds, %zd bytes into an allocation of %zu; "
        "instruction %p",
        Name(access), bytes, range == nullptr ? 0 : at - range->begin,
        range == nullptr ? 0 : range->bytes, InProgram(instruction));
  }
  return DeviceShadow() + (at - DeviceArena());
}

template <class T>
bool IsWithin(const char* at, const T& object) {
  const char* const begin = reinterpret_cast<const char*>(&object);
  return at >= begin && at < begin + sizeof(T);
}

/// What is a thread's own, or constant.
bool IsPrivate(const char* at, Access access) {
  const Lane& self = *current_lane;
  if (at >= self.stack && at < self.stack + kStackBytes) return true;
  if (access != Access::kRead) return false;
  const char* const context = static_cast<const char*>(current_block->context);
  return (at >= context && at < context + current_block->context_bytes) ||
         (at >= &__executable_start && at < &_end) || IsWithin(at, threadIdx) ||
         IsWithin(at, blockIdx) || IsWithin(at, blockDim) || IsWithin(at, gridDim);
}

}  // namespace

bool IsChecked() { return true; }

void NoteLaunchBegin() { first_run = runs + 1; }

void NoteBlockBegin() TC_NO_THREAD_SAFETY_ANALYSIS {
  shadow_mutex.lock();
  current_run = ++runs;
  FlushAccesses();
}

void NoteBlockEnd() TC_NO_THREAD_SAFETY_ANALYSIS { shadow_mutex.unlock(); }

void NoteLaunchEnd() { FlushAccesses(); }

void NoteAccess(const void* pointer, size_t bytes, Access access, const void* instruction) {
  if (current_lane == nullptr || within) return;
  const char* const at = static_cast<const char*>(pointer);
  if (IsPrivate(at, access)) return;
  within = true;
  Shadow* shadow = nullptr;
  bool shared = false;
  if (at >= current_block->shared && at < current_block->shared + kSharedArenaBytes) {
    shared = true;
    shadow = FindShared(at, bytes, access, instruction);
  } else if (InDeviceArena(at)) {
    shadow = FindDevice(at, bytes, access, instruction);
  } else {
    Fail(
        "%s of %zu bytes at %p, which is neither device memory nor shared nor the thread's own; "
        "instruction %p",
        Name(access), bytes, pointer, InProgram(instruction));
  }
  for (size_t i = 0; i < bytes; ++i) NoteByte(shadow[i], access, at + i, shared, instruction);
  if (instruction != nullptr) CountAccess(at, bytes, shared, access == Access::kWrite, instruction);
  within = false;
}

}  // namespace thermocline::simt

// ---- the hooks
// -----------------------------------------------------------------------------------

namespace simt = thermocline::simt;

/// Of a type whose alignment is its size, as vectors are: a GPU faults at any other address.
static void NoteAligned(const void* pointer, size_t bytes, simt::Access access,
                        const void* instruction) {
  if (simt::current_lane != nullptr && reinterpret_cast<uintptr_t>(pointer) % bytes != 0) {
    simt::Fail("%zu-byte access at the misaligned address %p; instruction %p", bytes, pointer,
               simt::InProgram(instruction));
  }
  simt::NoteAccess(pointer, bytes, access, instruction);
}

extern "C" {

#define TC_HOOKS(bytes)                                                            \
  void __tsan_read##bytes(void* p) {                                               \
    NoteAligned(p, bytes, simt::Access::kRead, __builtin_return_address(0));       \
  }                                                                                \
  void __tsan_write##bytes(void* p) {                                              \
    NoteAligned(p, bytes, simt::Access::kWrite, __builtin_return_address(0));      \
  }                                                                                \
  void __tsan_unaligned_read##bytes(void* p) {                                     \
    simt::NoteAccess(p, bytes, simt::Access::kRead, __builtin_return_address(0));  \
  }                                                                                \
  void __tsan_unaligned_write##bytes(void* p) {                                    \
    simt::NoteAccess(p, bytes, simt::Access::kWrite, __builtin_return_address(0)); \
  }
TC_HOOKS(1)
TC_HOOKS(2)
TC_HOOKS(4)
TC_HOOKS(8)
TC_HOOKS(16)
#undef TC_HOOKS

void __tsan_read_range(void* p, unsigned long bytes) {
  simt::NoteAccess(p, bytes, simt::Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long bytes) {
  simt::NoteAccess(p, bytes, simt::Access::kWrite, __builtin_return_address(0));
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_init() {}

}  // extern "C"
