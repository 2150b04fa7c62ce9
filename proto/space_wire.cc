#include "proto/space_wire.h"

#include <algorithm>
#include <string>

namespace thermocline {

void ToWire(const SpaceSpec& spec, v1::SpaceSpec& out) {
  out.set_model(spec.model);
  if (spec.weights_sha256 != Sha256{}) {
    out.set_weights_sha256(spec.weights_sha256.data(), spec.weights_sha256.size());
  }
  out.set_kv_dtype(spec.kv_dtype);
  out.set_layers(spec.layers);
  out.set_kv_heads(spec.kv_heads);
  out.set_head_dim(spec.head_dim);
  out.set_block_tokens(spec.block_tokens);
  for (const PartSpec& part : spec.parts) {
    v1::PartSpec* to = out.add_parts();
    to->set_name(part.name);
    to->set_rank(part.rank);
    to->set_block_bytes(part.block_bytes);
    to->set_window_tokens(part.window_tokens);
  }
  out.set_layout(spec.layout);
  out.set_rope(spec.rope);
  out.set_lora(spec.lora);
  out.set_opaque_names(spec.opaque_names);
  out.set_key_bytes(spec.key_bytes);
}

absl::StatusOr<SpaceSpec> SpaceSpecFromWire(const v1::SpaceSpec& wire) {
  SpaceSpec spec;
  const std::string& weights = wire.weights_sha256();
  if (!weights.empty() && weights.size() != spec.weights_sha256.size()) {
    return absl::InvalidArgumentError("space refused: weights_sha256 has " +
                                      std::to_string(weights.size()) +
                                      " bytes; it must have 32, or none");
  }
  if (static_cast<size_t>(wire.parts_size()) > kMaxParts) {
    return absl::InvalidArgumentError("space refused: it has " + std::to_string(wire.parts_size()) +
                                      " parts; the limit is " + std::to_string(kMaxParts));
  }
  spec.model = wire.model();
  std::copy(weights.begin(), weights.end(), spec.weights_sha256.begin());
  spec.kv_dtype = wire.kv_dtype();
  spec.layers = wire.layers();
  spec.kv_heads = wire.kv_heads();
  spec.head_dim = wire.head_dim();
  spec.block_tokens = wire.block_tokens();
  for (const v1::PartSpec& part : wire.parts()) {
    spec.parts.push_back({.name = part.name(),
                          .rank = part.rank(),
                          .block_bytes = part.block_bytes(),
                          .window_tokens = part.window_tokens()});
  }
  spec.layout = wire.layout();
  spec.rope = wire.rope();
  spec.lora = wire.lora();
  spec.salt = wire.salt();
  spec.opaque_names = wire.opaque_names();
  spec.key_bytes = wire.key_bytes();
  return spec;
}

v1::Names ToWire(std::span<const Name> names, uint32_t key_bytes) {
  v1::Names wire;
  if (key_bytes == 0) wire.set_tokens(names.data(), names.size_bytes());
  for (const Name& name : names.first(key_bytes == 0 ? 0 : names.size())) {
    wire.add_keys(reinterpret_cast<const char*>(name.word), key_bytes);
  }
  return wire;
}

}  // namespace thermocline
