// The codes of quantised KV (kv_geometry.h) as kernels see them: eight numbers of a row to and from
// floats, and a word of codes to pairs of halves, the tensor cores' operands.
//
// A word holds kWordNumbers numbers; pair i of it is numbers i and i + kWordNumbers / 2, the order
// in which masks take them out without a shift for each. So it is for 16-bit elements of a matrix
// that ldmatrix transposes, too: there one half of a word belongs to the next token.
//
// Some pairs are what the masks leave: integers in the lowest bits of a half are subnormal halves,
// (code + bias) * 2^-24, which tensor cores multiply exactly. The caller takes bias and unit off
// the products' sums, once a row instead of once a number.
#pragma once
#include "kernels/kv_geometry.h"
#include "kernels/paged_kv.h"
#include "kernels/simt/device.cuh"

namespace thermocline {

inline constexpr float kSubnormalUnit = 0x1p24f;  ///< times the half of lowest bits: the integer

__device__ __forceinline__ float Clamp(float x, float limit) {
  return fminf(fmaxf(x, -limit), limit);  // NaN becomes -limit
}

/// Four e4m3 numbers of a word, none of them NaN, as halves: numbers 0 and 2, and 1 and 3.
__device__ __forceinline__ void HalvesOfE4m3(uint32_t word, uint32_t (&pairs)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  simt::ConvertE4m3(word, pairs[0], pairs[1]);
#else
  // Exponent and fraction in a half's place are the number times 2^-8, subnormal or not.
  constexpr uint32_t kUnits = 0x5c005c00;  // 256 twice
  const uint32_t up = word << 8;
  pairs[0] = simt::MultiplyHalves(simt::AndOr(up, 0x80008000, up >> 1 & 0x3f803f80), kUnits);
  pairs[1] = simt::MultiplyHalves(simt::AndOr(word, 0x80008000, word >> 1 & 0x3f803f80), kUnits);
#endif
}

struct Int8Code {
  static constexpr KvDtype kDtype = KvDtype::kInt8;
  static constexpr int kWordNumbers = 4;
  static constexpr float kLargest = 127;
  /// The highest power of two that is at most kLargest, and its logarithm.
  static constexpr int kLargestLog2 = 6;
  /// Pairs of keys are (code + kKeyBias) / kKeyUnit; of values alike.
  static constexpr float kKeyBias = 128, kKeyUnit = kSubnormalUnit;
  static constexpr float kValueBias = 0, kValueUnit = 1;
  /// Odd pairs are that many times as large.
  static constexpr float kOddFactor = 1;

  __device__ __forceinline__ static void KeyPairs(uint32_t word, uint32_t (&pairs)[2]) {
    pairs[0] = simt::AndXor(word, 0x00ff00ff, 0x00800080);
    pairs[1] = simt::AndXor(word >> 8, 0x00ff00ff, 0x00800080);
  }
  /// Exact: a bias of 128 would cost small sums of many values too many digits.
  __device__ __forceinline__ static void ValuePairs(uint32_t word, uint32_t (&pairs)[2]) {
    constexpr uint32_t kMagic = 0x64806480;  // 1024 + 128 twice, the last digit worth 1
    pairs[0] = simt::SubtractHalves(simt::AndXor(word, 0x00ff00ff, kMagic), kMagic);
    pairs[1] = simt::SubtractHalves(simt::AndXor(word >> 8, 0x00ff00ff, kMagic), kMagic);
  }

  __device__ __forceinline__ static void Encode8(const float (&x)[8], uint32_t (&words)[2]) {
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      words[w] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int code = static_cast<int>(rintf(Clamp(x[4 * w + i], kLargest)));
        words[w] |= static_cast<uint32_t>(code & 0xff) << 8 * i;
      }
    }
  }
  __device__ __forceinline__ static void Decode8(const uint32_t (&words)[2], float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[i] = static_cast<float>(static_cast<int8_t>(words[i / 4] >> i % 4 * 8));
    }
  }
};

struct E4m3Code {
  static constexpr KvDtype kDtype = KvDtype::kE4m3;
  static constexpr int kWordNumbers = 4;
  static constexpr float kLargest = kLargestFp8;
  static constexpr int kLargestLog2 = 8;
  static constexpr float kKeyBias = 0, kKeyUnit = 1;
  static constexpr float kValueBias = 0, kValueUnit = 1;
  static constexpr float kOddFactor = 1;

