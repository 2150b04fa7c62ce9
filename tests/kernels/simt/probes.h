// Small kernels that show what the emulator does, right and wrong ones: each Probe is one of them.
#pragma once
#include <cstdint>

#include "kernels/simt/launch.h"

namespace thermocline {

/// Buffers of emulated device memory; which probe uses which is told in probes.cu.
struct ProbeArgs {
  float* out = nullptr;
  const float* in = nullptr;
  uint32_t* counts = nullptr;
  const uint16_t* a = nullptr;
  const uint16_t* b = nullptr;
  int length = 0;
  uint32_t mask = 0xffffffffu;
};

enum class Probe {
  // right
  kIndices,
  kReverseByShared,
  kShuffles,
  kVotes,
  kWarpPrefixSum,
  kAtomics,
  kPipeline,
  kMatrixProduct,
  kVectors,
  // wrong, noticed in every program
  kDivergentBarrier,
  kTwoBarriers,
  kEarlyReturn,
  kShuffleFromOutside,
  kShuffleDiverged,
  kPendingCopies,
  kUnwrittenShared,
  kReadBeforeWait,
  // wrong, noticed by the checker
  kMissingBarrier,
  kMissingWarpBarrier,
  kBlocksShareOutput,
  kSharedOutOfBounds,
  kGlobalOutOfBounds,
  kHostPointer,
  kMisalignedVector,
  kAtomicAndPlain,
  // for the statistics
  kStridedLoad,
  kBankConflict,
};

CudaError RunProbe(Probe probe, const ProbeArgs& args, const LaunchShape& shape);

}  // namespace thermocline
