// A commit whose caller has gone is not published: by contract the caller has forgotten its slots,
// and here they are given back, which nobody else could do.
#include "daemon/data_commit.h"

#include <optional>
#include <utility>

namespace thermocline {
namespace {

struct CommitJob {
  UnaryCall call;
  uint64_t session;
  const v1::CommitRequest& request;
  v1::CommitResponse& response;
  CommitSteps steps;
};

absl::StatusOr<LeaseView> Publish(TenantView& tenant, ClientNumber client, CommitJob& job) {
  std::optional<PinnedEnd> end;
  if (job.request.has_pinned()) {
    const v1::PinnedEnd& pinned = job.request.pinned();
    if (pinned.after() != 0) {
      return absl::InvalidArgumentError(
          "a commit behind another one goes through the ring of the control area");
    }
    end = {pinned.space(), pinned.pin(), PlaceFromBits(pinned.place())};
  }
  TC_ASSIGN_OR_RETURN(const LeaseView lease, job.steps.Publish(tenant, client, end));
  job.response.set_depth(lease.depth);
  for (const BlockView& block : lease.blocks) ToWire(block, *job.response.add_blocks());
  return lease;
}

/// On the strand, once `prepared` says how what comes before publication went.
void Finish(TenantView& tenant, const std::shared_ptr<CommitJob>& job, absl::Status prepared) {
  const absl::StatusOr<ClientNumber> client = tenant.ClientOf(job->session);
  if (!client.ok()) return job->call.Finish(client.status());
  absl::Status status = std::move(prepared);
  if (job->call.Cancelled()) status.Update(absl::CancelledError("the caller has gone"));
  const absl::StatusOr<LeaseView> lease =
      status.ok() ? Publish(tenant, *client, *job) : absl::StatusOr<LeaseView>(status);
  if ((!lease.ok() && job->call.Cancelled()) || absl::IsResourceExhausted(lease.status())) {
    // By contract it has forgotten them. Those not its own stay, and those granted anew.
    tenant.stack->Abort(*client, tenant.stack->StillReserved(*client, {}, job->steps.slots()))
        .IgnoreError();
  }
  if (!lease.ok() || tenant.stack->durability() != Durability::kAck) {
    return job->call.Finish(lease.status());
  }
  job->steps.LetGo();
  tenant.stack->AwaitDurable(*lease,
                             [job](absl::Status durable) { job->call.Finish(std::move(durable)); });
}

}  // namespace

void StartCommit(StrandCall strand, const v1::CommitRequest& request, CommitSteps steps,
                 v1::CommitResponse& response) {
  // Shared by the tasks of its three steps, of which one runs at a time.
  auto job = std::make_shared<CommitJob>(
      CommitJob{std::move(strand.call), strand.session, request, response, std::move(steps)});
  absl::Status found =
      job->steps.Find(strand.tenant, strand.session, strand.client, std::move(strand.remote));
  if (!found.ok() || job->call.Cancelled()) return Finish(strand.tenant, job, std::move(found));
  if (job->steps.on_device()) {
    TenantView& view = strand.tenant;
    return view.stack->SumOnDevice(strand.client, job->steps.offsets(),
                                   [job, &view](const absl::StatusOr<std::vector<uint64_t>>& sums) {
                                     Finish(view, job,
                                            sums.ok() ? job->steps.TakeSums(*sums) : sums.status());
                                   });
  }
  const bool posted = strand.home.workers().Post([job, &tenant = strand.home] {
    tenant.PostCompletion(
        [job, summed = job->steps.Sum()](TenantView& view) { Finish(view, job, summed); });
  });
  if (!posted) {
    Finish(strand.tenant, job,
           absl::ResourceExhaustedError(
               "too many commits wait to be summed, or the daemon stops; go on uncached"));
  }
}

}  // namespace thermocline
