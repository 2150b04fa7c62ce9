// The 16- and 8-bit floating-point numbers of models and KV, as bits: one set of types for host
// code of any compiler, for kernels under nvcc (whose conversion instructions they use) and for the
// same kernels under the emulator. Conversions round to nearest, ties to even.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#define TC_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TC_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace thermocline {

struct Half {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};
/// 1 sign, 4 exponent and 3 mantissa bits, bias 7: no infinity, NaN is 0x7f, the largest 448.
struct Fp8E4m3 {
  uint8_t bits;
};

/// What activations, weights and plain KV are made of, where a kernel takes either.
enum class NumberType : uint8_t { kF16, kBf16 };

/// Calls `work` with a number of the type.
template <class Work>
auto WithNumberType(NumberType type, Work work) {
  return type == NumberType::kF16 ? work(Half{}) : work(Bfloat16{});
}

inline constexpr float kLargestHalf = 65504.0f;
inline constexpr float kLargestFp8 = 448.0f;

namespace number_detail {

TC_HOST_DEVICE uint32_t BitsOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

TC_HOST_DEVICE float FloatOf(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

TC_HOST_DEVICE float Magnitude(float value) { return FloatOf(BitsOf(value) & 0x7fffffffu); }

}  // namespace number_detail

TC_HOST_DEVICE float ToFloat(float value) { return value; }

TC_HOST_DEVICE float ToFloat(Bfloat16 value) {
  return number_detail::FloatOf(static_cast<uint32_t>(value.bits) << 16);
}

TC_HOST_DEVICE float ToFloat(Half value) {
#ifdef __CUDACC__
  return __half2float(__half(__half_raw{value.bits}));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t shifted = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
  // The product moves the exponent's bias from 15 to 127, and makes subnormal halves normal.
  uint32_t bits = number_detail::BitsOf(number_detail::FloatOf(shifted) * 0x1p112f);
  if ((value.bits & 0x7c00) == 0x7c00) bits = shifted | 0x7f800000u;
  return number_detail::FloatOf(bits | sign);
#endif
}

TC_HOST_DEVICE float ToFloat(Fp8E4m3 value) {
#ifdef __CUDACC__
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(value.bits, __NV_E4M3)));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x80) << 24;
  const uint32_t shifted = static_cast<uint32_t>(value.bits & 0x7f) << 20;
  uint32_t bits = number_detail::BitsOf(number_detail::FloatOf(shifted) * 0x1p120f);
  if ((value.bits & 0x7f) == 0x7f) bits = 0x7fc00000u;
  return number_detail::FloatOf(bits | sign);
#endif
}

template <class T>
TC_HOST_DEVICE T FromFloat(float value);

template <>
TC_HOST_DEVICE float FromFloat<float>(float value) {
  return value;
}

template <>
TC_HOST_DEVICE Bfloat16 FromFloat<Bfloat16>(float value) {
#ifdef __CUDACC__
  return {__nv_bfloat16_raw(__float2bfloat16_rn(value)).x};
#else
  const uint32_t bits = number_detail::BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

/// Beyond the largest half lies infinity; where a value must stay finite, clamp it first.
template <>
TC_HOST_DEVICE Half FromFloat<Half>(float value) {
#ifdef __CUDACC__
  return {__half_raw(__float2half_rn(value)).x};
#else
  const uint32_t sign = number_detail::BitsOf(value) >> 16 & 0x8000;
  const float magnitude = number_detail::Magnitude(value);
  const uint32_t bits = number_detail::BitsOf(magnitude);
  uint32_t half;
  if (bits > 0x7f800000u) {
    half = 0x7fff;
  } else if (bits >= 0x47800000u) {  // 65536 and more
    half = 0x7c00;
  } else if (bits < 0x38800000u) {  // subnormal: 0.5's last place is a half's smallest step
    half = number_detail::BitsOf(magnitude + 0.5f) - 0x3f000000u;
  } else {
    half = (bits - 0x38000000u + 0xfff + (bits >> 13 & 1)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
#endif
}

/// Saturates at 448; NaN stays NaN.
template <>
TC_HOST_DEVICE Fp8E4m3 FromFloat<Fp8E4m3>(float value) {
#ifdef __CUDACC__
  return {__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3)};
#else
  const uint32_t sign = number_detail::BitsOf(value) >> 24 & 0x80;
  const float magnitude = number_detail::Magnitude(value);
  const uint32_t bits = number_detail::BitsOf(magnitude);
  uint32_t small;
  if (bits > 0x7f800000u) {
    small = 0x7f;
  } else if (magnitude >= kLargestFp8) {
    small = 0x7e;
  } else if (magnitude < 0x1p-6f) {  // subnormal: steps of 2^-9, the last place of 2^14
    small = number_detail::BitsOf(magnitude + 0x1p14f) - number_detail::BitsOf(0x1p14f);
  } else {
    small = (bits - (120u << 23) + 0x7ffff + (bits >> 20 & 1)) >> 20;
  }
  return {static_cast<uint8_t>(sign | small)};
#endif
}

}  // namespace thermocline
