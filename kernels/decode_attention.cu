// A thread block attends one split of one sequence for all query heads of one KV head: they are the
// rows of the tensor cores' A operand, up to 16. Tiles of 64 tokens come by cp.async into a ring of
// stages; each of the four warps takes 16 of a tile's tokens, with its own running maximum and sum
// (online softmax), and the warps' states are merged at the end.
#include "kernels/decode_attention.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = kDecodeThreads;
constexpr int kWarps = kDecodeWarps;
constexpr int kTileTokens = 64;
constexpr int kRows = kFragmentRows;  ///< query heads, and tokens of a warp's part

template <int kHeadDim>
struct Tiles {
  static constexpr int kTileNumbers = kTileTokens * kRowNumbers<kHeadDim>;
  static constexpr int kStages = kHeadDim > 128 ? 2 : 3;
  static constexpr int kCopiesAtOnce = kHeadDim > 128 ? 4 : 64;  ///< more would spill
  /// Of the final states, so that the fragments' rows begin 8 banks apart.
  static constexpr int kStateRow = kHeadDim + (40 - kHeadDim % 32) % 32;
  static constexpr int kStateFloats = kWarps * kRows * (kStateRow + 2);
  static constexpr size_t kPipelineBytes = size_t{kStages} * 2 * kTileNumbers * sizeof(uint16_t);
  static constexpr size_t kSharedBytes = kPipelineBytes > kStateFloats * sizeof(float)
                                             ? kPipelineBytes
                                             : kStateFloats * sizeof(float);
};

/// Query rows as fragments of operand A; rows beyond the group are zero.
template <int kHeadDim>
__device__ __forceinline__ void LoadQueries(const uint16_t* q, int group,
                                            uint32_t (&fragments)[kHeadDim / 16][4]) {
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8, column = 16 * k + lane % 4 * 2 + i / 2 * 8;
      fragments[k][i] =
          row < group ? *reinterpret_cast<const uint32_t*>(q + row * kHeadDim + column) : 0;
    }
  }
}

/// Leaves the warp's state in shared memory as MergeWarps takes it.
template <int kHeadDim>
__device__ __forceinline__ void KeepState(const WarpState<kHeadDim>& state, float unit,
                                          float* states) {
  using Shared = Tiles<kHeadDim>;
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  float* const sums = states + kWarps * kRows * Shared::kStateRow;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    const int row = warp * kRows + lane / 4 + 8 * half;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      simt::Store8(states + row * Shared::kStateRow + 8 * n + lane % 4 * 2,
                   make_float2(state.out[n][2 * half], state.out[n][2 * half + 1]));
    }
    if (lane % 4 == 0) simt::Store8(sums + 2 * row, make_float2(state.largest[half] * unit, sum));
  }
}

/// Grid: splits, KV heads, sequences.
template <class T, int kHeadDim, bool kCapped>
__global__ void __launch_bounds__(kThreads)
    DecodeAttention(const __grid_constant__ DecodeAttentionArgs args) {
  using Shared = Tiles<kHeadDim>;
  TC_DYNAMIC_SHARED(raw);
  uint16_t* const ring = reinterpret_cast<uint16_t*>(raw);
  const int kv_head = blockIdx.y, group = args.heads / args.kv_heads;
  const int64_t sequence = blockIdx.z;
  const int32_t* const table = args.tables + sequence * args.table_stride;
  const Span span = SpanOf(args, blockIdx.x, args.lengths[sequence]);
  const int tiles = span.end > span.begin ? (span.end - span.begin - 1) / kTileTokens + 1 : 0;
  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      FetchTile<kHeadDim, kTileTokens, kThreads, Shared::kCopiesAtOnce>(
          args.kv, table, span.begin + tile * kTileTokens, span.end, kv_head,
          ring + tile % Shared::kStages * 2 * Shared::kTileNumbers);
    }
    simt::CopyAsyncCommit();
  };
