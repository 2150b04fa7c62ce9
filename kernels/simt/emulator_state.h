// The emulator's own state, shared by its files; kernels and tests include emulator.h.
#pragma once
#include <array>
#include <boost/context/fiber.hpp>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/simt/emulator.h"

namespace thermocline::simt {

inline constexpr uint32_t kLanes = 32;
inline constexpr uint32_t kMaxBlockThreads = 1024;
inline constexpr size_t kStackBytes = 64 * 1024;
/// What sm_90 grants a block, and room for the gaps around static objects.
inline constexpr size_t kSharedArenaBytes = 256 * 1024;
inline constexpr int kMaxPendingCopies = 128;
inline constexpr int kMaxCopyGroups = 16;

struct Warp;

struct PendingCopy {
  void* to;
  const void* from;
  bool wanted;
};

/// One CUDA thread.
struct Lane {
  boost::context::fiber fiber;  ///< empty while it runs
  uint3 index{};
  uint32_t linear = 0;  ///< in the block
  uint32_t lane = 0;    ///< in the warp
  Warp* warp = nullptr;
  char* stack = nullptr;
  /// Count of the warp's barriers as of the last one this lane took part in.
  uint32_t warp_epoch = 0;
  std::vector<PendingCopy> copies;
  std::vector<int> copy_groups;  ///< the end of each in `copies`

  uint32_t bit() const { return 1u << lane; }
};

/// A meeting of the lanes of one mask: each leaves its part in a slot, the last one lets all go on.
struct Meeting {
  static constexpr size_t kSlotBytes = 64;
  uint32_t mask = 0;  ///< 0: free
  uint32_t arrived = 0;
  uint32_t left = 0;
  int operation = 0;
  Site site{};
  uint32_t first_lane = 0;
  alignas(16) std::array<std::byte, kLanes * kSlotBytes> slots;

  std::byte* slot(uint32_t lane) { return slots.data() + lane * kSlotBytes; }
};

struct Warp {
  uint32_t existing = 0;
  uint32_t live = 0;
  uint32_t runnable = 0;
  uint32_t barriers = 0;
  std::array<Lane*, kLanes> lanes{};
  std::array<Meeting, 6> meetings;  ///< of disjoint masks, and of those whose lanes still leave
};

struct SharedRange {
  const void* tag;
  char* begin;
  size_t bytes;
};

/// The block that runs on this thread; reused from one to the next.
struct Block {
  uint32_t threads = 0;
  uint32_t warp_count = 0;
  uint32_t live = 0;
  uint32_t waiting = 0;  ///< at the block's barrier
  Site barrier_site{};
  uint32_t barrier_epoch = 0;
  int predicate = 0, agreed_predicate = 0;
  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  uint32_t current_warp = 0;
  uint64_t random = 1;

  char* shared = nullptr;
  size_t dynamic_bytes = 0;
  size_t shared_used = 0;
  std::vector<SharedRange> shared_objects;

  void (*call)(void*) = nullptr;
  void* context = nullptr;
  size_t context_bytes = 0;
  uint32_t id = 0;  ///< in the grid

  boost::context::fiber main;
  boost::context::fiber* left_behind = nullptr;  ///< where to keep the fiber that switched to us
  const void* main_stack = nullptr;              ///< for AddressSanitizer
  size_t main_stack_bytes = 0;
};

/// Null outside of kernels.
extern constinit thread_local Lane* current_lane;
extern constinit thread_local Block* current_block;

[[noreturn]] [[gnu::format(printf, 1, 2)]] void Fail(const char* format, ...);

/// Waits for the others of `mask`, then lets all see what each left in its slot; the last one to
/// arrive calls `combine` first. The slots hold until the caller's next switch.
Meeting& Meet(Site site, uint32_t mask, int operation, const void* part, size_t bytes,
              void (*combine)(Meeting&) = nullptr);
/// Lets others run until this lane is runnable again.
void SwitchAway();

/// One allocation of emulated global memory. Null if `pointer` is not in one.
struct DeviceRange {
  char* begin;
  size_t bytes;
};
/// The allocation at or before `pointer`, if it lies in the arena.
bool InDeviceArena(const void* pointer);
const DeviceRange* DeviceRangeBefore(const void* pointer);
char* DeviceArena();
/// Addresses cost nothing: those that were freed are to stay away for long.
inline constexpr size_t kDeviceArenaBytes = size_t{256} << 30;

// ---- the checker; nothing happens in plain programs -------------------------------------------

enum class Access : uint8_t { kRead, kWrite, kAtomic };
/// `instruction`: for messages and statistics; null leaves the access out of the latter.
void NoteAccess(const void* pointer, size_t bytes, Access access, const void* instruction);
void NoteLaunchBegin();
void NoteBlockBegin();
void NoteBlockEnd();
void NoteLaunchEnd();

}  // namespace thermocline::simt
