// A chunk's way out: the stack says which blocks are warm (strand), their bytes are copied into the
// message (worker), the lease is looked at once more (strand), the message is sent (gRPC). A lease
// that ended during the copy protected nothing: what was copied is not sent.
#include "daemon/data_read.h"

#include <limits>
#include <span>

#include "daemon/data_stream.h"
#include "daemon/grpc_stream.h"
#include "daemon/remote_work.h"

namespace thermocline {
namespace {

/// A block, or a piece of one.
struct Piece {
  BlockView block;
  std::span<const std::byte> payload;
  uint64_t at = 0;  // of the payload's first byte
};

class BlocksOut final : public LoadStream<v1::ReadResponse, Piece>,
                        public std::enable_shared_from_this<BlocksOut> {
 public:
  BlocksOut(ServiceContext& services, grpc::CallbackServerContext& context,
            const v1::ReadRequest& request)
      : LoadStream(services.metrics, Operation::kRead),
        metrics_(services.metrics),
        lease_(request.lease()),
        from_depth_(request.from_depth()),
        to_depth_(request.to_depth() == 0 ? std::numeric_limits<uint32_t>::max()
                                          : request.to_depth()),
        gate_(context) {}
  void Begin(absl::StatusOr<SessionIdentity> identity) {
    if (!identity.ok()) return End(identity.status());
    session_ = identity->session;
    tenant_ = identity->tenant;
    const auto stream = identity->remote->EnterStream([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->gate_.Cancel();
    });
    if (!stream) {
      return End(absl::ResourceExhaustedError(
          "the session has " + std::to_string(kMaxRemoteStreams) +
          " payload streams open already, or has ended; wait for one of them"));
    }
    stream_ = *stream;
    work_ = std::move(identity->remote);
    Load(*tenant_, session_, lease_);
  }
  void OnDone() override {
    gate_.Over();
    if (work_ != nullptr) work_->LeaveStream(stream_);
    LoadStream::OnDone();
  }

 private:
  /// A message under way to being sent. One that is dropped, because the daemon stops, ends all.
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

  std::vector<Piece> ItemsOf(const TierStack& stack,
                             const std::vector<BlockView>& blocks) const override {
    std::vector<Piece> pieces;
    for (const BlockView& block : blocks) {
      if (block.depth < from_depth_ || block.depth >= to_depth_) continue;
      pieces.push_back({block, stack.SlotPayload(block.offset, block.bytes), 0});
    }
    return pieces;
  }
  std::vector<Piece> Take(std::deque<Piece>& queue) const override {
    std::vector<Piece> taken;
    size_t room = kMaxChunkBytes;
    while (room > 0 && !queue.empty()) {
      Piece& head = queue.front();
      const size_t bytes = std::min<size_t>(room, head.payload.size());
      taken.push_back({head.block, head.payload.first(bytes), head.at});
      head.payload = head.payload.subspan(bytes);
      head.at += bytes;
      room -= bytes;
      if (head.payload.empty()) queue.pop_front();
    }
    return taken;
  }
  void Send(std::vector<Piece> pieces) override {
    auto chunk = std::make_shared<Chunk>(shared_from_this());
    const bool posted = tenant_->workers().Post([chunk, pieces = std::move(pieces)] {
      BlocksOut& stream = chunk->stream();
      stream.response_.clear_pieces();
      for (const Piece& piece : pieces) {
        v1::ReadPiece* copied = stream.response_.add_pieces();
        ToWire(piece.block, *copied->mutable_block());
        copied->set_at(piece.at);
        copied->set_data(piece.payload.data(), piece.payload.size());
      }
      stream.tenant_->PostCompletion([chunk](TenantView& tenant) {
        const std::shared_ptr<BlocksOut> copied = chunk->Take();
        copied->SendWhile(copied->LeaseHolds(tenant));
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
  void SendWhile(absl::Status lease) {
    if (!lease.ok()) return Drop(std::move(lease));
    uint64_t bytes = 0;
    for (const v1::ReadPiece& piece : response_.pieces()) bytes += piece.data().size();
    metrics_.RemoteBytesOut(bytes);
    StartWrite(&response_);
  }

  Tenant* tenant_ = nullptr;  // the session's
  DaemonMetrics& metrics_;
  const uint64_t lease_;
  const uint32_t from_depth_, to_depth_;
  CancelGate gate_;
  uint64_t session_ = 0;
  uint64_t stream_ = 0;
  std::shared_ptr<RemoteWork> work_;
  v1::ReadResponse response_;  // of the message under way
};

}  // namespace

grpc::ServerWriteReactor<v1::ReadResponse>* StartBlocksOut(ServiceContext& services,
                                                           grpc::CallbackServerContext& context,
                                                           const v1::ReadRequest& request) {
  auto stream = std::make_shared<BlocksOut>(services, context, request);
  stream->Hold(stream);
  stream->Begin(Authenticate(context, services, Right::kFetch));
  return stream.get();
}

}  // namespace thermocline
