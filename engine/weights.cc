#include "engine/weights.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "engine/content_digest.h"
#include "engine/gguf.h"
#include "engine/printable.h"
#include "engine/safetensors.h"

namespace thermocline {
namespace {

const TensorLayout& LayoutOf(TensorType type) {
  TC_CHECK(type != TensorType::kOther);
  return kTensorLayouts[static_cast<size_t>(type)];
}

std::string SupportedTypes() {
  return absl::StrJoin(kTensorLayouts, ", ", [](std::string* out, const TensorLayout& layout) {
    absl::StrAppend(out, absl::string_view(layout.name.data(), layout.name.size()));
  });
}

template <typename Shape>
std::string ShapeText(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// What a configuration may claim: far beyond any llama model, and small enough that no product of
// two of them overflows.
constexpr uint32_t kMaxLayers = 1'024;
constexpr uint32_t kMaxWidth = 1u << 20;
constexpr uint32_t kMaxHeads = 1'024;
constexpr uint32_t kMaxHeadDim = 1'024;
constexpr uint32_t kMaxVocab = 1u << 24;
constexpr uint32_t kMaxContextTokens = 1u << 28;

/// Whether the forward pass of llama uses a tensor of this name. Any other one belongs to a variant
/// (biases, experts, frequency factors) that would be computed wrongly without it.
bool IsLlamaTensor(std::string_view name, uint32_t layers) {
  if (name == "token_embd.weight" || name == "output_norm.weight" || name == "output.weight") {
    return true;
  }
  constexpr std::array<std::string_view, 9> kOfLayer{
      "attn_norm.weight", "attn_q.weight",      "attn_k.weight",
      "attn_v.weight",    "attn_output.weight", "ffn_norm.weight",
      "ffn_gate.weight",  "ffn_up.weight",      "ffn_down.weight"};
  constexpr std::string_view kPrefix = "blk.";
  if (name.substr(0, kPrefix.size()) != kPrefix) return false;
  const size_t dot = name.find('.', kPrefix.size());
  if (dot == std::string_view::npos) return false;
  const std::string_view digits = name.substr(kPrefix.size(), dot - kPrefix.size());
  uint32_t layer = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  if (error != std::errc() || end != digits.data() + digits.size() || layer >= layers) return false;
  if (digits.size() > 1 && digits[0] == '0') return false;
  return std::find(kOfLayer.begin(), kOfLayer.end(), name.substr(dot + 1)) != kOfLayer.end();
}

}  // namespace

uint32_t BlockElements(TensorType type) { return LayoutOf(type).block_elements; }
uint32_t BlockBytes(TensorType type) { return LayoutOf(type).block_bytes; }

WeightType WeightTypeOf(TensorType type) {
  TC_CHECK(type != TensorType::kOther);
  static_assert(static_cast<int>(TensorType::kQ5_1) == static_cast<int>(WeightType::kQ5_1));
  return static_cast<WeightType>(type);  // they are in one order
}

uint64_t Tensor::rows() const {
  uint64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

uint64_t Tensor::row_bytes() const { return columns() / BlockElements(type) * BlockBytes(type); }

std::span<const std::byte> Tensor::row(uint64_t index) const {
  TC_CHECK(index < rows());
  return data.subspan(index * row_bytes(), row_bytes());
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path) {
  return Open(path, Options{});
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path,
                                                           const Options& options) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return OpenSafetensorsModel(path, options);
  TC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  if (LooksLikeGguf(file.bytes())) return OpenGgufModel(std::move(file), options);
  if (LooksLikeSafetensors(file.bytes())) return OpenSafetensorsModel(path, options);
  constexpr std::string_view kLfsPointer = "version https://git-lfs";
  if (file.bytes().size() >= kLfsPointer.size() &&
      std::memcmp(file.bytes().data(), kLfsPointer.data(), kLfsPointer.size()) == 0) {
    return absl::InvalidArgumentError(
        path + ": a Git LFS pointer, not the model itself; fetch it with git lfs pull");
  }
  return absl::InvalidArgumentError(
      path +
      ": neither a GGUF nor a safetensors file; give a .gguf file, a .safetensors file or a "
      "directory with config.json and model.safetensors");
}

const Tensor* ModelFile::Find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

absl::StatusOr<const Tensor*> ModelFile::Require(std::string_view name,
                                                 std::initializer_list<uint64_t> shape) const {
  const Tensor* tensor = Find(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat(path_, ": has no tensor ", std::string(name), " (",
                                            tensors_.size(),
                                            " others); give a complete model file"));
  }
  const std::string what = absl::StrCat(path_, ": tensor ", Printable(tensor->source_name));
  if (tensor->type == TensorType::kOther) {
    return absl::UnimplementedError(
        absl::StrCat(what, " is of type ", tensor->type_name, ", which the engine cannot compute ",
                     "with; give a model quantised to one of ", SupportedTypes()));
  }
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has the shape ", ShapeText(tensor->shape), ", the configuration ",
                     "asks for ", ShapeText(shape), "; the file is inconsistent, fetch it anew"));
  }
  return tensor;
}

