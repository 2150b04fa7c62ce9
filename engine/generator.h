// Generation: a prompt's ids to output ids, over a KvSequence. What the cache holds is not
// computed; what it loses while being read is computed again; the output is the same in every case,
// by the rule of exactness (transformer.h).
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/kv_sequence.h"
#include "engine/sampler.h"
#include "engine/transformer.h"

namespace thermocline {

struct GenerateRequest {
  std::vector<int32_t> prompt_ids;
  size_t max_tokens = 0;
  Sampler::Options sampling;
  std::vector<int32_t> end_ids;  // stop before these
  /// Compute everything for every token, as if there were no KV cache: what every primer compares
  /// with.
  bool recompute_everything = false;
  /// Called with every output id; false ends the generation.
  std::function<bool(int32_t id)> on_token = {};
  /// Called while a prefill runs: tokens computed and to compute.
  std::function<void(size_t done, size_t total)> on_prefill = {};
};

struct GenerateResult {
  std::vector<int32_t> output_ids;  // without the end-of-generation token
  size_t cached_tokens = 0;
  std::map<std::string, size_t> cached_by_tier;
  size_t uncached_blocks = 0;       // kept in private pages because the daemon had no slot
  size_t recoveries = 0;            // times the cache was lost under our hands
  double ttft_ms = 0;               // from ids to the first id
  double prefill_tokens_per_s = 0;  // of the tokens computed before the first id
  double decode_tokens_per_s = 0;   // of the ids after the first, commits in between included
};

/// What Generate would refuse in this request before it computes anything: asked before weights are
/// loaded, it spares a wrong request the wait.
/// Errors: InvalidArgument for an empty prompt or sampling options out of range; OutOfRange for
/// more
///         tokens than the context.
absl::Status CheckRequest(const ModelConfig& config, const GenerateRequest& request);

/// Thread: one call at a time per transformer.
/// Errors: those of CheckRequest and of the forward pass; ResourceExhausted when memory for KV
/// ends.
absl::StatusOr<GenerateResult> Generate(Transformer& transformer, KvDtype dtype, KvSequence& kv,
                                        const GenerateRequest& request);

}  // namespace thermocline
