// Moves KV between an engine's own paged tensors and our blocks, on a GPU: a gather or a scatter of
// many small runs, which the copy engines are slow at.
#pragma once
#include "kernels/kv_geometry.h"
#include "kernels/simt/launch.h"

namespace thermocline {

/// How an engine keeps KV: one tensor a layer, in pages of page_tokens tokens. Token t of page p of
/// head h lies at  layer + p * page_stride + half * half_stride + h * head_stride + t *
/// token_stride bytes; NHD ([token][head][dim]) and HND ([head][token][dim]) differ in the last two
/// alone. Units: bytes, multiples of 16; page_tokens a multiple of 16, our block's tokens.
struct EngineKvLayout {
  int64_t page_stride = 0;
  int64_t half_stride = 0;  ///< from K to V
  int64_t head_stride = 0;
  int64_t token_stride = 0;
  int page_tokens = kBlockTokens;
};

/// Copies `count` blocks, every layer of them, in one direction.
/// Shape:  blocks [count] ids in the pool, block id b at pool + b * block_stride, inside it as
///         `geometry` says; layers [geometry.layers] pointers to the engine's tensors; slots
///         [count], the engine's token slot (page * page_tokens + token, a multiple of 16) of each
///         block's first token. The arrays lie in device memory. The blocks of one call are
///         distinct.
/// Units:  geometry.row_bytes() a multiple of 16.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape.
/// Cost:   2 * count * block bytes of traffic, by at most max_thread_blocks of 256 threads each, so
///         that a model's own kernels keep their place.
struct BlockCopyArgs {
  std::byte* pool = nullptr;
  int64_t block_stride = 0;
  const int32_t* blocks = nullptr;
  std::byte* const* layers = nullptr;
  const int64_t* slots = nullptr;
  int count = 0;
  KvGeometry geometry;
  EngineKvLayout engine;
  int max_thread_blocks = 64;
};
/// From the engine to our blocks.
CudaError LaunchBlockGather(const BlockCopyArgs& args, CudaStream stream);
/// From our blocks to the engine.
CudaError LaunchBlockScatter(const BlockCopyArgs& args, CudaStream stream);

}  // namespace thermocline
