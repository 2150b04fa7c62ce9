// A block a token; a thread works on 32-bit words of two numbers, so that a warp's accesses are
// whole sectors in both layouts.
#include "kernels/rope.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float2 Rotate(float a, float b, float cosine, float sine) {
  return make_float2(a * cosine - b * sine, a * sine + b * cosine);
}

/// Two pairs: the words hold the first and the second halves of both.
template <class T>
__device__ __forceinline__ void RotateHalves(uint32_t& first, uint32_t& second,
                                             const float4& turn) {
  const float2 a = simt::Unpack2<T>(first), b = simt::Unpack2<T>(second);
  const float2 x = Rotate(a.x, b.x, turn.x, turn.y), y = Rotate(a.y, b.y, turn.z, turn.w);
  first = simt::Pack2<T>(x.x, y.x);
  second = simt::Pack2<T>(x.y, y.y);
}

template <class T, bool kHalves>
__global__ void __launch_bounds__(kThreads) Rope(const __grid_constant__ RopeArgs args) {
  const int64_t token = blockIdx.x;
  const int position = args.positions[token];
  if (position < 0) return;
  const float* const turns = args.cos_sin + static_cast<int64_t>(position) * args.rotary_dim;
  T* const heads = static_cast<T*>(args.x) + token * args.token_stride;
  const int words = kHalves ? args.rotary_dim / 4 : args.rotary_dim / 2;  // of one head
  for (int i = threadIdx.x; i < args.heads * words; i += kThreads) {
    const int word = i % words;
    uint32_t* const head = reinterpret_cast<uint32_t*>(heads + i / words * args.head_dim);
    if constexpr (kHalves) {
      RotateHalves<T>(head[word], head[word + words], reinterpret_cast<const float4*>(turns)[word]);
    } else {
      const float2 pair = simt::Unpack2<T>(head[word]);
      const float2 rotated = Rotate(pair.x, pair.y, turns[2 * word], turns[2 * word + 1]);
      head[word] = simt::Pack2<T>(rotated.x, rotated.y);
    }
  }
}

}  // namespace

CudaError LaunchRope(const RopeArgs& args, CudaStream stream) {
  if (args.tokens == 0) return CudaError::kSuccess;
  if (args.tokens < 0 || args.heads <= 0 || args.rotary_dim <= 0 || args.rotary_dim % 4 != 0 ||
      args.rotary_dim > args.head_dim || args.head_dim % 2 != 0 || args.token_stride % 2 != 0) {
    return CudaError::kInvalidValue;
  }
  const LaunchShape shape{.grid = {static_cast<uint32_t>(args.tokens)}, .block = {kThreads}};
  return WithNumberType(args.type, [&](auto number) {
    using T = decltype(number);
    return simt::Launch(args.halves ? Rope<T, true> : Rope<T, false>, shape, stream, args);
  });
}

}  // namespace thermocline
