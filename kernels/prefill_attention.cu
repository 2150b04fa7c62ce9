// A thread block has 64 rows of queries of one sequence and one KV head: neighbouring tokens, and
// beside each other the query heads of the group, so that few tokens fill the tensor cores as well
// as many. Each of its four warps owns 16 of the rows and walks all tokens with them, from the
// first that any row's window reaches to the last row's own, in tiles that come by cp.async, one
// ahead.
#include "kernels/prefill_attention.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = kThreads / kWarpThreads * kFragmentRows;
constexpr int kStages = 2;

template <int kHeadDim>
struct Tiles {
  /// Of the ring, and of one step of the softmax: as many as fit the registers.
  static constexpr int kTokens = kHeadDim > 128 ? 32 : 64;
  static constexpr int kStepTokens = kHeadDim > 128 ? 16 : 32;
  static constexpr int kCopiesAtOnce = kHeadDim > 128 ? 4 : 64;
  static constexpr int kTileNumbers = kTokens * kRowNumbers<kHeadDim>;
  static constexpr size_t kSharedBytes = size_t{kStages} * 2 * kTileNumbers * sizeof(uint16_t);
  static_assert(kStages * 2 * kTileNumbers >= kRows * kRowNumbers<kHeadDim>);  // for the result
};

/// The rows of a thread block: row r is query head r % group of the KV head's, fresh token r /
/// group.
struct QueryRows {
  int first, count;  ///< of the block; `count` may reach beyond the last
  int group;

  __device__ __forceinline__ int token(int row) const { return (first + row) / group; }
  __device__ __forceinline__ int head(int row) const { return (first + row) % group; }
};

/// Number 0 of a row in q or out.
__device__ __forceinline__ int64_t RowAt(const PrefillAttentionArgs& args, const FreshTokens& fresh,
                                         const QueryRows& rows, int row, int64_t token_stride) {
  return (fresh.start + rows.token(row)) * token_stride +
         (blockIdx.y * rows.group + rows.head(row)) * args.head_dim;
}

/// The warp's rows as fragments of operand A; those that do not exist are zero.
template <int kHeadDim>
__device__ __forceinline__ void LoadQueries(const PrefillAttentionArgs& args,
                                            const FreshTokens& fresh, const QueryRows& rows,
                                            int warp_row, uint32_t (&fragments)[kHeadDim / 16][4]) {
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    const uint16_t* const q =
        static_cast<const uint16_t*>(args.q) + RowAt(args, fresh, rows, row, args.q_stride);
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = 16 * k + lane % 4 * 2 + 8 * i;
        fragments[k][2 * i + half] =
            row < rows.count ? *reinterpret_cast<const uint32_t*>(q + column) : 0;
      }
    }
  }
}

/// Writes the warp's rows, by way of its part of shared memory, so that whole sectors are written.
template <class T, int kHeadDim>
__device__ __forceinline__ void StoreRows(const PrefillAttentionArgs& args,
                                          const FreshTokens& fresh, const QueryRows& rows,
                                          int warp_row, const WarpState<kHeadDim>& state,
                                          uint16_t* part) {
  constexpr int kRow = kRowNumbers<kHeadDim>, kChunks = kHeadDim / 8;
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    const float weight = sum > 0 ? 1.0f / sum : 0;
    uint16_t* const row = part + (lane / 4 + 8 * half) * kRow + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      *reinterpret_cast<uint32_t*>(row + 8 * n) =
          simt::Pack2<T>(state.out[n][2 * half] * weight, state.out[n][2 * half + 1] * weight);
    }
  }
  __syncwarp();
  for (int i = lane; i < kFragmentRows * kChunks; i += kWarpThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    if (warp_row + row >= rows.count) break;
    simt::Store16(static_cast<T*>(args.out) +
                      RowAt(args, fresh, rows, warp_row + row, args.out_stride) + 8 * chunk,
                  simt::Load16(part + row * kRow + 8 * chunk));
  }
}

