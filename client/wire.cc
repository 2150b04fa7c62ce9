#include "client/wire.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "hashing/name.h"
#include "proto/space_wire.h"

namespace thermocline {
inline namespace client_v1 {

static_assert(std::endian::native == std::endian::little, "a name of tokens is their bytes");

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

v1::Tier ToWire(BlockTier tier) { return static_cast<v1::Tier>(tier); }

BlockTier FromWire(v1::Tier tier) {
  return tier >= v1::TIER_HOT && tier <= v1::TIER_REMOTE ? static_cast<BlockTier>(tier)
                                                         : BlockTier::kNone;
}

void AppendNames(const SpaceSpec& spec, NamesView names, uint32_t places, std::vector<Name>& to) {
  TC_CHECK(places <= names.places());
  if (places == 0) return;
  if (!spec.opaque_names) {
    const size_t before = to.size();
    to.resize(before + places);
    std::memcpy(to.data() + before, names.tokens().data(), size_t{places} * sizeof(Name));
    return;
  }
  for (const std::string& key : names.keys().first(places)) {
    to.push_back(NameOfKey(key, spec.key_bytes).value());
  }
}

v1::Names ToWire(const SpaceSpec& spec, std::span<const Name> names) {
  return thermocline::ToWire(names, spec.opaque_names ? spec.key_bytes : 0);
}

v1::Names ToWire(NamesView names) {
  v1::Names wire;
  for (const std::string& key : names.keys()) wire.add_keys(key);
  if (names.keys().empty()) {
    wire.set_tokens(names.tokens().data(), size_t{names.places()} * sizeof(Name));
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

absl::StatusOr<std::vector<Name>> NamesFromWire(const SpaceSpec& spec, const v1::Names& wire) {
  const std::vector<std::string> keys(wire.keys().begin(), wire.keys().end());
  std::vector<int32_t> tokens(wire.tokens().size() / sizeof(int32_t));
  if (!tokens.empty()) {
    std::memcpy(tokens.data(), wire.tokens().data(), tokens.size() * sizeof(int32_t));
  }
  const NamesView view = spec.opaque_names ? NamesView(keys) : NamesView(tokens);
  TC_RETURN_IF_ERROR(CheckNames(spec, view));
  std::vector<Name> names;
  AppendNames(spec, view, view.places(), names);
  return names;
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
  TC_ASSIGN_OR_RETURN(space.spec, SpaceSpecFromWire(wire.spec()));
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
                           .state = tier.state(),
                           .share_bytes = tier.share_bytes(),
                           .lent_bytes = tier.lent_bytes(),
                           .ttl_pinned_bytes = tier.ttl_pinned_bytes()});
  }
  return stats;
}

}  // namespace client_v1
}  // namespace thermocline
