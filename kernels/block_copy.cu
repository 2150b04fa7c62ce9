// A piece of work is one block's K or V of one layer: a contiguous run on our side. Threads take
// 16-byte units of it, neighbours the neighbouring ones.
#include "kernels/block_copy.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 256;
constexpr int kUnitBytes = 16;

/// What a thread works with, made of KvGeometry on the host.
struct CopyPlan {
  BlockCopyArgs args;
  int64_t half_bytes;  ///< of our run
  int row_units;
};

template <bool kToEngine>
__global__ void __launch_bounds__(kThreads) BlockCopy(const __grid_constant__ CopyPlan plan) {
  const BlockCopyArgs& args = plan.args;
  const int halves = 2 * args.geometry.layers;
  const int units = args.geometry.kv_heads * kBlockTokens * plan.row_units;
  for (int64_t piece = blockIdx.x; piece < static_cast<int64_t>(args.count) * halves;
       piece += gridDim.x) {
    const int64_t block = piece / halves;
    const int layer_half = static_cast<int>(piece % halves);
    std::byte* const ours =
        args.pool + args.blocks[block] * args.block_stride + layer_half * plan.half_bytes;
    const int64_t slot = args.slots[block];
    std::byte* const theirs = args.layers[layer_half / 2] +
                              slot / args.engine.page_tokens * args.engine.page_stride +
                              layer_half % 2 * args.engine.half_stride +
                              slot % args.engine.page_tokens * args.engine.token_stride;
    for (int unit = threadIdx.x; unit < units; unit += kThreads) {
      const int row = unit / plan.row_units;
      std::byte* const a = ours + static_cast<int64_t>(unit) * kUnitBytes;
      std::byte* const b = theirs + row / kBlockTokens * args.engine.head_stride +
                           row % kBlockTokens * args.engine.token_stride +
                           unit % plan.row_units * kUnitBytes;
      simt::Store16(kToEngine ? b : a, simt::LoadOnce16(kToEngine ? a : b));
    }
  }
}

CudaError LaunchBlockCopy(const BlockCopyArgs& args, bool to_engine, CudaStream stream) {
  const KvGeometry& geometry = args.geometry;
  const EngineKvLayout& engine = args.engine;
  if (args.count == 0) return CudaError::kSuccess;
  if (args.count < 0 || args.max_thread_blocks <= 0 || geometry.layers <= 0 ||
      geometry.kv_heads <= 0 || geometry.block_tokens != kBlockTokens ||
      IsQuantized(geometry.dtype) || geometry.row_bytes() == 0 ||
      geometry.row_bytes() % kUnitBytes != 0 || engine.page_tokens <= 0 ||
      engine.page_tokens % kBlockTokens != 0 ||
      (args.block_stride | engine.page_stride | engine.half_stride | engine.head_stride |
       engine.token_stride) %
              kUnitBytes !=
          0) {
    return CudaError::kInvalidValue;
  }
  const int64_t pieces = static_cast<int64_t>(args.count) * 2 * geometry.layers;
  const LaunchShape shape{.grid = {static_cast<uint32_t>(
                              pieces < args.max_thread_blocks ? pieces : args.max_thread_blocks)},
                          .block = {kThreads}};
  const CopyPlan plan{args, static_cast<int64_t>(geometry.layer_bytes() / 2),
                      static_cast<int>(geometry.row_bytes() / kUnitBytes)};
  return simt::Launch(to_engine ? BlockCopy<true> : BlockCopy<false>, shape, stream, plan);
}

}  // namespace

CudaError LaunchBlockGather(const BlockCopyArgs& args, CudaStream stream) {
  return LaunchBlockCopy(args, false, stream);
}

CudaError LaunchBlockScatter(const BlockCopyArgs& args, CudaStream stream) {
  return LaunchBlockCopy(args, true, stream);
}

}  // namespace thermocline
