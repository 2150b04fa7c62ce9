// Stored blocks are no multiples of 16 bytes, but eight of them are: a thread block brings 128 of
// them to shared memory in 16-byte loads, then each thread takes eight numbers of a block at a time
// from there and writes them in one store. Only the last 16 bytes of all may be there in part.
#include "kernels/dequantize_weights.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksAtOnce = 128;
constexpr int kUnitBytes = 16;
template <WeightType kType>
constexpr int kNumbersOf = WeightBlockNumbers(kType);
template <class T>
constexpr float kLargestOf = kLargestHalf;
template <>
constexpr float kLargestOf<Bfloat16> = 0x1.fep127f;
template <WeightType kType>
constexpr int kBytesOf = WeightBlockBytes(kType);

/// A 16-bit word of a block, which is aligned to no more.
__device__ __forceinline__ uint32_t WordAt(const std::byte* at) {
  return *reinterpret_cast<const uint16_t*>(at);
}
__device__ __forceinline__ uint32_t WordsAt(const std::byte* at) {
  return WordAt(at) | WordAt(at + 2) << 16;
}
__device__ __forceinline__ float HalfAt(const std::byte* at) {
  return ToFloat(Half{static_cast<uint16_t>(WordAt(at))});
}

/// Numbers 8 * part .. 8 * part + 7 of a stored block.
template <WeightType kType>
__device__ __forceinline__ void Decode8(const std::byte* block, int part, float (&x)[8]) {
  if constexpr (kType == WeightType::kF32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = __int_as_float(static_cast<int>(WordsAt(block + 4 * i)));
  } else if constexpr (kType == WeightType::kF16) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = HalfAt(block + 2 * i);
  } else if constexpr (kType == WeightType::kBF16) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      x[i] = ToFloat(Bfloat16{static_cast<uint16_t>(WordAt(block + 2 * i))});
  } else if constexpr (kType == WeightType::kQ8_0) {
    const float d = HalfAt(block);
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t word = WordAt(block + 2 + 8 * part + i);
      x[i] = d * static_cast<float>(static_cast<int8_t>(word));
      x[i + 1] = d * static_cast<float>(static_cast<int8_t>(word >> 8));
    }
  } else {
    // Byte i has number i in its low half, number i + 16 in its high one.
    constexpr bool kHasMinimum = kType == WeightType::kQ4_1 || kType == WeightType::kQ5_1;
    constexpr bool kHasHighBits = kType == WeightType::kQ5_0 || kType == WeightType::kQ5_1;
    constexpr int kHighAt = kHasMinimum ? 4 : 2;
    constexpr int kCodesAt = kHighAt + (kHasHighBits ? 4 : 0);
    constexpr int kCentre = kHasHighBits ? 16 : 8;
    const float d = HalfAt(block);
    const float m = kHasMinimum ? HalfAt(block + 2) : 0;
    const uint32_t high = kHasHighBits ? WordsAt(block + kHighAt) >> 8 * part : 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t word = WordAt(block + kCodesAt + part % 2 * 8 + i / 2 * 2);
      const uint32_t nibble = word >> (i % 2 * 8 + part / 2 * 4) & 15;
      const int code = static_cast<int>(nibble | (high >> i & 1) << 4);
      x[i] = kHasMinimum ? fmaf(static_cast<float>(code), d, m)
                         : d * static_cast<float>(code - kCentre);
    }
  }
}

/// Grid: kBlocksAtOnce stored blocks each.
template <class T, WeightType kType>
__global__ void __launch_bounds__(kThreads)
    DequantizeWeights(const __grid_constant__ DequantizeWeightsArgs args) {
  constexpr int kBlockBytes = kBytesOf<kType>, kBlockNumbers = kNumbersOf<kType>;
  TC_SHARED(uint4, stage, kBlocksAtOnce * kBlockBytes / kUnitBytes);
  constexpr int kParts = kBlockNumbers / 8;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlocksAtOnce;
  const int64_t left = args.numbers / kBlockNumbers - first;
  const int blocks = static_cast<int>(left < kBlocksAtOnce ? left : kBlocksAtOnce);
  const int bytes = blocks * kBlockBytes;
  const std::byte* const from = static_cast<const std::byte*>(args.stored) + first * kBlockBytes;
  for (int unit = threadIdx.x; unit < bytes / kUnitBytes; unit += kThreads) {
    simt::Store16(stage + unit, simt::LoadOnce16(from + kUnitBytes * unit));
  }
  std::byte* const staged = reinterpret_cast<std::byte*>(stage);
  const int at = bytes / kUnitBytes * kUnitBytes + 2 * static_cast<int>(threadIdx.x);
  if (at < bytes) {
    *reinterpret_cast<uint16_t*>(staged + at) = *reinterpret_cast<const uint16_t*>(from + at);
  }
  __syncthreads();
  T* const to = static_cast<T*>(args.out) + first * kBlockNumbers;
  bool beyond = false;
  for (int i = threadIdx.x; i < blocks * kParts; i += kThreads) {
    float x[8];
    Decode8<kType>(staged + i / kParts * kBlockBytes, i % kParts, x);
    simt::Store16(to + 8 * i, simt::Pack8<T>(x));
#pragma unroll
    for (int n = 0; n < 8; ++n) beyond |= !(fabsf(x[n]) <= kLargestOf<T>);
  }
  if (beyond) atomicMax(args.beyond, 1);
}

template <class T, WeightType kType>
CudaError LaunchOfType(const DequantizeWeightsArgs& args, CudaStream stream) {
  constexpr int kNumbers = kNumbersOf<kType>;
  if (args.numbers % kNumbers != 0) return CudaError::kInvalidValue;
  const int64_t blocks = (args.numbers / kNumbers - 1) / kBlocksAtOnce + 1;
  const LaunchShape shape{.grid = {static_cast<uint32_t>(blocks)}, .block = {kThreads}};
  return simt::Launch(DequantizeWeights<T, kType>, shape, stream, args);
}

template <class T>
CudaError LaunchOfNumber(const DequantizeWeightsArgs& args, CudaStream stream) {
  switch (args.stored_type) {
    case WeightType::kF32:
      return LaunchOfType<T, WeightType::kF32>(args, stream);
    case WeightType::kF16:
      return LaunchOfType<T, WeightType::kF16>(args, stream);
    case WeightType::kBF16:
      return LaunchOfType<T, WeightType::kBF16>(args, stream);
    case WeightType::kQ8_0:
      return LaunchOfType<T, WeightType::kQ8_0>(args, stream);
    case WeightType::kQ4_0:
      return LaunchOfType<T, WeightType::kQ4_0>(args, stream);
    case WeightType::kQ4_1:
      return LaunchOfType<T, WeightType::kQ4_1>(args, stream);
    case WeightType::kQ5_0:
      return LaunchOfType<T, WeightType::kQ5_0>(args, stream);
    case WeightType::kQ5_1:
      return LaunchOfType<T, WeightType::kQ5_1>(args, stream);
  }
  return CudaError::kInvalidValue;
}

}  // namespace

CudaError LaunchDequantizeWeights(const DequantizeWeightsArgs& args, CudaStream stream) {
  if (args.numbers == 0) return CudaError::kSuccess;
  if (args.numbers < 0 ||
      ((reinterpret_cast<uintptr_t>(args.stored) | reinterpret_cast<uintptr_t>(args.out)) %
       kUnitBytes) != 0) {
    return CudaError::kInvalidValue;
  }
  return WithNumberType(
      args.type, [&](auto number) { return LaunchOfNumber<decltype(number)>(args, stream); });
}

}  // namespace thermocline
