// Fibers, the schedule, the block's barrier and the launch.
#include "kernels/simt/emulator.h"

#include <sys/mman.h>
#include <atomic>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "kernels/simt/emulator_state.h"
#include "kernels/simt/stream_device.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
// No annotations are needed; the calls stay where they stand, so that there is one flow to read.
#define ASAN_POISON_MEMORY_REGION(address, bytes) (void(address), void(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) (void(address), void(bytes))
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

namespace thermocline::simt {

using boost::context::fiber;

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local uint3 blockDim{};
constinit thread_local uint3 gridDim{};
constinit thread_local Lane* current_lane = nullptr;
constinit thread_local Block* current_block = nullptr;

namespace {

constinit thread_local Schedule schedule{};
constinit std::atomic<size_t> shared_bytes_of_device = 227 * 1024;

char* MapMemory(size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TC_CHECK(memory != MAP_FAILED);
  return static_cast<char*>(memory);
}

/// The stacks of one thread's fibers, mapped once for the largest block it has run.
struct Stacks {
  char* memory = nullptr;
  uint32_t count = 0;

  ~Stacks() {
    if (memory != nullptr) munmap(memory, count * kStackBytes);
  }
  void Ensure(uint32_t wanted) {
    if (wanted > count) {
      if (memory != nullptr) munmap(memory, count * kStackBytes);
      memory = MapMemory(wanted * kStackBytes);
      count = wanted;
    }
    ASAN_UNPOISON_MEMORY_REGION(memory, count * kStackBytes);
  }
};

uint32_t NextRandom(Block& block, uint32_t below) {
  block.random = block.random * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<uint32_t>((block.random >> 33) % below);
}

/// One lane of `runnable`, which is not empty; `last` ran before.
uint32_t PickLane(Block& block, uint32_t runnable, uint32_t last) {
  switch (schedule.order) {
    case Schedule::Order::kReverse:
      return 31 - static_cast<uint32_t>(__builtin_clz(runnable));
    case Schedule::Order::kRandom:
      for (uint32_t skip = NextRandom(block, __builtin_popcount(runnable)); skip > 0; --skip) {
        runnable &= runnable - 1;
      }
      return static_cast<uint32_t>(__builtin_ctz(runnable));
    case Schedule::Order::kForward:
      break;
  }
  const uint32_t above = last < 31 ? runnable & (~0u << (last + 1)) : 0;
  return static_cast<uint32_t>(__builtin_ctz(above != 0 ? above : runnable));
}

[[noreturn]] void FailDeadlocked(const Block& block) {
  uint32_t at_warp = 0;
  Site warp_site{"-", 0};
  for (const Warp& warp : block.warps) {
    for (const Meeting& meeting : warp.meetings) {
      if (meeting.mask == 0 || meeting.arrived == meeting.mask) continue;
      at_warp += __builtin_popcount(meeting.arrived);
      warp_site = meeting.site;
    }
  }
  Fail(
      "deadlock: of %u threads alive, %u wait at the block's barrier (%s:%d) and %u for lanes of "
      "their warp (%s:%d)",
      block.live, block.waiting, block.waiting > 0 ? block.barrier_site.file : "-",
      block.waiting > 0 ? block.barrier_site.line : 0, at_warp, warp_site.file, warp_site.line);
}

/// Null when the block has ended.
Lane* NextLane(Block& block, uint32_t last) {
  if (schedule.order == Schedule::Order::kRandom) {
    block.current_warp = NextRandom(block, block.warp_count);
  }
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    const uint32_t step = schedule.order == Schedule::Order::kReverse ? block.warp_count - i : i;
    const uint32_t index = (block.current_warp + step) % block.warp_count;
    Warp& warp = block.warps[index];
    if (warp.runnable == 0) continue;
    const uint32_t lane = PickLane(block, warp.runnable, i == 0 ? last : 31);
    block.current_warp = index;
    return warp.lanes[lane];
  }
  if (block.live > 0) FailDeadlocked(block);
  return nullptr;
}

void BecomeCurrent(Lane* lane) {
  current_lane = lane;
  if (lane != nullptr) threadIdx = lane->index;
}

/// Keeps the fiber that switched to the caller, unless it has ended.
void KeepLeftBehind(fiber&& from) {
  if (from) *current_block->left_behind = std::move(from);
}

/// `self`: where the fiber that switches now is kept.
void SwitchTo(Block& block, fiber& self, Lane& next) {
  BecomeCurrent(&next);
  block.left_behind = &self;
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, next.stack, kStackBytes);
  fiber from = std::move(next.fiber).resume();
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  KeepLeftBehind(std::move(from));
}

