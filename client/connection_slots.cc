// What a session has in hand, beside what its leases hold: slots on their way to it, and slots and
// leases on their way back. Those go in batches, carried by whoever needs room or by the thread
// that beats the heart.
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/units.h"
#include "client/connection.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace thermocline {
inline namespace client_v1 {
namespace {

using std::chrono::steady_clock;

// What waits to be given back to a daemon that does not answer; beyond it, a slot stays this
// session's until it ends. A session has far fewer leases.
constexpr size_t kMaxQueuedReturns = size_t{1} << 16;
constexpr size_t kReturnBatch = 1024;

/// Whether the daemon has come to a call, whatever it said.
bool Answered(const absl::Status& status) {
  return status.ok() || absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) ||
         absl::IsNotFound(status);
}

/// Whether a call was refused, and surely did nothing.
bool Refused(const absl::Status& status) {
  return Answered(status) || absl::IsResourceExhausted(status) || absl::IsUnauthenticated(status) ||
         absl::IsPermissionDenied(status);
}

}  // namespace

absl::StatusOr<std::vector<Magazine::Slot>> Connection::TakeSlots(const Magazine::Kind& kind,
                                                                  uint32_t count,
                                                                  std::chrono::milliseconds wait,
                                                                  Deadline deadline) {
  std::vector<Magazine::Slot> slots;
  if (!remote_) {
    // What answers have brought, and what leases hold that went before their commits were answered.
    puts_->Collect();
    slots = magazine_->Take(kind, count);
    if (slots.size() == count) return slots;
  }
  // What this client gave up a moment ago must not keep it from getting slots.
  FlushReturns(deadline);
  const auto missing = count - static_cast<uint32_t>(slots.size());
  const auto ahead = remote_ ? Magazine::Want{kind, 0} : magazine_->Ahead(kind, missing);
  const auto granted = AskForSlots(kind, missing, ahead.count, wait, deadline);
  std::span<const Magazine::Slot> came;
  if (granted.ok()) came = *granted;
  const std::span<const Magazine::Slot> ours = came.first(std::min<size_t>(missing, came.size()));
  slots.insert(slots.end(), ours.begin(), ours.end());
  if (!remote_) HoldAhead(ahead, came.subspan(ours.size()));
  if (granted.ok()) return slots;
  if (remote_) return granted.status();
  if (!absl::IsResourceExhausted(granted.status())) {
    for (const Magazine::Slot& slot : magazine_->Add(kind, slots)) QueueAbort(slot);
    return granted.status();
  }
  // What there was may have come to another thread, for both.
  const std::vector<Magazine::Slot> others = magazine_->Take(kind, missing);
  slots.insert(slots.end(), others.begin(), others.end());
  if (slots.empty()) return granted.status();
  return slots;
}

absl::StatusOr<std::vector<Magazine::Slot>> Connection::AskForSlots(const Magazine::Kind& kind,
                                                                    uint32_t count, uint32_t ahead,
                                                                    std::chrono::milliseconds wait,
                                                                    Deadline deadline) {
  v1::ReserveRequest request;
  request.set_space(kind.space);
  request.set_part(kind.part);
  request.set_count(count);
  request.set_ahead(ahead);
  TC_ASSIGN_OR_RETURN(const v1::ReserveResponse response, SendReserve(request, wait, deadline));
  return Granted(kind, request.grant(),
                 {response.offsets().data(), static_cast<size_t>(response.offsets_size())});
}

absl::StatusOr<v1::ReserveResponse> Connection::SendReserve(v1::ReserveRequest& request,
                                                            std::chrono::milliseconds wait,
                                                            Deadline deadline) {
  request.set_wait_ms(static_cast<uint32_t>(std::clamp<int64_t>(wait.count(), 0, 1 << 30)));
  request.set_grant(NewNumber());
  auto response = calls_->Reserve(request, deadline);
  if (!response.ok()) {
    // The daemon may have granted what we do not know of.
    if (!Refused(response.status())) Queue(&Returns::grants, request.grant());
    return Explain(response.status());
  }
  if (response->offsets().empty()) {
    return absl::ResourceExhaustedError("the daemon granted no slot; go on without the cache");
  }
  return response;
}

