#include "daemon/local_puts.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/units.h"

namespace thermocline {
namespace {

/// Commits taken out in one visit to the strand, which others need too.
constexpr int kCommitsPerVisit = 16;
/// Beyond it a payload is summed by a worker: less takes no longer than to ask one.
constexpr uint64_t kSumHere = 64 * KiB;
constexpr std::chrono::microseconds kDoze{100};

}  // namespace

LocalPuts::LocalPuts(uint64_t session, std::shared_ptr<ControlArea> area, Tenant& tenant,
                     DaemonMetrics& metrics)
    : session_(session),
      tenant_(tenant),
      metrics_(metrics),
      ring_(std::move(area)),
      ends_(kControlPins) {}

void LocalPuts::Drain(TenantView& view) {
  if (drain_posted_) return;
  full_ = false;
  for (int taken = 0; !cut_off_; ++taken) {
    full_ = jobs_.size() + answers_.size() >= kPutAnswers;
    if (full_) return;
    if (taken == kCommitsPerVisit) return PostDrain();
    absl::StatusOr<std::optional<PutRing::Commit>> next = ring_.Next();
    if (!next.ok()) return CutOff(view, next.status());
    if (!next->has_value()) {
      if (Rest()) return;
      continue;
    }
    busy_ = true;
    auto job = std::make_shared<Job>();
    job->arrived = std::chrono::steady_clock::now();
    job->wants = (*next)->wants;
    if (!job->request.ParseFromString((*next)->bytes) ||
        job->request.items_size() > int{kPutItems}) {
      return CutOff(view, absl::InvalidArgumentError(
                              "the ring of commits in its control area holds one that is none"));
    }
    jobs_.push_back(job);
    Begin(view, job);
  }
}

void LocalPuts::TakeBack(TenantView& view, ClientNumber client) {
  const PutRing::Ahead ahead = ring_.TakeBack();
  std::vector<GrantedSlot> slots;
  for (const uint64_t offset : ahead.offsets) slots.push_back({offset, 0});
  // Whatever was written there: of these, those that this client has reserved.
  view.stack->Abort(client, view.stack->StillReserved(client, ahead.grants, slots)).IgnoreError();
}

// Once at a time, however often the client wakes us.
void LocalPuts::PostDrain() {
  if (std::exchange(drain_posted_, true)) return;
  tenant_.PostCompletion([self = shared_from_this()](TenantView& view) {
    self->drain_posted_ = false;
    self->Drain(view);
  });
}

// Where one commit came another is likely to come soon. To be woken for each costs the client more
// than to enqueue it; whoever waits for an answer wakes us all the same.
bool LocalPuts::Rest() {
  const bool doze = dozing_ || std::exchange(busy_, false);
  if (!ring_.Sleep(doze)) return false;
  if (!doze || dozing_) return true;
  dozing_ = tenant_.PostAfter(kDoze, [self = shared_from_this()](TenantView& view) {
    self->dozing_ = false;
    self->Drain(view);
  });
  return dozing_ || ring_.Sleep();
}

void LocalPuts::Begin(TenantView& view, const std::shared_ptr<Job>& job) {
  const absl::Status found = [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const ClientNumber client, view.ClientOf(session_));
    TC_ASSIGN_OR_RETURN(job->steps, CommitSteps::Of(job->request));
    TC_RETURN_IF_ERROR(job->steps->Find(view, session_, client));
    if (!job->steps->on_device()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "slots of the device's memory are committed by message, not through the ring");
  }();
  if (!found.ok()) return Prepared(view, *job, found);
  if (job->steps->payload_bytes() <= kSumHere) return Prepared(view, *job, job->steps->Sum());
  const bool posted = tenant_.workers().Post([self = shared_from_this(), job] {
    self->tenant_.PostCompletion([self, job, summed = job->steps->Sum()](TenantView& v) {
      self->Prepared(v, *job, summed);
    });
  });
  if (posted) return;
  Prepared(view, *job,
           absl::ResourceExhaustedError(
               "too many commits wait to be summed, or the daemon stops; go on uncached"));
}

void LocalPuts::Prepared(TenantView& view, Job& job, absl::Status status) {
  job.status = std::move(status);
  job.ready = true;
  PublishReady(view);
}

void LocalPuts::PublishReady(TenantView& view) {
  const absl::StatusOr<ClientNumber> client = view.ClientOf(session_);
  if (!client.ok()) return;  // the session has ended, and with it its slots
  while (!jobs_.empty() && jobs_.front()->ready) {
    const std::shared_ptr<Job> job = std::move(jobs_.front());
    jobs_.pop_front();
    Publish(view, *client, job);
  }
  AnswerReady();
}

