// One stream, one sequence at a time. A chunk's small inputs (ids, positions, the block table) go
// up in one copy, its logits or the id chosen by them and the KV blocks that it touched come back,
// and the host waits once.
#include "engine/cuda_transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "engine/cuda_kv.h"
#include "engine/cuda_weights.h"
#include "kernels/activation.h"
#include "kernels/cuda/copies.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/device.h"
#include "kernels/decode_attention.h"
#include "kernels/embedding.h"
#include "kernels/kv_append.h"
#include "kernels/prefill_attention.h"
#include "kernels/quantize.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/rope_table.h"
#include "kernels/sample.h"
#include "kernels/simt/numbers.h"

namespace thermocline {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr int kMaxHeadDim = 256;
constexpr int kLeastComputeMajor = 8;  // cp.async, and products of bf16
constexpr int kMaxSplits = 128;        // PlanDecode's
constexpr int kSettingsNumbers = sizeof(SampleSettings) / sizeof(int32_t);

/// Consecutive pieces of one buffer.
class Pieces {
 public:
  uint64_t Add(uint64_t bytes) {
    const uint64_t at = bytes_;
    bytes_ = RoundUp(bytes_ + bytes, kAlignment);
    return at;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

class CudaTransformer : public Transformer {
 public:
  static absl::StatusOr<std::unique_ptr<CudaTransformer>> Load(const ModelFile& file, int device);

  int threads() const override { return 1; }
  const char* kernels() const override { return device_.name.c_str(); }

 private:
  explicit CudaTransformer(ModelConfig config)
      : Transformer(std::move(config)),
        width_(static_cast<int>(config_.embedding_width)),
        heads_(static_cast<int>(config_.heads)),
        kv_heads_(static_cast<int>(config_.kv_heads)),
        head_dim_(static_cast<int>(config_.head_dim)),
        q_width_(heads_ * head_dim_),
        qkv_width_((heads_ + 2 * kv_heads_) * head_dim_),
        logits_stride_(static_cast<int>(RoundUp(config_.vocab, 4))),
        kv_(kv_geometry(KvDtype::kF16)) {}

  absl::Status Start(const ModelFile& file, int device);
  absl::Status Prepare(const Step& step, int rows) override;
  absl::Status Compute(const Chunk& chunk) override;
  absl::Status ComputeAll(const Chunk& chunk);
  absl::Status SendInputs(const Chunk& chunk);
  absl::Status ComputeLayer(const Chunk& chunk, int layer);
  absl::Status Append(const Chunk& chunk, const PagedKv& kv);
  absl::Status Attend(const Chunk& chunk, int layer);
  absl::Status Logits(const Chunk& chunk);
  absl::Status Norm(const std::byte* x, const std::byte* gain, int rows);
  absl::Status Multiply(const std::byte* weights, int outputs, const std::byte* x, int inputs,
                        int x_stride, std::byte* y, int rows, bool add);
  absl::Status ReserveRows(int rows, int logits_rows, size_t blocks);

  /// Where the small inputs of a chunk lie, in numbers of the input buffer, behind what says how a
  /// token is chosen.
  struct Inputs {
    int ids, positions, sequences, starts, lengths, table;
  };
  const int32_t* input(int at) const {
    return reinterpret_cast<const int32_t*>(memory_.data() + inputs_at_) + at;
  }

  const int width_, heads_, kv_heads_, head_dim_, q_width_, qkv_width_, logits_stride_;
  int device_number_ = 0;
  cuda::DeviceInfo device_;
  std::optional<cuda::Stream> stream_;
  std::unique_ptr<cuda::CublasLt> products_;
  CudaWeights weights_;
  cuda::DeviceBuffer turns_;  ///< RoPE's cosines and sines, [context][head_dim / 2][2] float32
  CudaKv kv_;
  size_t held_tokens_ = 0;  ///< whose KV lies in kv_

  // What a chunk of so many rows takes.
  int reserved_rows_ = 0, reserved_logits_ = 0;
  size_t reserved_blocks_ = 0;
  cuda::DeviceBuffer memory_;
  std::byte *x_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr, *attended_ = nullptr,
            *gate_up_ = nullptr, *logits_ = nullptr, *chosen_ = nullptr, *partials_ = nullptr;
  uint64_t inputs_at_ = 0;
  Inputs in_{};
  cuda::PinnedBuffer staged_inputs_, staged_results_;  // results: logits, or an id
};

absl::Status CheckShape(const ModelConfig& config) {
  if (config.embedding_width % 8 != 0 || config.head_dim % 8 != 0 ||
      config.head_dim > kMaxHeadDim || config.embedding_width > kRmsNormMaxWidth) {
    return absl::InvalidArgumentError(
        "a width of " + std::to_string(config.embedding_width) + " and heads of " +
        std::to_string(config.head_dim) +
        "; the GPU's kernels take multiples of 8, heads of up to 256: run it on the CPU");
  }
  if (config.vocab > kSampleMaxVocabulary) {
    return absl::InvalidArgumentError(
        "a vocabulary of " + std::to_string(config.vocab) + "; the GPU chooses among " +
        std::to_string(kSampleMaxVocabulary) + " at most: run it on the CPU");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CudaTransformer>> CudaTransformer::Load(const ModelFile& file,
                                                                       int device) {
  TC_ASSIGN_OR_RETURN(const ModelConfig config, file.config());
  TC_RETURN_IF_ERROR(Annotate(CheckShape(config), file.path()));
  std::unique_ptr<CudaTransformer> model(new CudaTransformer(config));
  TC_RETURN_IF_ERROR(model->Start(file, device));
  return model;
}

absl::Status CudaTransformer::Start(const ModelFile& file, int device) {
  TC_RETURN_IF_ERROR(cuda::DeviceCount().status());
  TC_ASSIGN_OR_RETURN(device_, cuda::Describe(device));
  if (device_.compute_major < kLeastComputeMajor) {
    return absl::UnimplementedError(device_.name + " has compute capability " +
                                    std::to_string(device_.compute_major) + "." +
                                    std::to_string(device_.compute_minor) +
                                    "; the kernels need 8.0 (Ampere): compute on the CPU");
  }
  device_number_ = device;
  kv_ = CudaKv(kv_.geometry(), device);
  TC_RETURN_IF_ERROR(cuda::UseDevice(device));
  TC_ASSIGN_OR_RETURN(products_, cuda::CublasLt::Load());
  TC_ASSIGN_OR_RETURN(stream_, cuda::Stream::Create());
  TC_ASSIGN_OR_RETURN(weights_, CudaWeights::Load(file, config_));

  std::vector<float> turns(size_t{config_.context_length} * config_.head_dim);
  FillRopeTable(MakeRopeFrequencies(config_.rope_base, head_dim_, {}), 0, config_.context_length,
                turns.data());
  TC_ASSIGN_OR_RETURN(turns_, cuda::DeviceBuffer::Allocate(turns.size() * sizeof(float)));
  TC_RETURN_IF_ERROR(cuda::CopyAsync({.to = turns_.data(),
                                      .from = reinterpret_cast<const std::byte*>(turns.data()),
                                      .bytes = turns_.bytes()},
                                     stream_->get()));
  return stream_->Synchronize();
}

absl::Status CudaTransformer::ReserveRows(int rows, int logits_rows, size_t blocks) {
  if (rows <= reserved_rows_ && logits_rows <= reserved_logits_ && blocks <= reserved_blocks_) {
    return absl::OkStatus();
  }
  rows = std::max(rows, reserved_rows_);
  logits_rows = std::max(logits_rows, reserved_logits_);
  if (blocks > reserved_blocks_) blocks *= 2;  // so that a growing context seldom comes here
  blocks = std::max(blocks, reserved_blocks_);
  reserved_rows_ = reserved_logits_ = 0;  // until all is made
  reserved_blocks_ = 0;
  const int after = kSettingsNumbers + 3 * rows;
  in_ = {.ids = kSettingsNumbers,
         .positions = kSettingsNumbers + rows,
         .sequences = kSettingsNumbers + 2 * rows,
         .starts = after,
         .lengths = after + 2,
         .table = after + 3};
  const uint64_t input_bytes = (static_cast<uint64_t>(in_.table) + blocks) * sizeof(int32_t);
  const uint64_t row_count = static_cast<uint64_t>(rows);
  Pieces pieces;
  const auto halves = [&](int numbers) { return pieces.Add(row_count * numbers * sizeof(Half)); };
  const uint64_t x = halves(width_), normed = halves(width_), qkv = halves(qkv_width_);
  const uint64_t attended = halves(q_width_), gate_up = halves(2 * weights_.ff);
  const uint64_t logits =
      pieces.Add(static_cast<uint64_t>(logits_rows) * logits_stride_ * sizeof(float));
  const uint64_t chosen = pieces.Add(sizeof(int32_t));
  const uint64_t partials =
      pieces.Add(DecodeWorkspaceFloats(1, heads_, head_dim_, kMaxSplits) * sizeof(float));
  inputs_at_ = pieces.Add(input_bytes);
  memory_ = {};
  TC_ASSIGN_OR_RETURN(memory_, cuda::DeviceBuffer::Allocate(pieces.bytes()));
  TC_ASSIGN_OR_RETURN(staged_inputs_, cuda::PinnedBuffer::Allocate(input_bytes));
  TC_ASSIGN_OR_RETURN(staged_results_,
                      cuda::PinnedBuffer::Allocate(static_cast<uint64_t>(std::max(logits_rows, 1)) *
                                                   logits_stride_ * sizeof(float)));
  x_ = memory_.data() + x;
  normed_ = memory_.data() + normed;
  qkv_ = memory_.data() + qkv;
  attended_ = memory_.data() + attended;
  gate_up_ = memory_.data() + gate_up;
  logits_ = memory_.data() + logits;
  chosen_ = memory_.data() + chosen;
  partials_ = memory_.data() + partials;
  reserved_rows_ = rows;
  reserved_logits_ = logits_rows;
  reserved_blocks_ = blocks;
  return absl::OkStatus();
}

absl::Status CudaTransformer::Prepare(const Step& step, int rows) {
  if (step.kv_dtype == KvDtype::kF32) {
    return absl::InvalidArgumentError("KV as f32; on a GPU it is kept as f16, int8, e4m3 or int4");
  }
  TC_RETURN_IF_ERROR(cuda::UseDevice(device_number_));
  if (step.kv_dtype != kv_.geometry().dtype) {
    held_tokens_ = 0;
    TC_RETURN_IF_ERROR(stream_->Synchronize());  // a step that failed may still read there
    kv_ = CudaKv(kv_geometry(step.kv_dtype), device_number_);
  }
  const size_t position = static_cast<size_t>(step.position), end = position + step.tokens.size();
  const bool all_logits = step.logits.size() > config_.vocab;
  const int logits_rows = all_logits ? rows : step.logits.empty() && step.choice == nullptr ? 0 : 1;
  const size_t held = step.continues ? held_tokens_ : 0;
  held_tokens_ = 0;  // until all of it is there
  TC_RETURN_IF_ERROR(ReserveRows(rows, logits_rows, BlocksOf(end)));
  TC_RETURN_IF_ERROR(kv_.Reserve(end));
  TC_RETURN_IF_ERROR(kv_.Fetch(step.blocks, step.on_device, held, position, *stream_));
  held_tokens_ = position;
  return absl::OkStatus();
}

absl::Status CudaTransformer::SendInputs(const Chunk& chunk) {
  const int rows = chunk.rows(), end = chunk.position + rows;
  int32_t* const staged = reinterpret_cast<int32_t*>(staged_inputs_.data());
  if (chunk.choice != nullptr) {
    const Sampler::Options& options = chunk.choice->sampler->options();
    const SampleSettings settings = {.seed = options.seed,
                                     .draw = chunk.choice->draw,
                                     .temperature = options.temperature,
                                     .top_p = options.top_p,
                                     .top_k = options.top_k};
    std::memcpy(staged, &settings, sizeof(settings));
  }
  std::copy(chunk.tokens.begin(), chunk.tokens.end(), staged + in_.ids);
  for (int i = 0; i < rows; ++i) staged[in_.positions + i] = chunk.position + i;
  std::fill_n(staged + in_.sequences, rows, 0);
  staged[in_.starts] = 0;
  staged[in_.starts + 1] = rows;
  staged[in_.lengths] = end;
  const size_t blocks = BlocksOf(static_cast<size_t>(end));
  std::copy_n(kv_.table().begin(), blocks, staged + in_.table);
  return cuda::CopyAsync({.to = memory_.data() + inputs_at_,
                          .from = staged_inputs_.data(),
                          .bytes = (in_.table + blocks) * sizeof(int32_t)},
                         stream_->get());
}

absl::Status CudaTransformer::Compute(const Chunk& chunk) {
  const absl::Status status = ComputeAll(chunk);
  // Its blocks, which are the caller's, may still be read or written.
  if (!status.ok()) stream_->Synchronize().IgnoreError();
  return status;
}

absl::Status CudaTransformer::ComputeAll(const Chunk& chunk) {
  const size_t begin = static_cast<size_t>(chunk.position), end = begin + chunk.tokens.size();
  held_tokens_ = 0;
  TC_RETURN_IF_ERROR(SendInputs(chunk));
  TC_RETURN_IF_ERROR(
      cuda::LaunchStatus(LaunchEmbedding({.out = x_,
                                          .table = weights_.embedding,
                                          .ids = input(in_.ids),
                                          .tokens = chunk.rows(),
                                          .width = width_,
                                          .vocabulary = static_cast<int>(config_.vocab)},
                                         stream_->get()),
                         "Embedding"));
  for (int layer = 0; layer < static_cast<int>(config_.layers); ++layer) {
    TC_RETURN_IF_ERROR(ComputeLayer(chunk, layer));
  }
  if (chunk.logits != nullptr || chunk.choice != nullptr) TC_RETURN_IF_ERROR(Logits(chunk));
  TC_RETURN_IF_ERROR(kv_.Store(chunk.blocks, begin, end, *stream_));
  if (chunk.choice != nullptr) {
    std::memcpy(&chunk.choice->id, staged_results_.data(), sizeof(chunk.choice->id));
  }
  if (chunk.logits != nullptr) {
    const float* const staged = reinterpret_cast<const float*>(staged_results_.data());
    for (int row = 0; row < chunk.logits_rows; ++row) {
      std::copy_n(staged + int64_t{row} * logits_stride_, config_.vocab,
                  chunk.logits + int64_t{row} * config_.vocab);
    }
  }
  held_tokens_ = end;
  return absl::OkStatus();
}

absl::Status CudaTransformer::ComputeLayer(const Chunk& chunk, int layer) {
  const CudaWeights::Layer& weights = weights_.layers[layer];
  const int rows = chunk.rows(), ff = weights_.ff;
  TC_RETURN_IF_ERROR(Norm(x_, weights.attention_norm, rows));
  TC_RETURN_IF_ERROR(Multiply(weights.qkv, qkv_width_, normed_, width_, width_, qkv_, rows, false));
  TC_RETURN_IF_ERROR(Attend(chunk, layer));
  TC_RETURN_IF_ERROR(
      Multiply(weights.output, width_, attended_, q_width_, q_width_, x_, rows, true));
  TC_RETURN_IF_ERROR(Norm(x_, weights.ffn_norm, rows));
  TC_RETURN_IF_ERROR(
      Multiply(weights.gate_up, 2 * ff, normed_, width_, width_, gate_up_, rows, false));
  TC_RETURN_IF_ERROR(cuda::LaunchStatus(
      LaunchGatedActivation({.out = gate_up_,
                             .gate = gate_up_,
                             .up = gate_up_ + static_cast<uint64_t>(ff) * sizeof(Half),
                             .rows = rows,
                             .width = ff,
                             .gate_stride = 2 * ff,
                             .up_stride = 2 * ff,
                             .out_stride = 2 * ff},
                            stream_->get()),
      "GatedActivation"));
  return Multiply(weights.down, width_, gate_up_, ff, 2 * ff, x_, rows, true);
}

/// Rotates queries and keys, appends keys and values, attends to all up to each token.
absl::Status CudaTransformer::Attend(const Chunk& chunk, int layer) {
  const CudaStream stream = stream_->get();
  const int rows = chunk.rows();
  const PagedKv kv = kv_.View(layer);
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim_));
  TC_RETURN_IF_ERROR(
      cuda::LaunchStatus(LaunchRope({.x = qkv_,
                                     .cos_sin = reinterpret_cast<const float*>(turns_.data()),
                                     .positions = input(in_.positions),
                                     .tokens = rows,
                                     .heads = heads_ + kv_heads_,
                                     .head_dim = head_dim_,
                                     .rotary_dim = head_dim_,
                                     .token_stride = qkv_width_,
                                     .halves = config_.rope_layout == RopeLayout::kHalves},
                                    stream),
                         "Rope"));
  TC_RETURN_IF_ERROR(Append(chunk, kv));
  if (rows > 1) {
    return cuda::LaunchStatus(LaunchPrefillAttention({.out = attended_,
                                                      .q = qkv_,
                                                      .kv = kv,
                                                      .tables = input(in_.table),
                                                      .starts = input(in_.starts),
                                                      .lengths = input(in_.lengths),
                                                      .q_stride = qkv_width_,
                                                      .out_stride = q_width_,
                                                      .sequences = 1,
                                                      .longest_chunk = rows,
                                                      .heads = heads_,
                                                      .kv_heads = kv_heads_,
                                                      .head_dim = head_dim_,
                                                      .scale = scale,
                                                      .kv_dtype = kv_.geometry().dtype},
                                                     stream),
                              "PrefillAttention");
  }
  const DecodePlan plan =
      PlanDecode(1, kv_heads_, chunk.position + 1,
                 DecodeBlocksOfMultiprocessor(heads_ / kv_heads_, head_dim_, kv_.geometry().dtype) *
                     device_.multiprocessors);
  return cuda::LaunchStatus(LaunchDecodeAttention({.out = attended_,
                                                   .q = qkv_,
                                                   .kv = kv,
                                                   .tables = input(in_.table),
                                                   .lengths = input(in_.lengths),
                                                   .workspace = reinterpret_cast<float*>(partials_),
                                                   .sequences = 1,
                                                   .heads = heads_,
                                                   .kv_heads = kv_heads_,
                                                   .head_dim = head_dim_,
                                                   .splits = plan.splits,
                                                   .split_tokens = plan.split_tokens,
                                                   .scale = scale,
                                                   .kv_dtype = kv_.geometry().dtype},
                                                  stream),
                            "DecodeAttention");
}

/// The fresh keys and values, as halves or as codes, to their places in the blocks.
absl::Status CudaTransformer::Append(const Chunk& chunk, const PagedKv& kv) {
  const std::byte* const keys = qkv_ + static_cast<uint64_t>(q_width_) * sizeof(Half);
  const std::byte* const values =
      keys + static_cast<uint64_t>(kv_heads_) * head_dim_ * sizeof(Half);
  const KvAppendArgs args{.kv = kv,
                          .keys = keys,
                          .values = values,
                          .tables = input(in_.table),
                          .sequences = input(in_.sequences),
                          .positions = input(in_.positions),
                          .token_stride = qkv_width_,
                          .tokens = chunk.rows(),
                          .kv_heads = kv_heads_,
                          .head_dim = head_dim_};
  const KvDtype dtype = kv_.geometry().dtype;
  return IsQuantized(dtype) ? cuda::LaunchStatus(LaunchQuantizedAppend(args, dtype, stream_->get()),
                                                 "QuantizedAppend")
                            : cuda::LaunchStatus(LaunchKvAppend(args, stream_->get()), "KvAppend");
}

/// The logits, or the id that is chosen by those of the last token.
absl::Status CudaTransformer::Logits(const Chunk& chunk) {
  const int rows = chunk.choice != nullptr ? 1 : chunk.logits_rows;
  const std::byte* const last =
      x_ + static_cast<uint64_t>(chunk.rows() - rows) * width_ * sizeof(Half);
  TC_RETURN_IF_ERROR(Norm(last, weights_.output_norm, rows));
  TC_RETURN_IF_ERROR(products_->Multiply({.y = logits_,
                                          .x = normed_,
                                          .weights = weights_.logits,
                                          .rows = rows,
                                          .outputs = static_cast<int>(config_.vocab),
                                          .inputs = width_,
                                          .x_stride = width_,
                                          .y_stride = logits_stride_,
                                          .float_result = true},
                                         stream_->get()));
  if (chunk.choice == nullptr) {
    return cuda::CopyAsync({.to = staged_results_.data(),
                            .from = logits_,
                            .bytes = static_cast<uint64_t>(rows) * logits_stride_ * sizeof(float)},
                           stream_->get());
  }
  TC_RETURN_IF_ERROR(cuda::LaunchStatus(
      LaunchSample({.ids = reinterpret_cast<int32_t*>(chosen_),
                    .logits = reinterpret_cast<const float*>(logits_),
                    .settings = reinterpret_cast<const SampleSettings*>(input(0)),
                    .logits_stride = logits_stride_,
                    .sequences = 1,
                    .vocabulary = static_cast<int>(config_.vocab)},
                   stream_->get()),
      "Sample"));
  return cuda::CopyAsync({.to = staged_results_.data(), .from = chosen_, .bytes = sizeof(int32_t)},
                         stream_->get());
}

absl::Status CudaTransformer::Norm(const std::byte* x, const std::byte* gain, int rows) {
  return cuda::LaunchStatus(LaunchRmsNorm({.out = normed_,
                                           .x = x,
                                           .gain = gain,
                                           .rows = rows,
                                           .width = width_,
                                           .x_stride = width_,
                                           .out_stride = width_,
                                           .epsilon = config_.rms_epsilon},
                                          stream_->get()),
                            "RmsNorm");
}

absl::Status CudaTransformer::Multiply(const std::byte* weights, int outputs, const std::byte* x,
                                       int inputs, int x_stride, std::byte* y, int rows, bool add) {
  return products_->Multiply({.y = y,
                              .x = x,
                              .weights = weights,
                              .rows = rows,
                              .outputs = outputs,
                              .inputs = inputs,
                              .x_stride = x_stride,
                              .y_stride = outputs,
                              .add = add},
                             stream_->get());
}

}  // namespace

absl::Status CopyOffDevice(std::byte* to, const std::byte* from, uint64_t bytes, int device) {
  TC_RETURN_IF_ERROR(cuda::UseDevice(device));
  TC_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::Stream::Create());
  TC_RETURN_IF_ERROR(cuda::CopyAsync({.to = to, .from = from, .bytes = bytes}, stream.get()));
  return stream.Synchronize();
}

absl::StatusOr<std::unique_ptr<Transformer>> LoadOnCuda(const ModelFile& model, int device) {
  return CudaTransformer::Load(model, device);
}

}  // namespace thermocline
