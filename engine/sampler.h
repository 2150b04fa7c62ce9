// From logits to the next token: the greatest one, or a draw from the nucleus of a tempered softmax
// (top-p: Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR'20, section 3.1).
// A seed fixes the whole sequence of draws: the generator is SplitMix64 (Steele et al., OOPSLA'14),
// a uniform is its top 53 bits, and no distribution of the standard library is involved.
// kernels/sample.h does the same on a GPU.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace thermocline {

/// SplitMix64. The first three outputs from seed 0 are e220a8397b1dcdaf, 6e789e6aa1b965f4,
/// 06c45d188009454f.
class SplitMix64 {
 public:
  /// The generator that has given `drawn` outputs already.
  explicit SplitMix64(uint64_t seed, uint64_t drawn = 0) : state_(seed + drawn * kStep) {}
  uint64_t Next();
  /// In [0, 1), a multiple of 2^-53.
  double NextUniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  uint64_t state_;
};

/// The id of the greatest logit, the lowest such id in a tie; NaN counts as the least.
/// Requires: logits is not empty.
int32_t GreedyToken(std::span<const float> logits);

/// Thread: one at a time.
class Sampler {
 public:
  struct Options {
    float temperature = 0;  ///< 0 = greedy
    float top_p = 1;        ///< the nucleus' probability, in (0, 1], of what top_k leaves
    int32_t top_k = 0;      ///< the likeliest so many alone; 0: no limit
    uint64_t seed = 0;
  };

  /// Errors: InvalidArgument for a temperature that is negative or not finite, top_p outside
  ///         (0, 1], or a negative top_k.
  static absl::StatusOr<Sampler> Make(const Options& options);

  /// The id that the seed's random number `draw` (counted from 0) falls on: the same for the same
  /// logits, whatever was asked before.
  /// Requires: logits is not empty.
  /// Cost:     one exponential a logit; only those that may be in the nucleus are sorted.
  int32_t Sample(std::span<const float> logits, uint64_t draw);

  const Options& options() const { return options_; }

 private:
  explicit Sampler(const Options& options) : options_(options) {}

  struct Candidate {
    double weight;
    int32_t id;
  };
  Options options_;
  std::vector<Candidate> candidates_;
};

}  // namespace thermocline