void LocalPuts::Publish(TenantView& view, ClientNumber client, const std::shared_ptr<Job>& job) {
  auto answer = std::make_shared<Answer>();
  answer->number = ++published_;
  answer->arrived = job->arrived;
  answer->told.status = job->status;
  Place place;
  bool to_disk = false;
  if (answer->told.status.ok()) {
    answer->told.status = [&]() -> absl::Status {
      TC_ASSIGN_OR_RETURN(const PinnedEnd end, EndOf(job->request));
      TC_ASSIGN_OR_RETURN(const LeaseView lease, job->steps->Publish(view, client, end));
      answer->told.depth = lease.depth;
      place = lease.end;
      to_disk = view.stack->durability() == Durability::kAck;
      if (!to_disk) return absl::OkStatus();
      view.stack->AwaitDurable(
          lease, [self = shared_from_this(), &view, client, answer, job](absl::Status status) {
            answer->told.status = std::move(status);
            self->GrantMore(view, client, *job, answer);
            self->AnswerReady();
          });
      return absl::OkStatus();
    }();
  }
  const uint32_t pin = job->request.pinned().pin();
  if (pin < kControlPins) ends_[pin] = {published_, answer->told.status.ok(), place};
  for (int i = 0; i < job->request.items_size(); ++i) {
    if (!view.stack->ReservedBytes(client, job->request.items(i).offset()).ok()) continue;
    answer->told.kept[i / 64] |= uint64_t{1} << (i % 64);
  }
  answers_.push_back(answer);
  if (!to_disk) GrantMore(view, client, *job, answer);
}

// The last step of an answer: slots that are free now, for what is put next, so that nobody sends a
// message for them.
void LocalPuts::GrantMore(TenantView& view, ClientNumber client, const Job& job,
                          const std::shared_ptr<Answer>& answer) {
  answer->ready = job.wants.count == 0 || !answer->told.status.ok();
  if (answer->ready) return;
  const uint32_t space = job.request.pinned().space();
  const auto put = static_cast<uint32_t>(job.request.items_size());
  const uint32_t count = std::min<uint32_t>(
      job.wants.count, view.stack->SlotsForMore(client, space, job.wants.part, put));
  answer->ready = count == 0;
  if (answer->ready) return;
  view.stack->Reserve(
      client, space, job.wants.part, count, std::chrono::milliseconds(0),
      [self = shared_from_this(), answer, &view](absl::StatusOr<std::vector<uint64_t>> offsets) {
        const auto session = view.sessions.find(self->session_);
        if (offsets.ok() && session != view.sessions.end()) {
          session->second.granted.Note(*offsets);
          answer->told.granted = *std::move(offsets);
        }
        answer->ready = true;
        self->AnswerReady();
      },
      job.wants.count - count, kPutGrant | answer->number);
}

void LocalPuts::AnswerReady() {
  while (!answers_.empty() && answers_.front()->ready) {
    const Answer& answer = *answers_.front();
    ring_.Tell(answer.told);
    metrics_.Answered(Operation::kCommit, answer.told.status.code(),
                      std::chrono::steady_clock::now() - answer.arrived);
    answers_.pop_front();
  }
  if (!full_ || jobs_.size() + answers_.size() >= kPutAnswers) return;
  full_ = false;
  PostDrain();
}

absl::StatusOr<PinnedEnd> LocalPuts::EndOf(const v1::CommitRequest& request) const {
  const v1::PinnedEnd& pinned = request.pinned();
  if (!request.has_pinned() || pinned.pin() >= kControlPins) {
    return absl::InvalidArgumentError(
        "a commit in the ring of a control area stands behind one of its pins");
  }
  if (pinned.after() == 0) {
    return PinnedEnd{pinned.space(), pinned.pin(), PlaceFromBits(pinned.place())};
  }
  const End& end = ends_[pinned.pin()];
  if (end.put != pinned.after() || !end.published) {
    return absl::FailedPreconditionError(
        "the commit that this one stands behind was refused; settle, and match again");
  }
  return PinnedEnd{pinned.space(), pinned.pin(), end.place};
}

// Nothing more is taken from it; what is under way is summed in vain.
void LocalPuts::CutOff(TenantView& view, const absl::Status& why) {
  cut_off_ = true;
  if (view.cut_off) view.cut_off(session_, std::string(why.message()));
}

}  // namespace thermocline
