#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"

namespace thermocline {

uint64_t SplitMix64::Next() {
  uint64_t z = state_ += kStep;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

int32_t GreedyToken(std::span<const float> logits) {
  TC_CHECK(!logits.empty());
  size_t best = 0;
  float best_logit = -INFINITY;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > best_logit) {
      best = i;
      best_logit = logits[i];
    }
  }
  return static_cast<int32_t>(best);
}

absl::StatusOr<Sampler> Sampler::Make(const Options& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    return absl::InvalidArgumentError("temperature is " + std::to_string(options.temperature) +
                                      "; it must be 0 (greedy) or a positive number");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return absl::InvalidArgumentError("top-p is " + std::to_string(options.top_p) +
                                      "; it must be above 0 and at most 1");
  }
  if (options.top_k < 0) {
    return absl::InvalidArgumentError("top-k is " + std::to_string(options.top_k) +
                                      "; it must be 0 (no limit) or a number of tokens");
  }
  return Sampler(options);
}

int32_t Sampler::Sample(std::span<const float> logits, uint64_t draw) {
  const int32_t greedy = GreedyToken(logits);
  if (options_.temperature == 0) return greedy;
  const double uniform = SplitMix64(options_.seed, draw).NextUniform();
  const double greatest = logits[greedy];
  if (!std::isfinite(greatest)) return greedy;

  candidates_.clear();
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((logits[i] - greatest) / options_.temperature);
    if (!(weight > 0)) continue;  // also drops NaN
    candidates_.push_back({weight, static_cast<int32_t>(i)});
    total += weight;
  }
  const auto earlier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  const bool limited =
      options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size();
  if (limited) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                     earlier);
    candidates_.resize(static_cast<size_t>(options_.top_k));
    total = 0;
    for (const Candidate& candidate : candidates_) total += candidate.weight;
  }
  double kept = total;
  if (options_.top_p < 1) {
    // In falling order, what comes at or after a weight below this sums to less than 1 - top_p:
    // everything before it has reached top_p, and the nucleus is complete without it.
    const double cutoff = (1.0 - options_.top_p) * total / static_cast<double>(candidates_.size());
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < cutoff; });
  }
  if (limited || options_.top_p < 1) std::sort(candidates_.begin(), candidates_.end(), earlier);
  if (options_.top_p < 1) {
    size_t count = 0;
    kept = 0;
    while (count < candidates_.size() && kept < options_.top_p * total) {
      kept += candidates_[count++].weight;
    }
    candidates_.resize(count);
  }
  double remaining = uniform * kept;
  for (const Candidate& candidate : candidates_) {
    remaining -= candidate.weight;
    if (remaining < 0) return candidate.id;
  }
  return candidates_.back().id;
}

}  // namespace thermocline
