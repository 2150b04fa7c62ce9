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
inline float MaxOfLanes(Lanes x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
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

/// 8 x 8 floats: 2 x 2 inside the 128-bit halves, then 4 x 4, then the halves themselves.
inline void StoreTransposed8(const __m256 (&rows)[8], float* out, int stride) {
  __m256 pairs[8], fours[8];
  TC_UNROLL
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  TC_UNROLL
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  TC_UNROLL
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(out + c * stride, _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x20));
    _mm256_storeu_ps(out + (4 + c) * stride, _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x31));
  }
}
inline void StoreTransposed(const Lanes (&rows)[16], float* out, int stride) {
  TC_UNROLL
  for (int t = 0; t < 16; t += 8) {
    __m256 low[8], high[8];
    TC_UNROLL
    for (int i = 0; i < 8; ++i) {
      low[i] = rows[t + i].a;
      high[i] = rows[t + i].b;
    }
    StoreTransposed8(low, out + t, stride);
    StoreTransposed8(high, out + 8 * stride + t, stride);
  }
}
/// As StoreTransposed of 16 rows of f16, `row_bytes` apart: transposed while they are half as wide.
inline void StoreTransposedHalves(const char* rows, size_t row_bytes, float* out, int stride) {
  for (int t = 0; t < 16; t += 8) {
    __m256i pairs[8], fours[8];
    TC_UNROLL
    for (int i = 0; i < 8; i += 2) {
      const char* row = rows + (t + i) * row_bytes;
      const __m256i even = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
      const __m256i odd = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + row_bytes));
      pairs[i] = _mm256_unpacklo_epi16(even, odd);
      pairs[i + 1] = _mm256_unpackhi_epi16(even, odd);
    }
    TC_UNROLL
    for (int i = 0; i < 8; i += 4) {
      fours[i] = _mm256_unpacklo_epi32(pairs[i], pairs[i + 2]);
      fours[i + 1] = _mm256_unpackhi_epi32(pairs[i], pairs[i + 2]);
      fours[i + 2] = _mm256_unpacklo_epi32(pairs[i + 1], pairs[i + 3]);
      fours[i + 3] = _mm256_unpackhi_epi32(pairs[i + 1], pairs[i + 3]);
    }
    TC_UNROLL
    for (int c = 0; c < 8; ++c) {  // column c in the low half, 8 + c in the high one
      const __m256i both = c % 2 == 0 ? _mm256_unpacklo_epi64(fours[c / 2], fours[4 + c / 2])
                                      : _mm256_unpackhi_epi64(fours[c / 2], fours[4 + c / 2]);
      float* column = out + c * stride + t;
      _mm256_storeu_ps(column, _mm256_cvtph_ps(_mm256_castsi256_si128(both)));
      _mm256_storeu_ps(column + 8 * stride, _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1)));
    }
  }
}

inline constexpr int kMatmulRows = 6, kMatmulPanels = 1;
inline constexpr int kAttentionRows = 6, kAttentionVectors = 1;
inline constexpr int kFusedPanels = 2;
inline constexpr bool kNibblesInPairs = true;

}  // namespace thermocline::TC_CPU_FORM
