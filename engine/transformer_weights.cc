#include "engine/transformer_weights.h"

#include <algorithm>
#include <string>

#include "base/units.h"
#include "engine/dequantize.h"

namespace thermocline {
namespace {

constexpr size_t kPanelAlignment = 64;

/// Plans all panels first and packs them afterwards, in one buffer and on all threads.
class Packer {
 public:
  explicit Packer(const ModelFile& model) : model_(model) {}

  absl::StatusOr<StoredMatrix> Find(const std::string& name, uint64_t rows, uint64_t columns) {
    TC_ASSIGN_OR_RETURN(const Tensor* tensor, model_.Require(name, {rows, columns}));
    const StoredMatrix stored = {.type = WeightTypeOf(tensor->type),
                                 .data = tensor->data.data(),
                                 .rows = static_cast<int>(rows),
                                 .columns = static_cast<int>(columns)};
    TC_RETURN_IF_ERROR(Annotate(CheckStoredMatrix(stored), model_.path() + ": " + name));
    return stored;
  }

  /// The rows of `parts`, which have the same columns, one part after the other.
  PanelMatrix Stack(std::initializer_list<StoredMatrix> parts) {
    PanelMatrix matrix{.columns = parts.begin()->columns};
    for (const StoredMatrix& part : parts) {
      for (int row = 0; row < part.rows; row += kPanelRows) Plan(part, row, matrix);
    }
    return matrix;
  }

  /// Panels of a and b, which have the same shape, in turn.
  PanelMatrix Alternate(const StoredMatrix& a, const StoredMatrix& b) {
    PanelMatrix matrix{.columns = a.columns};
    for (int row = 0; row < a.rows; row += kPanelRows) {
      Plan(a, row, matrix);
      Plan(b, row, matrix);
    }
    return matrix;
  }

  absl::StatusOr<AlignedBuffer> PackAll(ThreadPool& pool) {
    TC_ASSIGN_OR_RETURN(AlignedBuffer memory, AlignedBuffer::Make(planned_bytes_));
    pool.Run([&](int thread) {
      pool.Share(thread, static_cast<int>(jobs_.size()), [&](int i) {
        PackPanel(jobs_[i].source, jobs_[i].first_row, memory.data() + jobs_[i].offset);
      });
    });
    return memory;
  }

  /// Planned panels hold offsets; this makes them pointers.
  static void Place(PanelMatrix& matrix, const AlignedBuffer& memory) {
    for (Panel& panel : matrix.panels) {
      panel.data = memory.data() + reinterpret_cast<uintptr_t>(panel.data);
    }
  }

 private:
  struct Job {
    StoredMatrix source;
    int first_row;
    size_t offset;
  };

  void Plan(const StoredMatrix& source, int first_row, PanelMatrix& matrix) {
    matrix.panels.push_back({reinterpret_cast<const std::byte*>(planned_bytes_), source.type});
    jobs_.push_back({source, first_row, planned_bytes_});
    planned_bytes_ += RoundUp(PanelBytes(source.type, source.columns), kPanelAlignment);
  }

  const ModelFile& model_;
  std::vector<Job> jobs_;
  size_t planned_bytes_ = 0;
};

absl::StatusOr<LayerWeights> PlanLayer(Packer& packer, const ModelConfig& config, uint32_t layer) {
  const std::string prefix = "blk." + std::to_string(layer) + ".";
  const uint64_t width = config.embedding_width, ff = config.ff_width;
  const uint64_t q_width = uint64_t{config.heads} * config.head_dim;
  const uint64_t kv_width = uint64_t{config.kv_heads} * config.head_dim;
  const auto find = [&](const char* name, uint64_t rows, uint64_t columns) {
    return packer.Find(prefix + name + ".weight", rows, columns);
  };
  TC_ASSIGN_OR_RETURN(const StoredMatrix q, find("attn_q", q_width, width));
  TC_ASSIGN_OR_RETURN(const StoredMatrix k, find("attn_k", kv_width, width));
  TC_ASSIGN_OR_RETURN(const StoredMatrix v, find("attn_v", kv_width, width));
  TC_ASSIGN_OR_RETURN(const StoredMatrix output, find("attn_output", width, q_width));
  TC_ASSIGN_OR_RETURN(const StoredMatrix gate, find("ffn_gate", ff, width));
  TC_ASSIGN_OR_RETURN(const StoredMatrix up, find("ffn_up", ff, width));
  TC_ASSIGN_OR_RETURN(const StoredMatrix down, find("ffn_down", width, ff));
  LayerWeights weights;
  weights.qkv = packer.Stack({q, k, v});
  weights.output = packer.Stack({output});
  weights.gate_up = packer.Alternate(gate, up);
  weights.down = packer.Stack({down});
  return weights;
}

absl::Status ReadVector(const ModelFile& model, const std::string& name, uint64_t size,
                        float* out) {
  TC_ASSIGN_OR_RETURN(const Tensor* tensor, model.Require(name, {size}));
  if (size % BlockElements(tensor->type) != 0) {
    return absl::InvalidArgumentError(model.path() + ": " + name + " ends inside a block");
  }
  Dequantize(tensor->type, tensor->data, {out, size});
  return absl::OkStatus();
}

absl::Status LoadNorms(const ModelFile& model, const ModelConfig& config,
                       TransformerWeights& weights) {
  const size_t stride = PaddedColumns(static_cast<int>(config.embedding_width));
  TC_ASSIGN_OR_RETURN(weights.norm_memory,
                      AlignedBuffer::Make((2 * config.layers + 1) * stride * sizeof(float)));
  float* next = weights.norm_memory.floats();
  const auto read = [&](const std::string& name, const float*& target) {
    target = next;
    next += stride;
    return ReadVector(model, name, config.embedding_width, const_cast<float*>(target));
  };
  for (uint32_t i = 0; i < config.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    TC_RETURN_IF_ERROR(read(prefix + "attn_norm.weight", weights.layers[i].attention_norm));
    TC_RETURN_IF_ERROR(read(prefix + "ffn_norm.weight", weights.layers[i].ffn_norm));
  }
  return read("output_norm.weight", weights.output_norm);
}

}  // namespace

absl::StatusOr<TransformerWeights> TransformerWeights::Load(const ModelFile& model,
                                                            const ModelConfig& config,
                                                            ThreadPool& pool) {
  TransformerWeights weights;
  Packer packer(model);
  const uint64_t vocab = config.vocab, width = config.embedding_width;
  TC_ASSIGN_OR_RETURN(const StoredMatrix embedding, packer.Find("token_embd.weight", vocab, width));
  for (uint32_t i = 0; i < config.layers; ++i) {
    TC_ASSIGN_OR_RETURN(LayerWeights layer, PlanLayer(packer, config, i));
    weights.layers.push_back(std::move(layer));
  }
  weights.embedding = packer.Stack({embedding});
  if (!config.tied_embeddings) {
    TC_ASSIGN_OR_RETURN(const StoredMatrix output, packer.Find("output.weight", vocab, width));
    weights.logits = packer.Stack({output});
  }
  TC_RETURN_IF_ERROR(LoadNorms(model, config, weights));

  TC_ASSIGN_OR_RETURN(weights.panel_memory, packer.PackAll(pool));
  for (LayerWeights& layer : weights.layers) {
    for (PanelMatrix* matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      Packer::Place(*matrix, weights.panel_memory);
    }
  }
  Packer::Place(weights.embedding, weights.panel_memory);
  if (config.tied_embeddings) {
    weights.logits = weights.embedding;
  } else {
    Packer::Place(weights.logits, weights.panel_memory);
  }
  return weights;
}

}  // namespace thermocline
