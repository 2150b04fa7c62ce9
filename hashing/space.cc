#include "hashing/space.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hashing/name.h"

namespace thermocline {
namespace {

constexpr size_t kMaxTextBytes = 1024;
constexpr uint32_t kMaxCount = 65536;

absl::Status Refuse(const std::string& what) {
  return absl::InvalidArgumentError("space refused: " + what);
}

absl::Status CheckText(const char* field, const std::string& text, bool may_be_empty) {
  if (text.empty() && !may_be_empty)
    return Refuse(std::string(field) + " is empty; it must be set");
  if (text.size() <= kMaxTextBytes) return absl::OkStatus();
  return Refuse(std::string(field) + " has " + std::to_string(text.size()) +
                " bytes; the limit is " + std::to_string(kMaxTextBytes));
}

absl::Status CheckCount(const char* field, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Refuse(std::string(field) + " is " + std::to_string(value) + "; it must be from " +
                std::to_string(least) + " to " + std::to_string(most));
}

absl::Status CheckParts(const SpaceSpec& spec) {
  TC_RETURN_IF_ERROR(CheckCount("the number of parts", spec.parts.size(), 1, kMaxParts));
  for (size_t i = 0; i < spec.parts.size(); ++i) {
    const PartSpec& part = spec.parts[i];
    const std::string where = "parts[" + std::to_string(i) + "].";
    TC_RETURN_IF_ERROR(CheckText((where + "name").c_str(), part.name, false));
    TC_RETURN_IF_ERROR(CheckCount((where + "block_bytes").c_str(), part.block_bytes,
                                  kPayloadAlignment, kMaxPartBytes));
    if (part.block_bytes % kPayloadAlignment != 0) {
      return Refuse(where + "block_bytes is " + std::to_string(part.block_bytes) +
                    "; it must be a multiple of " + std::to_string(kPayloadAlignment));
    }
    TC_RETURN_IF_ERROR(CheckCount((where + "tensor_rank").c_str(), part.tensor_rank, 0, kMaxCount));
    for (size_t j = 0; j < i; ++j) {
      if (spec.parts[j].name == part.name && spec.parts[j].tensor_rank == part.tensor_rank) {
        return Refuse(where + "name '" + part.name + "' with tensor_rank " +
                      std::to_string(part.tensor_rank) + " is there twice; parts must differ");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const RopeSpec& rope, uint32_t head_dim) {
  if (rope.layout.empty()) {
    if (rope.base == 0 && rope.dimension_count == 0 && rope.scaling.empty())
      return absl::OkStatus();
    return Refuse("rope.layout is empty although other RoPE parameters are set");
  }
  if (rope.layout != "adjacent" && rope.layout != "halves") {
    return Refuse("rope.layout is '" + rope.layout + "'; it must be 'adjacent' or 'halves'");
  }
  if (!std::isfinite(rope.base) || rope.base <= 0) {
    return Refuse("rope.base is " + std::to_string(rope.base) + "; it must be positive");
  }
  TC_RETURN_IF_ERROR(CheckText("rope.scaling", rope.scaling, true));
  return CheckCount("rope.dimension_count", rope.dimension_count, 2, head_dim);
}

}  // namespace

absl::Status SpaceSpec::Validate() const {
  if (kind == SpaceKind::kTokens) {
    if (key_bytes != 0) return Refuse("key_bytes is set in a token space; it must be 0 there");
  } else if (kind == SpaceKind::kOpaque) {
    TC_RETURN_IF_ERROR(CheckCount("key_bytes", key_bytes, 1, kNameBytes));
  } else {
    return Refuse("kind is neither tokens nor opaque");
  }
  TC_RETURN_IF_ERROR(CheckText("model", model, false));
  TC_RETURN_IF_ERROR(CheckText("kv_type", kv_type, false));
  TC_RETURN_IF_ERROR(CheckText("layout", layout, false));
  TC_RETURN_IF_ERROR(CheckText("lora", lora, true));
  TC_RETURN_IF_ERROR(CheckText("tenant", tenant, true));
  TC_RETURN_IF_ERROR(CheckText("salt", salt, true));
  TC_RETURN_IF_ERROR(CheckCount("layer_count", layer_count, 1, kMaxCount));
  TC_RETURN_IF_ERROR(CheckCount("kv_head_count", kv_head_count, 1, kMaxCount));
  TC_RETURN_IF_ERROR(CheckCount("head_dim", head_dim, 1, kMaxCount));
  TC_RETURN_IF_ERROR(CheckCount("layout_version", layout_version, 1, kMaxCount));
  TC_RETURN_IF_ERROR(CheckCount("block_tokens", block_tokens, kPlaceTokens, kMaxBlockTokens));
  if (block_tokens % kPlaceTokens != 0) {
    return Refuse("block_tokens is " + std::to_string(block_tokens) +
                  "; it must be a multiple of 16, the grain of names");
  }
  TC_RETURN_IF_ERROR(CheckParts(*this));
  return CheckRope(rope, head_dim);
}

size_t FingerprintHash::operator()(const Fingerprint& fingerprint) const {
  size_t hash = 0;
  std::memcpy(&hash, fingerprint.bytes.data(), sizeof hash);
  return hash;
}

Fingerprint FingerprintOf(const SpaceSpec& spec) {
  Sha256Builder sha;
  sha.Field("thermocline space v1");
  sha.Number(static_cast<uint64_t>(spec.kind)).Number(spec.key_bytes).Field(spec.model);
  sha.Field(std::as_bytes(std::span(spec.weights_sha256))).Field(spec.kv_type);
  sha.Number(spec.layer_count).Number(spec.kv_head_count).Number(spec.head_dim);
  sha.Number(spec.block_tokens).Number(spec.parts.size());
  for (const PartSpec& part : spec.parts) {
    sha.Field(part.name).Number(part.tensor_rank).Number(part.block_bytes);
    sha.Number(part.window_tokens);
  }
  sha.Field(spec.layout).Number(spec.layout_version);
  sha.Field(spec.rope.layout).Real(spec.rope.base).Number(spec.rope.dimension_count);
  sha.Field(spec.rope.scaling).Field(spec.lora).Field(spec.tenant).Field(spec.salt);
  return {sha.Finish()};
}

}  // namespace thermocline
