// A llama-architecture model's weights in device memory, as f16, matrices as the file has them:
// rows of inputs. What is multiplied with the same activations is one matrix.
#pragma once
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/weights.h"
#include "kernels/cuda/memory.h"

namespace thermocline {

struct CudaWeights {
  struct Layer {
    const std::byte* attention_norm = nullptr;  ///< [width]
    const std::byte* ffn_norm = nullptr;        ///< [width]
    const std::byte* qkv = nullptr;             ///< [(heads + 2 kv_heads) * head_dim][width]
    const std::byte* output = nullptr;          ///< [width][heads * head_dim]
    const std::byte* gate_up = nullptr;         ///< [2 ff][width], all of the gate's rows first
    const std::byte* down = nullptr;            ///< [width][ff]
  };
  std::vector<Layer> layers;
  const std::byte* embedding = nullptr;  ///< [vocab][width]
  const std::byte* logits = nullptr;     ///< the same, perhaps the very same (tied)
  const std::byte* output_norm = nullptr;
  int ff = 0;  ///< the feed-forward width, rounded up to 8; what was added weighs 0
  cuda::DeviceBuffer memory;

  /// Errors: what the file lacks or has in another shape; InvalidArgument for a weight beyond f16;
  ///         ResourceExhausted when the device has no room.
  /// Cost:   reads every weight once, on the calling thread.
  static absl::StatusOr<CudaWeights> Load(const ModelFile& model, const ModelConfig& config);
};

}  // namespace thermocline
