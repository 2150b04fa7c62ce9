// Between the message SpaceSpec and the type of that name in hashing/, field by field: the one
// translation for both sides of the wire, so that client and daemon cannot mean two spaces by one.
#pragma once
#include <cstdint>
#include <span>

#include "base/status.h"
#include "hashing/name.h"
#include "hashing/space.h"
#include "thermocline/v1/types.pb.h"

namespace thermocline {

/// All but the tenant, which the daemon knows better, and the salt, a secret that only a request to
/// open the space carries: who makes one sets it.
void ToWire(const SpaceSpec& spec, v1::SpaceSpec& out);

/// The salt, where there is one, and everything else but the tenant. Not validated: what is refused
/// here is what SpaceSpec cannot hold.
/// Errors: InvalidArgument for a hash that is neither of 32 bytes nor empty, and for more parts
///         than kMaxParts.
absl::StatusOr<SpaceSpec> SpaceSpecFromWire(const v1::SpaceSpec& wire);

/// Names as they are, in the form of a space whose keys have `key_bytes` bytes; 0: token ids.
v1::Names ToWire(std::span<const Name> names, uint32_t key_bytes);

}  // namespace thermocline