/// Grid: tiles of rows, KV heads, sequences.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    PrefillAttention(const __grid_constant__ PrefillAttentionArgs args) {
  using Shared = Tiles<kHeadDim>;
  TC_DYNAMIC_SHARED(raw);
  uint16_t* const ring = reinterpret_cast<uint16_t*>(raw);
  const FreshTokens fresh = FreshOf(args, blockIdx.z);
  const int group = args.heads / args.kv_heads;
  // The last rows, which have most to read, begin first.
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const QueryRows rows = {first_row, min(kRows, fresh.count * group - first_row), group};
  if (rows.count <= 0) return;
  const int32_t* const table = args.tables + static_cast<int64_t>(blockIdx.z) * args.table_stride;
  const int begin = FirstAttended(args, fresh.position + rows.token(0));
  const int end = fresh.position + rows.token(rows.count - 1) + 1;
  const int tiles = (end - begin - 1) / Shared::kTokens + 1;
  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      FetchTile<kHeadDim, Shared::kTokens, kThreads, Shared::kCopiesAtOnce>(
          args.kv, table, begin + tile * Shared::kTokens, end, blockIdx.y,
          ring + tile % kStages * 2 * Shared::kTileNumbers);
    }
    simt::CopyAsyncCommit();
  };
  fetch(0);

  const int warp_row = threadIdx.x / kWarpThreads * kFragmentRows;
  uint32_t queries[kHeadDim / 16][4];
  LoadQueries<kHeadDim>(args, fresh, rows, warp_row, queries);
  int first[2], attended[2];  // tokens of the lane's two rows
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + threadIdx.x % kWarpThreads / 4 + 8 * half;
    const int position = fresh.position + rows.token(row);
    first[half] = FirstAttended(args, position);
    attended[half] = row < rows.count ? position + 1 - first[half] : 0;
  }
  WarpState<kHeadDim> state = {{}, {-INFINITY, -INFINITY}, {0, 0}};
  for (int tile = 0; tile < tiles; ++tile) {
    simt::CopyAsyncWait<0>();
    __syncthreads();  // the tile has landed for all, and all are done with the stage to fill next
    fetch(tile + 1);
    const uint16_t* const keys = ring + tile % kStages * 2 * Shared::kTileNumbers;
#pragma unroll 1
    for (int step = 0; step < Shared::kTokens; step += Shared::kStepTokens) {
      const int token = begin + tile * Shared::kTokens + step;
      const auto exponent = [&](int half, int at, float product) {
        const auto of_row = static_cast<uint32_t>(token + at - first[half]);
        return of_row < static_cast<uint32_t>(attended[half]) ? Score(args, product) : -INFINITY;
      };
      const uint16_t* const step_keys = keys + step * kRowNumbers<kHeadDim>;
      AttendTokens<T, kHeadDim, Shared::kStepTokens>(
          queries, step_keys, step_keys + Shared::kTileNumbers, exponent, state);
    }
  }
  __syncthreads();  // all are done with the ring
  StoreRows<T, kHeadDim>(args, fresh, rows, warp_row, state,
                         ring + warp_row * kRowNumbers<kHeadDim>);
  simt::CopyAsyncWait<0>();
}

template <class T, int kHeadDim>
CudaError LaunchTiles(const PrefillAttentionArgs& args, CudaStream stream) {
  const int64_t rows = int64_t{args.longest_chunk} * (args.heads / args.kv_heads);
  const LaunchShape shape{
      .grid = {static_cast<uint32_t>((rows - 1) / kRows + 1), static_cast<uint32_t>(args.kv_heads),
               static_cast<uint32_t>(args.sequences)},
      .block = {kThreads},
      .shared_bytes = Tiles<kHeadDim>::kSharedBytes};
  return simt::Launch(PrefillAttention<T, kHeadDim>, shape, stream, args);
}

}  // namespace

CudaError LaunchPrefillAttention(const PrefillAttentionArgs& args, CudaStream stream) {
  if (args.sequences == 0 || args.longest_chunk == 0) return CudaError::kSuccess;
  if (args.sequences < 0 || args.longest_chunk < 0 || args.kv_heads <= 0 ||
      args.heads < args.kv_heads || args.heads % args.kv_heads != 0 || args.q_stride % 8 != 0 ||
      args.out_stride % 8 != 0 || !IsAligned(args.kv)) {
    return CudaError::kInvalidValue;
  }
  return WithNumberType(args.type, [&](auto number) {
    using T = decltype(number);
    switch (args.head_dim) {
      case 64:
        return LaunchTiles<T, 64>(args, stream);
      case 80:
        return LaunchTiles<T, 80>(args, stream);
      case 96:
        return LaunchTiles<T, 96>(args, stream);
      case 128:
        return LaunchTiles<T, 128>(args, stream);
      case 256:
        return LaunchTiles<T, 256>(args, stream);
    }
    return LaunchPrefillByRows(args, stream);
  });
}

}  // namespace thermocline