  __device__ __forceinline__ static void KeyPairs(uint32_t word, uint32_t (&pairs)[2]) {
    HalvesOfE4m3(word, pairs);
  }
  __device__ __forceinline__ static void ValuePairs(uint32_t word, uint32_t (&pairs)[2]) {
    HalvesOfE4m3(word, pairs);
  }

  __device__ __forceinline__ static void Encode8(const float (&x)[8], uint32_t (&words)[2]) {
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      words[w] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Fp8E4m3 code = FromFloat<Fp8E4m3>(Clamp(x[4 * w + i], kLargest));
        words[w] |= static_cast<uint32_t>(code.bits) << 8 * i;
      }
    }
  }
  __device__ __forceinline__ static void Decode8(const uint32_t (&words)[2], float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[i] = ToFloat(Fp8E4m3{static_cast<uint8_t>(words[i / 4] >> i % 4 * 8)});
    }
  }
};

struct Int4Code {
  static constexpr KvDtype kDtype = KvDtype::kInt4;
  static constexpr int kWordNumbers = 8;
  static constexpr float kLargest = 7;
  static constexpr int kLargestLog2 = 2;
  static constexpr float kKeyBias = 8, kKeyUnit = kSubnormalUnit;
  static constexpr float kValueBias = 8, kValueUnit = kSubnormalUnit;
  static constexpr float kOddFactor = 16;

  __device__ __forceinline__ static void KeyPairs(uint32_t word, uint32_t (&pairs)[4]) {
    const uint32_t high = word >> 8;
    pairs[0] = word & 0x000f000f;
    pairs[1] = word & 0x00f000f0;
    pairs[2] = high & 0x000f000f;
    pairs[3] = high & 0x00f000f0;
  }
  __device__ __forceinline__ static void ValuePairs(uint32_t word, uint32_t (&pairs)[4]) {
    KeyPairs(word, pairs);
  }

  __device__ __forceinline__ static void Encode8(const float (&x)[8], uint32_t (&words)[1]) {
    words[0] = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int code = static_cast<int>(rintf(Clamp(x[i], kLargest))) + 8;
      words[0] |= static_cast<uint32_t>(code) << 4 * i;
    }
  }
  __device__ __forceinline__ static void Decode8(const uint32_t (&words)[1], float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[i] = static_cast<float>(static_cast<int>(words[0] >> 4 * i & 15) - 8);
    }
  }
};

/// Words of eight numbers, one lane's part of a row.
template <class Code>
inline constexpr int kWords = 8 / Code::kWordNumbers;

template <class Code>
__device__ __forceinline__ void LoadCodes8(const std::byte* from, uint32_t (&words)[kWords<Code>]) {
  if constexpr (kWords<Code> == 2) {
    const uint2 both = simt::LoadOnce8(from);
    words[0] = both.x;
    words[1] = both.y;
  } else {
    words[0] = *reinterpret_cast<const uint32_t*>(from);
  }
}

/// How attention without tensor cores reads rows of codes: eight numbers of a row of a head.
template <class Code>
struct CodeRows {
  __device__ __forceinline__ static void Load8(const PagedKv& kv, const std::byte* head, int row,
                                               int chunk, float (&x)[8]) {
    uint32_t words[kWords<Code>];
    LoadCodes8<Code>(head + row * kv.row_stride + 4 * kWords<Code> * chunk, words);
    Code::Decode8(words, x);
    const float scale = ToFloat(reinterpret_cast<const Half*>(head + kv.scales_offset)[row]);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= scale;
  }
};

/// Calls `work` with the codes of a quantised type.
template <class Work>
CudaError WithCode(KvDtype dtype, Work work) {
  switch (dtype) {
    case KvDtype::kInt8:
      return work(Int8Code{});
    case KvDtype::kE4m3:
      return work(E4m3Code{});
    case KvDtype::kInt4:
      return work(Int4Code{});
    default:
      return CudaError::kInvalidValue;
  }
}

}  // namespace thermocline
