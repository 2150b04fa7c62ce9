#include "kernels/embedding.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads) Embedding(const __grid_constant__ EmbeddingArgs args) {
  const int64_t token = blockIdx.x;
  const int id = args.ids[token];
  const bool known = id >= 0 && id < args.vocabulary;
  const T* const row = static_cast<const T*>(args.table) + static_cast<int64_t>(id) * args.width;
  T* const out = static_cast<T*>(args.out) + token * args.width;
  for (int at = 8 * threadIdx.x; at < args.width; at += 8 * kThreads) {
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (known) packed = simt::LoadOnce16(row + at);
    if (args.scale != 1) {
      float values[8];
      simt::Unpack8<T>(packed, values);
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] *= args.scale;
      packed = simt::Pack8<T>(values);
    }
    simt::Store16(out + at, packed);
  }
}

}  // namespace

CudaError LaunchEmbedding(const EmbeddingArgs& args, CudaStream stream) {
  if (args.tokens == 0) return CudaError::kSuccess;
  if (args.tokens < 0 || args.width <= 0 || args.width % 8 != 0 || args.vocabulary < 0) {
    return CudaError::kInvalidValue;
  }
  const LaunchShape shape{.grid = {static_cast<uint32_t>(args.tokens)}, .block = {kThreads}};
  return WithNumberType(args.type, [&](auto number) {
    return simt::Launch(Embedding<decltype(number)>, shape, stream, args);
  });
}

}  // namespace thermocline