absl::StatusOr<Sha256> ModelFile::content_sha256() const { return DigestOfFiles(files_); }

absl::Status ModelFile::UnsupportedArchitecture(std::string_view architecture) const {
  return absl::UnimplementedError(
      absl::StrCat(path_, ": the architecture is ", Printable(architecture),
                   ", the engine runs llama; give a model of that architecture"));
}

absl::Status ModelFile::FinishConfig(ModelConfig& config) const {
  if (options_.context_length != 0) config.context_length = options_.context_length;
  const Tensor* embedding = Find("token_embd.weight");
  if (embedding == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(path_, ": has no embedding (", tensors_.size(),
                     " tensors): a vocabulary or a part of a model; give a complete model file"));
  }
  const auto inconsistent = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": ", parts..., "; the configuration is damaged or foreign, fetch the model anew"));
  };
  if (embedding->shape.size() != 2 || embedding->rows() > kMaxVocab) {
    return inconsistent("the embedding has the shape ", ShapeText(embedding->shape));
  }
  config.vocab = static_cast<uint32_t>(embedding->rows());
  struct Bound {
    const char* what;
    uint32_t value;
    uint32_t most;
  };
  for (const Bound& bound :
       {Bound{"layers", config.layers, kMaxLayers},
        Bound{"embedding width", config.embedding_width, kMaxWidth},
        Bound{"feed-forward width", config.ff_width, kMaxWidth},
        Bound{"heads", config.heads, kMaxHeads}, Bound{"KV heads", config.kv_heads, kMaxHeads},
        Bound{"head dimension", config.head_dim, kMaxHeadDim},
        Bound{"context length", config.context_length, kMaxContextTokens}}) {
    if (bound.value == 0 || bound.value > bound.most) {
      return inconsistent(bound.what, " = ", bound.value, " is not in 1..", bound.most);
    }
  }
  if (config.heads % config.kv_heads != 0) {
    return inconsistent(config.heads, " heads cannot share ", config.kv_heads, " KV heads");
  }
  if (config.head_dim % 2 != 0) return inconsistent("head dimension ", config.head_dim, " is odd");
  if (!(config.rms_epsilon > 0 && config.rms_epsilon < 1)) {
    return inconsistent("RMS epsilon is ", config.rms_epsilon);
  }
  if (!(config.rope_base > 0 && std::isfinite(config.rope_base))) {
    return inconsistent("RoPE base is ", config.rope_base);
  }
  const auto is_token = [&](int32_t id) { return int64_t{id} < int64_t{config.vocab}; };
  if (!is_token(config.bos_id) ||
      !std::all_of(config.eos_ids.begin(), config.eos_ids.end(), is_token)) {
    return inconsistent("a special token id is not below the vocabulary's size ", config.vocab);
  }
  for (const Tensor& tensor : tensors_) {
    if (IsLlamaTensor(tensor.name, config.layers)) continue;
    return absl::UnimplementedError(absl::StrCat(
        path_, ": tensor ", Printable(tensor.source_name), " is no part of a llama model of ",
        config.layers, " layers; the engine does not run this variant, give a plain llama model"));
  }
  return absl::OkStatus();
}

absl::Status ModelFile::AdoptTensors(std::vector<Tensor> tensors) {
  tensors_ = std::move(tensors);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!index_.emplace(tensors_[i].name, i).second) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": two tensors bear the name ",
                                                     Printable(tensors_[i].source_name),
                                                     "; the file is damaged, fetch it anew"));
    }
  }
  return absl::OkStatus();
}

}  // namespace thermocline
