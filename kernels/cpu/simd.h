// Sixteen float lanes, the unit of every CPU kernel, in three forms that round alike: one AVX-512
// register, two AVX2 registers, or an array. A translation unit chooses the form by defining
// TC_CPU_FORM (its namespace, so that no two units share an inline function compiled for different
// processors) and one of TC_CPU_AVX512, TC_CPU_AVX2, TC_CPU_PORTABLE. For the same reason nothing
// here or in the *_body.h files calls an inline function of another header.
#pragma once

#if defined(__clang__)
#define TC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TC_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(TC_CPU_AVX512)
#include "kernels/cpu/simd_avx512.h"
#elif defined(TC_CPU_AVX2)
#include "kernels/cpu/simd_avx2.h"
#else
#include "kernels/cpu/simd_portable.h"
#endif

namespace thermocline::TC_CPU_FORM {

/// An f16, in memory only.
struct Half {
  uint16_t bits;
};

inline Lanes Zero() { return Set1(0.0f); }

inline int Least(int a, int b) { return a < b ? a : b; }
inline int Greatest(int a, int b) { return a > b ? a : b; }
inline float Greatest(float a, float b) { return a > b ? a : b; }

/// The sum of all lanes, always by halves: (0+8)+(4+12) ... So it has one rounding everywhere.
inline float SumOfLanes(Lanes a) {
  float t[16];
  Store(t, a);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) t[i] += t[i + width];
  }
  return t[0];
}

/// e^x to about 1 ulp: exactly 1 at 0, exactly 0 below -87, e^88 above 88.
/// Source: Cephes expf (range reduction by ln 2 in two parts, a polynomial of degree 6).
inline Lanes Exp(Lanes x) {
  constexpr float kLowest = -87.0f, kHighest = 88.0f;
  const Lanes clamped = Min(Max(x, Set1(kLowest)), Set1(kHighest));
  const Lanes n = RoundEven(Mul(clamped, Set1(1.44269504f)));
  Lanes r = Fma(n, Set1(-0.693359375f), clamped);
  r = Fma(n, Set1(2.12194440e-4f), r);
  Lanes p = Set1(1.9875691500e-4f);
  p = Fma(p, r, Set1(1.3981999507e-3f));
  p = Fma(p, r, Set1(8.3334519073e-3f));
  p = Fma(p, r, Set1(4.1665795894e-2f));
  p = Fma(p, r, Set1(1.6666665459e-1f));
  p = Fma(p, r, Set1(5.0000001201e-1f));
  p = Add(Fma(Mul(p, r), r, r), Set1(1.0f));
  return ZeroBelow(x, kLowest, ScaleByPow2(p, n));
}

/// Lanes from the first `count` floats (or f16) at p; the others are 0.
inline Lanes LoadPart(const float* p, int count) {
  float t[16] = {};
  __builtin_memcpy(t, p, count * sizeof(float));
  return Load(t);
}
inline Lanes LoadHalfPart(const void* p, int count) {
  alignas(32) char t[32] = {};
  __builtin_memcpy(t, p, count * 2);
  return LoadHalf(t);
}
inline void StorePart(float* p, Lanes a, int count) {
  float t[16];
  Store(t, a);
  __builtin_memcpy(p, t, count * sizeof(float));
}

}  // namespace thermocline::TC_CPU_FORM
