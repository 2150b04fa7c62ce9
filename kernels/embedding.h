// Rows of the embedding table by token, on a GPU.
#pragma once
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// out[i] = table[ids[i]] * scale; zeros where an id is outside of the table.
/// Shape:  ids [tokens]; table [vocabulary][width], out [tokens][width] of `type`.
/// Units:  width a multiple of 8, pointers of 16 bytes.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape.
struct EmbeddingArgs {
  void* out = nullptr;
  const void* table = nullptr;
  const int32_t* ids = nullptr;
  int tokens = 0;
  int width = 0;
  int vocabulary = 0;
  float scale = 1;  ///< gemma: sqrt(width)
  NumberType type = NumberType::kF16;
};
CudaError LaunchEmbedding(const EmbeddingArgs& args, CudaStream stream);

}  // namespace thermocline
