#include "engine/safetensors.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/json_text.h"
#include "engine/printable.h"

namespace thermocline {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the data is read as it lies");

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxDimensions = 8;

struct StoredType {
  std::string_view name;
  uint32_t bytes;
  TensorType type;
};

constexpr std::array<StoredType, 15> kStoredTypes{{{"F32", 4, TensorType::kF32},
                                                   {"F16", 2, TensorType::kF16},
                                                   {"BF16", 2, TensorType::kBF16},
                                                   {"F64", 8, TensorType::kOther},
                                                   {"F8_E4M3", 1, TensorType::kOther},
                                                   {"F8_E5M2", 1, TensorType::kOther},
                                                   {"I64", 8, TensorType::kOther},
                                                   {"I32", 4, TensorType::kOther},
                                                   {"I16", 2, TensorType::kOther},
                                                   {"I8", 1, TensorType::kOther},
                                                   {"U64", 8, TensorType::kOther},
                                                   {"U32", 4, TensorType::kOther},
                                                   {"U16", 2, TensorType::kOther},
                                                   {"U8", 1, TensorType::kOther},
                                                   {"BOOL", 1, TensorType::kOther}}};

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

uint64_t HeaderBytes(std::span<const std::byte> bytes) {
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  return length;
}

/// One file's header, read into tensors.
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> data, std::string_view path) : data_(data), path_(path) {}

  template <typename... Parts>
  [[nodiscard]] absl::Status Damaged(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(
        std::string(path_), ": ", parts..., "; the file is truncated or damaged, fetch it anew"));
  }

  absl::StatusOr<std::vector<Tensor>> Read(const json& header) {
    if (!header.is_object()) return Damaged("the header is not a JSON object");
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        TC_RETURN_IF_ERROR(CheckMetadata(entry));
      } else {
        TC_RETURN_IF_ERROR(ReadTensor(name, entry));
      }
    }
    // In the order of the data; an empty tensor before the one that begins where it lies.
    std::sort(tensors_.begin(), tensors_.end(), [](const Tensor& a, const Tensor& b) {
      return std::pair(a.data.data(), a.data.size()) < std::pair(b.data.data(), b.data.size());
    });
    TC_RETURN_IF_ERROR(CheckCover());
    std::erase_if(tensors_, [](const Tensor& tensor) {
      return EndsWith(tensor.name, ".rotary_emb.inv_freq");
    });
    return std::move(tensors_);
  }

 private:
  absl::Status CheckMetadata(const json& metadata) const {
    if (!metadata.is_object()) return Damaged("__metadata__ is not an object");
    for (const auto& [key, value] : metadata.items()) {
      if (!value.is_string()) return Damaged("__metadata__ ", Printable(key), " is not a string");
    }
    return absl::OkStatus();
  }

  absl::Status ReadTensor(const std::string& name, const json& entry) {
    const std::string what = absl::StrCat("tensor ", Printable(name));
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
        !entry.contains("shape") || !entry.contains("data_offsets")) {
      return Damaged(what, " is not described by exactly dtype, shape and data_offsets");
    }
    const json& dtype = entry["dtype"];
    const json& shape = entry["shape"];
    const json& offsets = entry["data_offsets"];
    if (!dtype.is_string() || !IsUnsignedArray(shape) || shape.size() > kMaxDimensions ||
        !IsUnsignedArray(offsets) || offsets.size() != 2) {
      return Damaged(what, " is described by values of the wrong kind");
    }
    const auto& type_name = dtype.get_ref<const std::string&>();
    const auto* const stored =
        std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                     [&](const StoredType& candidate) { return candidate.name == type_name; });
    Tensor tensor;
    tensor.name = CanonicalName(name);
    tensor.source_name = name;
    tensor.type_name = type_name;
    tensor.type = stored == kStoredTypes.end() ? TensorType::kOther : stored->type;
    // A type of unknown width can be placed by its offsets, but not held against its shape.
    uint64_t bytes = stored == kStoredTypes.end() ? 0 : stored->bytes;
    for (const json& size : shape) {
      tensor.shape.push_back(size.get<uint64_t>());
      if (__builtin_mul_overflow(bytes, tensor.shape.back(), &bytes)) {
        return Damaged(what, " claims more bytes than can be counted");
      }
    }
    const uint64_t begin = offsets[0].get<uint64_t>();
    const uint64_t end = offsets[1].get<uint64_t>();
    if (begin > end || end > data_.size()) {
      return Damaged(what, " claims bytes ", begin, " to ", end, " of ", data_.size());
    }
    if (stored != kStoredTypes.end() && end - begin != bytes) {
      return Damaged(what, " has ", end - begin, " bytes, its shape and type ask for ", bytes);
    }
    tensor.data = data_.subspan(begin, end - begin);
    tensors_.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  static bool IsUnsignedArray(const json& value) {
    return value.is_array() && std::all_of(value.begin(), value.end(), [](const json& element) {
             return element.is_number_unsigned();
           });
  }

  absl::Status CheckCover() const {
    const std::byte* expected = data_.data();
    for (const Tensor& tensor : tensors_) {
      const std::string what = absl::StrCat("tensor ", Printable(tensor.source_name));
      if (tensor.data.data() < expected) return Damaged(what, " overlaps the one before it");
      if (tensor.data.data() > expected) {
        return Damaged(tensor.data.data() - expected, " bytes before ", what,
                       " belong to no tensor");
      }
      expected += tensor.data.size();
    }
    const auto rest = data_.data() + data_.size() - expected;
    if (rest != 0) return Damaged(rest, " bytes at the end belong to no tensor");
    return absl::OkStatus();
  }

  std::span<const std::byte> data_;
  std::string_view path_;
  std::vector<Tensor> tensors_;
};

}  // namespace

