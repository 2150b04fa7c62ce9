// A commit whose caller has gone is not published: by contract the caller has forgotten its slots,
// and here they are given back, which nobody else could do.
#include "daemon/data_commit.h"

#include <span>
#include <vector>

#include "hashing/checksum.h"

namespace thermocline {
namespace {

struct CommitJob {
  UnaryCall call;
  uint64_t session;
  const v1::CommitRequest& request;
  v1::CommitResponse& response;
  WireNames names;
  std::shared_ptr<RemoteWork> remote;  // none: a local session
  std::vector<CommitItem> items;
  std::vector<std::span<const std::byte>> payloads;
  SlotsInHand in_hand;  // a remote session's: nothing is sent into them from here on
};

std::vector<uint64_t> OffsetsOf(const v1::CommitRequest& request) {
  std::vector<uint64_t> offsets;
  for (const v1::CommitItem& item : request.items()) offsets.push_back(item.offset());
  return offsets;
}

/// On the strand: the slots must be the caller's before their bytes are looked at.
absl::Status FindPayloads(TenantView& tenant, ClientNumber client, CommitJob& job) {
  if (job.remote != nullptr) {
    TC_ASSIGN_OR_RETURN(job.in_hand, SlotsInHand::Take(job.remote, OffsetsOf(job.request)));
  }
  for (const v1::CommitItem& item : job.request.items()) {
    TC_ASSIGN_OR_RETURN(const uint64_t bytes, tenant.stack->ReservedBytes(client, item.offset()));
    // What lay there before is none of this client's business.
    if (job.remote != nullptr && !job.remote->Filled(item.offset(), bytes)) {
      return absl::FailedPreconditionError("the slot at offset " + std::to_string(item.offset()) +
                                           " was not filled whole; send its " +
                                           std::to_string(bytes) + " bytes with Write first");
    }
    job.payloads.push_back(tenant.stack->SlotPayload(item.offset(), bytes));
    job.items.push_back({.offset = item.offset(),
                         .part = static_cast<uint16_t>(item.part()),
                         .depth = item.depth()});
  }
  return absl::OkStatus();
}

/// On a worker. The slots may change hands meanwhile; then the commit is refused on the strand.
absl::Status SumPayloads(CommitJob& job) {
  for (size_t i = 0; i < job.items.size(); ++i) {
    job.items[i].checksum = Checksum(job.payloads[i]);
    const uint64_t claimed = job.request.items(static_cast<int>(i)).checksum();
    if (claimed == 0 || claimed == job.items[i].checksum) continue;
    return absl::DataLossError("the slot at offset " + std::to_string(job.items[i].offset) +
                               " does not hold what its checksum claims; it was written after it "
                               "was summed, or by somebody else");
  }
  return absl::OkStatus();
}

/// On the strand again.
absl::Status Publish(TenantView& tenant, ClientNumber client, CommitJob& job) {
  const v1::PinnedEnd& pinned = job.request.pinned();
  TC_ASSIGN_OR_RETURN(
      const LeaseView lease,
      job.request.has_pinned()
          ? tenant.stack->Commit(
                client, PinnedEnd{pinned.space(), pinned.pin(), PlaceFromBits(pinned.place())},
                job.names.names, job.items)
          : tenant.stack->Commit(client, job.request.lease(), job.names.names, job.items));
  job.response.set_depth(lease.depth);
  for (const BlockView& block : lease.blocks) ToWire(block, *job.response.add_blocks());
  return absl::OkStatus();
}

/// On the strand, once `prepared` says how what comes before publication went.
void Finish(TenantView& tenant, CommitJob& job, absl::Status prepared) {
  const absl::StatusOr<ClientNumber> client = tenant.ClientOf(job.session);
  if (!client.ok()) return job.call.Finish(client.status());
  absl::Status status = std::move(prepared);
  if (job.call.Cancelled()) status.Update(absl::CancelledError("the caller has gone"));
  if (status.ok()) status = Publish(tenant, *client, job);
  if (!status.ok() && job.call.Cancelled()) {
    // Those that are not its own stay.
    tenant.stack->Abort(*client, OffsetsOf(job.request)).IgnoreError();
  }
  job.call.Finish(status);
}

}  // namespace

void StartCommit(ServiceContext& services, StrandCall strand, const v1::CommitRequest& request,
                 WireNames names, v1::CommitResponse& response) {
  // Shared by the tasks of its three steps, of which one runs at a time.
  auto job = std::make_shared<CommitJob>(CommitJob{std::move(strand.call),
                                                   strand.session,
                                                   request,
                                                   response,
                                                   std::move(names),
                                                   std::move(strand.remote),
                                                   {},
                                                   {},
                                                   {}});
  absl::Status found = FindPayloads(strand.tenant, strand.client, *job);
  if (!found.ok() || job->call.Cancelled()) return Finish(strand.tenant, *job, std::move(found));
  const bool posted = services.workers.Post([job, &tenant = strand.home] {
    tenant.PostCompletion(
        [job, summed = SumPayloads(*job)](TenantView& view) { Finish(view, *job, summed); });
  });
  if (!posted) {
    Finish(strand.tenant, *job,
           absl::ResourceExhaustedError(
               "too many commits wait to be summed, or the daemon stops; go on uncached"));
  }
}

}  // namespace thermocline