#pragma unroll
  for (int stage = 0; stage < Shared::kStages - 1; ++stage) fetch(stage);

  uint32_t queries[kHeadDim / 16][4];
  LoadQueries<kHeadDim>(
      static_cast<const uint16_t*>(args.q) + (sequence * args.heads + kv_head * group) * kHeadDim,
      group, queries);
  const auto load_queries = [&](int k, uint32_t(&a)[1][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[0][i] = queries[k][i];
  };
  const float unit = ScoreUnit<kCapped>(args);
  WarpState<kHeadDim> state[1] = {{{}, {-INFINITY, -INFINITY}, {0, 0}}};
  const int warp_token = threadIdx.x / kWarpThreads * kRows;
  for (int tile = 0; tile < tiles; ++tile) {
    simt::CopyAsyncWait<Shared::kStages - 2>();
    __syncthreads();  // the tile has landed for all, and all are done with the stage to fill next
    fetch(tile + Shared::kStages - 1);
    const uint16_t* const keys = ring + tile % Shared::kStages * 2 * Shared::kTileNumbers +
                                 warp_token * kRowNumbers<kHeadDim>;
    const int first = span.begin + tile * kTileTokens + warp_token;
    const auto capped = [&](int, int, int at, float product) {
      const int token = first + at;
      return token < span.end ? Capped<kCapped>(args, product) : -INFINITY;
    };
    AttendTokens<T, kHeadDim, kRows, 1>(load_queries, keys, keys + Shared::kTileNumbers, unit,
                                        capped, state);
  }
  simt::CopyAsyncWait<0>();
  __syncthreads();
  float* const states = reinterpret_cast<float*>(raw);
  KeepState<kHeadDim>(state[0], unit, states);
  __syncthreads();
  MergeWarps<T, kHeadDim, Shared::kStateRow>(args, states);
}

/// Grid: heads, sequences; a thread for each number of the head.
template <class T>
__global__ void __launch_bounds__(256)
    MergeSplits(const __grid_constant__ DecodeAttentionArgs args) {
  const int64_t head = static_cast<int64_t>(blockIdx.y) * args.heads + blockIdx.x;
  const int d = threadIdx.x;
  if (d >= args.head_dim) return;
  const float* const parts = args.workspace + head * args.splits * args.head_dim;
  const float* const sums =
      args.workspace +
      static_cast<int64_t>(args.sequences) * args.heads * args.splits * args.head_dim +
      2 * head * args.splits;
  float largest = -INFINITY, out = 0, sum = 0;
  for (int split = 0; split < args.splits; ++split) {
    const float other = sums[2 * split];
    if (sums[2 * split + 1] == 0) continue;
    const float now = fmaxf(largest, other);
    const float kept = simt::Exp2(largest - now), weight = simt::Exp2(other - now);
    out = out * kept + parts[split * args.head_dim + d] * weight;
    sum = sum * kept + sums[2 * split + 1] * weight;
    largest = now;
  }
  static_cast<T*>(args.out)[head * args.head_dim + d] = FromFloat<T>(sum == 0 ? 0 : out / sum);
}

template <class T, int kHeadDim>
CudaError LaunchAttention(const DecodeAttentionArgs& args, CudaStream stream) {
  const LaunchShape shape{
      .grid = {static_cast<uint32_t>(args.splits), static_cast<uint32_t>(args.kv_heads),
               static_cast<uint32_t>(args.sequences)},
      .block = {kThreads},
      .shared_bytes = Tiles<kHeadDim>::kSharedBytes};
  if (shape.shared_bytes > simt::MostSharedBytes()) return LaunchDecodeByRows(args, stream);
  return simt::Launch(
      args.softcap > 0 ? DecodeAttention<T, kHeadDim, true> : DecodeAttention<T, kHeadDim, false>,
      shape, stream, args);
}

/// Of shared memory, over 16-bit KV; 0: there are none for this head dim.
size_t BytesOfTiles(int head_dim) {
  switch (head_dim) {
    case 64:
      return Tiles<64>::kSharedBytes;
    case 80:
      return Tiles<80>::kSharedBytes;
    case 96:
      return Tiles<96>::kSharedBytes;
    case 128:
      return Tiles<128>::kSharedBytes;
    case 256:
      return Tiles<256>::kSharedBytes;
  }
  return 0;
}