std::string CanonicalName(std::string_view name) {
  using Pair = std::pair<std::string_view, std::string_view>;
  constexpr std::array<Pair, 3> kWhole{{{"model.embed_tokens.weight", "token_embd.weight"},
                                        {"model.norm.weight", "output_norm.weight"},
                                        {"lm_head.weight", "output.weight"}}};
  constexpr std::array<Pair, 9> kOfLayer{{{"input_layernorm.", "attn_norm."},
                                          {"self_attn.q_proj.", "attn_q."},
                                          {"self_attn.k_proj.", "attn_k."},
                                          {"self_attn.v_proj.", "attn_v."},
                                          {"self_attn.o_proj.", "attn_output."},
                                          {"post_attention_layernorm.", "ffn_norm."},
                                          {"mlp.gate_proj.", "ffn_gate."},
                                          {"mlp.up_proj.", "ffn_up."},
                                          {"mlp.down_proj.", "ffn_down."}}};
  for (const auto& [theirs, ours] : kWhole) {
    if (name == theirs) return std::string(ours);
  }
  constexpr std::string_view kLayers = "model.layers.";
  if (name.substr(0, kLayers.size()) != kLayers) return std::string(name);
  const std::string_view rest = name.substr(kLayers.size());
  const size_t dot = rest.find('.');
  if (dot == std::string_view::npos) return std::string(name);
  const std::string_view within = rest.substr(dot + 1);
  for (const auto& [theirs, ours] : kOfLayer) {
    if (within.substr(0, theirs.size()) != theirs) continue;
    std::string canonical = "blk.";
    canonical.append(rest.substr(0, dot + 1)).append(ours).append(within.substr(theirs.size()));
    return canonical;
  }
  return std::string(name);
}

bool LooksLikeSafetensors(std::span<const std::byte> bytes) {
  return bytes.size() > kLengthBytes && bytes[kLengthBytes] == std::byte{'{'} &&
         HeaderBytes(bytes) != 0;
}

absl::StatusOr<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> bytes,
                                                     std::string_view path) {
  const HeaderReader errors({}, path);
  if (bytes.size() < kLengthBytes) return errors.Damaged("too short for a safetensors file");
  const uint64_t header_bytes = HeaderBytes(bytes);
  if (header_bytes > bytes.size() - kLengthBytes) {
    return errors.Damaged("the header claims ", header_bytes, " bytes of ", bytes.size());
  }
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return errors.Damaged("the header is of ", header_bytes, " bytes, more than ",
                          kMaxSafetensorsHeaderBytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                              header_bytes);
  if (text.empty() || text.front() != '{') return errors.Damaged("the header is not JSON");
  TC_ASSIGN_OR_RETURN(const json header,
                      ParseJson(text, absl::StrCat(std::string(path), ": header")));
  return HeaderReader(bytes.subspan(kLengthBytes + header_bytes), path).Read(header);
}

}  // namespace thermocline
