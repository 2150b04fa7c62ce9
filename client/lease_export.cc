// A lease that goes from one process to another. Where its path is held by a pin, the place of that
// pin and its id are enough: whoever pins the same place, sees that it still has that id, and
// climbs from there, leases the same path. For one without the map the daemon does, if the digest
// of the names is theirs: places and ids can be guessed. Elsewhere the names travel.
#include <utility>

#include "client/lease_rep.h"
#include "client/wire.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

absl::Status Gone() {
  return absl::NotFoundError(
      "the path that was exported is not held any more, or the daemon was restarted; match it");
}

}  // namespace

absl::Status Lease::Rep::AdoptLocal(Root root, Place end, uint64_t id) {
  std::unique_ptr<LocalReader> reader = connection->local_readers().Take();
  if (reader == nullptr) {
    return absl::ResourceExhaustedError("this session holds all of its leases; release some");
  }
  const Reader::Match match = reader->reader.Adopt(root, end, id, LocalReader::kLeasePin,
                                                   space->rules, block_places(), names);
  if (match.depth == 0 || match.usable != match.depth) {
    connection->local_readers().GiveBack(std::move(reader));
    return Gone();
  }
  Hold(std::move(reader), static_cast<uint32_t>(match.depth));
  return absl::OkStatus();
}

absl::Status Lease::Rep::AdoptByMessage(Root root, const v1::ExportedLease& path,
                                        Deadline deadline) {
  v1::MatchRequest request;
  request.set_space(root.tag);
  request.set_place(path.place());
  request.set_id(path.id());
  request.set_names_sha256(path.names_sha256());
  return AcquireByMessage(std::move(request), deadline);
}

absl::StatusOr<std::string> Lease::Export() const {
  TC_RETURN_IF_ERROR(rep_->Usable());
  v1::ExportedLease exported;
  exported.set_epoch(rep_->connection->epoch());
  const Fingerprint& space = rep_->space->fingerprint;
  exported.set_space(space.bytes.data(), space.bytes.size());
  exported.set_depth(rep_->depth);
  if (rep_->local != nullptr && rep_->depth > 0) {
    const Place end = rep_->local->reader.PlaceAt(rep_->depth);
    exported.set_place(PlaceBits(end));
    exported.set_id(
        rep_->connection->catalog().id(end.node, end.count - 1).load(std::memory_order_relaxed));
    const Sha256 digest = Sha256OfPath(std::span(rep_->names).first(rep_->depth));
    exported.set_names_sha256(digest.data(), digest.size());
  } else {
    *exported.mutable_names() =
        ToWire(rep_->space->spec, std::span(rep_->names).first(rep_->depth));
  }
  return exported.SerializeAsString();
}

absl::StatusOr<Lease> Space::Import(std::string_view exported, Timeout timeout) const {
  v1::ExportedLease path;
  const bool parses = path.ParseFromArray(exported.data(), static_cast<int>(exported.size()));
  const absl::StatusOr<Fingerprint> space = FingerprintFromWire(path.space());
  if (!parses || !space.ok() || *space != state_->fingerprint) {
    return absl::InvalidArgumentError(
        "this is no lease that was exported from the same space; hand over what Export answered");
  }
  const Deadline deadline = state_->core->DeadlineOf(timeout);
  auto rep = std::make_unique<Lease::Rep>();
  TC_ASSIGN_OR_RETURN(rep->connection, state_->core->Get(deadline));
  rep->space = state_;
  TC_ASSIGN_OR_RETURN(const Root root, state_->RootIn(*rep->connection, deadline));
  if (path.epoch() != rep->connection->epoch()) return Gone();
  rep->generation = rep->connection->LeaseGeneration();
  if (path.place() == 0) {
    TC_ASSIGN_OR_RETURN(rep->names, NamesFromWire(state_->spec, path.names()));
    TC_RETURN_IF_ERROR(rep->Acquire(deadline));
  } else if (rep->connection->remote()) {
    TC_RETURN_IF_ERROR(rep->AdoptByMessage(root, path, deadline));
  } else {
    TC_RETURN_IF_ERROR(rep->AdoptLocal(root, PlaceFromBits(path.place()), path.id()));
  }
  if (rep->depth != path.depth()) return Gone();
  return Lease(std::move(rep));
}

}  // namespace client_v1
}  // namespace thermocline
