// The device side of device.cuh under a host compiler: CUDA's names, served by the emulator
// (emulator.h). They are declared in namespace thermocline, where kernels live, so that they never
// meet CUDA's own headers. All that touches the emulator's state is out of line in its own files:
// the checker instruments kernels, and must not instrument the emulator.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/simt/emulator.h"

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

// Each block gets its own, with a gap around it; what is read before it is written is NaN.
#define TC_SHARED(type, name, count)     \
  static const char simt_tag_##name = 0; \
  type* const name = static_cast<type*>( \
      ::thermocline::simt::SharedObject(&simt_tag_##name, sizeof(type) * (count), alignof(type)))
#define TC_DYNAMIC_SHARED(name) \
  unsigned char* const name = static_cast<unsigned char*>(::thermocline::simt::DynamicShared())

namespace thermocline {

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

using simt::blockDim;
using simt::blockIdx;
using simt::gridDim;
using simt::threadIdx;
using std::max;
using std::min;

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __int_as_float(int bits) {
  return number_detail::FloatOf(static_cast<uint32_t>(bits));
}
inline int __float_as_int(float value) { return static_cast<int>(number_detail::BitsOf(value)); }
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::BlockBarrier({file, line});
}
inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(),
                            int line = __builtin_LINE()) {
  return simt::BlockBarrierOr({file, line}, predicate);
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  simt::WarpBarrier({file, line}, mask);
}

namespace simt {

template <class T>
T Shuffle(Site site, uint32_t mask, T value, ShuffleKind kind, int operand, int width) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kShuffleBytes);
  T result;
  ShuffleBytes(site, mask, &value, &result, sizeof(T), kind, operand, width);
  return result;
}

}  // namespace simt

template <class T>
T __shfl_sync(uint32_t mask, T value, int from, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  return simt::Shuffle({file, line}, mask, value, simt::ShuffleKind::kIndex, from, width);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::Shuffle({file, line}, mask, value, simt::ShuffleKind::kXor, lanes, width);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int distance, int width = 32,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::Shuffle({file, line}, mask, value, simt::ShuffleKind::kUp, distance, width);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int distance, int width = 32,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return simt::Shuffle({file, line}, mask, value, simt::ShuffleKind::kDown, distance, width);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return simt::Ballot({file, line}, mask, predicate);
}
inline int __any_sync(uint32_t mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return simt::Ballot({file, line}, mask, predicate) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return simt::Ballot({file, line}, mask, !predicate) == 0;
}

inline float atomicAdd(float* at, float value) { return simt::AtomicAdd(at, value); }
inline int atomicAdd(int* at, int value) { return simt::AtomicAdd(at, value); }
inline uint32_t atomicAdd(uint32_t* at, uint32_t value) { return simt::AtomicAdd(at, value); }
inline int atomicMax(int* at, int value) { return simt::AtomicMax(at, value); }
inline uint32_t atomicMax(uint32_t* at, uint32_t value) { return simt::AtomicMax(at, value); }

namespace simt {

inline float Exp2(float x) { return std::exp2(x); }
inline uint4 Load16(const void* from) {
  uint4 value;
  LoadAligned(&value, from, sizeof(value));
  return value;
}
inline uint2 Load8(const void* from) {
  uint2 value;
  LoadAligned(&value, from, sizeof(value));
  return value;
}
inline void Store16(void* to, uint4 value) { StoreAligned(to, &value, sizeof(value)); }
inline void Store8(void* to, float2 value) { StoreAligned(to, &value, sizeof(value)); }
inline uint4 LoadOnce16(const void* from) {
  uint4 value;
  LoadAligned(&value, from, sizeof(value));
  return value;
}
inline uint2 LoadOnce8(const void* from) {
  uint2 value;
  LoadAligned(&value, from, sizeof(value));
  return value;
}

template <int kGroups>
void CopyAsyncWait() {
  CopyAsyncWaitFor(kGroups);
}

inline void LoadMatrices(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  LoadMatrixFragments({file, line}, r, row, false);
}
inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row,
                                   const char* file = __builtin_FILE(),
                                   int line = __builtin_LINE()) {
  LoadMatrixFragments({file, line}, r, row, true);
}

template <class T>
void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, Bfloat16>);
  MultiplyFragments({file, line}, c, a, b0, b1, std::is_same_v<T, Bfloat16>);
}

/// Dynamic shared memory that a block may have.
inline size_t MostSharedBytes() { return SharedBytesOfDevice(); }

/// As under nvcc, except that without a fake runtime's streams the kernel has ended on return.
template <class Arguments>
CudaError Launch(void (*kernel)(Arguments), const LaunchShape& shape, CudaStream stream,
                 const std::type_identity_t<Arguments>& arguments) {
  static_assert(std::is_trivially_copyable_v<Arguments>);
  struct Call {
    void (*kernel)(Arguments);
    Arguments arguments;
  } call{kernel, arguments};
  const auto run = [](void* self) {
    static_cast<Call*>(self)->kernel(static_cast<Call*>(self)->arguments);
  };
  return LaunchGrid(shape, stream, run, &call, sizeof(call));
}

}  // namespace simt
}  // namespace thermocline
