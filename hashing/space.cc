#include "hashing/space.h"

#include <cstring>

#include "hashing/name.h"

namespace thermocline {
namespace {

constexpr size_t kMaxTextBytes = 1024;
constexpr uint32_t kMaxCount = 65536;
constexpr uint32_t kMaxWindowTokens = 1u << 30;

absl::Status Refuse(const std::string& what) {
  return absl::InvalidArgumentError("space refused: " + what);
}

absl::Status CheckText(const std::string& field, const std::string& text, bool may_be_empty) {
  if (text.empty() && !may_be_empty) return Refuse(field + " is empty; it must be set");
  if (text.size() <= kMaxTextBytes) return absl::OkStatus();
  return Refuse(field + " has " + std::to_string(text.size()) + " bytes; the limit is " +
                std::to_string(kMaxTextBytes));
}

absl::Status CheckCount(const std::string& field, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Refuse(field + " is " + std::to_string(value) + "; it must be from " +
                std::to_string(least) + " to " + std::to_string(most));
}

absl::Status CheckMultiple(const std::string& field, uint64_t value, uint64_t of) {
  if (value % of == 0) return absl::OkStatus();
  return Refuse(field + " is " + std::to_string(value) + "; it must be a multiple of " +
                std::to_string(of));
}

absl::Status CheckParts(const std::vector<PartSpec>& parts) {
  TC_RETURN_IF_ERROR(CheckCount("the number of parts", parts.size(), 1, kMaxParts));
  for (size_t i = 0; i < parts.size(); ++i) {
    const PartSpec& part = parts[i];
    const std::string where = "parts[" + std::to_string(i) + "].";
    TC_RETURN_IF_ERROR(CheckText(where + "name", part.name, false));
    TC_RETURN_IF_ERROR(
        CheckCount(where + "block_bytes", part.block_bytes, kPayloadAlignment, kMaxPartBytes));
    TC_RETURN_IF_ERROR(CheckMultiple(where + "block_bytes", part.block_bytes, kPayloadAlignment));
    TC_RETURN_IF_ERROR(CheckCount(where + "rank", part.rank, 0, kMaxCount));
    TC_RETURN_IF_ERROR(
        CheckCount(where + "window_tokens", part.window_tokens, 0, kMaxWindowTokens));
    for (size_t j = 0; j < i; ++j) {
      if (parts[j].name == part.name && parts[j].rank == part.rank) {
        return Refuse(where + "name '" + part.name + "' with rank " + std::to_string(part.rank) +
                      " is there twice; parts must differ");
      }
    }
  }
  return absl::OkStatus();
}

/// "NAME.vN": a layout without a version could not be told from its successor.
absl::Status CheckLayout(const std::string& layout) {
  TC_RETURN_IF_ERROR(CheckText("layout", layout, false));
  const size_t dot = layout.rfind(".v");
  const bool versioned = dot != std::string::npos && dot > 0 && dot + 2 < layout.size() &&
                         layout.find_first_not_of("0123456789", dot + 2) == std::string::npos;
  if (versioned) return absl::OkStatus();
  return Refuse("layout is '" + layout + "'; write it with its version, like lkht.v1");
}

}  // namespace

absl::Status SpaceSpec::Validate() const {
  TC_RETURN_IF_ERROR(CheckText("model", model, false));
  TC_RETURN_IF_ERROR(CheckText("kv_dtype", kv_dtype, false));
  TC_RETURN_IF_ERROR(CheckText("rope", rope, true));
  TC_RETURN_IF_ERROR(CheckText("lora", lora, true));
  TC_RETURN_IF_ERROR(CheckText("salt", salt, true));
  TC_RETURN_IF_ERROR(CheckText("tenant", tenant, true));
  TC_RETURN_IF_ERROR(CheckLayout(layout));
  TC_RETURN_IF_ERROR(CheckCount("layers", layers, 1, kMaxCount));
  TC_RETURN_IF_ERROR(CheckCount("kv_heads", kv_heads, 1, kMaxCount));
  TC_RETURN_IF_ERROR(CheckCount("head_dim", head_dim, 1, kMaxCount));
  TC_RETURN_IF_ERROR(CheckCount("block_tokens", block_tokens, kPlaceTokens, kMaxBlockTokens));
  TC_RETURN_IF_ERROR(CheckMultiple("block_tokens", block_tokens, kPlaceTokens));
  if (opaque_names) {
    TC_RETURN_IF_ERROR(CheckCount("key_bytes", key_bytes, 1, kNameBytes));
  } else if (key_bytes != 0) {
    return Refuse("key_bytes is set but opaque_names is not; leave it 0 for token names");
  }
  return CheckParts(parts);
}

size_t FingerprintHash::operator()(const Fingerprint& fingerprint) const {
  size_t hash = 0;
  std::memcpy(&hash, fingerprint.bytes.data(), sizeof hash);
  return hash;
}

Fingerprint FingerprintOf(const SpaceSpec& spec) {
  Sha256Builder sha;
  sha.Field("thermocline space v1");
  sha.Field(spec.model).Field(std::as_bytes(std::span(spec.weights_sha256)));
  sha.Field(spec.kv_dtype).Number(spec.layers).Number(spec.kv_heads).Number(spec.head_dim);
  sha.Number(spec.block_tokens).Number(spec.parts.size());
  for (const PartSpec& part : spec.parts) {
    sha.Field(part.name).Number(part.rank).Number(part.block_bytes).Number(part.window_tokens);
  }
  sha.Field(spec.layout).Field(spec.rope).Field(spec.lora).Field(spec.salt);
  sha.Number(spec.opaque_names ? 1 : 0).Number(spec.key_bytes).Field(spec.tenant);
  return {sha.Finish()};
}

}  // namespace thermocline
