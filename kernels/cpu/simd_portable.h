// Sixteen float lanes in plain C++: the same roundings as the vector forms, lane by lane.
// Fused multiply-add is the correctly rounded one of libm, conversions to and from f16 are spelled
// out, and Min and Max return their second operand on NaN as x86 does.
#pragma once
#include <cstdint>
#include <cstring>

namespace thermocline::TC_CPU_FORM {

struct Lanes {
  float v[16];
};
struct IntLanes {
  uint32_t v[16];
};

template <class F>
inline Lanes EachLane(F f) {
  Lanes r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}
template <class F>
inline IntLanes EachIntLane(F f) {
  IntLanes r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}

inline uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

/// IEEE binary16 to binary32, exact; a signalling NaN is made quiet.
inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) {
    return FloatOf(sign | 0x7f800000 | (mantissa << 13) | (mantissa != 0 ? 0x400000 : 0));
  }
  if (exponent != 0) return FloatOf(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return FloatOf(sign | BitsOf(magnitude));
}

/// binary32 to binary16, to nearest even.
inline uint16_t FloatToHalf(float x) {
  const uint32_t bits = BitsOf(x), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((bits >> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above
  if (magnitude < 0x38800000) {  // subnormal: let the float adder round at 2^-24
    const float shifted = FloatOf(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(BitsOf(shifted) - 0x3f000000);
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

inline Lanes Load(const float* p) {
  Lanes r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void Store(float* p, Lanes a) { std::memcpy(p, a.v, sizeof a.v); }
inline Lanes Set1(float x) {
  return EachLane([&](int) { return x; });
}
inline Lanes Fma(Lanes a, Lanes b, Lanes c) {
  return EachLane([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline Lanes Add(Lanes a, Lanes b) {
  return EachLane([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes Mul(Lanes a, Lanes b) {
  return EachLane([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes Div(Lanes a, Lanes b) {
  return EachLane([&](int i) { return a.v[i] / b.v[i]; });
}
inline Lanes Max(Lanes a, Lanes b) {
  return EachLane([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes Min(Lanes a, Lanes b) {
  return EachLane([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline float MaxOfLanes(Lanes a) {
  float greatest = a.v[0];
  for (int i = 1; i < 16; ++i) greatest = a.v[i] > greatest ? a.v[i] : greatest;
  return greatest;
}
/// To the nearest integer, ties to even. Requires: |a| < 2^22.
inline Lanes RoundEven(Lanes a) {
  constexpr float kShifter = 0x1.8p23f;
  return EachLane([&](int i) { return (a.v[i] + kShifter) - kShifter; });
}
/// p * 2^n for integral n, by adding to the exponent: p and the result must be normal.
inline Lanes ScaleByPow2(Lanes p, Lanes n) {
  return EachLane([&](int i) {
    return FloatOf(BitsOf(p.v[i]) + (static_cast<uint32_t>(static_cast<int32_t>(n.v[i])) << 23));
  });
}
/// value where x >= limit, else 0.
inline Lanes ZeroBelow(Lanes x, float limit, Lanes value) {
  return EachLane([&](int i) { return x.v[i] >= limit ? value.v[i] : 0.0f; });
}

inline Lanes LoadHalf(const void* p) {
  uint16_t h[16];
  std::memcpy(h, p, sizeof h);
  return EachLane([&](int i) { return HalfToFloat(h[i]); });
}
inline void StoreHalf(void* p, Lanes a) {
  uint16_t h[16];
  for (int i = 0; i < 16; ++i) h[i] = FloatToHalf(a.v[i]);
  std::memcpy(p, h, sizeof h);
}
inline Lanes LoadInt8(const void* p) {
  int8_t q[16];
  std::memcpy(q, p, sizeof q);
  return EachLane([&](int i) { return static_cast<float>(q[i]); });
}

inline IntLanes LoadInts(const void* p) {
  IntLanes r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline IntLanes LoadUint16(const void* p) {
  uint16_t q[16];
  std::memcpy(q, p, sizeof q);
  return EachIntLane([&](int i) { return q[i]; });
}
inline IntLanes ShiftRight(IntLanes a, int n) {
  return EachIntLane([&](int i) { return a.v[i] >> n; });
}
inline IntLanes ShiftLeft(IntLanes a, int n) {
  return EachIntLane([&](int i) { return a.v[i] << n; });
}
inline IntLanes And(IntLanes a, uint32_t mask) {
  return EachIntLane([&](int i) { return a.v[i] & mask; });
}
inline IntLanes Or(IntLanes a, IntLanes b) {
  return EachIntLane([&](int i) { return a.v[i] | b.v[i]; });
}
/// Requires: lanes below 2^24.
inline Lanes ToFloat(IntLanes a) {
  return EachLane([&](int i) { return static_cast<float>(a.v[i]); });
}
inline Lanes BitCast(IntLanes a) {
  return EachLane([&](int i) { return FloatOf(a.v[i]); });
}
/// The i-th 4-bit field of every lane.
inline Lanes Nibble(IntLanes a, int i) { return ToFloat(And(ShiftRight(a, 4 * i), 15)); }

/// out[c * stride + t] = rows[t] lane c.
inline void StoreTransposed(const Lanes (&rows)[16], float* out, int stride) {
  for (int c = 0; c < 16; ++c) {
    for (int t = 0; t < 16; ++t) out[c * stride + t] = rows[t].v[c];
  }
}

inline void StoreTransposedHalves(const char* rows, size_t row_bytes, float* out, int stride) {
  for (int c = 0; c < 16; ++c) {
    for (int t = 0; t < 16; ++t) {
      uint16_t half;
      std::memcpy(&half, rows + t * row_bytes + 2 * c, 2);
      out[c * stride + t] = HalfToFloat(half);
    }
  }
}

/// Register tiles: rows x panels of a matrix product and of attention; panels at once in decode.
inline constexpr int kMatmulRows = 4, kMatmulPanels = 1;
inline constexpr int kAttentionRows = 4, kAttentionVectors = 1;
inline constexpr int kFusedPanels = 2;
inline constexpr bool kNibblesInPairs = false;

}  // namespace thermocline::TC_CPU_FORM