void ReleaseBarrier(Block& block) {
  block.waiting = 0;
  ++block.barrier_epoch;
  block.agreed_predicate = block.predicate;
  block.predicate = 0;
  for (Warp& warp : block.warps) warp.runnable = warp.live;
}

/// Takes the ended lane out; returns the fiber that runs next.
fiber EndLane(Block& block, Lane& lane) {
  if (!lane.copies.empty() || !lane.copy_groups.empty()) {
    Fail("thread %u of block %u ends with cp.async under way", lane.linear, block.id);
  }
  lane.warp->live &= ~lane.bit();
  lane.warp->runnable &= ~lane.bit();
  --block.live;
  if (block.waiting > 0 && block.waiting == block.live) {
    Fail("threads end while %u others wait at %s:%d", block.waiting, block.barrier_site.file,
         block.barrier_site.line);
  }
  Lane* const next = NextLane(block, lane.lane);
  BecomeCurrent(next);
  block.left_behind = nullptr;
  __sanitizer_start_switch_fiber(nullptr, next != nullptr ? next->stack : block.main_stack,
                                 next != nullptr ? kStackBytes : block.main_stack_bytes);
  return std::move(next != nullptr ? next->fiber : block.main);
}

/// The stacks outlive the fibers.
struct KeepStack {
  boost::context::stack_context allocate() { return {}; }
  void deallocate(boost::context::stack_context&) {}
};

void PrepareLane(Block& block, uint32_t index, char* stack) {
  Lane& lane = block.lanes[index];
  lane.linear = index;
  lane.lane = index % kLanes;
  lane.warp = &block.warps[index / kLanes];
  lane.index = {index % blockDim.x, index / blockDim.x % blockDim.y,
                index / (blockDim.x * blockDim.y)};
  lane.warp->lanes[lane.lane] = &lane;
  lane.warp->existing |= lane.bit();
  lane.warp_epoch = 0;
  lane.stack = stack;
  boost::context::stack_context whole;
  whole.size = kStackBytes;
  whole.sp = stack + kStackBytes;
  // Stacks begin at different offsets: at the same one their tops would share few cache sets.
  const size_t offset = lane.lane * 832;
  lane.fiber =
      fiber(std::allocator_arg,
            boost::context::preallocated(stack + kStackBytes - offset, kStackBytes - offset, whole),
            KeepStack{}, [&block, &lane](fiber&& from) {
              const void* bottom = nullptr;
              size_t bytes = 0;
              __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
              if (block.main_stack == nullptr) {
                block.main_stack = bottom;
                block.main_stack_bytes = bytes;
              }
              KeepLeftBehind(std::move(from));
              block.call(block.context);
              return EndLane(block, lane);
            });
}

void PrepareShared(Block& block) {
  ASAN_UNPOISON_MEMORY_REGION(block.shared, kSharedArenaBytes);
  std::memset(block.shared, 0xff, block.dynamic_bytes);
  ASAN_POISON_MEMORY_REGION(block.shared + block.dynamic_bytes,
                            kSharedArenaBytes - block.dynamic_bytes);
  block.shared_used = block.dynamic_bytes;
  block.shared_objects.clear();
}

void RunBlock(Block& block, Stacks& stacks) {
  block.live = block.threads;
  block.waiting = 0;
  block.barrier_epoch = 0;
  block.current_warp = schedule.order == Schedule::Order::kReverse ? block.warp_count - 1 : 0;
  block.random = schedule.seed * 0x9e3779b97f4a7c15ull + block.id + 1;
  block.main_stack = nullptr;
  PrepareShared(block);
  for (Warp& warp : block.warps) {
    warp.existing = 0;
    warp.barriers = 0;
    for (Meeting& meeting : warp.meetings) meeting.mask = 0;
  }
  for (uint32_t i = 0; i < block.threads; ++i) {
    PrepareLane(block, i, stacks.memory + i * kStackBytes);
  }
  for (Warp& warp : block.warps) warp.live = warp.runnable = warp.existing;
  NoteBlockBegin();
  SwitchTo(block, block.main, *NextLane(block, 31));
  BecomeCurrent(nullptr);
  NoteBlockEnd();
}

bool IsLaunchable(const LaunchShape& shape) {
  const LaunchShape::Extent &grid = shape.grid, &extent = shape.block;
  const uint64_t threads = uint64_t{extent.x} * extent.y * extent.z;
  return threads > 0 && threads <= kMaxBlockThreads && extent.z <= 64 &&
         uint64_t{grid.x} * grid.y * grid.z > 0 && grid.x <= 0x7fffffff && grid.y <= 65535 &&
         grid.z <= 65535 && shape.shared_bytes <= SharedBytesOfDevice();
}

