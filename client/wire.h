// Between the public types and the protocol's messages.
#pragma once
#include <span>
#include <vector>

#include "base/status.h"
#include "client/client.h"
#include "hashing/name.h"
#include "thermocline/v1/control.pb.h"
#include "thermocline/v1/types.pb.h"

namespace thermocline {
inline namespace client_v1 {

v1::Tier ToWire(BlockTier tier);
BlockTier FromWire(v1::Tier tier);
/// Whether the names are of the space's kind and length.
absl::Status CheckNames(const SpaceSpec& spec, NamesView names);
/// Appends the first `places` names, as the catalog has them.
/// REQUIRES: places <= names.places(), and they were checked.
void AppendNames(const SpaceSpec& spec, NamesView names, uint32_t places, std::vector<Name>& to);
v1::Names ToWire(const SpaceSpec& spec, std::span<const Name> names);
v1::Names ToWire(NamesView names);
/// Errors: InvalidArgument for names that the space cannot have.
absl::StatusOr<std::vector<Name>> NamesFromWire(const SpaceSpec& spec, const v1::Names& names);
/// Errors: Internal unless it is 32 bytes.
absl::StatusOr<Fingerprint> FingerprintFromWire(const std::string& bytes);
absl::StatusOr<PinInfo> FromWire(const v1::PinInfo& pin);
absl::StatusOr<SpaceInfo> FromWire(const v1::SpaceInfo& space);
DaemonStats FromWire(const v1::StatsResponse& stats);

}  // namespace client_v1
}  // namespace thermocline
