// A chunk's way out: the stack says which blocks are warm (strand), their bytes are copied into the
// message (worker), the lease is looked at once more (strand), the message is sent (gRPC). A lease
// that ended during the copy protected nothing: what was copied is not sent. One chunk at a time,
// so a stream holds one message of payload, however slowly its client reads.
#include "daemon/data_read.h"

#include <deque>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "daemon/grpc_stream.h"
#include "daemon/remote_work.h"

namespace thermocline {
namespace {

/// Owner: gRPC until OnDone (`self_`), the stack's callbacks and the tasks under way.
class BlocksOut final : public grpc::ServerWriteReactor<v1::ReadResponse> {
 public:
  BlocksOut(ServiceContext& services, grpc::CallbackServerContext& context,
            const v1::ReadRequest& request)
      : workers_(services.workers),
        metrics_(services.metrics),
        lease_(request.lease()),
        from_depth_(request.from_depth()),
        to_depth_(request.to_depth() == 0 ? std::numeric_limits<uint32_t>::max()
                                          : request.to_depth()),
        gate_(context) {}
  void Hold(std::shared_ptr<BlocksOut> self) { self_ = std::move(self); }
  void Enter(SessionIdentity identity) {
    session_ = identity.session;
    tenant_ = identity.tenant;
    const auto stream = identity.remote->EnterStream([weak = std::weak_ptr<BlocksOut>(self_)] {
      if (const auto self = weak.lock()) self->gate_.Cancel();
    });
    if (!stream) {
      return End(absl::ResourceExhaustedError(
          "the session has " + std::to_string(kMaxRemoteStreams) +
          " payload streams open already, or has ended; wait for one of them"));
    }
    stream_ = *stream;
    work_ = std::move(identity.remote);
  }
  bool entered() const { return work_ != nullptr; }
  uint64_t session() const { return session_; }
  uint64_t lease() const { return lease_; }

  /// On the strand. False when the caller has gone.
  bool Ready(const TierStack& stack, const std::vector<BlockView>& blocks) {
    {
      MutexLock lock(mutex_);
      if (gone_ || ended_) return false;
      for (const BlockView& block : blocks) {
        if (block.depth < from_depth_ || block.depth >= to_depth_) continue;
        queue_.push_back({block, stack.SlotPayload(block.offset, block.bytes), 0});
      }
    }
    Step();
    return true;
  }
  /// No more blocks come. Nothing when it was said before.
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
      busy_ = false;
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
  void OnDone() override {
    gate_.Over();
    if (work_ != nullptr) work_->LeaveStream(stream_);
    std::exchange(self_, nullptr).reset();
  }

 private:
  struct Source {
    BlockView block;
    std::span<const std::byte> payload;
    uint64_t at = 0;  // sent up to here
  };
  /// A chunk under way to being sent. One that is dropped, because the daemon stops, ends all.
  class Chunk {
   public:
    explicit Chunk(std::shared_ptr<BlocksOut> stream) : stream_(std::move(stream)) {}
    Chunk(Chunk&&) noexcept = default;
    ~Chunk() {
      if (stream_) stream_->Drop(absl::UnavailableError("the daemon stops; connect again"));
    }
    std::shared_ptr<BlocksOut> Take() { return std::exchange(stream_, nullptr); }
    BlocksOut& stream() { return *stream_; }

   private:
    std::shared_ptr<BlocksOut> stream_;
  };

  /// Starts what is due next, with no lock held across it.
  void Step() TC_EXCLUDES(mutex_) {
    std::vector<Source> sources;
    absl::Status status;
    {
      MutexLock lock(mutex_);
      if (busy_ || finished_) return;
      if (gone_) {
        status = absl::CancelledError("the caller has gone");
      } else if (!queue_.empty()) {
        sources = TakeChunk();
        busy_ = true;
      } else if (ended_) {
        status = end_;
      } else {
        return;
      }
      finished_ = !busy_;
    }
    if (!sources.empty()) return Copy(std::move(sources));
    metrics_.Answered(Operation::kRead, status.code(), Clock::Real().Now() - arrived_);
    Finish(ToGrpc(status));
  }

  /// Pieces of what waits, one message's payload at most.
  std::vector<Source> TakeChunk() TC_REQUIRES(mutex_) {
    std::vector<Source> sources;
    size_t room = kMaxChunkBytes;
    while (room > 0 && !queue_.empty()) {
      Source& head = queue_.front();
      const size_t bytes = std::min<size_t>(room, head.payload.size() - head.at);
      sources.push_back({head.block, head.payload.subspan(head.at, bytes), head.at});
      head.at += bytes;
      room -= bytes;
      if (head.at == head.payload.size()) queue_.pop_front();
    }
    return sources;
  }

