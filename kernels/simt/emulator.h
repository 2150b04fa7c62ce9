// The emulator of a CUDA device: every thread of a block is a fiber, a block runs on the calling
// thread, blocks run one after the other. A fiber runs until it meets others (barrier, shuffle,
// ballot, ldmatrix, mma), then the schedule says who is next: forward, reverse or at random. That
// is harsher than hardware, where the lanes of a warp mostly keep step: what is not ordered by a
// barrier shows. cp.async lands at the wait, the latest moment the hardware may choose; until then
// its destination holds NaN.
//
// The same interface has two implementations of its checks. The plain one refuses what it meets
// anyhow (divergent barriers, wrong masks, misaligned vectors, device memory exhausted). The
// checked one (checker.cc) sees every access of a kernel compiled with GCC's -fsanitize=thread,
// whose hooks it serves in libtsan's place: races, bounds, pointers of the host, and statistics.
//
// A breach prints one line that begins with "simt:" and aborts: a kernel that commits it is wrong.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/simt/launch.h"

namespace thermocline::simt {

struct uint3 {
  uint32_t x, y, z;
};

/// Of the running thread, as in CUDA.
extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local uint3 blockDim;
extern constinit thread_local uint3 gridDim;

struct Site {
  const char* file;
  int line;
};

// ---- for tests ---------------------------------------------------------------------------------

struct Schedule {
  enum class Order : uint8_t { kForward, kReverse, kRandom };
  Order order = Order::kForward;
  uint64_t seed = 1;
};

/// For later launches of the calling thread.
void SetSchedule(const Schedule& schedule);

/// Shared memory that later launches may ask for a block: 227 KiB, until another is set.
void SetSharedBytesOfDevice(size_t bytes);
size_t SharedBytesOfDevice();

/// Whether kernels of this program are linked to the checker.
bool IsChecked();

/// Emulated global memory: filled with bytes 0xff (NaN), between red zones. Aborts when none is
/// left. Thread: any.
void* AllocateDevice(size_t bytes);
void FreeDevice(void* pointer);
void CopyToDevice(void* to, const void* host, size_t bytes);
void CopyFromDevice(void* host, const void* from, size_t bytes);
void FillDevice(void* at, int byte, size_t bytes);

/// What the accesses of one instruction of a kernel cost. Only in checked programs.
struct AccessSite {
  const void* instruction = nullptr;
  bool shared = false;
  bool write = false;
  uint64_t warp_accesses = 0;
  uint64_t bytes = 0;    ///< asked for by the lanes
  uint64_t sectors = 0;  ///< of 32 bytes, touched by each warp
  uint64_t phases = 0;   ///< shared memory: passes with the bank conflicts met
  uint64_t ideal_phases = 0;

  double sector_efficiency() const { return static_cast<double>(bytes) / (32.0 * sectors); }
  double conflict_factor() const { return static_cast<double>(phases) / ideal_phases; }
};

/// Statistics of the launches of the calling thread since the last call. Empty in plain programs.
std::vector<AccessSite> TakeAccessSites();
/// Begins (or ends) collecting them: they cost ten times the run.
void CollectAccesses(bool wanted);

// ---- for emulated_device.h ---------------------------------------------------------------------

enum class ShuffleKind : uint8_t { kIndex, kXor, kUp, kDown };
inline constexpr size_t kShuffleBytes = 16;

void BlockBarrier(Site site);
int BlockBarrierOr(Site site, int predicate);
void WarpBarrier(Site site, uint32_t mask);
void ShuffleBytes(Site site, uint32_t mask, const void* value, void* result, size_t bytes,
                  ShuffleKind kind, int operand, int width);
uint32_t Ballot(Site site, uint32_t mask, int predicate);

void* SharedObject(const void* tag, size_t bytes, size_t alignment);
void* DynamicShared();

void LoadAligned(void* to, const void* from, size_t bytes);
void StoreAligned(void* to, const void* from, size_t bytes);
void CopyAsync16(void* to, const void* from, bool wanted);
void CopyAsyncCommit();
void CopyAsyncWaitFor(int groups);

void LoadMatrixFragments(Site site, uint32_t* r, const void* row, bool transposed);
void MultiplyFragments(Site site, float* c, const uint32_t* a, uint32_t b0, uint32_t b1,
                       bool bfloat16);

float AtomicAdd(float* at, float value);
int AtomicAdd(int* at, int value);
uint32_t AtomicAdd(uint32_t* at, uint32_t value);
int AtomicMax(int* at, int value);
uint32_t AtomicMax(uint32_t* at, uint32_t value);

/// Runs `call(context)` as every thread of the grid, at once or when the stream's turn comes
/// (stream_device.h). The context, which is copied bytewise, is the kernel's parameter space, the
/// only memory of the host that it may read.
CudaError LaunchGrid(const LaunchShape& shape, CudaStream stream, void (*call)(void*),
                     void* context, size_t context_bytes);

}  // namespace thermocline::simt
