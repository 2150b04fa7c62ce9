// A thread block has 128 rows of queries of one sequence and one KV head (64 of the widest heads):
// neighbouring tokens, and beside each other the query heads of the group, so that few tokens fill
// the tensor cores as well as many. Each of its four warps owns 32 (16) of the rows and walks all
// tokens with them, from the first that any row's window reaches to the last row's own, in tiles
// that come by cp.async, one ahead. With two fragments of rows a warp, what it loads from shared
// memory is used twice: with one, shared memory would be twice as busy as the tensor cores.
//   KvTiles is where tiles of 16-bit numbers come from: here as they lie in the pool; of codes,
// prefill_attention_codes.cuh.
#pragma once
#include "kernels/prefill_attention.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;

/// KV of 16-bit numbers; in its place stands one of the codes.
struct PlainNumbers {};

/// The tiles of kTokens tokens that a thread block walks, in shared memory. `tile` counts them.
template <class Kv, int kHeadDim, int kTokens>
struct KvTiles;

template <int kHeadDim, int kTokens>
struct KvTiles<PlainNumbers, kHeadDim, kTokens> {
  static constexpr int kGrain = 1;  ///< what the first token of all is a multiple of
  static constexpr int kBlocks = kHeadDim > 64 ? 2 : 3;  ///< of an SM
  /// Of one step of the softmax: as many as fit the registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr int kStepTokens = kHeadDim == 128 ? 16 : 32;  // ptxas finds one register too few
#else
  static constexpr int kStepTokens = 32;
#endif
  static constexpr int kStages = 2;
  static constexpr int kCopiesAtOnce = kHeadDim > 80 ? 4 : 64;
  static constexpr int kTileNumbers = kTokens * kRowNumbers<kHeadDim>;  ///< of keys, or of values
  static constexpr size_t kBytes = kStages * 2 * kTileNumbers * sizeof(uint16_t);

  __device__ __forceinline__ static void Fetch(const PrefillAttentionArgs& args,
                                               const int32_t* table, int first, int end,
                                               uint16_t* tile) {
    FetchTile<kHeadDim, kTokens, kThreads, kCopiesAtOnce>(args.kv, table, first, end, blockIdx.y,
                                                          tile);
  }
  /// Make(memory, begin, end) makes numbers of the tile that has landed for all, before the next is
  /// fetched. Of its tokens, [begin, end) are attended.
  template <class T>
  __device__ __forceinline__ static void Make(uint16_t*, int, int) {}
  /// Where a tile lies: keys, and kTileNumbers behind them values.
  __device__ __forceinline__ static int TileAt(int tile) {
    return tile % kStages * 2 * kTileNumbers;
  }
  /// Scaled(memory, token, product): what a product with one of the keys stands for.
  __device__ __forceinline__ static float Scaled(const uint16_t*, int, float product) {
    return product;
  }
};

