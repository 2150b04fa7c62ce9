// A chunk of tokens goes through the layers in one run of the thread pool, stage by stage. Prefill
// (several tokens): the items of a matrix product are 32 outputs for all rows, those of attention
// 64 queries. Decode (one token): a few panels of a matrix, and spans of 256 tokens of a KV head;
// norms are so small that each thread computes its own, rotation and KV are part of attention: five
// or six stages a layer instead of eight. What a thread prepares for itself it prepares with its
// first item, for without an item it must read nothing (see engine/thread_pool.h).
//   Row strides are an odd number of cache lines: with a power of two, the rows of a register tile
// would all fall into one set of the cache.
#include "engine/transformer.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <string>
#include <vector>

#include "base/check.h"
#include "engine/thread_pool.h"
#include "engine/transformer_weights.h"
#include "kernels/aligned_buffer.h"
#include "kernels/cpu/cpu_kernels.h"

namespace thermocline {
namespace {

size_t RowStride(int columns) { return PaddedColumns(columns) + 16; }

/// Rows of activations, `stride` floats apart.
template <class T>
struct Rows {
  T* data;
  size_t stride;
  operator Rows<const T>() const { return {data, stride}; }
};

class CpuTransformer : public Transformer {
 public:
  static absl::StatusOr<std::unique_ptr<CpuTransformer>> Load(const ModelFile& file, int threads);

  int threads() const override { return pool_->threads(); }
  const char* kernels() const override { return kernels_->name; }

 private:
  explicit CpuTransformer(ModelConfig config) : Transformer(std::move(config)) {}

  /// What a matrix is multiplied with: rows, or (`gain` not null) what RMSNorm makes of them.
  struct Input {
    Rows<const float> rows;
    const float* gain = nullptr;
  };

  /// What one thread has to itself in a chunk.
  struct Worker {
    int thread;
    float* normed;  // decode: its own normed row
    float* query;   // decode: its own rotated query row, [heads][head_dim]
    float* scratch;
  };

  absl::Status Prepare(const Step& step, int rows) override;
  absl::Status Compute(const Chunk& chunk) override;
  void ComputeChunk(const Chunk& chunk, Worker& worker);
  void Embed(const Chunk& chunk, int row, float* scratch);
  void ComputeLayer(const Chunk& chunk, int layer, Worker& worker);
  void Multiply(const PanelMatrix& matrix, Input in, int rows, Rows<float> out, Epilogue epilogue,
                Worker& worker, int output_columns = INT_MAX);
  void PrefillAttention(const Chunk& chunk, int layer, Worker& worker);
  void DecodeAttention(const Chunk& chunk, int layer, Worker& worker);
  AttentionArgs AttentionOf(const Chunk& chunk, int layer) const;
  void Rotate(float* x, int heads, int row) const;
  void StoreKv(const Chunk& chunk, int layer, int kv_head, int row) const;
  void Logits(const Chunk& chunk, Worker& worker);

  template <class F>
  void Share(int count, Worker& worker, F f) {
    pool_->Share(worker.thread, count, f);
  }
  void Norm(const float* x, const float* gain, float* y) const {
    kernels_->rms_norm(x, gain, y, width_, config_.rms_epsilon);
  }

  const CpuKernels* kernels_ = nullptr;
  std::unique_ptr<ThreadPool> pool_;
  TransformerWeights weights_;
  int width_ = 0, ff_width_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0;
  int keys_at_ = 0, values_at_ = 0;       // where K and V begin in a row of qkv_
  std::vector<double> rope_frequencies_;  // [head_dim / 2]

