#include "daemon/data_load.h"

#include <deque>
#include <memory>
#include <vector>

#include "base/mutex.h"

namespace thermocline {
namespace {

constexpr size_t kMaxBlocksPerResponse = 4096;

/// Blocks come on the strand, writes complete on gRPC's threads: a queue between them, as long as
/// the path at most, and one write at a time.
/// Owner: gRPC until OnDone (`self_`), and the stack's callbacks.
class LoadStream final : public grpc::ServerWriteReactor<v1::LoadResponse> {
 public:
  explicit LoadStream(DaemonMetrics& metrics) : metrics_(metrics) {}
  void Hold(std::shared_ptr<LoadStream> self) { self_ = std::move(self); }

  /// False when the caller has gone.
  bool Ready(std::vector<BlockView> blocks) {
    {
      MutexLock lock(mutex_);
      if (gone_) return false;
      queue_.insert(queue_.end(), blocks.begin(), blocks.end());
    }
    Step();
    return true;
  }
  void End(absl::Status status) {
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      ended_ = true;
      end_ = std::move(status);
    }
    Step();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      if (!ok) gone_ = true;
    }
    Step();
  }
  void OnCancel() override {
    {
      MutexLock lock(mutex_);
      gone_ = true;
    }
    Step();
  }
  void OnDone() override { std::exchange(self_, nullptr).reset(); }

 private:
  /// Starts the next write or finishes, whichever is due, with no lock held across it.
  void Step() {
    bool finish = false;
    absl::Status status;
    {
      MutexLock lock(mutex_);
      if (writing_ || finished_) return;
      if (gone_) {
        finish = true;
        status = absl::CancelledError("the caller has gone");
      } else if (!queue_.empty()) {
        response_.clear_blocks();
        for (size_t i = 0; i < kMaxBlocksPerResponse && !queue_.empty(); ++i) {
          ToWire(queue_.front(), *response_.add_blocks());
          queue_.pop_front();
        }
        writing_ = true;
      } else if (ended_) {
        finish = true;
        status = end_;
      } else {
        return;
      }
      finished_ = finish;
    }
    if (!finish) return StartWrite(&response_);
    metrics_.Answered(Operation::kLoad, status.code(), Clock::Real().Now() - arrived_);
    Finish(ToGrpc(status));
  }

  DaemonMetrics& metrics_;
  const SteadyTime arrived_ = Clock::Real().Now();
  v1::LoadResponse response_;  // of the write under way
  Mutex mutex_;
  std::deque<BlockView> queue_ TC_GUARDED_BY(mutex_);
  bool writing_ TC_GUARDED_BY(mutex_) = false;
  bool ended_ TC_GUARDED_BY(mutex_) = false;  // the stack is done
  bool gone_ TC_GUARDED_BY(mutex_) = false;   // the caller is
  bool finished_ TC_GUARDED_BY(mutex_) = false;
  absl::Status end_ TC_GUARDED_BY(mutex_);
  std::shared_ptr<LoadStream> self_;
};

/// Ends the stream when nobody else has: the task was dropped because the daemon stops.
struct LoadGuard {
  explicit LoadGuard(std::shared_ptr<LoadStream> guarded) : stream(std::move(guarded)) {}
  ~LoadGuard() { stream->End(absl::UnavailableError("the daemon stops; connect again")); }
  LoadGuard(const LoadGuard&) = delete;
  LoadGuard& operator=(const LoadGuard&) = delete;
  std::shared_ptr<LoadStream> stream;
};

}  // namespace

grpc::ServerWriteReactor<v1::LoadResponse>* StartLoad(ServiceContext& services,
                                                      grpc::CallbackServerContext& context,
                                                      uint64_t lease) {
  auto stream = std::make_shared<LoadStream>(services.metrics);
  stream->Hold(stream);
  const auto identity = Authenticate(context, services, Right::kRead);
  if (!identity.ok()) {
    stream->End(identity.status());
    return stream.get();
  }
  auto guard = std::make_shared<LoadGuard>(stream);
  const bool posted = identity->tenant->Post([guard, lease,
                                              session = identity->session](TenantView& tenant) {
    const absl::StatusOr<ClientNumber> client = tenant.ClientOf(session);
    if (!client.ok()) return guard->stream->End(client.status());
    tenant.stack->Load(
        *client, lease,
        [guard](std::vector<BlockView> blocks) { return guard->stream->Ready(std::move(blocks)); },
        [guard](absl::Status status) { guard->stream->End(std::move(status)); });
  });
  if (!posted) {
    stream->End(absl::ResourceExhaustedError(
        "the daemon has too many requests waiting, or stops; try again"));
  }
  return stream.get();
}

}  // namespace thermocline
