#include "client/wire.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "hashing/name.h"

namespace thermocline {
inline namespace client_v1 {

static_assert(std::endian::native == std::endian::little, "token ids travel little-endian");

const char* BlockTierName(BlockTier tier) {
  switch (tier) {
    case BlockTier::kNone:
      return "none";
    case BlockTier::kHot:
      return "hot";
    case BlockTier::kWarm:
      return "warm";
    case BlockTier::kCold:
      return "cold";
    case BlockTier::kRemote:
      return "remote";
  }
  return "none";
}

v1::SpaceSpec ToWire(const SpaceSpec& spec) {
  v1::SpaceSpec wire;
  wire.set_model(spec.model);
  const bool hashed = std::any_of(spec.weights_sha256.begin(), spec.weights_sha256.end(),
                                  [](uint8_t byte) { return byte != 0; });
  if (hashed) wire.set_weights_sha256(spec.weights_sha256.data(), spec.weights_sha256.size());
  wire.set_kv_dtype(spec.kv_dtype);
  wire.set_layers(spec.layers);
  wire.set_kv_heads(spec.kv_heads);
  wire.set_head_dim(spec.head_dim);
  wire.set_block_tokens(spec.block_tokens);
  for (const PartSpec& part : spec.parts) {
    v1::PartSpec* to = wire.add_parts();
    to->set_name(part.name);
    to->set_rank(part.rank);
    to->set_block_bytes(part.block_bytes);
    to->set_window_tokens(part.window_tokens);
  }
  wire.set_layout(spec.layout);
  wire.set_rope(spec.rope);
  wire.set_lora(spec.lora);
  wire.set_salt(spec.salt);
  wire.set_opaque_names(spec.opaque_names);
  wire.set_key_bytes(spec.key_bytes);
  return wire;
}

SpaceSpec FromWire(const v1::SpaceSpec& wire) {
  SpaceSpec spec;
  spec.model = wire.model();
  if (wire.weights_sha256().size() == kSha256Bytes) {
    std::copy_n(wire.weights_sha256().begin(), kSha256Bytes, spec.weights_sha256.begin());
  }
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

v1::Tier ToWire(BlockTier tier) { return static_cast<v1::Tier>(tier); }

BlockTier FromWire(v1::Tier tier) {
  return tier >= v1::TIER_HOT && tier <= v1::TIER_REMOTE ? static_cast<BlockTier>(tier)
                                                         : BlockTier::kNone;
}

v1::Names ToWire(NamesView names, uint32_t places) {
  TC_CHECK(places <= names.places());
  v1::Names wire;
  if (!names.keys().empty()) {
    for (uint32_t i = 0; i < places; ++i) wire.add_keys(names.keys()[i]);
  } else {
    wire.set_tokens(names.tokens().data(), size_t{places} * kPlaceTokens * sizeof(int32_t));
  }
  return wire;
}

absl::Status CheckNames(const SpaceSpec& spec, NamesView names) {
  if (spec.opaque_names ? !names.tokens().empty() : !names.keys().empty()) {
    return absl::InvalidArgumentError(spec.opaque_names
                                          ? "this space names its places by keys, not by tokens"
                                          : "this space names its places by tokens, not by keys");
  }
  for (const std::string& key : names.keys()) {
    if (key.size() == spec.key_bytes) continue;
    return absl::InvalidArgumentError("a key of " + std::to_string(key.size()) +
                                      " bytes in a space whose keys have " +
                                      std::to_string(spec.key_bytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<Fingerprint> FingerprintFromWire(const std::string& bytes) {
  Fingerprint fingerprint;
  if (bytes.size() != fingerprint.bytes.size()) {
    return absl::InternalError("the daemon answered with a fingerprint of " +
                               std::to_string(bytes.size()) + " bytes instead of 32");
  }
  std::copy(bytes.begin(), bytes.end(), fingerprint.bytes.begin());
  return fingerprint;
}

absl::StatusOr<PinInfo> FromWire(const v1::PinInfo& wire) {
  PinInfo pin;
  pin.pin = wire.pin();
  TC_ASSIGN_OR_RETURN(pin.space, FingerprintFromWire(wire.fingerprint()));
  pin.depth = wire.depth();
  pin.expires_unix_ms = static_cast<int64_t>(wire.expires_unix_ms());
  pin.tier = FromWire(wire.tier());
  return pin;
}

absl::StatusOr<SpaceInfo> FromWire(const v1::SpaceInfo& wire) {
  SpaceInfo space;
  TC_ASSIGN_OR_RETURN(space.fingerprint, FingerprintFromWire(wire.fingerprint()));
  space.spec = FromWire(wire.spec());
  space.places = wire.places();
  space.warm_bytes = wire.warm_bytes();
  space.cold_bytes = wire.cold_bytes();
  return space;
}

DaemonStats FromWire(const v1::StatsResponse& wire) {
  DaemonStats stats;
  stats.version = wire.version();
  stats.epoch = wire.epoch();
  stats.uptime_ms = wire.uptime_ms();
  stats.sessions = wire.sessions();
  stats.leases = wire.leases();
  stats.reservations = wire.reservations();
  stats.spaces = wire.spaces();
  stats.places = wire.places();
  stats.pins = wire.pins();
  stats.lookups = wire.lookups();
  stats.misses = wire.misses();
  stats.misses_by_reason.insert(wire.misses_by_reason().begin(), wire.misses_by_reason().end());
  stats.corrupt_blocks = wire.corrupt_blocks();
  for (const v1::TierStats& tier : wire.tiers()) {
    stats.tiers.push_back({.tier = FromWire(tier.tier()),
                           .capacity_bytes = tier.capacity_bytes(),
                           .used_bytes = tier.used_bytes(),
                           .blocks = tier.blocks(),
                           .hits = tier.hits(),
                           .evictions = tier.evictions(),
                           .promotions = tier.promotions(),
                           .demotions = tier.demotions(),
                           .state = tier.state()});
  }
  return stats;
}

}  // namespace client_v1
}  // namespace thermocline
