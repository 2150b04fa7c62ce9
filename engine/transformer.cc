#include "engine/transformer.h"

#include <algorithm>
#include <string>
#include <vector>

namespace thermocline {
namespace {

constexpr int kMaxChunkTokens = 4096;
constexpr uintptr_t kBlockAlignment = 16;

}  // namespace

KvGeometry Transformer::kv_geometry(KvDtype dtype) const {
  return {.layers = static_cast<int>(config_.layers),
          .kv_heads = static_cast<int>(config_.kv_heads),
          .head_dim = static_cast<int>(config_.head_dim),
          .dtype = dtype};
}

absl::Status Transformer::Check(const Step& step) const {
  if (step.tokens.empty()) return absl::InvalidArgumentError("no tokens to compute");
  const size_t context = config_.context_length, count = step.tokens.size();
  if (step.position < 0 || static_cast<size_t>(step.position) > context ||
      count > context - step.position) {
    return absl::OutOfRangeError(std::to_string(count) + " tokens at position " +
                                 std::to_string(step.position) + " exceed the context of " +
                                 std::to_string(context) +
                                 " tokens; shorten the prompt or ask for a larger context");
  }
  for (const int32_t id : step.tokens) {
    if (id < 0 || static_cast<uint32_t>(id) >= config_.vocab) {
      return absl::InvalidArgumentError("token id " + std::to_string(id) +
                                        "; the model's vocabulary has ids 0 to " +
                                        std::to_string(config_.vocab - 1));
    }
  }
  const size_t blocks = BlocksOf(step.position + count);
  if (step.blocks.size() < blocks) {
    return absl::InvalidArgumentError(std::to_string(step.blocks.size()) +
                                      " KV blocks, but the tokens need " + std::to_string(blocks));
  }
  for (size_t i = 0; i < blocks; ++i) {
    if (step.blocks[i] == nullptr ||
        reinterpret_cast<uintptr_t>(step.blocks[i]) % kBlockAlignment != 0) {
      return absl::InvalidArgumentError("KV block " + std::to_string(i) +
                                        " is null or not 16-byte aligned");
    }
  }
  const size_t logits = step.logits.size();
  if (logits != 0 && logits != config_.vocab && logits != count * config_.vocab) {
    return absl::InvalidArgumentError("room for " + std::to_string(logits) +
                                      " logits; it must be none, " + std::to_string(config_.vocab) +
                                      " for the last token, or that for each token");
  }
  if (step.choice != nullptr && (logits != 0 || step.choice->sampler == nullptr)) {
    return absl::InvalidArgumentError(
        "a step that chooses a token needs a sampler, and gives no logits");
  }
  if (step.chunk_tokens < 1 || step.chunk_tokens > kMaxChunkTokens) {
    return absl::InvalidArgumentError("chunks of " + std::to_string(step.chunk_tokens) +
                                      " tokens; they must have 1 to 4096");
  }
  return absl::OkStatus();
}

absl::Status Transformer::Forward(const Step& step) {
  TC_RETURN_IF_ERROR(Check(step));
  const size_t count = step.tokens.size(), vocab = config_.vocab;
  // Chunks of equal size: 257 tokens are 129 and 128, not 256 and a lonely one.
  const size_t chunks = (count + step.chunk_tokens - 1) / step.chunk_tokens;
  const size_t chunk_tokens = (count + chunks - 1) / chunks;
  TC_RETURN_IF_ERROR(Prepare(step, static_cast<int>(chunk_tokens)));
  for (size_t done = 0; done < count;) {
    const size_t size = std::min(chunk_tokens, count - done);
    const bool last = done + size == count;
    Chunk chunk = {.tokens = step.tokens.subspan(done, size),
                   .position = step.position + static_cast<int>(done),
                   .blocks = step.blocks,
                   .geometry = kv_geometry(step.kv_dtype),
                   .logits = nullptr,
                   .logits_rows = 0,
                   .choice = last ? step.choice : nullptr};
    if (step.logits.size() == count * vocab) {
      chunk.logits = step.logits.data() + done * vocab;
      chunk.logits_rows = static_cast<int>(size);
    } else if (!step.logits.empty() && last) {
      chunk.logits = step.logits.data();
      chunk.logits_rows = 1;
    }
    TC_RETURN_IF_ERROR(Compute(chunk));
    done += size;
    if (step.progress) step.progress(done);
  }
  return absl::OkStatus();
}

absl::Status Transformer::WarmUp(KvDtype kv_dtype) {
  // A context of a single token has no second step.
  const size_t chunk =
      std::clamp<size_t>(config_.context_length - 1, 1, static_cast<size_t>(kChunkTokens));
  const size_t block_bytes = kv_geometry(kv_dtype).block_bytes();
  std::vector<std::byte> memory(BlocksOf(chunk + 1) * block_bytes);
  std::vector<std::byte*> blocks;
  for (size_t at = 0; at < memory.size(); at += block_bytes) blocks.push_back(memory.data() + at);
  const std::vector<int32_t> tokens(chunk, 0);
  TC_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Make({}));
  Choice choice = {.sampler = &sampler};
  Step step = {.tokens = tokens, .blocks = blocks, .kv_dtype = kv_dtype, .choice = &choice};
  TC_RETURN_IF_ERROR(Forward(step));
  if (chunk >= static_cast<size_t>(config_.context_length)) return absl::OkStatus();
  step.tokens = std::span(tokens).first(1);
  step.position = static_cast<int>(chunk);
  step.continues = true;
  return Forward(step);
}

}  // namespace thermocline
