// The forward pass on a GPU: the same graph as the CPU's, by the kernels of kernels/ and matrix
// products of cuBLASLt, weights and activations as f16, KV as f16 or as codes with scales (int8,
// e4m3, int4), which are quantised as they are appended and attended as they lie.
//
// KV is computed in device memory and copied to the step's blocks in host memory, so that it can be
// published there; rows that a step reads and the device does not hold yet are fetched from them.
// Blocks of the daemon's hot tier are attended to where they lie.
// What is computed here is not equal to the CPU's to the bit, nor independent of how a prompt is
// cut: its KV is a space of its own (kCudaNumerics).
#pragma once
#include <memory>
#include <string_view>

#include "base/status.h"
#include "engine/transformer.h"

namespace thermocline {

/// In place of the CPU's kNumericsVersion in the identity of KV.
inline constexpr std::string_view kCudaNumerics = "cuda 1";

/// Repacks the weights: the model file may be closed afterwards. Its steps take KV of all types but
/// f32. Errors: Unimplemented when built without CUDA, Unavailable without a device, its driver or
///         cuBLASLt; InvalidArgument for dimensions that the kernels do not take; ResourceExhausted
///         when the device has no room; those of the model file.
absl::StatusOr<std::unique_ptr<Transformer>> LoadOnCuda(const ModelFile& model, int device = 0);

/// Waits. Errors: as CUDA has them.
absl::Status CopyOffDevice(std::byte* to, const std::byte* from, uint64_t bytes, int device = 0);

}  // namespace thermocline
