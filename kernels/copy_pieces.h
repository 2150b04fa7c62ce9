// Copies many small pieces of memory, on a GPU: what the copy engines are slow at.
#pragma once
#include "kernels/simt/launch.h"

namespace thermocline {

/// Copies `count` pieces that do not overlap, device memory or pinned host memory on either side.
/// Units:  addresses and bytes multiples of 16.
/// Thread: any; ordered on `stream`; never synchronises. The pieces are part of the launch, so that
///         nothing is borrowed.
/// Errors: kInvalidValue for too many pieces, or an address or size that does not fit.
/// Cost:   twice the bytes of traffic, by at most max_thread_blocks of 256 threads each.
struct CopyPiecesArgs {
  static constexpr int kMaxPieces = 128;
  struct Piece {
    std::byte* to;
    const std::byte* from;
    int64_t bytes;
  };
  Piece pieces[kMaxPieces];
  int count = 0;
  int max_thread_blocks = 32;
};
CudaError LaunchCopyPieces(const CopyPiecesArgs& args, CudaStream stream);

}  // namespace thermocline
