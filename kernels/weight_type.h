// How stored weights are coded: the types that the engine computes with, on the CPU and on a GPU.
#pragma once
#include <cstdint>

namespace thermocline {

/// The quantised ones are the blocks of GGUF (ggml), 32 weights each; engine/dequantize.h tells
/// what they mean.
enum class WeightType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1 };

}  // namespace thermocline
