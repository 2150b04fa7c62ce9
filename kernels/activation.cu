#include "kernels/activation.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 256;
constexpr uint32_t kMaxGridRows = 65535;

using Function = GatedActivationArgs::Function;

template <Function kFunction>
__device__ __forceinline__ float Activate(float x) {
  if constexpr (kFunction == Function::kSilu) {
    return __fdividef(x, 1.0f + __expf(-x));
  } else {
    constexpr float kRootTwoOverPi = 0.7978845608f;
    return 0.5f * x * (1.0f + simt::FastTanh(kRootTwoOverPi * (x + 0.044715f * x * x * x)));
  }
}

template <class T, Function kFunction>
__global__ void __launch_bounds__(kThreads)
    GatedActivation(const __grid_constant__ GatedActivationArgs args) {
  const int at = 8 * static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (at >= args.width) return;
  for (int64_t row = blockIdx.y; row < args.rows; row += gridDim.y) {
    const T* const gates = static_cast<const T*>(args.gate) + row * args.gate_stride;
    const T* const ups = static_cast<const T*>(args.up) + row * args.up_stride;
    float gate[8], up[8];
    simt::Unpack8<T>(simt::Load16(gates + at), gate);
    simt::Unpack8<T>(simt::Load16(ups + at), up);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] = Activate<kFunction>(gate[i]) * up[i];
    simt::Store16(static_cast<T*>(args.out) + row * args.out_stride + at, simt::Pack8<T>(gate));
  }
}

}  // namespace

CudaError LaunchGatedActivation(const GatedActivationArgs& args, CudaStream stream) {
  if (args.rows == 0) return CudaError::kSuccess;
  if (args.rows < 0 || args.width <= 0 || args.width % 8 != 0 || args.gate_stride % 8 != 0 ||
      args.up_stride % 8 != 0 || args.out_stride % 8 != 0) {
    return CudaError::kInvalidValue;
  }
  const uint32_t chunks = static_cast<uint32_t>(args.width / 8);
  const uint32_t rows = static_cast<uint32_t>(args.rows);
  const LaunchShape shape{
      .grid = {(chunks + kThreads - 1) / kThreads, rows < kMaxGridRows ? rows : kMaxGridRows},
      .block = {kThreads}};
  return WithNumberType(args.type, [&](auto number) {
    using T = decltype(number);
    return simt::Launch(args.function == Function::kSilu ? GatedActivation<T, Function::kSilu>
                                                         : GatedActivation<T, Function::kGeluTanh>,
                        shape, stream, args);
  });
}

}  // namespace thermocline
