// A block of threads takes a piece, its threads neighbouring units of 16 bytes.
#include "kernels/copy_pieces.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 256;
constexpr int kUnitBytes = 16;

__global__ void __launch_bounds__(kThreads)
    CopyPieces(const __grid_constant__ CopyPiecesArgs args) {
  for (int i = blockIdx.x; i < args.count; i += gridDim.x) {
    const CopyPiecesArgs::Piece& piece = args.pieces[i];
    for (int64_t at = threadIdx.x * kUnitBytes; at < piece.bytes; at += kThreads * kUnitBytes) {
      simt::Store16(piece.to + at, simt::LoadOnce16(piece.from + at));
    }
  }
}

}  // namespace

CudaError LaunchCopyPieces(const CopyPiecesArgs& args, CudaStream stream) {
  if (args.count < 0 || args.count > CopyPiecesArgs::kMaxPieces || args.max_thread_blocks <= 0) {
    return CudaError::kInvalidValue;
  }
  if (args.count == 0) return CudaError::kSuccess;
  for (int i = 0; i < args.count; ++i) {
    const CopyPiecesArgs::Piece& piece = args.pieces[i];
    const auto all = reinterpret_cast<uintptr_t>(piece.to) |
                     reinterpret_cast<uintptr_t>(piece.from) | static_cast<uintptr_t>(piece.bytes);
    if (all % kUnitBytes != 0 || piece.bytes < 0) return CudaError::kInvalidValue;
  }
  const int blocks = args.count < args.max_thread_blocks ? args.count : args.max_thread_blocks;
  const LaunchShape shape{.grid = {static_cast<uint32_t>(blocks)}, .block = {kThreads}};
  return simt::Launch(CopyPieces, shape, stream, args);
}

}  // namespace thermocline
