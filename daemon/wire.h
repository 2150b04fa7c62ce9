// Between the messages of proto/thermocline/v1 and the types of the tiers. What comes in is checked
// here, once: counts, lengths and ranges; behind it nobody looks again.
#pragma once
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "hashing/name.h"
#include "hashing/space.h"
#include "proto/space_wire.h"
#include "thermocline/v1/types.pb.h"
#include "tiers/tier_stack.h"

namespace thermocline {

/// Places in one request: 512 Ki tokens.
inline constexpr size_t kMaxRequestPlaces = 32 * 1024;
/// Slots, offsets, leases or items in one request.
inline constexpr size_t kMaxRequestItems = 8 * 1024;

/// Errors: InvalidArgument when a request has more than kMaxRequestItems of `what`.
absl::Status CheckCount(const char* what, size_t count);

/// The names of a request, and the form they came in: `key_bytes` 0 is token ids. The form must be
/// that of the space, or the request is wrong (a token prefix is not a key).
struct WireNames {
  std::vector<Name> names;
  uint32_t key_bytes = 0;
};
/// Errors: InvalidArgument for both forms at once, keys of different or impossible lengths, token
///         bytes that are no multiple of 4, too many places.
absl::StatusOr<WireNames> NamesOf(const v1::Names& names);

/// Of the tenant whose session asks.
/// Errors: InvalidArgument for what SpaceSpecFromWire and SpaceSpec::Validate refuse.
absl::StatusOr<SpaceSpec> SpaceSpecOf(const v1::SpaceSpec& spec, std::string_view tenant);

/// Errors: InvalidArgument unless 32 bytes.
absl::StatusOr<Fingerprint> FingerprintOfBytes(std::string_view bytes);
void ToWire(const BlockView& block, v1::Block& out);
v1::Tier ToWire(TierKind tier);
/// Errors: InvalidArgument for a tier that does not exist.
absl::StatusOr<TierKind> TierOf(v1::Tier tier);

}  // namespace thermocline
