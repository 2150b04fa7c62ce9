// What Load and Read have in common: blocks become warm on the strand, messages are written one at
// a time on gRPC's threads, and between them is a queue, as long as the path at most. So a stream
// holds one message of payload, however slowly its client reads.
#pragma once
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "daemon/grpc_call.h"

namespace thermocline {

/// Thread: any, unless said otherwise. No lock is held across a call of gRPC or of what derives.
/// Owner:  gRPC until OnDone (`self_`), the stack's callbacks, and what derives while it sends.
template <class Response, class Item>
class LoadStream : public grpc::ServerWriteReactor<Response> {
 public:
  LoadStream(DaemonMetrics& metrics, Operation operation)
      : metrics_(metrics), operation_(operation) {}
  /// Makes gRPC an owner. To be called once, before the reactor is gRPC's.
  void Hold(std::shared_ptr<LoadStream> self) { self_ = std::move(self); }

  /// Has the stack make the lease's path warm, and sends what it brings.
  void Load(Tenant& tenant, uint64_t session, uint64_t lease, bool hot_stays = false) {
    auto guard = Guard();
    const bool posted = tenant.Post([guard, session, lease, hot_stays](TenantView& view) {
      const absl::StatusOr<ClientNumber> client = view.ClientOf(session);
      if (!client.ok()) return guard->stream->End(client.status());
      view.stack->Load(
          *client, lease,
          [guard, &stack = *view.stack](std::vector<BlockView> blocks) {
            return guard->stream->Enqueue(guard->stream->ItemsOf(stack, blocks));
          },
          [guard](absl::Status status) { guard->stream->End(std::move(status)); }, hot_stays);
    });
    if (!posted) End(TooManyWait());
  }
  static absl::Status TooManyWait() {
    return absl::ResourceExhaustedError(
        "the daemon has too many requests waiting, or stops; try again");
  }
  /// No more comes: the stream ends so when all is sent. Nothing when it was said before.
  void End(absl::Status status) TC_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      ended_ = true;
      end_ = std::move(status);
    }
    Step();
  }

  void OnWriteDone(bool ok) final {
    {
      MutexLock lock(mutex_);
      busy_ = false;
      if (!ok) gone_ = true;
    }
    Step();
  }
  void OnCancel() final {
    {
      MutexLock lock(mutex_);
      gone_ = true;
    }
    Step();
  }
  void OnDone() override { std::exchange(self_, nullptr).reset(); }

 protected:
  /// On the strand: what is to be sent of blocks that are warm now.
  virtual std::vector<Item> ItemsOf(const TierStack& stack,
                                    const std::vector<BlockView>& blocks) const = 0;
  /// Takes one message's items, at least one, off a queue that is not empty.
  virtual std::vector<Item> Take(std::deque<Item>& queue) const = 0;
  /// Sends them: sooner or later by StartWrite, or it fails by Drop.
  virtual void Send(std::vector<Item> items) = 0;

  /// What was to be sent is not, nor is anything after it.
  void Drop(absl::Status why) TC_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      busy_ = false;
      ended_ = true;
      end_ = std::move(why);
      queue_.clear();
    }
    Step();
  }

  /// Ends the stream when nobody else has: the task was dropped because the daemon stops.
  struct EndGuard {
    explicit EndGuard(std::shared_ptr<LoadStream> guarded) : stream(std::move(guarded)) {}
    ~EndGuard() { stream->End(absl::UnavailableError("the daemon stops; connect again")); }
    EndGuard(const EndGuard&) = delete;
    EndGuard& operator=(const EndGuard&) = delete;
    std::shared_ptr<LoadStream> stream;
  };
  /// What keeps the stream from ending by itself, while a task of its is under way.
  std::shared_ptr<EndGuard> Guard() { return std::make_shared<EndGuard>(self_); }

  /// False when the caller has gone.
  bool Enqueue(std::vector<Item> items) TC_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (gone_ || ended_) return false;
      queue_.insert(queue_.end(), items.begin(), items.end());
    }
    Step();
    return true;
  }

 private:
  /// Starts what is due next.
  void Step() TC_EXCLUDES(mutex_) {
    std::vector<Item> items;
    absl::Status status;
    {
      MutexLock lock(mutex_);
      if (busy_ || finished_) return;
      if (gone_) {
        status = absl::CancelledError("the caller has gone");
      } else if (!queue_.empty()) {
        items = Take(queue_);
        busy_ = true;
      } else if (ended_) {
        status = end_;
      } else {
        return;
      }
      finished_ = !busy_;
    }
    if (!items.empty()) return Send(std::move(items));
    metrics_.Answered(operation_, status.code(), Clock::Real().Now() - arrived_);
    this->Finish(ToGrpc(status));
  }

  DaemonMetrics& metrics_;
  const Operation operation_;
  const SteadyTime arrived_ = Clock::Real().Now();
  Mutex mutex_;
  std::deque<Item> queue_ TC_GUARDED_BY(mutex_);
  bool busy_ TC_GUARDED_BY(mutex_) = false;   // a message is under way
  bool ended_ TC_GUARDED_BY(mutex_) = false;  // the stack is done
  bool gone_ TC_GUARDED_BY(mutex_) = false;   // the caller is
  bool finished_ TC_GUARDED_BY(mutex_) = false;
  absl::Status end_ TC_GUARDED_BY(mutex_);
  std::shared_ptr<LoadStream> self_;
};

}  // namespace thermocline