absl::StatusOr<std::vector<Connection::DeviceSlot>> Connection::TakeDeviceSlots(
    const Magazine::Kind& kind, uint32_t count, std::chrono::milliseconds wait, Deadline deadline) {
  FlushReturns(deadline);
  v1::ReserveRequest request;
  request.set_space(kind.space);
  request.set_part(kind.part);
  request.set_count(count);
  request.set_on_device(true);
  TC_ASSIGN_OR_RETURN(const v1::ReserveResponse response, SendReserve(request, wait, deadline));
  if (response.places_size() != response.offsets_size()) {
    Queue(&Returns::grants, request.grant());
    return absl::InternalError("the daemon granted " + std::to_string(response.offsets_size()) +
                               " slots of the device, and told where " +
                               std::to_string(response.places_size()) + " lie");
  }
  std::vector<DeviceSlot> slots;
  for (int i = 0; i < response.offsets_size(); ++i) {
    slots.push_back({.slot = {response.offsets(i), request.grant()},
                     .slab = response.places(i).slab(),
                     .at = response.places(i).offset()});
  }
  return slots;
}

absl::StatusOr<std::vector<Magazine::Slot>> Connection::Granted(const Magazine::Kind& kind,
                                                                uint64_t grant,
                                                                std::span<const uint64_t> offsets) {
  std::vector<Magazine::Slot> slots;
  for (const uint64_t offset : offsets) {
    if (!Contains(offset, kind.bytes)) {
      return absl::InternalError("the daemon granted a slot outside its arena, at offset " +
                                 std::to_string(offset));
    }
    if (!remote_ && !staging_.there()) MapSlot(offset, kind.bytes);
    slots.push_back({offset, grant});
  }
  return slots;
}

uint64_t Connection::NewNumber() {
  MutexLock lock(mutex_);
  return ++last_number_;
}

void Connection::MapSlot(uint64_t offset, uint64_t bytes) {
  {
    MutexLock lock(mutex_);
    const auto slot = mapped_slots_.begin() + static_cast<ptrdiff_t>(offset / kPageBytes);
    if (*slot) return;
    *slot = true;
  }
  // For reading: such a fault maps the pages around it too, and in a shared mapping for writing as
  // well. Where it is refused (Linux before 5.14) the fill faults, as it would have.
  (void)::madvise(arena_ + offset, bytes, MADV_POPULATE_READ);
}

void Connection::HoldAhead(const Magazine::Want& want, std::span<const Magazine::Slot> slots) {
  for (const Magazine::Slot& slot : magazine_->Came(want, slots)) QueueAbort(slot);
}

void Connection::ReturnIdleSlots(bool all) {
  if (!magazine_) return;
  for (const Magazine::Slot& slot : magazine_->TakeIdle(all)) QueueAbort(slot);
}

template <class Item>
void Connection::Queue(std::vector<Item> Returns::*queue, Item item) {
  if (Forked() || lost_.load()) return;
  MutexLock lock(mutex_);
  if ((returns_.*queue).size() >= kMaxQueuedReturns) return;
  (returns_.*queue).push_back(std::move(item));
  if (returns_.size() == 1) Wake();
}

void Connection::QueueRelease(uint64_t lease) { Queue(&Returns::releases, lease); }
void Connection::QueueUntold(uint64_t asked, const absl::Status& why) {
  if (!Answered(why)) Queue(&Returns::untold, asked);
}
void Connection::QueueAbort(Magazine::Slot slot, std::optional<uint64_t> staged_at) {
  Queue(&Returns::aborts, Aborted{slot, staged_at});
}
void Connection::QueueReport(uint64_t id, uint32_t part) {
  Queue(&Returns::reports, std::pair(id, part));
}

