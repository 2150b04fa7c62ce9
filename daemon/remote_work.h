// What a remote session has in hand, beside what the stack knows of it: slots that the daemon fills
// on its behalf, or sums, and how far each is filled; and its payload streams.
//
// A local client that frees a slot while it still writes there hurts itself. Here the daemon does
// the writing, so it takes care: a slot is in one call's hands at a time, and a session that has
// ended gives its slots back (Close) only when the last hand has let go.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"

namespace thermocline {

/// Payload streams of one session at a time; each holds one message of payload.
inline constexpr size_t kMaxRemoteStreams = 16;
/// Payload of one message of such a stream.
inline constexpr size_t kMaxChunkBytes = 1 << 20;

/// Thread: any.
class RemoteWork {
 public:
  /// Takes the slots into the hands of a call, all or none.
  /// Errors: FailedPrecondition when another call has one of them, when one is named twice, or when
  ///         the session has ended.
  absl::Status Take(std::span<const uint64_t> offsets) TC_EXCLUDES(mutex_);
  void LetGo(std::span<const uint64_t> offsets) TC_EXCLUDES(mutex_);

  /// That [at, at + bytes) of a slot is to be filled next. REQUIRES: the slot is in hand.
  /// Errors: InvalidArgument unless `at` is where the last piece ended, or 0.
  absl::Status Advance(uint64_t offset, uint64_t at, uint64_t bytes) TC_EXCLUDES(mutex_);
  /// Whether all `bytes` of the slot have been filled since it was granted.
  bool Filled(uint64_t offset, uint64_t bytes) const TC_EXCLUDES(mutex_);
  /// They are granted anew, or nobody's any more.
  void Forget(std::span<const uint64_t> offsets) TC_EXCLUDES(mutex_);

  /// A payload stream begins; `cancel` is called at most once, on any thread, when the session ends
  /// before LeaveStream. Nothing when there are too many of them, or the session has ended.
  std::optional<uint64_t> EnterStream(std::function<void()> cancel) TC_EXCLUDES(mutex_);
  void LeaveStream(uint64_t stream) TC_EXCLUDES(mutex_);

  /// The session has ended: cancels its streams, lets nobody take slots any more, and calls
  /// `slots_idle` once none is in hand; at once, on this thread, where none is.
  void Close(std::function<void()> slots_idle) TC_EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  std::set<uint64_t> in_hand_ TC_GUARDED_BY(mutex_);
  std::map<uint64_t, uint64_t> filled_ TC_GUARDED_BY(mutex_);  // bytes, by the slot's offset
  std::map<uint64_t, std::function<void()>> streams_ TC_GUARDED_BY(mutex_);
  uint64_t last_stream_ TC_GUARDED_BY(mutex_) = 0;
  bool closed_ TC_GUARDED_BY(mutex_) = false;
  std::function<void()> slots_idle_ TC_GUARDED_BY(mutex_);
};

/// Slots in the hands of one call. Owner: shares the session's work.
class SlotsInHand {
 public:
  static absl::StatusOr<SlotsInHand> Take(std::shared_ptr<RemoteWork> work,
                                          std::vector<uint64_t> offsets);
  SlotsInHand() = default;
  SlotsInHand(SlotsInHand&&) noexcept = default;
  SlotsInHand& operator=(SlotsInHand&& other) noexcept {
    std::swap(work_, other.work_);
    std::swap(offsets_, other.offsets_);
    return *this;
  }
  ~SlotsInHand() {
    if (work_ != nullptr) work_->LetGo(offsets_);
  }

  const std::vector<uint64_t>& offsets() const { return offsets_; }

 private:
  std::shared_ptr<RemoteWork> work_;
  std::vector<uint64_t> offsets_;
};

}  // namespace thermocline
