// A row is quantised by neighbouring lanes of one warp, eight numbers each, as many as the row of
// codes has room for (rounded up to a power of two): lanes behind the head write the row's filling.
// They agree on the largest magnitude as an integer: so ordered, NaN is larger than every number.
#include "kernels/quantize.h"

#include "kernels/quant_codes.cuh"

namespace thermocline {
namespace {

constexpr int kAppendThreads = 128;
constexpr int kBlockThreads = 256;
constexpr int kMaxHeadDim = 256;
constexpr int kNanFloat = 0x7fffffff;
constexpr int kInfinityFloat = 0x7f800000;

/// How the lanes of a warp share rows. row_bytes: of codes.
struct RowLanes {
  int lanes;    ///< of one row, a power of two
  int rows;     ///< of the warp at once
  int row;      ///< this lane's
  int chunk;    ///< of eight numbers
  bool inside;  ///< whether the row of codes reaches here
  bool filled;  ///< whether the head does

  __device__ __forceinline__ RowLanes(int row_bytes, int chunk_bytes, int head_dim) {
    const int lane = threadIdx.x % kWarpThreads;
    lanes = 1;
    while (lanes * chunk_bytes < row_bytes) lanes *= 2;
    rows = kWarpThreads / lanes;
    row = lane / lanes;
    chunk = lane % lanes;
    inside = chunk * chunk_bytes < row_bytes;
    filled = 8 * chunk < head_dim;
  }
};

template <class Code>
constexpr int kChunkBytes = 4 * kWords<Code>;

/// Where a row comes from and goes to; `from` may be any valid row where it is not wanted.
template <class T>
struct RowPlace {
  const T* from;
  std::byte* to;
  Half* scale;
  bool wanted;
};

/// By all lanes of a warp.
template <class T, class Code>
__device__ __forceinline__ void QuantizeRow(const RowLanes& lanes, const RowPlace<T>& place) {
  float x[8] = {};
  if (lanes.filled) simt::Unpack8<T>(simt::LoadOnce16(place.from + 8 * lanes.chunk), x);
  int largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = max(largest, __float_as_int(fabsf(x[i])));
  for (int distance = lanes.lanes / 2; distance > 0; distance /= 2) {
    largest = max(largest, __shfl_xor_sync(kWholeWarp, largest, distance));
  }
  const float most = largest > kInfinityFloat ? __int_as_float(kNanFloat)
                                              : fminf(__int_as_float(largest), kLargestHalf);
  const Half scale = FromFloat<Half>(most / Code::kLargest);
  const float step = ToFloat(scale), inverse = step > 0 ? 1 / step : 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = Clamp(x[i], kLargestHalf) * inverse;
  uint32_t words[kWords<Code>];
  Code::Encode8(x, words);
  if (!place.wanted) return;
  if (lanes.inside) {
    std::byte* const to = place.to + kChunkBytes<Code> * lanes.chunk;
    if constexpr (kWords<Code> == 2) {
      simt::Store8(to, make_uint2(words[0], words[1]));
    } else {
      *reinterpret_cast<uint32_t*>(to) = words[0];
    }
  }
  if (lanes.chunk == 0) *place.scale = scale;
}

struct AppendPlan {
  KvAppendArgs args;
  int row_bytes;  ///< of codes
};

/// Grid: tokens.
template <class T, class Code>
__global__ void __launch_bounds__(kAppendThreads)
    QuantizedAppend(const __grid_constant__ AppendPlan plan) {
  const KvAppendArgs& args = plan.args;
  const int64_t token = blockIdx.x;
  const int position = args.positions[token];
  if (position < 0) return;
  const int64_t table = static_cast<int64_t>(args.sequences[token]) * args.table_stride;
  const int64_t block = args.tables[table + position / kBlockTokens];
  const int at = position % kBlockTokens;
  std::byte* const base = args.kv.pool + block * args.kv.block_stride;
  const RowLanes lanes(plan.row_bytes, kChunkBytes<Code>, args.head_dim);
  const int warp = threadIdx.x / kWarpThreads, rows = 2 * args.kv_heads;
  for (int first = warp * lanes.rows; first < rows;
       first += kAppendThreads / kWarpThreads * lanes.rows) {
    const int row = min(first + lanes.row, rows - 1);
    const bool is_value = row >= args.kv_heads;
    const int head = is_value ? row - args.kv_heads : row;
    std::byte* const to = base + (is_value ? args.kv.values_offset : args.kv.keys_offset) +
                          head * args.kv.head_stride;
    QuantizeRow<T, Code>(
        lanes,
        {static_cast<const T*>(is_value ? args.values : args.keys) + token * args.token_stride +
             static_cast<int64_t>(head) * args.head_dim,
         to + at * args.kv.row_stride, reinterpret_cast<Half*>(to + args.kv.scales_offset) + at,
         first + lanes.row < rows});
  }
}

/// What a thread works with, made of KvGeometry on the host.
struct QuantizePlan {
  BlockQuantizeArgs args;
  int64_t head_bytes;  ///< of a quantised head
  int row_bytes;       ///< of codes
  int heads;           ///< of both halves of all layers
};

/// Row i of all, plain and quantised.
template <class T>
__device__ __forceinline__ RowPlace<T> PlaceOf(const QuantizePlan& plan, int64_t row,
                                               int64_t rows) {
  const bool wanted = row < rows;
  const int64_t at = wanted ? row : rows - 1;
  const int64_t head = at / kBlockTokens, pair = head / plan.heads;
  const int64_t head_of_block = head % plan.heads;
  const int token = static_cast<int>(at % kBlockTokens);
  const int64_t head_dim = plan.args.geometry.head_dim;
  std::byte* const quantized =
      plan.args.pool + plan.args.blocks[pair] * plan.args.stride + head_of_block * plan.head_bytes;
  return {reinterpret_cast<const T*>(plan.args.plain_pool +
                                     plan.args.plain_blocks[pair] * plan.args.plain_stride) +
              (head_of_block * kBlockTokens + token) * head_dim,
          quantized + token * plan.row_bytes,
          reinterpret_cast<Half*>(quantized + kBlockTokens * plan.row_bytes) + token, wanted};
}

/// Calls `work` for each row of all blocks, by all lanes of a warp.
template <class T, class Code, class Work>
__device__ __forceinline__ void ForEachRow(const QuantizePlan& plan, Work work) {
  const RowLanes lanes(plan.row_bytes, kChunkBytes<Code>, plan.args.geometry.head_dim);
  const int64_t rows = static_cast<int64_t>(plan.args.count) * plan.heads * kBlockTokens;
  constexpr int kWarps = kBlockThreads / kWarpThreads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps * lanes.rows;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpThreads;
  for (int64_t first = warp * lanes.rows; first < rows; first += step) {
    work(lanes, PlaceOf<T>(plan, first + lanes.row, rows));
  }
}

template <class T, class Code>
__global__ void __launch_bounds__(kBlockThreads)
    BlockQuantize(const __grid_constant__ QuantizePlan plan) {
  ForEachRow<T, Code>(plan, [](const RowLanes& lanes, const RowPlace<T>& place) {
    QuantizeRow<T, Code>(lanes, place);
  });
}

template <class T, class Code>
__global__ void __launch_bounds__(kBlockThreads)
    BlockDequantize(const __grid_constant__ QuantizePlan plan) {
  ForEachRow<T, Code>(plan, [](const RowLanes& lanes, const RowPlace<T>& place) {
    if (!lanes.filled || !place.wanted) return;
    uint32_t words[kWords<Code>];
    LoadCodes8<Code>(place.to + kChunkBytes<Code> * lanes.chunk, words);
    float x[8];
    Code::Decode8(words, x);
    const float scale = ToFloat(*place.scale);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= scale;
    simt::Store16(const_cast<T*>(place.from) + 8 * lanes.chunk, simt::Pack8<T>(x));
  });
}

CudaError LaunchBlocks(const BlockQuantizeArgs& args, bool quantize, CudaStream stream) {
  const KvGeometry& geometry = args.geometry;
  if (args.count == 0) return CudaError::kSuccess;
  if (args.count < 0 || args.max_thread_blocks <= 0 || geometry.layers <= 0 ||
      geometry.kv_heads <= 0 || geometry.head_dim <= 0 || geometry.head_dim > kMaxHeadDim ||
      geometry.head_dim % 8 != 0 || geometry.block_tokens != kBlockTokens ||
      (args.plain_stride | args.stride) % 16 != 0) {
    return CudaError::kInvalidValue;
  }
  const QuantizePlan plan{args, static_cast<int64_t>(geometry.head_bytes()),
                          static_cast<int>(geometry.row_bytes()),
                          2 * geometry.layers * geometry.kv_heads};
  const int64_t warps = static_cast<int64_t>(args.count) * plan.heads;
  const int64_t blocks = (warps - 1) / (kBlockThreads / kWarpThreads) + 1;
  const LaunchShape shape{.grid = {static_cast<uint32_t>(
                              blocks < args.max_thread_blocks ? blocks : args.max_thread_blocks)},
                          .block = {kBlockThreads}};
  return WithCode(geometry.dtype, [&](auto code) {
    using Code = decltype(code);
    return WithNumberType(args.type, [&](auto number) {
      using T = decltype(number);
      return simt::Launch(quantize ? BlockQuantize<T, Code> : BlockDequantize<T, Code>, shape,
                          stream, plan);
    });
  });
}

}  // namespace

CudaError LaunchQuantizedAppend(const KvAppendArgs& args, KvDtype dtype, CudaStream stream) {
  if (args.tokens == 0) return CudaError::kSuccess;
  if (args.tokens < 0 || args.kv_heads <= 0 || args.head_dim <= 0 || args.head_dim > kMaxHeadDim ||
      args.head_dim % 8 != 0 || args.token_stride % 8 != 0 || !IsAligned(args.kv)) {
    return CudaError::kInvalidValue;
  }
  const AppendPlan plan{args, static_cast<int>(KvRowBytes(dtype, args.head_dim))};
  const LaunchShape shape{.grid = {static_cast<uint32_t>(args.tokens)}, .block = {kAppendThreads}};
  return WithCode(dtype, [&](auto code) {
    using Code = decltype(code);
    return WithNumberType(args.type, [&](auto number) {
      return simt::Launch(QuantizedAppend<decltype(number), Code>, shape, stream, plan);
    });
  });
}

CudaError LaunchBlockQuantize(const BlockQuantizeArgs& args, CudaStream stream) {
  return LaunchBlocks(args, true, stream);
}

CudaError LaunchBlockDequantize(const BlockQuantizeArgs& args, CudaStream stream) {
  return LaunchBlocks(args, false, stream);
}

}  // namespace thermocline
