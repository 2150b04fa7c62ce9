#include "daemon/wire.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

namespace thermocline {
namespace {

static_assert(std::endian::native == std::endian::little, "token ids travel little-endian");

absl::Status TooManyPlaces(size_t places) {
  return absl::InvalidArgumentError("the request names " + std::to_string(places) +
                                    " places; the limit is " + std::to_string(kMaxRequestPlaces));
}

absl::StatusOr<WireNames> NamesOfTokens(const std::string& tokens) {
  if (tokens.size() % sizeof(int32_t) != 0) {
    return absl::InvalidArgumentError("names.tokens has " + std::to_string(tokens.size()) +
                                      " bytes; token ids have 4 each");
  }
  const size_t places = tokens.size() / kNameBytes;
  if (places > kMaxRequestPlaces) return TooManyPlaces(places);
  WireNames parsed;
  parsed.names.reserve(places);
  std::array<int32_t, kPlaceTokens> ids;
  static_assert(sizeof ids == kNameBytes);
  for (size_t place = 0; place < places; ++place) {
    std::memcpy(ids.data(), tokens.data() + place * kNameBytes, kNameBytes);
    parsed.names.push_back(NameOfTokens(ids));
  }
  return parsed;
}

}  // namespace

absl::StatusOr<WireNames> NamesOf(const v1::Names& names) {
  if (names.keys().empty()) return NamesOfTokens(names.tokens());
  if (!names.tokens().empty()) {
    return absl::InvalidArgumentError("names has both tokens and keys; a space has one of them");
  }
  const auto places = static_cast<size_t>(names.keys_size());
  if (places > kMaxRequestPlaces) return TooManyPlaces(places);
  WireNames parsed;
  parsed.names.reserve(places);
  parsed.key_bytes = static_cast<uint32_t>(std::min<size_t>(names.keys(0).size(), kNameBytes + 1));
  for (const std::string& key : names.keys()) {
    TC_ASSIGN_OR_RETURN(const Name name, NameOfKey(key, parsed.key_bytes));
    parsed.names.push_back(name);
  }
  return parsed;
}

absl::StatusOr<SpaceSpec> SpaceSpecOf(const v1::SpaceSpec& wire, std::string_view tenant) {
  TC_ASSIGN_OR_RETURN(SpaceSpec spec, SpaceSpecFromWire(wire));
  spec.tenant = tenant;
  TC_RETURN_IF_ERROR(spec.Validate());
  return spec;
}

absl::StatusOr<Fingerprint> FingerprintOfBytes(std::string_view bytes) {
  Fingerprint fingerprint;
  if (bytes.size() != fingerprint.bytes.size()) {
    return absl::InvalidArgumentError("a fingerprint has 32 bytes, not " +
                                      std::to_string(bytes.size()) +
                                      "; `thermoctl spaces` lists those there are");
  }
  std::memcpy(fingerprint.bytes.data(), bytes.data(), bytes.size());
  return fingerprint;
}

void ToWire(const BlockView& block, v1::Block& out) {
  out.set_depth(block.depth);
  out.set_part(block.part);
  out.set_id(block.id);
  out.set_tier(ToWire(block.tier));
  out.set_offset(block.offset);
  out.set_bytes(block.bytes);
  out.set_checksum(block.checksum);
  out.set_checked(block.checked);
  out.set_slab(block.slab);
}

v1::Tier ToWire(TierKind tier) {
  switch (tier) {
    case TierKind::kHot:
      return v1::TIER_HOT;
    case TierKind::kWarm:
      return v1::TIER_WARM;
    case TierKind::kCold:
      return v1::TIER_COLD;
    case TierKind::kRemote:
      return v1::TIER_REMOTE;
    case TierKind::kNone:
      break;
  }
  return v1::TIER_UNSPECIFIED;
}

absl::StatusOr<TierKind> TierOf(v1::Tier tier) {
  switch (tier) {
    case v1::TIER_UNSPECIFIED:
      return TierKind::kNone;
    case v1::TIER_HOT:
      return TierKind::kHot;
    case v1::TIER_WARM:
      return TierKind::kWarm;
    case v1::TIER_COLD:
      return TierKind::kCold;
    case v1::TIER_REMOTE:
      return TierKind::kRemote;
    default:
      return absl::InvalidArgumentError("tier " + std::to_string(tier) + " does not exist");
  }
}

absl::Status CheckCount(const char* what, size_t count) {
  if (count <= kMaxRequestItems) return absl::OkStatus();
  return absl::InvalidArgumentError("the request has " + std::to_string(count) + " " + what +
                                    "; the limit is " + std::to_string(kMaxRequestItems));
}

}  // namespace thermocline