  void Copy(std::vector<Source> sources) {
    auto chunk = std::make_shared<Chunk>(self_);
    const bool posted = workers_.Post([chunk, sources = std::move(sources)] {
      BlocksOut& stream = chunk->stream();
      stream.response_.clear_pieces();
      for (const Source& source : sources) {
        v1::ReadPiece* piece = stream.response_.add_pieces();
        ToWire(source.block, *piece->mutable_block());
        piece->set_at(source.at);
        piece->set_data(source.payload.data(), source.payload.size());
      }
      stream.tenant_->PostCompletion([chunk](TenantView& tenant) {
        const std::shared_ptr<BlocksOut> copied = chunk->Take();
        copied->Send(copied->LeaseHolds(tenant));
      });
    });
    if (!posted) {
      chunk->Take()->Drop(absl::ResourceExhaustedError(
          "too many blocks wait to be copied, or the daemon stops; try again"));
    }
  }
  absl::Status LeaseHolds(TenantView& tenant) const {
    TC_ASSIGN_OR_RETURN(const ClientNumber client, tenant.ClientOf(session_));
    return tenant.stack->CheckLease(client, lease_);
  }
  void Send(absl::Status lease) {
    if (!lease.ok()) return Drop(std::move(lease));
    StartWrite(&response_);
  }
  /// What was copied is not sent, nor is anything after it.
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

  Tenant* tenant_ = nullptr;  // the session's
  Executor& workers_;
  DaemonMetrics& metrics_;
  const SteadyTime arrived_ = Clock::Real().Now();
  const uint64_t lease_;
  const uint32_t from_depth_, to_depth_;
  CancelGate gate_;
  uint64_t session_ = 0;
  uint64_t stream_ = 0;
  std::shared_ptr<RemoteWork> work_;
  v1::ReadResponse response_;  // of the chunk under way
  Mutex mutex_;
  std::deque<Source> queue_ TC_GUARDED_BY(mutex_);  // as long as the path at most
  bool busy_ TC_GUARDED_BY(mutex_) = false;         // a chunk is under way
  bool ended_ TC_GUARDED_BY(mutex_) = false;        // the stack is done
  bool gone_ TC_GUARDED_BY(mutex_) = false;         // the caller is
  bool finished_ TC_GUARDED_BY(mutex_) = false;
  absl::Status end_ TC_GUARDED_BY(mutex_);
  std::shared_ptr<BlocksOut> self_;
};

/// Ends the stream when nobody else has: the task was dropped because the daemon stops.
struct EndGuard {
  explicit EndGuard(std::shared_ptr<BlocksOut> guarded) : stream(std::move(guarded)) {}
  ~EndGuard() { stream->End(absl::UnavailableError("the daemon stops; connect again")); }
  EndGuard(const EndGuard&) = delete;
  EndGuard& operator=(const EndGuard&) = delete;
  std::shared_ptr<BlocksOut> stream;
};

}  // namespace

grpc::ServerWriteReactor<v1::ReadResponse>* StartBlocksOut(ServiceContext& services,
                                                           grpc::CallbackServerContext& context,
                                                           const v1::ReadRequest& request) {
  auto stream = std::make_shared<BlocksOut>(services, context, request);
  stream->Hold(stream);
  auto identity = Authenticate(context, services, Right::kFetch);
  if (!identity.ok()) {
    stream->End(identity.status());
    return stream.get();
  }
  Tenant& tenant = *identity->tenant;
  stream->Enter(*std::move(identity));
  if (!stream->entered()) return stream.get();
  auto guard = std::make_shared<EndGuard>(stream);
  const bool posted = tenant.Post([guard](TenantView& view) {
    BlocksOut& out = *guard->stream;
    const absl::StatusOr<ClientNumber> client = view.ClientOf(out.session());
    if (!client.ok()) return out.End(client.status());
    view.stack->Load(
        *client, out.lease(),
        [guard, &stack = *view.stack](std::vector<BlockView> blocks) {
          return guard->stream->Ready(stack, blocks);
        },
        [guard](absl::Status status) { guard->stream->End(std::move(status)); });
  });
  if (!posted) {
    stream->End(absl::ResourceExhaustedError(
        "the daemon has too many requests waiting, or stops; try again"));
  }
  return stream.get();
}

}  // namespace thermocline
