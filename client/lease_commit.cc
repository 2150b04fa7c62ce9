// Commits. Behind a path that this client holds by a pin of its own they go through the ring of the
// control area, one after the other without waiting; any other goes by message, and waits.
#include <algorithm>
#include <utility>

#include "client/lease_rep.h"
#include "client/wire.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

// Of one commit in the ring: what their names and its items take fits PutQueue::kMaxBytes.
constexpr uint32_t kPutPlaces = 512;
static_assert(kPutPlaces * (kNameBytes + 4) + kPutItems * 40 + 256 <= PutQueue::kMaxBytes);

/// Whether a failed call surely did nothing, so that its slots may be given back at once. Where the
/// answer got lost they may be published already, and those that are not go back by their grants.
bool SurelyRefused(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kAborted:            // it is in memory, and not on disk
    case absl::StatusCode::kResourceExhausted:  // gRPC says so too, of an answer too long for it
      return false;
    default:
      return true;
  }
}

}  // namespace

absl::Status Lease::Rep::CheckSlots(std::span<const Reservation> slots, uint32_t blocks,
                                    bool on_device) const {
  if (slots.size() != size_t{blocks} * part_count()) {
    return absl::InvalidArgumentError("a commit of " + std::to_string(blocks) +
                                      " blocks takes one slot for each block and part; " +
                                      std::to_string(slots.size()) + " slots were given");
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if ((slots[i].device_ != nullptr) != on_device) {
      return absl::InvalidArgumentError(
          "slot " + std::to_string(i) +
          (on_device ? " is of the arena: Commit it"
                     : " is of the device's memory, which a stream fills: CommitAfter that"));
    }
    if (slots[i].connection_ == connection && slots[i].part_ == i % part_count()) continue;
    return absl::FailedPreconditionError(
        "slot " + std::to_string(i) +
        " was reserved in another session, or for another part; reserve again");
  }
  return absl::OkStatus();
}

v1::CommitRequest Lease::Rep::RequestFor(uint32_t begin, uint32_t end,
                                         std::span<const Reservation> slots) const {
  v1::CommitRequest request;
  *request.mutable_names() =
      ToWire(space->spec, std::span(names).subspan(begin, size_t{end} - begin));
  for (size_t i = 0; i < slots.size(); ++i) {
    v1::CommitItem* item = request.add_items();
    item->set_offset(slots[i].offset_);
    item->set_grant(slots[i].grant_);
    item->set_part(slots[i].part_);
    if (slots[i].staged_at_) item->set_staged_at(*slots[i].staged_at_);
    item->set_depth(begin + static_cast<uint32_t>(i / part_count() + 1) * block_places() - 1);
  }
  return request;
}

absl::Status Lease::Rep::SayWhere(v1::CommitRequest& request, Deadline deadline) const {
  if (local == nullptr) {
    request.set_lease(lease);
    return absl::OkStatus();
  }
  v1::PinnedEnd& end = *request.mutable_pinned();
  end.set_pin(local->pin);
  TC_ASSIGN_OR_RETURN(const Root root, space->RootIn(*connection, deadline));
  end.set_space(root.tag);
  if (!puts.empty()) {
    end.set_after(puts.back()->number);
  } else {
    end.set_place(PlaceBits(depth > 0 ? local->reader.PlaceAt(depth) : Place{root.node, 0}));
  }
  return absl::OkStatus();
}

absl::Status Lease::Rep::Enqueue(std::vector<Reservation>& slots, uint32_t begin,
                                 Deadline deadline) {
  const auto end = static_cast<uint32_t>(names.size());
  const uint32_t blocks = std::min(kPutItems / part_count(), kPutPlaces / block_places());
  size_t next_slot = 0;
  while (begin < end) {
    const uint32_t step = std::min(end - begin, blocks * block_places());
    const auto taken =
        std::span(slots).subspan(next_slot, size_t{step} / block_places() * part_count());
    v1::CommitRequest request = RequestFor(begin, begin + step, taken);
    for (v1::CommitItem& item : *request.mutable_items()) item.set_keep_slot(true);
    absl::Status status = SayWhere(request, deadline);
    if (status.ok()) {
      auto put = connection->puts().Enqueue(request, deadline);
      if (put.ok()) puts.push_back(*std::move(put));
      status = put.status();
    }
    if (!status.ok()) {
      names.resize(begin);
      return status;
    }
    for (Reservation& slot : taken) {
      if (slot.staged_at_) puts.back()->staged.push_back(*slot.staged_at_);
      slot.Use();
    }
    next_slot += taken.size();
    begin += step;
  }
  return absl::OkStatus();
}

