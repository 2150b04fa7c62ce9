// Rotary position embedding on a GPU.
#pragma once
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// Rotates the first rotary_dim numbers of each head in place.
/// Shape:  x [tokens][heads][head_dim] of `type`, tokens token_stride apart; positions [tokens],
///         each in [0, rows of the table); cos_sin [rows][rotary_dim / 2][2] (rope_table.h).
/// Units:  token_stride in numbers, even; rotary_dim a multiple of 4; x aligned to 4 bytes, cos_sin
///         to 16. A token with a negative position is left as it is.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape.
struct RopeArgs {
  void* x = nullptr;
  const float* cos_sin = nullptr;
  const int32_t* positions = nullptr;
  int tokens = 0;
  int heads = 0;
  int head_dim = 0;
  int rotary_dim = 0;
  int64_t token_stride = 0;
  bool halves = true;  ///< pairs are (i, i + rotary_dim / 2), else (2i, 2i + 1)
  NumberType type = NumberType::kF16;
};
CudaError LaunchRope(const RopeArgs& args, CudaStream stream);

}  // namespace thermocline
