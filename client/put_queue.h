// Commits on their way to the daemon, through the ring in the session's control area
// (proto/shm_layout.h). To enqueue one takes no system call while the daemon is awake, and waits
// only when the ring is full. The daemon answers in the order of the ring, and until it has a slot
// stays this session's; one that it did not use then goes back.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "client/adaptive_wait.h"
#include "client/local_readers.h"
#include "client/magazine.h"
#include "client/session.h"
#include "proto/shm_layout.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {
inline namespace client_v1 {

/// A commit that was enqueued.
struct EnqueuedPut {
  uint64_t number = 0;  // in the ring, from 1
  std::vector<Magazine::Slot> slots;
  std::vector<uint64_t> staged;  // pieces of staging memory that they were filled in, or none

  // Once it is answered; until then the queue's.
  absl::Status status;
  uint32_t depth = 0;                // of its path
  std::vector<Magazine::Slot> kept;  // of `slots`, those that were not used

 private:
  friend class PutQueue;
  bool answered = false;
  bool abandoned = false;
  Magazine::Want want;                  // what its answer is to bring
  std::unique_ptr<LocalReader> reader;  // of an abandoned one: what it stands behind
};

/// Thread: any. Owner: borrows the memory of the control area and the readers.
class PutQueue {
 public:
  struct Hooks {
    std::function<void()> wake;                 // tells the daemon that there is something
    std::function<absl::Status()> alive;        // whether the session is
    std::function<void(Magazine::Slot)> abort;  // gives a slot back
    std::function<void(uint64_t at)> unstage;   // gives a piece of staging memory back
    /// What an answer may bring for a space, and what it brought under this grant.
    std::function<Magazine::Want(uint32_t space)> want;
    std::function<void(const Magazine::Want&, uint64_t grant, std::span<const uint64_t> offsets)>
        granted;
  };
  PutQueue(ControlArea& area, LocalReaders& readers, Hooks hooks)
      : area_(area), readers_(readers), hooks_(std::move(hooks)) {}

  /// Bytes that a commit may take.
  static constexpr size_t kMaxBytes = kPutRingBytes / 4;

  /// REQUIRES: the request takes at most kMaxBytes, has at most kPutItems items, and its slots are
  /// this session's.
  /// Errors: DeadlineExceeded when there was no room in time; what `alive` says.
  absl::StatusOr<std::shared_ptr<EnqueuedPut>> Enqueue(const v1::CommitRequest& request,
                                                       Deadline deadline) TC_EXCLUDES(mutex_);
  /// Waits for its answer. Errors: as Enqueue.
  absl::Status Await(const EnqueuedPut& put, Deadline deadline) TC_EXCLUDES(mutex_);
  bool Answered(const EnqueuedPut& put) TC_EXCLUDES(mutex_);
  /// Nobody will ask for its answer any more: its slots, and the reader whose pin it stands behind,
  /// go back when it is there.
  void Abandon(std::shared_ptr<EnqueuedPut> put, std::unique_ptr<LocalReader> reader)
      TC_EXCLUDES(mutex_);
  /// To be called from time to time: does what abandoned ones need.
  void Collect() TC_EXCLUDES(mutex_);
  /// Waits until everything is answered.
  void AwaitAll(Deadline deadline) TC_EXCLUDES(mutex_);

 private:
  void CollectAnswers() TC_REQUIRES(mutex_);
  uint64_t answered() const TC_REQUIRES(mutex_) { return enqueued_ - unanswered_.size(); }
  void GiveBack(EnqueuedPut& put);
  void CopyIn(uint64_t at, const void* from, size_t bytes) TC_REQUIRES(mutex_);
  void Write(const std::string& commit, const Magazine::Want& want) TC_REQUIRES(mutex_);
  void Wake();
  /// Waits for the next answer after the first `answered`.
  absl::Status AwaitNext(uint32_t answered, Deadline deadline) TC_EXCLUDES(mutex_);

  ControlArea& area_;
  LocalReaders& readers_;
  const Hooks hooks_;
  AdaptiveWait wait_;
  Mutex mutex_;
  uint64_t written_ TC_GUARDED_BY(mutex_) = 0;   // bytes
  uint64_t enqueued_ TC_GUARDED_BY(mutex_) = 0;  // commits
  // Not answered yet, in their order. Shared with their leases.
  std::deque<std::shared_ptr<EnqueuedPut>> unanswered_ TC_GUARDED_BY(mutex_);
};

}  // namespace client_v1
}  // namespace thermocline
