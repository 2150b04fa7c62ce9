// A llama-architecture model's weights, repacked for the CPU kernels. What is multiplied with the
// same activations is one matrix: Q, K and V side by side; gate and up alternating by panels, so
// that SwiGLU is the epilogue of their product. Everything lies in one buffer in the order of use.
#pragma once
#include <vector>

#include "base/status.h"
#include "engine/thread_pool.h"
#include "engine/weights.h"
#include "kernels/aligned_buffer.h"
#include "kernels/cpu/cpu_kernels.h"

namespace thermocline {

/// Panels of one or several tensors with the same columns. Owner: borrows from TransformerWeights.
struct PanelMatrix {
  std::vector<Panel> panels;
  int columns = 0;

  int panel_count() const { return static_cast<int>(panels.size()); }
  int block_count() const { return PaddedColumns(columns) / kBlockColumns; }
};

struct LayerWeights {
  const float* attention_norm = nullptr;  // [PaddedColumns(embedding_width)]
  const float* ffn_norm = nullptr;        // the same
  PanelMatrix qkv;      // [heads * head_dim | kv_heads * head_dim | the same], each padded to 16
  PanelMatrix output;   // [embedding_width][heads * head_dim]
  PanelMatrix gate_up;  // [2 ff_width][embedding_width], 16 gate rows, then 16 up rows
  PanelMatrix down;     // [embedding_width][ff_width]
};

/// Owner: owns the memory of all panels; does not need the model file any more.
struct TransformerWeights {
  PanelMatrix embedding;  // [vocab][embedding_width]
  PanelMatrix logits;     // the same, perhaps the very same panels (tied)
  const float* output_norm = nullptr;
  std::vector<LayerWeights> layers;

  AlignedBuffer panel_memory;
  AlignedBuffer norm_memory;

  /// Errors: what the file lacks, what has the wrong shape or type.
  /// Cost:   reads every weight once, on all threads of `pool`.
  static absl::StatusOr<TransformerWeights> Load(const ModelFile& model, const ModelConfig& config,
                                                 ThreadPool& pool);
};

}  // namespace thermocline
