// Commits that a local client puts into its ring, without waiting for one before it enqueues the
// next: they are summed side by side, published in their order, and answered in it. A commit may
// stand behind the one before it, whose end the client does not know yet.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/status.h"
#include "daemon/commit_steps.h"
#include "daemon/metrics.h"
#include "daemon/put_ring.h"
#include "daemon/tenant.h"

namespace thermocline {

/// Of one session.
/// Thread: its tenant's strand. Owner: shared by the tenant and what the workers sum; borrows the
/// metrics and the tenant.
class LocalPuts : public std::enable_shared_from_this<LocalPuts> {
 public:
  LocalPuts(uint64_t session, std::shared_ptr<ControlArea> area, Tenant& tenant,
            DaemonMetrics& metrics);

  /// Takes commits out of the ring and begins with them, unless that is to happen anyway. Goes on
  /// by itself until the ring is empty; then the client has to wake us.
  void Drain(TenantView& view);

  /// Frees the slots that the client holds in advance of need: it was silent for too long.
  void TakeBack(TenantView& view, ClientNumber client);

 private:
  struct Job {
    v1::CommitRequest request;
    PutRing::SlotsWanted wants;
    std::optional<CommitSteps> steps;
    absl::Status status;  // of what came before publication
    bool ready = false;   // to be published, or refused
    std::chrono::steady_clock::time_point arrived;
  };
  /// What the client is to be told, in the order of its commits.
  struct Answer {
    uint64_t number = 0;  // of the commit
    PutRing::Answer told;
    std::chrono::steady_clock::time_point arrived;
    bool ready = false;  // its blocks are where the answer promises them, and slots granted
  };
  /// Where a commit ended that one of the same pin may stand behind.
  struct End {
    uint64_t put = 0;  // its number, 0: none
    bool published = false;
    Place place;
  };

  bool Rest();
  void PostDrain();
  void Begin(TenantView& view, const std::shared_ptr<Job>& job);
  void Prepared(TenantView& view, Job& job, absl::Status status);
  void PublishReady(TenantView& view);
  void Publish(TenantView& view, ClientNumber client, const std::shared_ptr<Job>& job);
  void GrantMore(TenantView& view, ClientNumber client, const Job& job,
                 const std::shared_ptr<Answer>& answer);
  void AnswerReady();
  absl::StatusOr<PinnedEnd> EndOf(const v1::CommitRequest& request) const;
  void CutOff(TenantView& view, const absl::Status& why);

  const uint64_t session_;
  Tenant& tenant_;
  DaemonMetrics& metrics_;
  PutRing ring_;
  std::deque<std::shared_ptr<Job>> jobs_;  // shared with the worker that sums
  std::deque<std::shared_ptr<Answer>> answers_;
  uint64_t published_ = 0;  // or refused
  std::vector<End> ends_;   // by pin
  bool full_ = false;       // more may lie in the ring than is under way
  bool busy_ = false;       // something came since we last rested
  bool dozing_ = false;     // a timer will look again
  bool drain_posted_ = false;
  bool cut_off_ = false;
};

}  // namespace thermocline
