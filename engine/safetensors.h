// safetensors: a length, a JSON header that names every tensor's type, shape and place, then the
// data. Parse accepts only what covers the data exactly: no overlap, no hole, no duplicate key, no
// dimension product that overflows. A model is a directory of config.json and one such file, or
// several with an index.
// Source: huggingface/safetensors, README "Format".
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/weights.h"

namespace thermocline {

/// A header holds some 100 bytes a tensor; the largest published ones are a few hundred KiB.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = uint64_t{16} << 20;
inline constexpr size_t kMaxSafetensorsShards = 1024;

/// The tensors of one file, under canonical names (CanonicalName), in the order of their data.
/// Tensors that only tabulate RoPE's angles (rotary_emb.inv_freq) are left out.
/// Owner:  they borrow `bytes`.
/// Errors: InvalidArgument; the text begins with `path`, which is used for nothing else.
absl::StatusOr<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                     std::string_view path);

/// The GGUF name of a Hugging Face tensor of the llama family; any other name as it is.
[[nodiscard]] std::string CanonicalName(std::string_view name);

/// Whether the bytes begin as a safetensors file does: a header length, then '{'.
[[nodiscard]] bool LooksLikeSafetensors(std::span<const std::byte> bytes);

/// What a llama config.json says, before the tensors are held against it. Errors: InvalidArgument,
/// or Unimplemented for a feature that the engine lacks; the text begins with `path`.
absl::StatusOr<ModelConfig> ParseHuggingFaceConfig(std::string_view json, std::string_view path);

/// A model in a directory, or in one .safetensors file beside its config.json. Errors: as
/// ModelFile::Open.
absl::StatusOr<std::unique_ptr<ModelFile>> OpenSafetensorsModel(const std::string& path,
                                                                const ModelFile::Options& options);

}  // namespace thermocline
