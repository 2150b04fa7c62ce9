// CUDA's error codes as statuses: for this folder alone, it needs CUDA's headers.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string_view>

#include "base/status.h"

namespace thermocline::cuda {

/// OK for success; else `call`, CUDA's name of the error and its text, with the code by which
/// callers decide: ResourceExhausted (memory), Unavailable (no driver, no device), InvalidArgument,
/// Unimplemented (this device or driver cannot), Internal (all others; see IsSticky).
absl::Status RuntimeStatus(cudaError_t error, std::string_view call);
absl::Status DriverStatus(CUresult result, std::string_view call);

}  // namespace thermocline::cuda
