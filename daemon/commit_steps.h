// A commit's three steps, between which others run: the strand says whose the slots are, a worker
// sums their payloads, the strand publishes them.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "daemon/remote_work.h"
#include "daemon/tenant.h"
#include "daemon/wire.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {

/// Thread: one at a time, of which Find and Publish are the strand's.
/// Owner:  borrows the request.
class CommitSteps {
 public:
  /// Errors: InvalidArgument for a request that no client library sends.
  static absl::StatusOr<CommitSteps> Of(const v1::CommitRequest& request);

  /// The slots must be the caller's before their bytes are looked at; one that never was ends its
  /// session, if that is a local one. `remote`: what a remote
  /// session has in hand; none of a local one.
  absl::Status Find(TenantView& tenant, uint64_t session, ClientNumber client,
                    std::shared_ptr<RemoteWork> remote = nullptr);
  /// Its slots are of the device's memory: TierStack::SumOnDevice has their sums, not Sum.
  bool on_device() const { return on_device_; }
  absl::Status TakeSums(std::span<const uint64_t> checksums);
  /// What is left to sum.
  uint64_t payload_bytes() const;
  /// The slots may change hands meanwhile; then publishing them is refused.
  absl::Status Sum();
  /// `end`: what the commit stands behind; nothing: the lease that the request names.
  /// What lies in the session's staging memory is copied into the slots first, and the copies are
  /// summed: on the strand, where no slot changes hands meanwhile.
  absl::StatusOr<LeaseView> Publish(TenantView& tenant, ClientNumber client,
                                    const std::optional<PinnedEnd>& end);
  std::vector<uint64_t> offsets() const;
  std::vector<GrantedSlot> slots() const;
  /// Of what a remote session has in hand: its slots are published.
  void LetGo() { in_hand_ = {}; }

 private:
  CommitSteps(const v1::CommitRequest& request, WireNames names)
      : request_(&request), names_(std::move(names)) {}

  absl::Status CheckSum(size_t item) const;
  absl::Status CopyStaged(TenantView& tenant, ClientNumber client);

  const v1::CommitRequest* request_;
  WireNames names_;
  std::vector<CommitItem> items_;
  std::vector<std::span<const std::byte>> payloads_;  // none: they are staged
  bool on_device_ = false;
  std::shared_ptr<const Staging> staging_;
  SlotsInHand in_hand_;  // a remote session's: nothing is sent into them from here on
};

}  // namespace thermocline