void Connection::Returns::Add(Returns&& others) {
  const auto move = [](auto& to, auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  move(releases, others.releases);
  move(untold, others.untold);
  move(grants, others.grants);
  move(aborts, others.aborts);
  move(reports, others.reports);
}

void Connection::FlushReturns(Deadline deadline) {
  Returns returns;
  {
    MutexLock lock(mutex_);
    // What another thread carries away just now is waited for.
    while (returning_) {
      if (!returned_.WaitUntil(mutex_, deadline)) return;
    }
    if (returns_.size() == 0) return;
    returning_ = true;
    std::swap(returns, returns_);
  }
  SendReturns(returns, deadline);
  MutexLock lock(mutex_);
  if (!lost_.load()) returns_.Add(std::move(returns));  // what is left waits for the next beat
  returning_ = false;
  returned_.NotifyAll();
}

void Connection::FlushAllReturns(const std::string& socket_path, Deadline deadline,
                                 bool those_ahead) {
  for (const std::shared_ptr<Connection>& connection : AllOfThisProcess()) {
    if (connection->socket_path_ != socket_path) continue;
    if (those_ahead) connection->ReturnIdleSlots(true);
    connection->FlushReturns(deadline);
  }
}

// The numbers of leases and of grants are never used again, so what names one is sent once more
// when it got no answer: a call that is late may never arrive.
void Connection::SendReturns(Returns& returns, Deadline deadline) {
  if (!SendReports(returns, deadline) || !SendAborts(returns, deadline)) return;
  const auto last_of = [](const std::vector<uint64_t>& numbers) {
    return std::span(numbers).last(std::min(kReturnBatch, numbers.size()));
  };
  while (!returns.releases.empty() || !returns.untold.empty()) {
    const auto leases = last_of(returns.releases);
    const auto asked = last_of(returns.untold);
    v1::ReleaseRequest request;
    request.mutable_leases()->Add(leases.begin(), leases.end());
    request.mutable_asked()->Add(asked.begin(), asked.end());
    const absl::Status status = calls_->Release(request, deadline).status();
    unanswered_.store(absl::IsDeadlineExceeded(status));
    if (!Answered(status)) return;
    returns.releases.resize(returns.releases.size() - leases.size());
    returns.untold.resize(returns.untold.size() - asked.size());
  }
}

// Once: who meets the block next says it again.
bool Connection::SendReports(Returns& returns, Deadline deadline) {
  if (returns.reports.empty()) return true;
  v1::ReportRequest request;
  for (const auto& [id, part] : returns.reports) {
    if (request.blocks_size() == static_cast<int>(kReturnBatch)) break;
    v1::SuspectBlock* const block = request.add_blocks();
    block->set_id(id);
    block->set_part(part);
  }
  returns.reports.clear();
  const absl::Status status = calls_->Report(request, deadline).status();
  unanswered_.store(absl::IsDeadlineExceeded(status));
  return Answered(status);
}

bool Connection::SendAborts(Returns& returns, Deadline deadline) {
  while (!returns.grants.empty() || !returns.aborts.empty()) {
    const size_t grants = std::min(kReturnBatch, returns.grants.size());
    const size_t slots = std::min(kReturnBatch, returns.aborts.size());
    v1::AbortRequest request;
    for (size_t i = 0; i < grants; ++i) request.add_grants(returns.grants[i]);
    for (size_t i = 0; i < slots; ++i) {
      v1::GrantedSlot* const slot = request.add_offered();
      slot->set_offset(returns.aborts[i].slot.offset);
      slot->set_grant(returns.aborts[i].slot.grant);
    }
    const absl::Status status = calls_->Abort(request, deadline).status();
    unanswered_.store(absl::IsDeadlineExceeded(status));
    if (!Answered(status)) return false;
    // The daemon will not look there any more.
    for (size_t i = 0; i < slots; ++i) {
      if (returns.aborts[i].staged_at) staging_.Give(*returns.aborts[i].staged_at);
    }
    returns.grants.erase(returns.grants.begin(), returns.grants.begin() + grants);
    returns.aborts.erase(returns.aborts.begin(), returns.aborts.begin() + slots);
  }
  return true;
}

}  // namespace client_v1
}  // namespace thermocline
