// One block a row; a thread keeps its numbers in registers between the sum of squares and the
// product, so that a row is read once.
#include "kernels/rms_norm.h"
#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarpThreads;

/// The sum of `value` over the block, in every thread.
__device__ float BlockSum(float value) {
  TC_SHARED(float, partial, kMaxWarps);
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  const int warps = blockDim.x / kWarpThreads;
  value = simt::WarpSum(value);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return simt::WarpSum(lane < warps ? partial[lane] : 0.0f);
}

template <class T, int kChunks>
__global__ void __launch_bounds__(kMaxThreads) RmsNorm(const __grid_constant__ RmsNormArgs args) {
  const int64_t row = blockIdx.x;
  const T* const x = static_cast<const T*>(args.x) + row * args.x_stride;
  T* const residual =
      args.residual != nullptr ? static_cast<T*>(args.residual) + row * args.width : nullptr;
  float values[kChunks][8] = {};
  float squares = 0;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const int at = 8 * static_cast<int>(chunk * blockDim.x + threadIdx.x);
    if (at >= args.width) break;
    simt::Unpack8<T>(simt::Load16(x + at), values[chunk]);
    if (residual != nullptr) {
      T* const place = residual + at;
      float before[8];
      simt::Unpack8<T>(simt::Load16(place), before);
#pragma unroll
      for (int i = 0; i < 8; ++i) values[chunk][i] += before[i];
      const uint4 sum = simt::Pack8<T>(values[chunk]);
      simt::Store16(place, sum);
      simt::Unpack8<T>(sum, values[chunk]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += values[chunk][i] * values[chunk][i];
  }
  const float mean = BlockSum(squares) / static_cast<float>(args.width);
  const float scale = rsqrtf(mean + args.epsilon);
  T* const out = static_cast<T*>(args.out) + row * args.out_stride;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const int at = 8 * static_cast<int>(chunk * blockDim.x + threadIdx.x);
    if (at >= args.width) break;
    float gain[8];
    simt::Unpack8<T>(simt::Load16(static_cast<const T*>(args.gain) + at), gain);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[chunk][i] *= scale * (gain[i] + args.gain_offset);
    simt::Store16(out + at, simt::Pack8<T>(values[chunk]));
  }
}

}  // namespace

CudaError LaunchRmsNorm(const RmsNormArgs& args, CudaStream stream) {
  if (args.rows == 0) return CudaError::kSuccess;
  if (args.rows < 0 || args.width <= 0 || args.width > kRmsNormMaxWidth || args.width % 8 != 0 ||
      args.x_stride % 8 != 0 || args.out_stride % 8 != 0) {
    return CudaError::kInvalidValue;
  }
  const int threads = (args.width / 8 + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
  const bool twice = threads > kMaxThreads;
  const LaunchShape shape{.grid = {static_cast<uint32_t>(args.rows)},
                          .block = {static_cast<uint32_t>(twice ? kMaxThreads : threads)}};
  return WithNumberType(args.type, [&](auto number) {
    using T = decltype(number);
    return simt::Launch(twice ? RmsNorm<T, 2> : RmsNorm<T, 1>, shape, stream, args);
  });
}

}  // namespace thermocline
