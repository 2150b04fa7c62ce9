// What both forms of prefill attention share: where a sequence's fresh tokens lie, and what one of
// them attends.
#pragma once
#include "kernels/attention.cuh"
#include "kernels/prefill_attention.h"

namespace thermocline {

/// The fresh tokens of one sequence.
struct FreshTokens {
  int start;  ///< row of the first one in q and out
  int count;
  int position;  ///< of the first one in its sequence
};

__device__ __forceinline__ FreshTokens FreshOf(const PrefillAttentionArgs& args, int sequence) {
  const int start = args.starts[sequence], count = args.starts[sequence + 1] - start;
  return {start, count, args.lengths[sequence] - count};
}

/// The first token that one at `position` attends; the last one is itself.
__device__ __forceinline__ int FirstAttended(const PrefillAttentionArgs& args, int position) {
  return args.window > 0 ? max(0, position + 1 - args.window) : 0;
}

// ---- forms for LaunchPrefillAttention, which has checked what they have in common

/// Tensor cores over codes, with queries of halves; other head dimensions by rows.
CudaError LaunchPrefillInt8(const PrefillAttentionArgs& args, CudaStream stream);
CudaError LaunchPrefillE4m3(const PrefillAttentionArgs& args, CudaStream stream);
CudaError LaunchPrefillInt4(const PrefillAttentionArgs& args, CudaStream stream);
/// Without tensor cores, over all KV.
CudaError LaunchPrefillByRows(const PrefillAttentionArgs& args, CudaStream stream);

}  // namespace thermocline
