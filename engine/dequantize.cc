#include "engine/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "engine/file_bytes.h"

namespace thermocline {
namespace {

constexpr size_t kBlock = 32;

float LoadHalf(const std::byte* at) { return HalfToFloat(Load<uint16_t>(at)); }

void DequantizeQ8_0(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  for (size_t i = 0; i < kBlock; ++i) out[i] = d * Load<int8_t>(block + 2 + i);
}

/// The 4-bit and 5-bit forms. `kHasMinimum`: an f16 m follows d, otherwise codes are centred on 0.
template <bool kHasMinimum, bool kHasHighBits>
void DequantizeNibbles(const std::byte* block, float* out) {
  constexpr size_t kHighAt = kHasMinimum ? 4 : 2;
  constexpr size_t kCodesAt = kHighAt + (kHasHighBits ? 4 : 0);
  constexpr int kCentre = kHasHighBits ? 16 : 8;
  const float d = LoadHalf(block);
  const float m = kHasMinimum ? LoadHalf(block + 2) : 0;
  const uint32_t high = kHasHighBits ? Load<uint32_t>(block + kHighAt) : 0;
  for (size_t i = 0; i < kBlock; ++i) {
    const auto byte = Load<uint8_t>(block + kCodesAt + i % 16);
    const int low = i < 16 ? byte & 15 : byte >> 4;
    const int code = low | static_cast<int>(high >> i & 1) << 4;
    if constexpr (kHasMinimum) {
      out[i] = std::fma(static_cast<float>(code), d, m);
    } else {
      out[i] = d * static_cast<float>(code - kCentre);
    }
  }
}

template <typename Convert>
void EachBlock(std::span<const std::byte> stored, size_t block_bytes, std::span<float> out,
               Convert convert) {
  for (size_t i = 0; i < out.size() / kBlock; ++i) {
    convert(stored.data() + i * block_bytes, out.data() + i * kBlock);
  }
}

}  // namespace

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = half >> 10 & 31;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) {
    const uint32_t quiet = mantissa != 0 ? 0x400000u : 0;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | mantissa << 13);
  }
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in f32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

float BrainToFloat(uint16_t brain) { return std::bit_cast<float>(uint32_t{brain} << 16); }

void Dequantize(TensorType type, std::span<const std::byte> stored, std::span<float> out) {
  TC_CHECK(out.size() % BlockElements(type) == 0);
  TC_CHECK(stored.size() == out.size() / BlockElements(type) * BlockBytes(type));
  switch (type) {
    case TensorType::kF32:
      if (!out.empty()) std::memcpy(out.data(), stored.data(), stored.size());
      return;
    case TensorType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = LoadHalf(stored.data() + 2 * i);
      return;
    case TensorType::kBF16:
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = BrainToFloat(Load<uint16_t>(stored.data() + 2 * i));
      }
      return;
    case TensorType::kQ8_0:
      return EachBlock(stored, BlockBytes(type), out, DequantizeQ8_0);
    case TensorType::kQ4_0:
      return EachBlock(stored, BlockBytes(type), out, DequantizeNibbles<false, false>);
    case TensorType::kQ4_1:
      return EachBlock(stored, BlockBytes(type), out, DequantizeNibbles<true, false>);
    case TensorType::kQ5_0:
      return EachBlock(stored, BlockBytes(type), out, DequantizeNibbles<false, true>);
    case TensorType::kQ5_1:
      return EachBlock(stored, BlockBytes(type), out, DequantizeNibbles<true, true>);
    case TensorType::kOther:
      break;  // BlockElements has aborted
  }
}

}  // namespace thermocline
