// The gated activations of a feed-forward layer on a GPU.
#pragma once
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// out = f(gate) * up, computed in float32.
/// Shape:  gate, up, out [rows][width] of `type`, rows a stride apart: both halves of one fused
///         product may be read where they lie. `out` may be `gate` or `up`.
/// Units:  strides in numbers; width and strides multiples of 8, pointers of 16 bytes.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape.
struct GatedActivationArgs {
  enum class Function : uint8_t {
    kSilu,      ///< SwiGLU: x / (1 + exp(-x))
    kGeluTanh,  ///< GeGLU in the tanh form that gemma is trained with
  };
  void* out = nullptr;
  const void* gate = nullptr;
  const void* up = nullptr;
  int rows = 0;
  int width = 0;
  int64_t gate_stride = 0;
  int64_t up_stride = 0;
  int64_t out_stride = 0;
  Function function = Function::kSilu;
  NumberType type = NumberType::kF16;
};
CudaError LaunchGatedActivation(const GatedActivationArgs& args, CudaStream stream);

}  // namespace thermocline
