// RMSNorm on a GPU, with the residual stream's addition fused in.
#pragma once
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

inline constexpr int kRmsNormMaxWidth = 16384;

/// residual += x (rounded to the type), if there is one; then
/// out = y / sqrt(mean(y^2) + epsilon) * (gain + gain_offset), y being the residual, or else x.
/// Shape:  x, out [rows][width], rows x_stride and out_stride apart; residual [rows][width];
///         gain [width]; all of `type`. `out` may be `x`.
/// Units:  strides in numbers; width and strides multiples of 8, pointers of 16 bytes.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue if a width or stride is no such multiple, or width > kRmsNormMaxWidth.
/// Cost:   each number read once and written once.
struct RmsNormArgs {
  void* out = nullptr;
  const void* x = nullptr;
  void* residual = nullptr;
  const void* gain = nullptr;
  int rows = 0;
  int width = 0;
  int64_t x_stride = 0;
  int64_t out_stride = 0;
  float epsilon = 1e-6f;
  float gain_offset = 0;  ///< 1 where a model stores gain - 1 (gemma)
  NumberType type = NumberType::kF16;
};
CudaError LaunchRmsNorm(const RmsNormArgs& args, CudaStream stream);

}  // namespace thermocline
