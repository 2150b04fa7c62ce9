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
  return {max(split * args.split_tokens, first), min((split + 1) * args.split_tokens, length)};
}

/// Number d of the result of `head` (of all sequences), or of this split's state for the merge.
template <class T>
__device__ __forceinline__ void StoreResult(const DecodeAttentionArgs& args, int64_t head,
                                            int split, int d, float out, float largest, float sum) {
  if (args.splits == 1) {
    static_cast<T*>(args.out)[head * args.head_dim + d] = FromFloat<T>(sum > 0 ? out / sum : 0);
    return;
  }
  const int64_t part = head * args.splits + split;
  const int64_t parts = static_cast<int64_t>(args.sequences) * args.heads * args.splits;
  args.workspace[part * args.head_dim + d] = out;
  if (d == 0) {
    simt::Store8(args.workspace + parts * args.head_dim + 2 * part, make_float2(largest, sum));
  }
}

/// The form for one query head a thread block, without tensor cores.
CudaError LaunchDecodeByRows(const DecodeAttentionArgs& args, CudaStream stream);

}  // namespace thermocline
