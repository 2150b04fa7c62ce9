#include "daemon/remote_work.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace thermocline {

absl::Status RemoteWork::Take(std::span<const uint64_t> offsets) {
  MutexLock lock(mutex_);
  if (closed_) return absl::FailedPreconditionError("the session has ended; connect again");
  for (size_t i = 0; i < offsets.size(); ++i) {
    if (in_hand_.insert(offsets[i]).second) continue;
    for (size_t taken = 0; taken < i; ++taken) in_hand_.erase(offsets[taken]);
    return absl::FailedPreconditionError(
        "the slot at offset " + std::to_string(offsets[i]) +
        " is named twice, or another call of this session is at work on it; wait for that one");
  }
  return absl::OkStatus();
}

void RemoteWork::LetGo(std::span<const uint64_t> offsets) {
  std::function<void()> idle;
  {
    MutexLock lock(mutex_);
    for (const uint64_t offset : offsets) in_hand_.erase(offset);
    if (closed_ && in_hand_.empty()) idle = std::exchange(slots_idle_, nullptr);
  }
  if (idle) idle();
}

absl::Status RemoteWork::Advance(uint64_t offset, uint64_t at, uint64_t bytes) {
  MutexLock lock(mutex_);
  TC_CHECK(in_hand_.contains(offset));
  uint64_t& filled = filled_[offset];
  if (at != filled && at != 0) {
    return absl::InvalidArgumentError("a piece at " + std::to_string(at) + " of the slot at " +
                                      std::to_string(offset) + ", which is filled up to " +
                                      std::to_string(filled) + "; go on there, or begin at 0");
  }
  filled = at + bytes;
  return absl::OkStatus();
}

bool RemoteWork::Filled(uint64_t offset, uint64_t bytes) const {
  MutexLock lock(mutex_);
  const auto found = filled_.find(offset);
  return found != filled_.end() && found->second == bytes;
}

void RemoteWork::Forget(std::span<const uint64_t> offsets) {
  MutexLock lock(mutex_);
  for (const uint64_t offset : offsets) filled_.erase(offset);
}

std::optional<uint64_t> RemoteWork::EnterStream(std::function<void()> cancel) {
  MutexLock lock(mutex_);
  if (closed_ || streams_.size() >= kMaxRemoteStreams) return std::nullopt;
  streams_.emplace(++last_stream_, std::move(cancel));
  return last_stream_;
}

void RemoteWork::LeaveStream(uint64_t stream) {
  MutexLock lock(mutex_);
  streams_.erase(stream);
}

void RemoteWork::Close(std::function<void()> slots_idle) {
  std::map<uint64_t, std::function<void()>> streams;
  bool idle = false;
  {
    MutexLock lock(mutex_);
    if (closed_) return;
    closed_ = true;
    streams.swap(streams_);
    idle = in_hand_.empty();
    if (!idle) slots_idle_ = std::move(slots_idle);
  }
  for (const auto& [number, cancel] : streams) cancel();
  if (idle) slots_idle();
}

absl::StatusOr<SlotsInHand> SlotsInHand::Take(std::shared_ptr<RemoteWork> work,
                                              std::vector<uint64_t> offsets) {
  TC_RETURN_IF_ERROR(work->Take(offsets));
  SlotsInHand hand;
  hand.work_ = std::move(work);
  hand.offsets_ = std::move(offsets);
  return hand;
}

}  // namespace thermocline
