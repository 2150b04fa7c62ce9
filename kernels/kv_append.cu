#include "kernels/kv_append.h"

#include "kernels/kv_geometry.h"
#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;

template <class T>
inline constexpr uint32_t kInfinity = 0x7c00;
template <>
inline constexpr uint32_t kInfinity<Bfloat16> = 0x7f80;

/// Of two packed numbers; NaN stays.
template <class T>
__device__ __forceinline__ uint32_t SaturatePair(uint32_t pair) {
  if ((pair & 0x7fff) == kInfinity<T>) --pair;
  if ((pair & 0x7fff0000) == kInfinity<T> << 16) pair -= 0x10000;
  return pair;
}

template <class T>
__device__ __forceinline__ uint4 Saturate(uint4 packed) {
  return make_uint4(SaturatePair<T>(packed.x), SaturatePair<T>(packed.y), SaturatePair<T>(packed.z),
                    SaturatePair<T>(packed.w));
}

template <class T>
__global__ void __launch_bounds__(kThreads) KvAppend(const __grid_constant__ KvAppendArgs args) {
  const int64_t token = blockIdx.x;
  const int position = args.positions[token];
  if (position < 0) return;
  const int64_t table = static_cast<int64_t>(args.sequences[token]) * args.table_stride;
  const int64_t block = args.tables[table + position / kBlockTokens];
  std::byte* const row =
      args.kv.pool + block * args.kv.block_stride + position % kBlockTokens * args.kv.row_stride;
  const int chunks = args.head_dim / 8, all = args.kv_heads * chunks;
  for (int i = threadIdx.x; i < 2 * all; i += kThreads) {
    const bool is_value = i >= all;
    const int of_half = is_value ? i - all : i;
    const int head = of_half / chunks, chunk = of_half % chunks;
    const T* const from = static_cast<const T*>(is_value ? args.values : args.keys) +
                          token * args.token_stride + 8 * of_half;
    std::byte* const to = row + (is_value ? args.kv.values_offset : args.kv.keys_offset) +
                          head * args.kv.head_stride + 16 * chunk;
    simt::Store16(to, Saturate<T>(simt::LoadOnce16(from)));
  }
}

}  // namespace

CudaError LaunchKvAppend(const KvAppendArgs& args, CudaStream stream) {
  if (args.tokens == 0) return CudaError::kSuccess;
  if (args.tokens < 0 || args.kv_heads <= 0 || args.head_dim <= 0 || args.head_dim % 8 != 0 ||
      args.token_stride % 8 != 0 || !IsAligned(args.kv)) {
    return CudaError::kInvalidValue;
  }
  const LaunchShape shape{.grid = {static_cast<uint32_t>(args.tokens)}, .block = {kThreads}};
  return WithNumberType(args.type, [&](auto number) {
    return simt::Launch(KvAppend<decltype(number)>, shape, stream, args);
  });
}

}  // namespace thermocline
