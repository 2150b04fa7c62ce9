#include "engine/generator.h"

#include <algorithm>
#include <chrono>

namespace thermocline {
namespace {

using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

/// The ids so far, and how many of them have their KV in place.
class Generation {
 public:
  Generation(Transformer& transformer, KvDtype dtype, KvSequence& kv,
             const GenerateRequest& request)
      : transformer_(transformer),
        dtype_(dtype),
        kv_(kv),
        request_(request),
        ids_(request.prompt_ids) {}

  void Begin() { held_ = request_.recompute_everything ? 0 : kv_.Begin(ids_); }

  /// Computes every id that is not held yet, and again what the cache lost meanwhile; chooses the
  /// next one.
  absl::Status ComputeRest(Transformer::Choice& choice) {
    if (request_.recompute_everything) held_ = 0;
    while (true) {
      TC_RETURN_IF_ERROR(kv_.Extend(ids_.size()));
      const size_t total = ids_.size() - held_;
      std::function<void(size_t)> progress;
      if (request_.on_prefill && total > 1) {
        progress = [&](size_t done) { request_.on_prefill(done, total); };
      }
      TC_RETURN_IF_ERROR(
          transformer_.Forward({.tokens = std::span<const int32_t>(ids_).subspan(held_),
                                .position = static_cast<int>(held_),
                                .blocks = kv_.blocks(),
                                .kv_dtype = dtype_,
                                .on_device = kv_.on_device(),
                                .continues = continues_,
                                .choice = &choice,
                                .progress = progress}));
      continues_ = true;
      if (kv_.Intact()) break;
      // The choice needs one id computed at least, even where every row could be kept.
      Recover();
    }
    held_ = ids_.size();
    return absl::OkStatus();
  }

  /// Publishes what is computed. The loss of the cache shows at the next ComputeRest.
  void Publish() {
    if (request_.recompute_everything) return;
    kv_.Commit(std::span<const int32_t>(ids_).first(held_));
    if (!kv_.Intact()) Recover();
  }

  /// Waits for what was published, so that the next turn finds it.
  void Finish() {
    kv_.Settle();
    if (!kv_.Intact()) kv_.Recover();
  }

  void Append(int32_t id) { ids_.push_back(id); }
  size_t held() const { return held_; }

 private:
  void Recover() {
    held_ = std::min(kv_.Recover(), ids_.size() - 1);
    continues_ = false;
  }

  Transformer& transformer_;
  const KvDtype dtype_;
  KvSequence& kv_;
  const GenerateRequest& request_;
  std::vector<int32_t> ids_;
  size_t held_ = 0;         // tokens whose KV is in place
  bool continues_ = false;  // where the forward pass before left it
};

}  // namespace

absl::Status CheckRequest(const ModelConfig& config, const GenerateRequest& request) {
  TC_RETURN_IF_ERROR(Sampler::Make(request.sampling).status());
  const size_t count = request.prompt_ids.size(), context = config.context_length;
  if (count == 0) return absl::InvalidArgumentError("the prompt has no tokens");
  if (count <= context && request.max_tokens <= context - count) return absl::OkStatus();
  return absl::OutOfRangeError("the prompt's " + std::to_string(count) + " tokens and " +
                               std::to_string(request.max_tokens) +
                               " new ones are more than the context of " + std::to_string(context) +
                               "; shorten the prompt, ask for fewer, or give --context");
}

absl::StatusOr<GenerateResult> Generate(Transformer& transformer, KvDtype dtype, KvSequence& kv,
                                        const GenerateRequest& request) {
  TC_RETURN_IF_ERROR(CheckRequest(transformer.config(), request));
  TC_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Make(request.sampling));
  Generation generation(transformer, dtype, kv, request);

  GenerateResult result;
  const auto start = SteadyClock::now();
  generation.Begin();
  result.cached_tokens = generation.held();
  result.cached_by_tier = kv.cached_by_tier();
  const auto prefill_start = SteadyClock::now();
  SteadyClock::time_point first_id_at;
  size_t decoded = 0;  // ids behind the first, the end-of-generation token too: each is one pass
  double decode_seconds = 0;
  while (result.output_ids.size() < request.max_tokens) {
    Transformer::Choice choice = {.sampler = &sampler, .draw = result.output_ids.size()};
    TC_RETURN_IF_ERROR(generation.ComputeRest(choice));
    const int32_t id = choice.id;
    if (result.ttft_ms != 0) {
      ++decoded;
      decode_seconds = SecondsSince(first_id_at);
    } else {
      first_id_at = SteadyClock::now();
      result.ttft_ms = SecondsSince(start) * 1e3;
      result.prefill_tokens_per_s =
          static_cast<double>(request.prompt_ids.size() - result.cached_tokens) /
          SecondsSince(prefill_start);
    }
    bool ended = std::count(request.end_ids.begin(), request.end_ids.end(), id) != 0;
    if (!ended) {
      result.output_ids.push_back(id);
      ended = request.on_token && !request.on_token(id);
      generation.Append(id);
    }
    generation.Publish();  // behind the token, so that nobody waits for it
    if (ended) break;
  }
  generation.Finish();
  if (decoded > 0) result.decode_tokens_per_s = static_cast<double>(decoded) / decode_seconds;
  result.uncached_blocks = kv.uncached_blocks();
  result.recoveries = kv.losses();
  return result;
}

}  // namespace thermocline