template <class Kv, int kHeadDim>
struct Tiles {
  /// Fragments of 16 rows that a warp owns: what it loads of keys and values serves all of them.
  static constexpr int kFragments = kHeadDim > 128 ? 1 : 2;
  static constexpr int kRows = kThreads / kWarpThreads * kFragments * kFragmentRows;
  static constexpr int kTokens = kHeadDim > 128 ? 32 : 64;  ///< of a tile
  using Source = KvTiles<Kv, kHeadDim, kTokens>;
  static constexpr int kQueryNumbers = kRows * kRowNumbers<kHeadDim>;  ///< before the tiles
  static constexpr size_t kSharedBytes = kQueryNumbers * sizeof(uint16_t) + Source::kBytes;
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

/// The warp's rows of queries, into its part of shared memory; those that do not exist are zero.
template <int kHeadDim, int kFragments>
__device__ __forceinline__ void FetchQueries(const PrefillAttentionArgs& args,
                                             const FreshTokens& fresh, const QueryRows& rows,
                                             int warp_row, uint16_t* part) {
  constexpr int kChunks = kHeadDim / 8;
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll 4
  for (int i = lane; i < kFragments * kFragmentRows * kChunks; i += kWarpThreads) {
    const int row = warp_row + i / kChunks, chunk = i % kChunks;
    const bool wanted = row < rows.count;
    const uint16_t* const q = static_cast<const uint16_t*>(args.q) +
                              RowAt(args, fresh, rows, wanted ? row : 0, args.q_stride);
    simt::CopyAsync16(part + i / kChunks * kRowNumbers<kHeadDim> + 8 * chunk, q + 8 * chunk,
                      wanted);
  }
}

/// Writes the warp's rows, by way of its part of shared memory, so that whole sectors are written.
template <class T, int kHeadDim, int kFragments>
__device__ __forceinline__ void StoreRows(const PrefillAttentionArgs& args,
                                          const FreshTokens& fresh, const QueryRows& rows,
                                          int warp_row,
                                          const WarpState<kHeadDim> (&states)[kFragments],
                                          uint16_t* part) {
  constexpr int kRow = kRowNumbers<kHeadDim>, kChunks = kHeadDim / 8;
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
    const WarpState<kHeadDim>& state = states[f];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[half];
      sum += __shfl_xor_sync(kWholeWarp, sum, 1);
      sum += __shfl_xor_sync(kWholeWarp, sum, 2);
      const float weight = sum == 0 ? 0 : 1.0f / sum;
      uint16_t* const row = part + (f * kFragmentRows + lane / 4 + 8 * half) * kRow + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(row + 8 * n) =
            simt::Pack2<T>(state.out[n][2 * half] * weight, state.out[n][2 * half + 1] * weight);
      }
    }
  }
  __syncwarp();
  for (int i = lane; i < kFragments * kFragmentRows * kChunks; i += kWarpThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    if (warp_row + row >= rows.count) break;
    simt::Store16(static_cast<T*>(args.out) +
                      RowAt(args, fresh, rows, warp_row + row, args.out_stride) + 8 * chunk,
                  simt::Load16(part + row * kRow + 8 * chunk));
  }
}

/// Grid: tiles of rows, KV heads, sequences.
template <class T, int kHeadDim, class Kv>
__global__ void __launch_bounds__(kThreads, (Tiles<Kv, kHeadDim>::Source::kBlocks))
    PrefillAttention(const __grid_constant__ PrefillAttentionArgs args) {
  using Shared = Tiles<Kv, kHeadDim>;
  using Source = typename Shared::Source;
  constexpr int kFragments = Shared::kFragments, kRows = Shared::kRows;
  TC_DYNAMIC_SHARED(raw);
  uint16_t* const memory = reinterpret_cast<uint16_t*>(raw) + Shared::kQueryNumbers;
  const FreshTokens fresh = FreshOf(args, blockIdx.z);
  const int group = args.heads / args.kv_heads;
  // The last rows, which have most to read, begin first.
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const QueryRows rows = {first_row, min(kRows, fresh.count * group - first_row), group};
  if (rows.count <= 0) return;
  const int32_t* const table = args.tables + static_cast<int64_t>(blockIdx.z) * args.table_stride;
  const int first = FirstAttended(args, fresh.position + rows.token(0));
  const int begin = first / Source::kGrain * Source::kGrain;
  const int end = fresh.position + rows.token(rows.count - 1) + 1;
  const int tiles = (end - begin - 1) / Shared::kTokens + 1;
  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      Source::Fetch(args, table, begin + tile * Shared::kTokens, end,
                    memory + Source::TileAt(tile));
    }
    simt::CopyAsyncCommit();
  };
  const int lane = threadIdx.x % kWarpThreads;
  const int warp_row = threadIdx.x / kWarpThreads * kFragments * kFragmentRows;
  uint16_t* const queries = reinterpret_cast<uint16_t*>(raw) + warp_row * kRowNumbers<kHeadDim>;
  FetchQueries<kHeadDim, kFragments>(args, fresh, rows, warp_row, queries);
  fetch(0);

  // What every row of the warp attends needs no look at the single rows.
  const int warp_position = fresh.position + rows.token(warp_row);
  const int all_from =
      FirstAttended(args, fresh.position + rows.token(warp_row + kFragments * kFragmentRows - 1));
  const float unit = ScoreUnit(args);
  const uint16_t* const query_row = queries + lane % 16 * kRowNumbers<kHeadDim> + lane / 16 * 8;
  const auto load_queries = [&](int k, uint32_t(&a)[kFragments][4]) {
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      simt::LoadMatrices(a[f], query_row + f * kFragmentRows * kRowNumbers<kHeadDim> + 16 * k);
    }
  };
  WarpState<kHeadDim> states[kFragments];