  // Activations of a chunk, [rows][stride]. What pads a row stays zero.
  size_t x_stride_ = 0, qkv_stride_ = 0, attended_stride_ = 0, ff_stride_ = 0;
  int reserved_rows_ = 0;
  AlignedBuffer x_, normed_, qkv_, attended_, ff_, cos_sin_;
  size_t partials_per_kv_head_ = 0;  // spans that partials_ holds
  AlignedBuffer partials_;           // decode: [kv_heads][spans][heads / kv_heads][PartialFloats]
  size_t worker_stride_ = 0;
  AlignedBuffer worker_memory_;
  std::vector<float> choice_logits_;  // that a token is chosen by
};

absl::StatusOr<std::unique_ptr<CpuTransformer>> CpuTransformer::Load(const ModelFile& file,
                                                                     int threads) {
  TC_ASSIGN_OR_RETURN(const ModelConfig config, file.config());
  std::unique_ptr<CpuTransformer> model(new CpuTransformer(config));
  model->width_ = static_cast<int>(config.embedding_width);
  model->ff_width_ = static_cast<int>(config.ff_width);
  model->heads_ = static_cast<int>(config.heads);
  model->kv_heads_ = static_cast<int>(config.kv_heads);
  model->head_dim_ = static_cast<int>(config.head_dim);
  TC_RETURN_IF_ERROR(Annotate(
      CheckAttentionShape(model->heads_, model->kv_heads_, model->head_dim_), file.path()));
  TC_ASSIGN_OR_RETURN(model->kernels_, SelectCpuKernels());
  TC_ASSIGN_OR_RETURN(model->pool_, ThreadPool::Make(threads));
  TC_ASSIGN_OR_RETURN(model->weights_, TransformerWeights::Load(file, config, *model->pool_));

  const int query_width = model->heads_ * model->head_dim_;
  model->keys_at_ = PaddedRows(query_width);
  model->values_at_ = model->keys_at_ + PaddedRows(model->kv_heads_ * model->head_dim_);
  model->x_stride_ = RowStride(model->width_);
  model->qkv_stride_ = RowStride(2 * model->values_at_ - model->keys_at_);
  model->attended_stride_ = RowStride(query_width);
  model->ff_stride_ = RowStride(model->ff_width_);
  for (int i = 0; i < model->head_dim_ / 2; ++i) {
    model->rope_frequencies_.push_back(
        std::pow(static_cast<double>(config.rope_base), -2.0 * i / model->head_dim_));
  }
  const int blocks =
      PaddedColumns(std::max({model->width_, model->ff_width_, query_width})) / kBlockColumns;
  const size_t scratch =
      std::max(MatmulScratchFloats(blocks),
               AttentionScratchFloats(model->heads_, model->kv_heads_, model->head_dim_));
  model->worker_stride_ = model->x_stride_ + model->attended_stride_ + PaddedColumns(scratch);
  TC_ASSIGN_OR_RETURN(
      model->worker_memory_,
      AlignedBuffer::Make(model->worker_stride_ * model->pool_->threads() * sizeof(float)));
  return model;
}

absl::Status CpuTransformer::Prepare(const Step& step, int rows) {
  if (IsQuantized(step.kv_dtype)) {
    return absl::InvalidArgumentError(std::string("KV as ") + KvDtypeName(step.kv_dtype) +
                                      "; on the CPU it is kept as f32 or f16");
  }
  if (!step.on_device.empty()) {
    return absl::InvalidArgumentError("KV blocks on a device, and the CPU computes");
  }
  const size_t end_position = step.position + step.tokens.size();
  if (rows > reserved_rows_) {
    const auto make = [&](AlignedBuffer& buffer, size_t stride) -> absl::Status {
      TC_ASSIGN_OR_RETURN(buffer, AlignedBuffer::Make(rows * stride * sizeof(float)));
      return absl::OkStatus();
    };
    reserved_rows_ = 0;  // until all of them are made
    TC_RETURN_IF_ERROR(make(x_, x_stride_));
    TC_RETURN_IF_ERROR(make(normed_, x_stride_));
    TC_RETURN_IF_ERROR(make(qkv_, qkv_stride_));
    TC_RETURN_IF_ERROR(make(attended_, attended_stride_));
    TC_RETURN_IF_ERROR(make(ff_, ff_stride_));
    TC_RETURN_IF_ERROR(make(cos_sin_, head_dim_));
    reserved_rows_ = rows;
  }
  const size_t spans = (end_position + kSpanTokens - 1) / kSpanTokens;
  if (spans > partials_per_kv_head_) {
    const size_t made = 2 * spans;  // so that a growing context seldom comes here
    TC_ASSIGN_OR_RETURN(
        partials_, AlignedBuffer::Make(made * heads_ * PartialFloats(head_dim_) * sizeof(float)));
    partials_per_kv_head_ = made;
  }
  return absl::OkStatus();
}

absl::Status CpuTransformer::Compute(const Chunk& chunk) {
  Chunk scored = chunk;
  if (chunk.choice != nullptr) {
    choice_logits_.resize(config_.vocab);
    scored.logits = choice_logits_.data();
    scored.logits_rows = 1;
  }
  pool_->Run([&](int thread) {
    float* memory = worker_memory_.floats() + thread * worker_stride_;
    Worker worker = {.thread = thread,
                     .normed = memory,
                     .query = memory + x_stride_,
                     .scratch = memory + x_stride_ + attended_stride_};
    ComputeChunk(scored, worker);
  });
  if (chunk.choice != nullptr) {
    chunk.choice->id = chunk.choice->sampler->Sample(choice_logits_, chunk.choice->draw);
  }
  return absl::OkStatus();
}

void CpuTransformer::ComputeChunk(const Chunk& chunk, Worker& worker) {
  Share(chunk.rows(), worker, [&](int row) { Embed(chunk, row, worker.scratch); });
  for (int layer = 0; layer < static_cast<int>(config_.layers); ++layer) {
    ComputeLayer(chunk, layer, worker);
  }
  if (chunk.logits != nullptr) Logits(chunk, worker);
}

/// The token's row of the embedding, and the angles of its position.
void CpuTransformer::Embed(const Chunk& chunk, int row, float* scratch) {
  const int id = chunk.tokens[row];
  const PanelMatrix& embedding = weights_.embedding;
  kernels_->unpack(embedding.panels[id / kPanelRows], embedding.block_count(), scratch);
  float* x = x_.floats() + row * x_stride_;
  for (int i = 0; i < width_; ++i) x[i] = scratch[i * kPanelRows + id % kPanelRows];
  float* cos_sin = cos_sin_.floats() + row * head_dim_;
  for (const double frequency : rope_frequencies_) {
    const double angle = (chunk.position + row) * frequency;
    *cos_sin++ = static_cast<float>(std::cos(angle));
    *cos_sin++ = static_cast<float>(std::sin(angle));
  }
}

void CpuTransformer::ComputeLayer(const Chunk& chunk, int layer, Worker& worker) {
  const LayerWeights& weights = weights_.layers[layer];
  const int rows = chunk.rows();
  const Rows<float> x{x_.floats(), x_stride_}, qkv{qkv_.floats(), qkv_stride_};
  const Rows<float> attended{attended_.floats(), attended_stride_}, ff{ff_.floats(), ff_stride_};
  Multiply(weights.qkv, {x, weights.attention_norm}, rows, qkv, Epilogue::kStore, worker);
  rows == 1 ? DecodeAttention(chunk, layer, worker) : PrefillAttention(chunk, layer, worker);
  Multiply(weights.output, {attended}, rows, x, Epilogue::kAdd, worker);
  Multiply(weights.gate_up, {x, weights.ffn_norm}, rows, ff, Epilogue::kSwiGlu, worker);
  Multiply(weights.down, {ff}, rows, x, Epilogue::kAdd, worker);
}

void CpuTransformer::Multiply(const PanelMatrix& matrix, Input in, int rows, Rows<float> out,
                              Epilogue epilogue, Worker& worker, int output_columns) {
  if (in.gain != nullptr && rows > 1) {
    const Rows<float> normed{normed_.floats(), x_stride_};
    Share(rows, worker, [&](int row) {
      Norm(in.rows.data + row * in.rows.stride, in.gain, normed.data + row * normed.stride);
    });
    in = {normed};
  }
  MatmulArgs args = {.panels = matrix.panels.data(),
                     .block_count = matrix.block_count(),
                     .x = in.rows.data,
                     .x_stride = in.rows.stride,
                     .rows = rows,
                     .y = out.data,
                     .y_stride = out.stride,
                     .output_columns = output_columns,
                     .epilogue = epilogue};
  // An item has an even number of panels: SwiGLU's gate and up belong together.
  const int panels = matrix.panel_count(), step = rows == 1 ? kernels_->fused_panels : 2;
  Share((panels + step - 1) / step, worker, [&](int item) {
    const int first = item * step, count = std::min(step, panels - first);
    if (rows > 1) {
      kernels_->matmul_tile(args, first, count, worker.scratch);
      return;
    }
    if (in.gain != nullptr) {
      Norm(in.rows.data, in.gain, worker.normed);
      args.x = worker.normed;
      in.gain = nullptr;
    }
    kernels_->matmul_fused(args, first, count);
  });
}

AttentionArgs CpuTransformer::AttentionOf(const Chunk& chunk, int layer) const {
  return {.q = qkv_.floats(),
          .q_stride = qkv_stride_,
          .out = attended_.floats(),
          .out_stride = attended_stride_,
          .heads = heads_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_,
          .rows = chunk.rows(),
          .position = chunk.position,
          .blocks = chunk.blocks.data(),
          .keys_offset = chunk.geometry.head_offset(layer, KvHalf::kKeys, 0),
          .values_offset = chunk.geometry.head_offset(layer, KvHalf::kValues, 0),
          .head_bytes = chunk.geometry.head_bytes(),
          .half = chunk.geometry.dtype == KvDtype::kF16};
}

void CpuTransformer::Rotate(float* x, int heads, int row) const {
  kernels_->rope(x, heads, head_dim_, cos_sin_.floats() + row * head_dim_,
                 config_.rope_layout == RopeLayout::kHalves);
}

/// Rotates the KV head's key in place and writes key and value to the row of their token.
void CpuTransformer::StoreKv(const Chunk& chunk, int layer, int kv_head, int row) const {
  float* qkv = qkv_.floats() + row * qkv_stride_;
  float* key = qkv + keys_at_ + kv_head * head_dim_;
  const float* value = qkv + values_at_ + kv_head * head_dim_;
  const bool half = chunk.geometry.dtype == KvDtype::kF16;
  const int position = chunk.position + row;
  Rotate(key, 1, row);
  kernels_->store_kv(key, head_dim_, half, chunk.kv_row(position, layer, KvHalf::kKeys, kv_head));
  kernels_->store_kv(value, head_dim_, half,
                     chunk.kv_row(position, layer, KvHalf::kValues, kv_head));
}

void CpuTransformer::PrefillAttention(const Chunk& chunk, int layer, Worker& worker) {
  Share(chunk.rows(), worker, [&](int row) {
    Rotate(qkv_.floats() + row * qkv_stride_, heads_, row);
    for (int kv_head = 0; kv_head < kv_heads_; ++kv_head) StoreKv(chunk, layer, kv_head, row);
  });
  const AttentionArgs args = AttentionOf(chunk, layer);
  const int first_group = chunk.position / kGroupTokens;
  const int tiles = (chunk.position + chunk.rows() - 1) / kGroupTokens - first_group + 1;
  Share(tiles * kv_heads_, worker, [&](int i) {  // the last tiles, with most to read, first
    kernels_->attend_tile(args, tiles - 1 - i / kv_heads_, i % kv_heads_, worker.scratch);
  });
}

void CpuTransformer::DecodeAttention(const Chunk& chunk, int layer, Worker& worker) {
  AttentionArgs args = AttentionOf(chunk, layer);
  args.q = worker.query;
  const int spans = chunk.position / kSpanTokens + 1, group = heads_ / kv_heads_;
  const size_t head_floats = PartialFloats(head_dim_), span_floats = group * head_floats;
  const auto merge = [&](int head) {
    const float* first =
        partials_.floats() + (head / group) * spans * span_floats + (head % group) * head_floats;
    kernels_->merge_spans(first, span_floats, spans, head_dim_, args.out + head * head_dim_,
                          worker.scratch);
  };
  Share(spans * kv_heads_, worker, [&](int i) {
    const int span = i / kv_heads_, kv_head = i % kv_heads_;
    // Only the last span holds the new token: whoever has it stores the token's K and V first.
    if (span == spans - 1) StoreKv(chunk, layer, kv_head, 0);
    const int queries_at = kv_head * group * head_dim_;
    std::copy_n(qkv_.floats() + queries_at, group * head_dim_, worker.query + queries_at);
    Rotate(worker.query + queries_at, group, 0);
    kernels_->attend_span(args, span, kv_head,
                          partials_.floats() + (kv_head * spans + span) * span_floats,
                          worker.scratch);
    if (spans == 1) {
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) merge(head);
    }
  });
  if (spans > 1) Share(heads_, worker, merge);
}

void CpuTransformer::Logits(const Chunk& chunk, Worker& worker) {
  const int rows = chunk.logits_rows, vocab = static_cast<int>(config_.vocab);
  const float* x = x_.floats() + (chunk.rows() - rows) * x_stride_;
  Multiply(weights_.logits, {{x, x_stride_}, weights_.output_norm}, rows,
           {chunk.logits, static_cast<size_t>(vocab)}, Epilogue::kStore, worker, vocab);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const ModelFile& model,
                                                               const Options& options) {
  return CpuTransformer::Load(model, options.threads);
}

}  // namespace thermocline