template <class T>
CudaError LaunchOfHeadDim(const DecodeAttentionArgs& args, CudaStream stream) {
  switch (args.head_dim) {
    case 64:
      return LaunchAttention<T, 64>(args, stream);
    case 80:
      return LaunchAttention<T, 80>(args, stream);
    case 96:
      return LaunchAttention<T, 96>(args, stream);
    case 128:
      return LaunchAttention<T, 128>(args, stream);
    case 256:
      return LaunchAttention<T, 256>(args, stream);
  }
  return LaunchDecodeByRows(args, stream);
}

CudaError LaunchOfCode(const DecodeAttentionArgs& args, CudaStream stream) {
  switch (args.kv_dtype) {
    case KvDtype::kInt8:
      return LaunchDecodeInt8(args, stream);
    case KvDtype::kE4m3:
      return LaunchDecodeE4m3(args, stream);
    default:
      return LaunchDecodeInt4(args, stream);
  }
}

template <class T>
CudaError LaunchForm(const DecodeAttentionArgs& args, CudaStream stream) {
  const bool fits = args.heads / args.kv_heads <= kRows;
  if (IsQuantized(args.kv_dtype)) {
    return fits ? LaunchOfCode(args, stream) : LaunchCodesByRows(args, stream);
  }
  return fits ? LaunchOfHeadDim<T>(args, stream) : LaunchDecodeByRows(args, stream);
}

}  // namespace

CudaError LaunchDecodeAttention(const DecodeAttentionArgs& args, CudaStream stream) {
  if (args.sequences == 0) return CudaError::kSuccess;
  if (args.sequences < 0 || args.kv_heads <= 0 || args.heads % args.kv_heads != 0 ||
      args.heads < args.kv_heads || args.splits < 1 || args.split_tokens < 1 ||
      (args.splits > 1 && args.workspace == nullptr) || !IsAligned(args.kv)) {
    return CudaError::kInvalidValue;
  }
  return WithNumberType(args.type, [&](auto number) {
    using T = decltype(number);
    const CudaError error = LaunchForm<T>(args, stream);
    if (error != CudaError::kSuccess || args.splits == 1) return error;
    const uint32_t threads = (args.head_dim + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
    const LaunchShape shape{
        .grid = {static_cast<uint32_t>(args.heads), static_cast<uint32_t>(args.sequences)},
        .block = {threads}};
    return simt::Launch(MergeSplits<T>, shape, stream, args);
  });
}

int DecodeBlocksOfMultiprocessor(int group, int head_dim, KvDtype kv_dtype) {
  const size_t tiles = BytesOfTiles(head_dim);
  if (tiles == 0 || group > kRows) return 8;
  if (IsQuantized(kv_dtype)) return 2;
  return tiles > simt::MostSharedBytes() ? 8 : 1;
}

DecodePlan PlanDecode(int sequences, int kv_heads, int longest_tokens, int resident_blocks) {
  constexpr int kFewTiles = 4;
  constexpr int kMaxSplits = 128;
  const int tiles = longest_tokens > 0 ? (longest_tokens - 1) / kTileTokens + 1 : 1;
  const DecodePlan whole{1, tiles * kTileTokens};
  if (tiles <= kFewTiles || resident_blocks <= 0) return whole;
  const auto efficiency = [&](int splits) {
    const int64_t blocks = int64_t{sequences} * kv_heads * splits;
    const int64_t waves = (blocks + resident_blocks - 1) / resident_blocks;
    return static_cast<double>(blocks) / static_cast<double>(waves * resident_blocks);
  };
  const int most = tiles < kMaxSplits ? tiles : kMaxSplits;
  double best = 0;
  for (int splits = 1; splits <= most; ++splits) best = fmax(best, efficiency(splits));
  int splits = 1;
  while (efficiency(splits) < 0.85 * best) ++splits;
  const int tiles_each = (tiles - 1) / splits + 1;
  return {(tiles - 1) / tiles_each + 1, tiles_each * kTileTokens};
}

}  // namespace thermocline
