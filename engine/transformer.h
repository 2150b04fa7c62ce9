// The forward pass of a llama-architecture model over a paged KV cache. What is here is common to
// all devices: what a step is, what is refused, how it is cut into chunks. How a chunk is computed
// is the device's part: cpu_transformer.cc here, cuda_transformer.h on a GPU.
//
// On the CPU it follows the rule of exactness: a token's logits and KV bytes depend on the token
// ids up to it and on nothing else. Not on how a prompt is cut into chunks, on how much of it was
// cached, on threads, on where blocks lie or in what memory, on the instruction set: so "cached
// equals uncached" is tested by equality.
//   1. Every output of a matrix product is one chain of fused multiply-adds over ascending columns,
//      and weights dequantise to the same f32 whether unpacked into tiles (prefill) or in
//      registers (decode).
//   2. Attention takes tokens in groups of 64 inside spans of 256, aligned to absolute positions,
//      and merges spans in order, whether one thread walks them or many share them.
//   3. The exponential is our own, sums over lanes have one fixed shape, the compiler fuses
//   nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "base/status.h"
#include "engine/sampler.h"
#include "engine/weights.h"
#include "kernels/kv_geometry.h"

namespace thermocline {

/// Part of the identity of all KV that this engine caches. Whoever changes a bit of what the
/// forward pass computes raises it: blocks of the engine before would else be hit, and cached were
/// not equal to uncached. tests/e2e/cli_test.py holds the bits of this version.
inline constexpr int kNumericsVersion = 1;

class Transformer {
 public:
  struct Options {
    /// Threads of the forward pass, the caller's included; 0 = all cores that the process may use.
    int threads = 0;
  };

  /// Repacks the weights: the model file may be closed afterwards.
  /// Errors: what the file lacks, what has the wrong shape, which limit a dimension breaks.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(const ModelFile& model,
                                                           const Options& options);
  virtual ~Transformer() = default;
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  /// A token to be chosen behind others, and the one that was.
  struct Choice {
    Sampler* sampler = nullptr;
    uint64_t draw = 0;  ///< of the sampler's
    int32_t id = -1;
  };

  struct Step {
    /// The ids to compute, at positions `position`, `position` + 1, ...
    std::span<const int32_t> tokens;
    int position = 0;
    /// Block i holds positions 16 i ..; must cover position + tokens.size(). Rows before `position`
    /// are read, rows of `tokens` are written, all others are left alone: full blocks before
    /// `position` may be mapped read-only.
    std::span<std::byte* const> blocks;
    KvDtype kv_dtype = KvDtype::kF32;
    /// Whether block i lies in memory of the device that computes, and is read there; those behind
    /// are in host memory. Such a block is full, and ends before `position`.
    std::span<const uint8_t> on_device = {};
    /// The sequence is that of the step before, its KV before `position` as it was then: what a
    /// device has of it need not be fetched again.
    bool continues = false;
    /// Empty: none. [vocabulary]: of the last token. [tokens][vocabulary]: of every token.
    std::span<float> logits = {};
    /// Instead of logits: what follows the last token. On a GPU it is chosen there, and the logits
    /// stay.
    Choice* choice = nullptr;
    /// Called on the caller's thread after every chunk with the tokens computed so far.
    std::function<void(size_t done_tokens)> progress = {};
    /// Tokens computed at once; the result does not depend on it, speed does.
    int chunk_tokens = kChunkTokens;
  };

  /// Computes KV and logits of `step.tokens`.
  /// Thread: one call at a time.
  /// Errors: InvalidArgument on a bad id, size or block list, OutOfRange for positions beyond
  ///         config().context_length; nothing is computed or written then.
  absl::Status Forward(const Step& step);

  /// Computes a chunk and a token behind it, for nothing: what a device makes ready when it first
  /// computes (kernels, the choice of algorithms) is then there, and no prompt waits for it.
  absl::Status WarmUp(KvDtype kv_dtype);

  const ModelConfig& config() const { return config_; }
  KvGeometry kv_geometry(KvDtype dtype) const;
  virtual int threads() const = 0;
  /// What computes: on the CPU the instruction set, "avx512", "avx2" or "portable"; else the GPU.
  virtual const char* kernels() const = 0;

  static constexpr int kChunkTokens = 256;

 protected:
  explicit Transformer(ModelConfig config) : config_(std::move(config)) {}

  /// Consecutive tokens computed at once, checked against the model.
  struct Chunk {
    std::span<const int32_t> tokens;
    int position;
    std::span<std::byte* const> blocks;
    KvGeometry geometry;
    float* logits;    // null: none wanted
    int logits_rows;  // of the last tokens
    Choice* choice;   // null: none wanted

    int rows() const { return static_cast<int>(tokens.size()); }
    std::byte* kv_row(int position, int layer, KvHalf half, int kv_head) const {
      return blocks[position / kBlockTokens] + geometry.head_offset(layer, half, kv_head) +
             position % kBlockTokens * geometry.row_bytes();
    }
  };

  /// Before the chunks of a step, none of which has more than `rows` tokens.
  virtual absl::Status Prepare(const Step& step, int rows) = 0;
  /// Computes the chunk's KV, and its logits where they are wanted.
  virtual absl::Status Compute(const Chunk& chunk) = 0;

  const ModelConfig config_;

 private:
  absl::Status Check(const Step& step) const;
};

}  // namespace thermocline
