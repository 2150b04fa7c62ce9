// Copies between host and device, and within the device, many at once.
//
// Many small pieces are copied by a kernel, which takes few thread blocks, that a model's kernels
// keep their place; all others in one call of the driver where it has such (12.8), or else one by
// one. Measured on an H100 (bench/gpu_copies.cc), pinned memory to the device, GB/s; one piece of
// 64 MiB has 54.9:
//   piece         16 KiB   64 KiB   256 KiB   1 MiB
//   the kernel      46       49       50       50.6
//   one call         4.7     33       46       52.4
// Where both are near each other the copy engines are left to it, since they take no
// multiprocessor's time from the model.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "kernels/simt/launch.h"

namespace thermocline::cuda {

/// Either side is device memory, or host memory.
struct Copy {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  uint64_t bytes = 0;
};

/// Thread: any; ordered on `stream`, which is not the default one. From and to host memory that is
/// not pinned it may wait, and copies more slowly.
absl::Status CopyAsync(const Copy& copy, CudaStream stream);

struct CopyOptions {
  // When a kernel copies: so many pieces at least, each of fewer bytes than this.
  size_t kernel_least_pieces = 16;
  uint64_t kernel_below_bytes = 128 * 1024;
  int max_thread_blocks = 32;
  bool device_reaches_all = false;  // all host memory among the copies is pinned; else no kernel
};

/// The copies of a batch have no order among each other; they do not overlap.
/// Thread: any; ordered on `stream`, which is not the default one; never waits for pinned memory.
/// Owner:  the memory is the caller's until `stream` passes this point; `copies` may go at once.
/// Errors: after one some copies may be under way.
absl::Status CopyBatchAsync(std::span<const Copy> copies, CudaStream stream,
                            const CopyOptions& options = {});

absl::Status FillAsync(std::byte* to, uint8_t value, uint64_t bytes, CudaStream stream);

}  // namespace thermocline::cuda
