// Two 16-bit numbers in one register, for the emulator: cuda_packed.cuh has the same functions.
#pragma once
#include "kernels/simt/emulated_device.h"

namespace thermocline {

/// CUDA's: byte i of the result is byte (selector >> 4 * i) % 8 of the eight of low and high.
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t from = selector >> 4 * i & 7;
    result |= static_cast<uint32_t>(bytes >> 8 * from & 0xff) << 8 * i;
  }
  return result;
}

namespace simt {

inline uint32_t AndOr(uint32_t x, uint32_t mask, uint32_t bits) { return (x & mask) | bits; }
inline uint32_t AndXor(uint32_t x, uint32_t mask, uint32_t bits) { return (x & mask) ^ bits; }

inline float HalfOf(uint32_t pair, int i) {
  return ToFloat(Half{static_cast<uint16_t>(pair >> 16 * i)});
}
inline uint32_t PackHalves(float low, float high) {
  return static_cast<uint32_t>(FromFloat<Half>(low).bits) |
         static_cast<uint32_t>(FromFloat<Half>(high).bits) << 16;
}
inline float2 UnpackHalves(uint32_t pair) { return {HalfOf(pair, 0), HalfOf(pair, 1)}; }
inline uint32_t SubtractHalves(uint32_t a, uint32_t b) {
  return PackHalves(HalfOf(a, 0) - HalfOf(b, 0), HalfOf(a, 1) - HalfOf(b, 1));
}
inline uint32_t MultiplyHalves(uint32_t a, uint32_t b) {
  return PackHalves(HalfOf(a, 0) * HalfOf(b, 0), HalfOf(a, 1) * HalfOf(b, 1));
}

inline void Store8(void* to, uint2 value) { StoreAligned(to, &value, sizeof(value)); }
inline void Store16(void* to, float4 value) { StoreAligned(to, &value, sizeof(value)); }

}  // namespace simt
}  // namespace thermocline
