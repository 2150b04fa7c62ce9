// Two 16-bit numbers in one register, under nvcc: what dequantisation in registers needs beyond
// CUDA's own names. emulated_packed.h has the same functions.
#pragma once
#include <cuda_runtime.h>

namespace thermocline::simt {

/// x & mask | bits, in one instruction.
__device__ __forceinline__ uint32_t AndOr(uint32_t x, uint32_t mask, uint32_t bits) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
}

/// (x & mask) ^ bits, in one instruction.
__device__ __forceinline__ uint32_t AndXor(uint32_t x, uint32_t mask, uint32_t bits) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
  return y;
}

/// a - b of two halves each.
__device__ __forceinline__ uint32_t SubtractHalves(uint32_t a, uint32_t b) {
  uint32_t y;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}

/// a * b of two halves each.
__device__ __forceinline__ uint32_t MultiplyHalves(uint32_t a, uint32_t b) {
  uint32_t y;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}

__device__ __forceinline__ uint32_t PackHalves(float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

__device__ __forceinline__ float2 UnpackHalves(uint32_t pair) {
  float2 y;
  asm("{\n\t.reg .b16 low, high;\n\t"
      "mov.b32 {low, high}, %2;\n\t"
      "cvt.f32.f16 %0, low;\n\t"
      "cvt.f32.f16 %1, high;\n\t}"
      : "=f"(y.x), "=f"(y.y)
      : "r"(pair));
  return y;
}

#if __CUDA_ARCH__ >= 890
/// Four e4m3 numbers of a word as halves: numbers 0 and 2, and 1 and 3.
__device__ __forceinline__ void ConvertE4m3(uint32_t word, uint32_t& even, uint32_t& odd) {
  asm("{\n\t.reg .b16 low, high;\n\t.reg .b32 sorted;\n\t"
      "prmt.b32 sorted, %2, %2, 0x3120;\n\t"
      "mov.b32 {low, high}, sorted;\n\t"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n\t"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n\t}"
      : "=r"(even), "=r"(odd)
      : "r"(word));
}
#endif

__device__ __forceinline__ void Store8(void* to, uint2 value) { *static_cast<uint2*>(to) = value; }

__device__ __forceinline__ void Store16(void* to, float4 value) {
  *static_cast<float4*>(to) = value;
}

}  // namespace thermocline::simt