absl::Status Lease::Rep::Settle(Deadline deadline) {
  if (filling != nullptr) return SettleFilling(deadline);
  if (puts.empty()) return absl::OkStatus();
  absl::Status status;
  for (const auto& put : puts) {
    status = connection->puts().Await(*put, deadline);
    if (absl::IsDeadlineExceeded(status)) return status;
    if (!status.ok()) break;  // the session is lost, and all that was not answered
  }
  auto published = leased_depth;
  for (const auto& put : std::exchange(puts, {})) {
    if (!connection->puts().Answered(*put)) {
      connection->puts().Abandon(put, nullptr);
      continue;
    }
    status.Update(put->status);
    if (put->depth != 0) published = put->depth;  // of one that is not on disk, too
    for (const Magazine::Slot& slot : put->kept) connection->QueueAbort(slot);
    for (const uint64_t at : put->staged) connection->staging().Give(at);
  }
  if (published < leased_depth || published > names.size()) {
    names.resize(leased_depth);
    return absl::InternalError("the daemon answered commits behind " +
                               std::to_string(leased_depth) + " places with depth " +
                               std::to_string(published));
  }
  names.resize(published);
  if (published > leased_depth) status.Update(TakeOver(deadline));
  return status;
}

// The daemon has moved our pin behind all of `names`; now we read what it holds.
absl::Status Lease::Rep::TakeOver(Deadline deadline) {
  const uint32_t old_depth = leased_depth;
  TC_ASSIGN_OR_RETURN(const Root root, space->RootIn(*connection, deadline));
  List();
  const bool cut = depth < leased_depth;  // a damaged block ends what may be used
  leased_depth = static_cast<uint32_t>(names.size());
  if (cut) return absl::OkStatus();
  const Reader::Match grown = local->reader.Extend(root, names, old_depth, LocalReader::kLeasePin,
                                                   space->rules, block_places());
  depth = leased_depth;
  listed = false;
  if (grown.usable == names.size()) return absl::OkStatus();
  // What stands there now is another's affair: ask for it like anybody else.
  listed = true;
  const absl::Status matched = Rematch(deadline);
  if (!matched.ok()) Cut(std::min(depth, old_depth));
  return matched;
}

absl::Status Lease::Rep::CommitByMessage(std::vector<Reservation>& slots, uint32_t begin,
                                         Deadline deadline) {
  v1::CommitRequest request = RequestFor(begin, static_cast<uint32_t>(names.size()), slots);
  absl::Status sent = SayWhere(request, deadline);
  if (sent.ok() && connection->remote()) sent = Send(slots, request, deadline);
  if (!sent.ok()) {
    names.resize(begin);
    return sent;
  }
  const auto response = connection->calls().Commit(request, deadline);
  const bool used = response.ok() || !SurelyRefused(response.status());
  if (response.ok()) KeepCommitted(request, *response);
  for (Reservation& slot : slots) {
    if (!used) break;
    if (response.ok()) {
      slot.Unstage();
    } else {
      // The daemon may yet look at what is staged, and may have granted the slot anew meanwhile.
      connection->QueueAbort({slot.offset_, slot.grant_}, slot.staged_at_);
    }
    slot.Use();
  }
  return TakeAnswer(begin, request, response, deadline);
}

