// What a kernel includes: one source, two compilers. Under nvcc the names below are CUDA's own or a
// thin veneer over PTX; under a host compiler every CUDA thread is a fiber on the CPU
// (emulated_device.h), so that kernels are tested, and checked, on machines without a GPU.
//
// Kernels live in namespace thermocline, write CUDA as usual (threadIdx, __syncthreads,
// __shfl_xor_sync, uint4, ...), and keep to these rules, by which the emulator sees all they do:
//   - shared memory is declared by TC_SHARED and TC_DYNAMIC_SHARED;
//   - no inline assembly; what CUDA has no name for is in namespace simt, in both headers;
//   - launches go through simt::Launch, numbers of fewer than 32 bits are those of numbers.h.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

#ifdef __CUDACC__
#include "kernels/simt/cuda_device.cuh"
#include "kernels/simt/cuda_packed.cuh"
#else
#include "kernels/simt/emulated_device.h"
#include "kernels/simt/emulated_packed.h"
#endif

namespace thermocline {

inline constexpr int kWarpThreads = 32;
inline constexpr uint32_t kWholeWarp = 0xffffffffu;

namespace simt {

/// Two 16-bit numbers of one register.
template <class T>
__device__ __forceinline__ float2 Unpack2(uint32_t pair) {
  return make_float2(ToFloat(T{static_cast<uint16_t>(pair & 0xffff)}),
                     ToFloat(T{static_cast<uint16_t>(pair >> 16)}));
}

template <class T>
__device__ __forceinline__ uint32_t Pack2(float low, float high) {
  return static_cast<uint32_t>(FromFloat<T>(low).bits) |
         static_cast<uint32_t>(FromFloat<T>(high).bits) << 16;
}

/// Eight 16-bit numbers, one 16-byte load.
template <class T>
__device__ __forceinline__ void Unpack8(uint4 packed, float (&values)[8]) {
  const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = Unpack2<T>(pairs[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

template <class T>
__device__ __forceinline__ uint4 Pack8(const float (&values)[8]) {
  return make_uint4(Pack2<T>(values[0], values[1]), Pack2<T>(values[2], values[3]),
                    Pack2<T>(values[4], values[5]), Pack2<T>(values[6], values[7]));
}

/// Within 2e-7 of tanh, in a few instructions.
__device__ __forceinline__ float FastTanh(float x) {
  constexpr float kTwoLog2E = 2.88539008f;
  return 1.0f - __fdividef(2.0f, 1.0f + Exp2(kTwoLog2E * fminf(x, 40.0f)));
}

__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, distance);
  }
  return value;
}

__device__ __forceinline__ float WarpMax(float value) {
#pragma unroll
  for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

}  // namespace simt
}  // namespace thermocline
