// What a caller of kernels needs to know of CUDA, without CUDA's headers: host code that launches a
// kernel compiles on a machine without the toolkit, and against the emulator.
#pragma once
#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace thermocline {

/// The same type as cudaStream_t.
using CudaStream = CUstream_st*;

/// A cudaError_t, of which callers tell success from failure; the numbers are the runtime's.
enum class [[nodiscard]] CudaError : int{kSuccess = 0, kInvalidValue = 1};

/// How many threads start a kernel. Limits: block at most 1024 threads, shared_bytes at most what
/// the device grants a block.
struct LaunchShape {
  struct Extent {
    uint32_t x = 1, y = 1, z = 1;
  };
  Extent grid;
  Extent block;
  size_t shared_bytes = 0;
};

}  // namespace thermocline
