// Decode attention without tensor cores, for head dimensions that they do not fit: a thread block
// attends one split for one query head. A row of K or V lies in the registers of as many lanes as
// it has chunks of eight numbers (rounded up to a power of two); the groups of lanes of all warps
// take neighbouring tokens, each with its own running maximum and sum, and are merged at the end.
#pragma once
#include "kernels/decode_attention.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kMaxHeadDim = 256;

/// Rows::Load8(kv, head, row, chunk, x): eight numbers of a row of the block's head.
/// Grid: splits, query heads, sequences.
template <class T, class Rows>
__global__ void __launch_bounds__(kThreads)
    DecodeByRows(const __grid_constant__ DecodeAttentionArgs args) {
  TC_SHARED(float, outs, kWarps* kMaxHeadDim);
  TC_SHARED(float, sums, kWarps * 2);
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  int row_lanes = 1;
  while (8 * row_lanes < args.head_dim) row_lanes *= 2;
  const int rows = kWarpThreads / row_lanes, chunk = lane % row_lanes;
  const bool has_chunk = 8 * chunk < args.head_dim;
  const int64_t sequence = blockIdx.z;
  const int64_t head = sequence * args.heads + blockIdx.y;
  const int kv_head = blockIdx.y / (args.heads / args.kv_heads);
  const int32_t* const table = args.tables + sequence * args.table_stride;
  const Span span = SpanOf(args, blockIdx.x, args.lengths[sequence]);

  float query[8] = {};
  if (has_chunk) {
    simt::Unpack8<T>(
        simt::LoadOnce16(static_cast<const T*>(args.q) + head * args.head_dim + 8 * chunk), query);
  }
  RowState state = {{}, -INFINITY, 0};
  for (int base = span.begin; base < span.end; base += kWarps * rows) {
    const int mine = base + warp * rows + lane / row_lanes;
    const int token = min(mine, span.end - 1);
    RowState fresh = {{}, -INFINITY, 0};
    float key[8] = {};
    if (has_chunk) {
      const std::byte* const block = args.kv.pool +
                                     table[token / kBlockTokens] * args.kv.block_stride +
                                     kv_head * args.kv.head_stride;
      const int row = token % kBlockTokens;
      Rows::Load8(args.kv, block + args.kv.keys_offset, row, chunk, key);
      Rows::Load8(args.kv, block + args.kv.values_offset, row, chunk, fresh.out);
    }
    const float product = RowProduct(query, key, row_lanes);
    if (mine < span.end) {
      fresh.largest = Score(args, product);
      fresh.sum = 1;
      Merge(state, fresh);
    }
  }
  MergeGroups(state, row_lanes);
  if (lane < row_lanes && has_chunk) {
    for (int i = 0; i < 8; ++i) outs[warp * kMaxHeadDim + 8 * chunk + i] = state.out[i];
  }
  if (lane == 0) {
    sums[2 * warp] = state.largest;
    sums[2 * warp + 1] = state.sum;
  }
  __syncthreads();
  for (int d = threadIdx.x; d < args.head_dim; d += kThreads) {
    float largest = -INFINITY, out = 0, sum = 0;
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, sums[2 * w]);
    const float base = largest == -INFINITY ? 0 : largest;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = simt::Exp2(sums[2 * w] - base);
      out += weight * outs[w * kMaxHeadDim + d];
      sum += weight * sums[2 * w + 1];
    }
    StoreResult<T>(args, head, blockIdx.x, d, out, largest, sum);
  }
}

template <class T, class Rows>
CudaError LaunchRows(const DecodeAttentionArgs& args, CudaStream stream) {
  if (args.head_dim <= 0 || args.head_dim > kMaxHeadDim || args.head_dim % 8 != 0) {
    return CudaError::kInvalidValue;
  }
  const LaunchShape shape{
      .grid = {static_cast<uint32_t>(args.splits), static_cast<uint32_t>(args.heads),
               static_cast<uint32_t>(args.sequences)},
      .block = {kThreads}};
  return simt::Launch(DecodeByRows<T, Rows>, shape, stream, args);
}

}  // namespace
}  // namespace thermocline