void RunGrid(const LaunchShape& shape, void (*call)(void*), void* context, size_t context_bytes) {
  static thread_local Stacks stacks;
  static thread_local std::unique_ptr<Block> block;
  const LaunchShape::Extent &grid = shape.grid, &extent = shape.block;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  TC_CHECK(current_lane == nullptr);
  if (block == nullptr) {
    block = std::make_unique<Block>();
    block->shared = MapMemory(kSharedArenaBytes);
    block->lanes = std::vector<Lane>(kMaxBlockThreads);
  }
  current_block = block.get();
  block->threads = extent.x * extent.y * extent.z;
  block->warp_count = (block->threads + kLanes - 1) / kLanes;
  block->warps.resize(block->warp_count);
  block->dynamic_bytes = shape.shared_bytes;
  block->call = call;
  block->context = context;
  block->context_bytes = context_bytes;
  stacks.Ensure(block->threads);
  gridDim = {grid.x, grid.y, grid.z};
  blockDim = {extent.x, extent.y, extent.z};
  NoteLaunchBegin();
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t id = schedule.order == Schedule::Order::kReverse ? blocks - 1 - i : i;
    block->id = static_cast<uint32_t>(id);
    blockIdx = {static_cast<uint32_t>(id % grid.x), static_cast<uint32_t>(id / grid.x % grid.y),
                static_cast<uint32_t>(id / grid.x / grid.y)};
    RunBlock(*block, stacks);
  }
  NoteLaunchEnd();
}

LaunchHook launch_hook = nullptr;

}  // namespace

void Fail(const char* format, ...) {
  current_lane = nullptr;
  std::fflush(stdout);
  std::fputs("simt: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

void SetSharedBytesOfDevice(size_t bytes) { shared_bytes_of_device = bytes; }
size_t SharedBytesOfDevice() { return shared_bytes_of_device; }

void SetSchedule(const Schedule& wanted) { schedule = wanted; }

void SwitchAway() {
  Block& block = *current_block;
  Lane& self = *current_lane;
  Lane& next = *NextLane(block, self.lane);
  if (&next != &self) SwitchTo(block, self.fiber, next);
}

void BlockBarrier(Site site) {
  Block& block = *current_block;
  Lane& self = *current_lane;
  if (block.waiting > 0 && (block.barrier_site.line != site.line ||
                            std::strcmp(block.barrier_site.file, site.file) != 0)) {
    Fail("%s:%d: others wait at another barrier, %s:%d", site.file, site.line,
         block.barrier_site.file, block.barrier_site.line);
  }
  if (block.live != block.threads) {
    Fail("%s:%d: barrier after %u threads of the block have ended", site.file, site.line,
         block.threads - block.live);
  }
  block.barrier_site = site;
  if (++block.waiting == block.live) {
    ReleaseBarrier(block);
    if (schedule.order == Schedule::Order::kRandom) SwitchAway();
    return;
  }
  self.warp->runnable &= ~self.bit();
  SwitchAway();
}

int BlockBarrierOr(Site site, int predicate) {
  current_block->predicate |= predicate != 0;
  BlockBarrier(site);
  return current_block->agreed_predicate;
}

void* DynamicShared() { return current_block->shared; }

void* SharedObject(const void* tag, size_t bytes, size_t alignment) {
  constexpr size_t kGap = 256;
  Block& block = *current_block;
  for (const SharedRange& object : block.shared_objects) {
    if (object.tag == tag) return object.begin;
  }
  alignment = alignment < 16 ? 16 : alignment;
  const size_t offset = (block.shared_used + kGap + alignment - 1) / alignment * alignment;
  if (offset + bytes > kSharedArenaBytes) Fail("shared memory is full: %zu bytes", offset + bytes);
  char* const begin = block.shared + offset;
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
  std::memset(begin, 0xff, bytes);
  block.shared_used = offset + bytes;
  block.shared_objects.push_back({tag, begin, bytes});
  return begin;
}

void SetLaunchHook(LaunchHook hook) { launch_hook = hook; }

CudaError LaunchGrid(const LaunchShape& shape, CudaStream stream, void (*call)(void*),
                     void* context, size_t context_bytes) {
  if (!IsLaunchable(shape)) return CudaError::kInvalidValue;
  if (launch_hook == nullptr) {
    RunGrid(shape, call, context, context_bytes);
    return CudaError::kSuccess;
  }
  std::vector<std::max_align_t> copy((context_bytes - 1) / sizeof(std::max_align_t) + 1);
  std::memcpy(copy.data(), context, context_bytes);
  return launch_hook(
      stream, [shape, call, copy = std::move(copy), context_bytes, wanted = schedule]() mutable {
        schedule = wanted;
        RunGrid(shape, call, copy.data(), context_bytes);
      });
}

}  // namespace thermocline::simt
