// Between the public types and the protocol's messages.
#pragma once
#include "base/status.h"
#include "client/client.h"
#include "thermocline/v1/control.pb.h"
#include "thermocline/v1/types.pb.h"

namespace thermocline {
inline namespace client_v1 {

v1::Tier ToWire(BlockTier tier);
BlockTier FromWire(v1::Tier tier);
/// Whether the names are of the space's kind and length.
absl::Status CheckNames(const SpaceSpec& spec, NamesView names);
/// The first `places` names.
/// REQUIRES: places <= names.places().
v1::Names ToWire(NamesView names, uint32_t places);
/// Errors: Internal unless it is 32 bytes.
absl::StatusOr<Fingerprint> FingerprintFromWire(const std::string& bytes);
absl::StatusOr<PinInfo> FromWire(const v1::PinInfo& pin);
absl::StatusOr<SpaceInfo> FromWire(const v1::SpaceInfo& space);
DaemonStats FromWire(const v1::StatsResponse& stats);

}  // namespace client_v1
}  // namespace thermocline