#pragma unroll
  for (int f = 0; f < kFragments; ++f) states[f] = {{}, {-INFINITY, -INFINITY}, {0, 0}};
  for (int tile = 0; tile < tiles; ++tile) {
    simt::CopyAsyncWait<0>();
    __syncthreads();  // the tile has landed for all, and all are done with the stage to fill next
    const int before = begin + tile * Shared::kTokens;
    Source::template Make<T>(memory, first - before, end - before);
    fetch(tile + 1);
    const uint16_t* const keys = memory + Source::TileAt(tile);
#pragma unroll 1
    for (int step = 0; step < Shared::kTokens; step += Source::kStepTokens) {
      const int token = begin + tile * Shared::kTokens + step;
      const uint16_t* const step_keys = keys + step * kRowNumbers<kHeadDim>;
      const auto attend = [&](auto capped) {
        AttendTokens<T, kHeadDim, Source::kStepTokens, kFragments>(
            load_queries, step_keys, step_keys + Source::kTileNumbers, unit, capped, states);
      };
      const auto score = [&](int at, float product) {
        return Capped(args, Source::Scaled(memory, step + at, product));
      };
      if (token >= all_from && token + Source::kStepTokens <= warp_position + 1) {
        attend([&](int, int, int at, float product) { return score(at, product); });
        continue;
      }
      attend([&](int f, int half, int at, float product) {
        const int row = warp_row + f * kFragmentRows + lane / 4 + 8 * half;
        const int position = fresh.position + rows.token(row);
        const bool attended = row < rows.count && token + at <= position &&
                              token + at >= FirstAttended(args, position);
        return attended ? score(at, product) : -INFINITY;
      });
    }
  }
  __syncwarp();  // the warp is done with its queries
  StoreRows<T, kHeadDim, kFragments>(args, fresh, rows, warp_row, states, queries);
  simt::CopyAsyncWait<0>();
}

template <class T, int kHeadDim, class Kv>
CudaError LaunchTiles(const PrefillAttentionArgs& args, CudaStream stream) {
  const int64_t rows = int64_t{args.longest_chunk} * (args.heads / args.kv_heads);
  const LaunchShape shape{
      .grid = {static_cast<uint32_t>((rows - 1) / Tiles<Kv, kHeadDim>::kRows + 1),
               static_cast<uint32_t>(args.kv_heads), static_cast<uint32_t>(args.sequences)},
      .block = {kThreads},
      .shared_bytes = Tiles<Kv, kHeadDim>::kSharedBytes};
  if (shape.shared_bytes > simt::MostSharedBytes()) return LaunchPrefillByRows(args, stream);
  return simt::Launch(PrefillAttention<T, kHeadDim, Kv>, shape, stream, args);
}

/// By the head dimensions that have tiles.
template <class T, class Kv>
CudaError LaunchOfHeadDim(const PrefillAttentionArgs& args, CudaStream stream) {
  switch (args.head_dim) {
    case 64:
      return LaunchTiles<T, 64, Kv>(args, stream);
    case 80:
      return LaunchTiles<T, 80, Kv>(args, stream);
    case 96:
      return LaunchTiles<T, 96, Kv>(args, stream);
    case 128:
      return LaunchTiles<T, 128, Kv>(args, stream);
    case 256:
      return LaunchTiles<T, 256, Kv>(args, stream);
  }
  return LaunchPrefillByRows(args, stream);
}

}  // namespace
}  // namespace thermocline
