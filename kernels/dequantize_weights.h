// Weights as they are stored in model files become 16-bit numbers, on a GPU, when a model is
// loaded.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"
#include "kernels/weight_type.h"

namespace thermocline {

/// Numbers and bytes that belong together: of the plain types, 8 numbers.
inline constexpr int WeightBlockNumbers(WeightType type) {
  return type < WeightType::kQ8_0 ? 8 : 32;
}
inline constexpr int WeightBlockBytes(WeightType type) {
  constexpr int kBytes[] = {32, 16, 16, 34, 18, 20, 22, 24};
  return kBytes[static_cast<int>(type)];
}

/// out[i] = the weight i, the float32 that engine/dequantize.h defines, rounded once to `type`:
/// beyond its largest number lies infinity. *beyond is raised above 0 if a weight lies there or is
/// none, and else left alone.
/// Shape:  stored [numbers / WeightBlockNumbers * WeightBlockBytes] bytes, out [numbers].
/// Units:  numbers a multiple of WeightBlockNumbers; both pointers aligned to 16 bytes.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape.
/// Cost:   each byte is read and written once, in 16-byte accesses.
struct DequantizeWeightsArgs {
  void* out = nullptr;
  const void* stored = nullptr;
  int32_t* beyond = nullptr;
  int64_t numbers = 0;
  WeightType stored_type = WeightType::kQ8_0;
  NumberType type = NumberType::kF16;
};
CudaError LaunchDequantizeWeights(const DequantizeWeightsArgs& args, CudaStream stream);

}  // namespace thermocline
