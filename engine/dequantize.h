// The reference dequantisation: stored blocks to f32, plain and exact. Every faster form must equal
// it to the bit. Blocks hold 32 elements, little-endian, without padding:
//
//   Q8_0  f16 d; i8 q[32]                       d * q
//   Q4_0  f16 d; u8 q[16]                       d * (q - 8)
//   Q4_1  f16 d, m; u8 q[16]                    fma(q, d, m)
//   Q5_0  f16 d; u32 high; u8 q[16]             d * (q - 16)
//   Q5_1  f16 d, m; u32 high; u8 q[16]          fma(q, d, m)
//
// Byte i of the 4-bit forms holds element i in its low half and element i + 16 in its high half;
// bit i of `high` is the fifth bit of element i. The rule of rounding: once, at the end. It is
// easily kept, because a product of an f16 and at most 8 bits is exact in f32, so that fma(q, d, m)
// and q * d + m are the same number; only a form that reorders the terms could break it. Source:
// ggml-common.h and ggml-quants.c of llama.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/weights.h"

namespace thermocline {

/// f16 (IEEE binary16) to f32, exactly; a NaN stays one and becomes quiet, as F16C has it.
[[nodiscard]] float HalfToFloat(uint16_t half);
/// bfloat16 to f32: the upper half of its bits.
[[nodiscard]] float BrainToFloat(uint16_t brain);

/// One row, or any whole number of blocks, of `type` to f32.
/// Shape:  stored [out.size() / BlockElements(type) * BlockBytes(type)] bytes, at any address.
/// Thread: any.
/// Requires: those sizes, and a type that is not kOther.
void Dequantize(TensorType type, std::span<const std::byte> stored, std::span<float> out);

}  // namespace thermocline
