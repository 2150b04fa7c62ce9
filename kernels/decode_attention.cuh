// What both forms of decode attention share: which tokens a split attends, and where a split's
// result goes.
#pragma once
#include "kernels/attention.cuh"
#include "kernels/decode_attention.h"

namespace thermocline {

/// The tokens of one thread block.
struct Span {
  int begin, end;
};

__device__ __forceinline__ Span SpanOf(const DecodeAttentionArgs& args, int split, int length) {
  const int first = args.window > 0 ? max(0, length - args.window) : 0;
  const int from = first / kBlockTokens * kBlockTokens + split * args.split_tokens;
  return {max(from, first), min(from + args.split_tokens, length)};
}

/// Number d of the result of `head` (of all sequences), or of this split's state for the merge.
template <class T>
__device__ __forceinline__ void StoreResult(const DecodeAttentionArgs& args, int64_t head,
                                            int split, int d, float out, float largest, float sum) {
  if (args.splits == 1) {
    static_cast<T*>(args.out)[head * args.head_dim + d] = FromFloat<T>(sum == 0 ? 0 : out / sum);
    return;
  }
  const int64_t part = head * args.splits + split;
  const int64_t parts = static_cast<int64_t>(args.sequences) * args.heads * args.splits;
  args.workspace[part * args.head_dim + d] = out;
  if (d == 0) {
    simt::Store8(args.workspace + parts * args.head_dim + 2 * part, make_float2(largest, sum));
  }
}

// ---- on tensor cores, four warps a thread block

inline constexpr int kDecodeThreads = 128;
inline constexpr int kDecodeWarps = kDecodeThreads / kWarpThreads;

/// Merges the warps' states: [warp][row][kStateRow] numbers of the results, then [warp][row]
/// largest exponent, sum. Writes the result, or this split's state for the second kernel.
template <class T, int kHeadDim, int kStateRow>
__device__ __forceinline__ void MergeWarps(const DecodeAttentionArgs& args, const float* states) {
  const int group = args.heads / args.kv_heads;
  const float* const sums = states + kDecodeWarps * kFragmentRows * kStateRow;
  for (int i = threadIdx.x; i < group * kHeadDim; i += kDecodeThreads) {
    const int row = i / kHeadDim, d = i % kHeadDim;
    float largest = -INFINITY, out = 0, sum = 0;
    for (int w = 0; w < kDecodeWarps; ++w) {
      largest = fmaxf(largest, sums[2 * (w * kFragmentRows + row)]);
    }
    const float base = largest == -INFINITY ? 0 : largest;
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float weight = simt::Exp2(sums[2 * (w * kFragmentRows + row)] - base);
      out += weight * states[(w * kFragmentRows + row) * kStateRow + d];
      sum += weight * sums[2 * (w * kFragmentRows + row) + 1];
    }
    const int64_t head = static_cast<int64_t>(blockIdx.z) * args.heads + blockIdx.y * group + row;
    StoreResult<T>(args, head, blockIdx.x, d, out, largest, sum);
  }
}

// ---- forms for LaunchDecodeAttention, which has checked what they have in common

/// One query head a thread block, without tensor cores; over 16-bit numbers, and over codes.
CudaError LaunchDecodeByRows(const DecodeAttentionArgs& args, CudaStream stream);
CudaError LaunchCodesByRows(const DecodeAttentionArgs& args, CudaStream stream);
/// Groups of at most 16 query heads on tensor cores, other head dimensions by rows.
CudaError LaunchDecodeInt8(const DecodeAttentionArgs& args, CudaStream stream);
CudaError LaunchDecodeE4m3(const DecodeAttentionArgs& args, CudaStream stream);
CudaError LaunchDecodeInt4(const DecodeAttentionArgs& args, CudaStream stream);

}  // namespace thermocline
