// Sixteen float lanes as one AVX-512 register (AVX-512F is enough).
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace thermocline::TC_CPU_FORM {

struct Lanes {
  __m512 v;
};
struct IntLanes {
  __m512i v;
};

inline Lanes Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void Store(float* p, Lanes x) { _mm512_storeu_ps(p, x.v); }
inline Lanes Set1(float x) { return {_mm512_set1_ps(x)}; }
inline Lanes Fma(Lanes x, Lanes y, Lanes z) { return {_mm512_fmadd_ps(x.v, y.v, z.v)}; }
inline Lanes Add(Lanes x, Lanes y) { return {_mm512_add_ps(x.v, y.v)}; }
inline Lanes Mul(Lanes x, Lanes y) { return {_mm512_mul_ps(x.v, y.v)}; }
inline Lanes Div(Lanes x, Lanes y) { return {_mm512_div_ps(x.v, y.v)}; }
inline Lanes Max(Lanes x, Lanes y) { return {_mm512_max_ps(x.v, y.v)}; }
inline Lanes Min(Lanes x, Lanes y) { return {_mm512_min_ps(x.v, y.v)}; }
inline float MaxOfLanes(Lanes x) { return _mm512_reduce_max_ps(x.v); }
inline Lanes RoundEven(Lanes x) {
  return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Lanes ScaleByPow2(Lanes p, Lanes n) {
  const __m512i shift = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.v), shift))};
}
inline Lanes ZeroBelow(Lanes x, float limit, Lanes value) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GE_OQ), value.v)};
}

inline Lanes LoadHalf(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
inline void StoreHalf(void* p, Lanes x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Lanes LoadInt8(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}

inline IntLanes LoadInts(const void* p) { return {_mm512_loadu_si512(p)}; }
inline IntLanes LoadUint16(const void* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
inline IntLanes ShiftRight(IntLanes x, int n) {
  return {_mm512_srli_epi32(x.v, static_cast<unsigned>(n))};
}
inline IntLanes ShiftLeft(IntLanes x, int n) {
  return {_mm512_slli_epi32(x.v, static_cast<unsigned>(n))};
}
inline IntLanes And(IntLanes x, uint32_t mask) {
  return {_mm512_and_si512(x.v, _mm512_set1_epi32(static_cast<int>(mask)))};
}
inline IntLanes Or(IntLanes x, IntLanes y) { return {_mm512_or_si512(x.v, y.v)}; }
inline Lanes ToFloat(IntLanes x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline Lanes BitCast(IntLanes x) { return {_mm512_castsi512_ps(x.v)}; }
/// A table look-up instead of mask and convert: vpermps reads the low four bits of each index only.
inline Lanes Nibble(IntLanes x, int i) {
  const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_permutexvar_ps(ShiftRight(x, 4 * i).v, table)};
}

inline __m512 InterleaveLow64(__m512 x, __m512 y) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
}
inline __m512 InterleaveHigh64(__m512 x, __m512 y) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
}
/// Transposes 4 x 4 inside the 128-bit quarters, then the quarters themselves.
inline void StoreTransposed(const Lanes (&rows)[16], float* out, int stride) {
  __m512 pairs[16], fours[16];
  TC_UNROLL
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  TC_UNROLL
  for (int i = 0; i < 16; i += 4) {
    fours[i] = InterleaveLow64(pairs[i], pairs[i + 2]);
    fours[i + 1] = InterleaveHigh64(pairs[i], pairs[i + 2]);
    fours[i + 2] = InterleaveLow64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = InterleaveHigh64(pairs[i + 1], pairs[i + 3]);
  }
  TC_UNROLL
  for (int c = 0; c < 4; ++c) {  // fours[4 j + c]: column c of each quarter, rows 4 j .. 4 j + 3
    const __m512 even_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xdd);
    float* column = out + c * stride;
    _mm512_storeu_ps(column, _mm512_shuffle_f32x4(even_low, even_high, 0x88));
    _mm512_storeu_ps(column + 4 * stride, _mm512_shuffle_f32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_ps(column + 8 * stride, _mm512_shuffle_f32x4(even_low, even_high, 0xdd));
    _mm512_storeu_ps(column + 12 * stride, _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd));
  }
}

inline void StoreTransposedHalves(const char* rows, size_t row_bytes, float* out, int stride) {
  Lanes floats[16];
  TC_UNROLL
  for (int t = 0; t < 16; ++t) floats[t] = LoadHalf(rows + t * row_bytes);
  StoreTransposed(floats, out, stride);
}

inline constexpr int kMatmulRows = 12, kMatmulPanels = 2;
inline constexpr int kAttentionRows = 6, kAttentionVectors = 4;
inline constexpr int kFusedPanels = 6;
inline constexpr bool kNibblesInPairs = false;

}  // namespace thermocline::TC_CPU_FORM