absl::Status Lease::Rep::TakeAnswer(uint32_t begin, const v1::CommitRequest& request,
                                    const absl::StatusOr<v1::CommitResponse>& response,
                                    Deadline deadline) {
  const auto end = static_cast<uint32_t>(names.size());
  absl::Status status = response.ok() ? absl::OkStatus() : connection->Explain(response.status());
  if (status.ok() &&
      (response->depth() != end || response->blocks_size() != request.items_size())) {
    status = absl::InternalError("the daemon answered a commit of " + std::to_string(end - begin) +
                                 " places at " + std::to_string(begin) + " with depth " +
                                 std::to_string(response->depth()));
  }
  if (!status.ok()) {
    List();
    names.resize(begin);
    // It may have been done all the same: the next commit looks where it stands.
    if (response.ok() || !SurelyRefused(response.status())) leased_depth = end;
    return status;
  }
  if (local != nullptr) return TakeOver(deadline);
  const bool cut = depth < leased_depth;  // a damaged block ends what may be used
  leased_depth = end;
  if (cut) return absl::OkStatus();
  depth = end;
  for (const v1::Block& block : response->blocks()) TC_RETURN_IF_ERROR(Put(block, true));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Lease::Rep::Append(NamesView more, uint32_t blocks, bool settle,
                                            Deadline deadline) {
  if (settle || filling != nullptr || depth != leased_depth) {
    TC_RETURN_IF_ERROR(Settle(deadline));
  }
  if (depth != leased_depth) TC_RETURN_IF_ERROR(Rematch(deadline));
  const auto begin = static_cast<uint32_t>(names.size());
  AppendNames(space->spec, more, blocks * block_places(), names);
  return begin;
}

absl::Status Lease::CommitAsync(NamesView names, std::vector<Reservation> slots, Timeout timeout) {
  TC_RETURN_IF_ERROR(rep_->Usable());
  TC_RETURN_IF_ERROR(CheckNames(rep_->space->spec, names));
  const uint32_t blocks = names.places() / rep_->block_places();
  TC_RETURN_IF_ERROR(rep_->CheckSlots(slots, blocks, false));
  if (blocks == 0) return absl::OkStatus();
  const Deadline deadline = rep_->space->core->DeadlineOf(timeout);
  const bool through_ring = rep_->local != nullptr && rep_->block_places() <= kPutPlaces;
  TC_ASSIGN_OR_RETURN(const uint32_t begin, rep_->Append(names, blocks, !through_ring, deadline));
  return rep_->local != nullptr && through_ring ? rep_->Enqueue(slots, begin, deadline)
                                                : rep_->CommitByMessage(slots, begin, deadline);
}

absl::Status Lease::Settle(Timeout timeout) {
  if (rep_->puts.empty() && rep_->filling == nullptr) return absl::OkStatus();
  TC_RETURN_IF_ERROR(rep_->Usable());
  return rep_->Settle(rep_->space->core->DeadlineOf(timeout));
}

bool Lease::Settled() const {
  if (rep_->connection->Forked()) return true;
  if (rep_->filling != nullptr) return rep_->filling->Answered();
  return rep_->puts.empty() || rep_->connection->puts().Answered(*rep_->puts.back());
}

absl::Status Lease::Commit(NamesView names, std::vector<Reservation> slots, Timeout timeout) {
  const Deadline deadline = rep_->space->core->DeadlineOf(timeout);
  TC_RETURN_IF_ERROR(CommitAsync(names, std::move(slots), timeout));
  return rep_->Settle(deadline);
}

// ---- behind a stream

void Lease::Rep::Filling::LeaveSlots() {
  for (Reservation& slot : slots) slot.Use();
}

void Lease::Rep::Filling::Send() {
  auto response = connection->calls().Commit(request, std::chrono::steady_clock::now() + timeout);
  for (Reservation& slot : slots) {
    if (!response.ok() && SurelyRefused(response.status())) break;  // they go back
    if (!response.ok()) connection->QueueAbort({slot.offset_, slot.grant_});
    slot.Use();
  }
  slots.clear();
  MutexLock lock(mutex_);
  answer_ = std::move(response);
  answered_.NotifyAll();
  if (!std::exchange(holds_, false)) return;
  local_ != nullptr ? connection->local_readers().GiveBack(std::move(local_))
                    : connection->QueueRelease(lease_);
}

bool Lease::Rep::Filling::Answered() {
  MutexLock lock(mutex_);
  return answer_.has_value();
}

std::optional<absl::StatusOr<v1::CommitResponse>> Lease::Rep::Filling::Await(Deadline deadline) {
  MutexLock lock(mutex_);
  while (!answer_) {
    if (!answered_.WaitUntil(mutex_, deadline)) break;
  }
  return answer_;
}

bool Lease::Rep::Filling::TakeHold(std::unique_ptr<LocalReader>& local, uint64_t lease) {
  MutexLock lock(mutex_);
  if (answer_) return false;
  holds_ = true;
  local_ = std::move(local);
  lease_ = lease;
  return true;
}

absl::Status Lease::Rep::SettleFilling(Deadline deadline) {
  const auto response = filling->Await(deadline);
  if (!response) {
    return absl::DeadlineExceededError(
        "what was committed behind a stream is not answered yet; settle again");
  }
  const auto sent = std::exchange(filling, nullptr);
  return TakeAnswer(sent->begin, sent->request, *response, deadline);
}

absl::Status Lease::Rep::Prepare(NamesView more, Filling& commit, Deadline deadline) {
  TC_RETURN_IF_ERROR(Usable());
  TC_RETURN_IF_ERROR(CheckNames(space->spec, more));
  const uint32_t blocks = more.places() / block_places();
  TC_RETURN_IF_ERROR(CheckSlots(commit.slots, blocks, true));
  TC_ASSIGN_OR_RETURN(commit.begin, Append(more, blocks, true, deadline));
  commit.request = RequestFor(commit.begin, static_cast<uint32_t>(names.size()), commit.slots);
  const absl::Status said = SayWhere(commit.request, deadline);
  if (!said.ok()) names.resize(commit.begin);
  return said;
}

// Whatever is wrong, the stream may be writing: nothing goes back before it has come by.
absl::Status Lease::CommitAfter(NamesView names, std::vector<Reservation> slots,
                                DeviceStream stream, Timeout timeout) {
  const ClientOptions& options = rep_->space->core->options();
  if (options.device == nullptr) return NoDevice();
  if (slots.empty() && names.places() < rep_->block_places()) return absl::OkStatus();
  auto filling = std::make_shared<Rep::Filling>();
  filling->connection = rep_->connection;
  filling->timeout = timeout.value_or(options.timeout);
  filling->slots = std::move(slots);
  const absl::Status prepared =
      rep_->Prepare(names, *filling, rep_->space->core->DeadlineOf(timeout));
  const absl::Status asked =
      options.device->After(stream, [filling, is_sent = prepared.ok()]() mutable {
        is_sent ? filling->Send() : filling->slots.clear();
      });
  if (!asked.ok()) {
    filling->LeaveSlots();
    if (prepared.ok()) rep_->names.resize(filling->begin);
  } else if (prepared.ok()) {
    rep_->filling = std::move(filling);
  }
  return prepared.ok() ? asked : prepared;
}

}  // namespace client_v1
}  // namespace thermocline
