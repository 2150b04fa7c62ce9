// Prefill attention without tensor cores, for head dimensions that they do not fit: a warp has one
// query head of one token. A row of K or V lies in the registers of as many lanes as it has 16-byte
// chunks (rounded up to a power of two); the warp's groups of lanes take neighbouring tokens, each
// with its own running maximum and sum, and are merged at the end.
#include "kernels/prefill_attention.cuh"
#include "kernels/quant_codes.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kMaxHeadDim = 256;

/// Rows of numbers, which the warps of a thread block read one behind the other.
template <class T>
struct PlainRows {
  __device__ __forceinline__ static void Load8(const PagedKv& kv, const std::byte* head, int row,
                                               int chunk, float (&x)[8]) {
    simt::Unpack8<T>(simt::Load16(head + row * kv.row_stride + 16 * chunk), x);
  }
};

/// Grid: fresh tokens, query heads by fours, sequences.
template <class T, class Rows>
__global__ void __launch_bounds__(kThreads)
    PrefillByRows(const __grid_constant__ PrefillAttentionArgs args) {
  const int lane = threadIdx.x % kWarpThreads;
  const int head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / kWarpThreads);
  const FreshTokens fresh = FreshOf(args, blockIdx.z);
  const int fresh_token = blockIdx.x;
  if (fresh_token >= fresh.count || head >= args.heads) return;
  int row_lanes = 1;
  while (8 * row_lanes < args.head_dim) row_lanes *= 2;
  const int tokens_at_once = kWarpThreads / row_lanes, chunk = lane % row_lanes;
  const bool has_chunk = 8 * chunk < args.head_dim;
  const int64_t row = fresh.start + fresh_token;
  const int position = fresh.position + fresh_token;
  const int32_t* const table = args.tables + static_cast<int64_t>(blockIdx.z) * args.table_stride;
  const std::byte* const kv =
      args.kv.pool + head / (args.heads / args.kv_heads) * args.kv.head_stride;

  float query[8] = {};
  if (has_chunk) {
    const T* const q = static_cast<const T*>(args.q) + row * args.q_stride + head * args.head_dim;
    simt::Unpack8<T>(simt::LoadOnce16(q + 8 * chunk), query);
  }
  RowState state = {{}, -INFINITY, 0};
  for (int base = FirstAttended(args, position); base <= position; base += tokens_at_once) {
    const int mine = base + lane / row_lanes;
    const int token = min(mine, position);
    RowState fresh_state = {{}, -INFINITY, 0};
    float key[8] = {};
    if (has_chunk) {
      const std::byte* const block = kv + table[token / kBlockTokens] * args.kv.block_stride;
      const int row_of_block = token % kBlockTokens;
      Rows::Load8(args.kv, block + args.kv.keys_offset, row_of_block, chunk, key);
      Rows::Load8(args.kv, block + args.kv.values_offset, row_of_block, chunk, fresh_state.out);
    }
    const float product = RowProduct(query, key, row_lanes);
    if (mine <= position) {
      fresh_state.largest = Score(args, product);
      fresh_state.sum = 1;
      Merge(state, fresh_state);
    }
  }
  MergeGroups(state, row_lanes);
  if (lane >= row_lanes || !has_chunk) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) state.out[i] /= state.sum;
  simt::Store16(
      static_cast<T*>(args.out) + row * args.out_stride + head * args.head_dim + 8 * chunk,
      simt::Pack8<T>(state.out));
}

}  // namespace

CudaError LaunchPrefillByRows(const PrefillAttentionArgs& args, CudaStream stream) {
  if (args.head_dim <= 0 || args.head_dim > kMaxHeadDim || args.head_dim % 8 != 0) {
    return CudaError::kInvalidValue;
  }
  const LaunchShape shape{.grid = {static_cast<uint32_t>(args.longest_chunk),
                                   static_cast<uint32_t>((args.heads - 1) / kWarps + 1),
                                   static_cast<uint32_t>(args.sequences)},
                          .block = {kThreads}};
  if (IsQuantized(args.kv_dtype)) {
    return WithCode(args.kv_dtype, [&](auto code) {
      return simt::Launch(PrefillByRows<Half, CodeRows<decltype(code)>>, shape, stream, args);
    });
  }
  return WithNumberType(args.type, [&](auto number) {
    using T = decltype(number);
    return simt::Launch(PrefillByRows<T, PlainRows<T>>, shape, stream, args);
  });
}

}  // namespace thermocline
