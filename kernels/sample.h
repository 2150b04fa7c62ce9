// From logits to the next token of each sequence, on a GPU: what engine/sampler.h does on the CPU,
// by the same random numbers.
#pragma once
#include <cstdint>

#include "kernels/simt/launch.h"

namespace thermocline {

inline constexpr int kSampleMaxVocabulary = 1 << 19;

/// How one sequence's next token is chosen.
struct SampleSettings {
  uint64_t seed = 0;
  uint64_t draw = 0;      ///< how many tokens were drawn by the seed before
  float temperature = 0;  ///< the greatest logit where it is not above 0
  float top_p = 1;        ///< 1 or more: no limit; the likeliest token is always kept
  int32_t top_k = 0;      ///< 0 or less: no limit
};

/// ids[s] = the token chosen for sequence s: the one of the greatest logit, the lowest in a tie; or
/// a draw from softmax(logits / temperature), of which first all but the top_k likeliest are taken
/// away, then, of what is left, all behind the likeliest ones that together reach top_p. Tokens
/// are drawn in falling order of their logits (by id where they are equal), or by id where nothing
/// was taken away. A NaN counts as a token that is not there; a row without any number, or with
/// none above -infinity, gives 0; +infinity is chosen at any temperature.
///   Random numbers are the outputs of SplitMix64 (Steele et al., OOPSLA'14), which are a function
/// of seed and draw: the engine's. Weights are kept as multiples of 2^-40 of the likeliest one's
/// and added as integers, so that a seed's tokens do not depend on the order of additions.
/// Shape:  logits [sequences][vocabulary] float32, rows logits_stride numbers apart; settings,
///         ids [sequences].
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue for a vocabulary of none or of more than kSampleMaxVocabulary.
/// Cost:   a thread block a sequence, which reads the row once for the greatest logit and, to draw,
///         about ten times more.
struct SampleArgs {
  int32_t* ids = nullptr;
  const float* logits = nullptr;
  const SampleSettings* settings = nullptr;
  int64_t logits_stride = 0;
  int sequences = 0;
  int vocabulary = 0;
};
CudaError LaunchSample(const SampleArgs& args, CudaStream stream);

}  // namespace thermocline
