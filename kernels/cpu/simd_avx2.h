// Sixteen float lanes as two AVX registers: AVX2, FMA and F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace thermocline::TC_CPU_FORM {

struct Lanes {
  __m256 a, b;
};
struct IntLanes {
  __m256i a, b;
};

inline Lanes Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void Store(float* p, Lanes x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline Lanes Set1(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline Lanes Fma(Lanes x, Lanes y, Lanes z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Lanes Add(Lanes x, Lanes y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Lanes Mul(Lanes x, Lanes y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Lanes Div(Lanes x, Lanes y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Lanes Max(Lanes x, Lanes y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Lanes Min(Lanes x, Lanes y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Lanes RoundEven(Lanes x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
inline __m256 ScaleByPow2(__m256 p, __m256 n) {
  const __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shift));
}
inline Lanes ScaleByPow2(Lanes p, Lanes n) {
  return {ScaleByPow2(p.a, n.a), ScaleByPow2(p.b, n.b)};
}
inline __m256 ZeroBelow(__m256 x, float limit, __m256 value) {
  return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_GE_OQ), value);
}
inline Lanes ZeroBelow(Lanes x, float limit, Lanes value) {
  return {ZeroBelow(x.a, limit, value.a), ZeroBelow(x.b, limit, value.b)};
}

inline __m128i LoadBytes16(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
inline __m128i LoadBytes8(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline const char* Bytes(const void* p) { return static_cast<const char*>(p); }

inline Lanes LoadHalf(const void* p) {
  return {_mm256_cvtph_ps(LoadBytes16(p)), _mm256_cvtph_ps(LoadBytes16(Bytes(p) + 16))};
}
inline void StoreHalf(void* p, Lanes x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT;
  auto* out = static_cast<__m128i*>(p);
  _mm_storeu_si128(out, _mm256_cvtps_ph(x.a, kMode));
  _mm_storeu_si128(out + 1, _mm256_cvtps_ph(x.b, kMode));
}
inline Lanes LoadInt8(const void* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(LoadBytes8(p))),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(LoadBytes8(Bytes(p) + 8)))};
}

inline IntLanes LoadInts(const void* p) {
  const auto* in = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(in), _mm256_loadu_si256(in + 1)};
}
inline IntLanes LoadUint16(const void* p) {
  return {_mm256_cvtepu16_epi32(LoadBytes16(p)), _mm256_cvtepu16_epi32(LoadBytes16(Bytes(p) + 16))};
}
inline IntLanes ShiftRight(IntLanes x, int n) {
  return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
inline IntLanes ShiftLeft(IntLanes x, int n) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
inline IntLanes And(IntLanes x, uint32_t mask) {
  const __m256i m = _mm256_set1_epi32(static_cast<int>(mask));
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline IntLanes Or(IntLanes x, IntLanes y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
inline Lanes ToFloat(IntLanes x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Lanes BitCast(IntLanes x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline Lanes Nibble(IntLanes x, int i) { return ToFloat(And(ShiftRight(x, 4 * i), 15)); }

/// Four lanes of `x`, the q-th quarter.
inline __m128 Quarter(Lanes x, int q) {
  const __m256 half = q < 2 ? x.a : x.b;
  return q % 2 == 0 ? _mm256_castps256_ps128(half) : _mm256_extractf128_ps(half, 1);
}
inline void StoreTransposed(const Lanes (&rows)[16], float* out, int stride) {
  TC_UNROLL
  for (int q = 0; q < 4; ++q) {
    TC_UNROLL
    for (int t = 0; t < 16; t += 4) {
      __m128 r0 = Quarter(rows[t], q), r1 = Quarter(rows[t + 1], q);
      __m128 r2 = Quarter(rows[t + 2], q), r3 = Quarter(rows[t + 3], q);
      _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
      float* column = out + 4 * q * stride + t;
      _mm_storeu_ps(column, r0);
      _mm_storeu_ps(column + stride, r1);
      _mm_storeu_ps(column + 2 * stride, r2);
      _mm_storeu_ps(column + 3 * stride, r3);
    }
  }
}

inline constexpr int kMatmulRows = 6, kMatmulPanels = 1;
inline constexpr int kAttentionRows = 6, kAttentionVectors = 1;
inline constexpr int kFusedPanels = 2;

}  // namespace thermocline::TC_CPU_FORM
