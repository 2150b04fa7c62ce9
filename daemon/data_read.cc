// A chunk's way out: the stack says which blocks are warm (strand), their bytes are copied into the
// message (worker), what kept them is looked at once more (strand), the message is sent (gRPC). A
// lease that ended during the copy protected nothing: what was copied is not sent. Keys that were
// looked up have no lease: one that has gone, or lies elsewhere, is not sent either; the client,
// which sums what it gets, finds the one that went and came back meanwhile.
#include "daemon/data_read.h"

#include <limits>
#include <span>

#include "daemon/data_stream.h"
#include "daemon/grpc_stream.h"
#include "daemon/remote_work.h"

namespace thermocline {
namespace {

/// A block, or a piece of one; nothing of it where it is not warm.
struct Piece {
  BlockView block;
  std::span<const std::byte> payload;
  uint64_t at = 0;  // of the payload's first byte
};

class PayloadStream : public LoadStream<v1::ReadResponse, Piece>,
                      public std::enable_shared_from_this<PayloadStream> {
 public:
  PayloadStream(ServiceContext& services, grpc::CallbackServerContext& context)
      : LoadStream(services.metrics, Operation::kRead),
        metrics_(services.metrics),
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
    FindBlocks();
  }
  void OnDone() override {
    gate_.Over();
    if (work_ != nullptr) work_->LeaveStream(stream_);
    LoadStream::OnDone();
  }

 protected:
  /// Begins to enqueue what is to be sent.
  virtual void FindBlocks() = 0;
  /// On the strand: whether what was copied into the message was theirs. What was not is taken out,
  /// or all of it is in vain.
  virtual absl::Status Check(TenantView& tenant, v1::ReadResponse& copied) const = 0;

  Tenant& tenant() const { return *tenant_; }
  DaemonMetrics& metrics() const { return metrics_; }
  uint64_t session() const { return session_; }

 private:
  /// A message under way to being sent. One that is dropped, because the daemon stops, ends all.
  class Chunk {
   public:
    explicit Chunk(std::shared_ptr<PayloadStream> stream) : stream_(std::move(stream)) {}
    Chunk(Chunk&&) noexcept = default;
    ~Chunk() {
      if (stream_) stream_->Drop(absl::UnavailableError("the daemon stops; connect again"));
    }
    std::shared_ptr<PayloadStream> Take() { return std::exchange(stream_, nullptr); }
    PayloadStream& stream() { return *stream_; }

   private:
    std::shared_ptr<PayloadStream> stream_;
  };

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
      PayloadStream& stream = chunk->stream();
      stream.response_.clear_pieces();
      for (const Piece& piece : pieces) {
        v1::ReadPiece* copied = stream.response_.add_pieces();
        ToWire(piece.block, *copied->mutable_block());
        copied->set_at(piece.at);
        copied->set_data(piece.payload.data(), piece.payload.size());
      }
      stream.tenant_->PostCompletion([chunk](TenantView& tenant) {
        const std::shared_ptr<PayloadStream> copied = chunk->Take();
        copied->SendIf(copied->Check(tenant, copied->response_));
      });
    });
    if (!posted) {
      chunk->Take()->Drop(absl::ResourceExhaustedError(
          "too many blocks wait to be copied, or the daemon stops; try again"));
    }
  }
  void SendIf(absl::Status theirs) {
    if (!theirs.ok()) return Drop(std::move(theirs));
    uint64_t bytes = 0;
    for (const v1::ReadPiece& piece : response_.pieces()) bytes += piece.data().size();
    metrics_.RemoteBytesOut(bytes);
    StartWrite(&response_);
  }

  Tenant* tenant_ = nullptr;  // the session's
  DaemonMetrics& metrics_;
  CancelGate gate_;
  uint64_t session_ = 0;
  uint64_t stream_ = 0;
  std::shared_ptr<RemoteWork> work_;
  v1::ReadResponse response_;  // of the message under way
};

class LeasedBlocks final : public PayloadStream {
 public:
  LeasedBlocks(ServiceContext& services, grpc::CallbackServerContext& context,
               const v1::ReadRequest& request)
      : PayloadStream(services, context),
        lease_(request.lease()),
        from_depth_(request.from_depth()),
        to_depth_(request.to_depth() == 0 ? std::numeric_limits<uint32_t>::max()
                                          : request.to_depth()) {}

 private:
  void FindBlocks() override { Load(tenant(), session(), lease_); }
  std::vector<Piece> ItemsOf(const TierStack& stack,
                             const std::vector<BlockView>& blocks) const override {
    std::vector<Piece> pieces;
    for (const BlockView& block : blocks) {
      if (block.depth < from_depth_ || block.depth >= to_depth_) continue;
      pieces.push_back({block, stack.SlotPayload(block.offset, block.bytes), 0});
    }
    return pieces;
  }
  absl::Status Check(TenantView& tenant, v1::ReadResponse&) const override {
    TC_ASSIGN_OR_RETURN(const ClientNumber client, tenant.ClientOf(session()));
    return tenant.stack->CheckLease(client, lease_);
  }

  const uint64_t lease_;
  const uint32_t from_depth_, to_depth_;
};

class KeyBlocks final : public PayloadStream {
 public:
  KeyBlocks(ServiceContext& services, grpc::CallbackServerContext& context,
            const v1::ReadKeysRequest& request)
      : PayloadStream(services, context),
        space_(request.space()),
        part_(static_cast<uint16_t>(std::min<uint32_t>(request.part(), kMaxParts))),
        keys_(NamesOf(request.names())) {}

 private:
  void FindBlocks() override {
    absl::Status fits = keys_.status();
    if (fits.ok()) fits = CheckCount("keys", keys_->names.size());
    if (!fits.ok()) return End(std::move(fits));
    const bool posted = tenant().Post([this, guard = Guard()](TenantView& view) {
      const absl::StatusOr<TenantView::OpenSpace> space = view.SpaceOf(space_, *keys_);
      if (!space.ok()) return End(space.status());
      const auto blocks = view.stack->LookUp(space_, keys_->names, part_);
      if (blocks.ok()) {
        Count(*blocks);
        Enqueue(ItemsOf(*view.stack, *blocks));
      }
      End(blocks.status());
    });
    if (!posted) End(TooManyWait());
  }
  /// What is not warm is counted when it is matched.
  void Count(const std::vector<BlockView>& blocks) {
    constexpr auto kWarm = static_cast<size_t>(TierKind::kWarm);
    DaemonMetrics::Hits hits;
    uint64_t asked = keys_->names.size();
    for (const BlockView& block : blocks) {
      if (block.part != part_ || block.tier == TierKind::kNone) continue;
      const bool warm = block.tier == TierKind::kWarm;
      asked -= warm ? 0 : 1;
      hits.bytes[kWarm] += warm ? block.bytes : 0;
      hits.tokens[kWarm] += warm ? kPlaceTokens : 0;
    }
    metrics().Matched(asked * kPlaceTokens, hits);
  }
  std::vector<Piece> ItemsOf(const TierStack& stack,
                             const std::vector<BlockView>& blocks) const override {
    std::vector<Piece> pieces;
    for (const BlockView& block : blocks) {
      if (block.part != part_ || block.tier == TierKind::kNone) continue;
      const bool warm = block.tier == TierKind::kWarm;
      pieces.push_back({block, {}, 0});
      if (warm) pieces.back().payload = stack.SlotPayload(block.offset, block.bytes);
    }
    return pieces;
  }
  absl::Status Check(TenantView& tenant, v1::ReadResponse& copied) const override {
    TC_RETURN_IF_ERROR(tenant.ClientOf(session()).status());
    std::vector<Name> keys;
    for (const v1::ReadPiece& piece : copied.pieces()) {
      keys.push_back(keys_->names[piece.block().depth()]);
    }
    TC_ASSIGN_OR_RETURN(const std::vector<BlockView> now,
                        tenant.stack->LookUp(space_, keys, std::nullopt));
    const size_t parts = keys.empty() ? 1 : now.size() / keys.size();
    for (size_t i = 0; i < keys.size(); ++i) {
      v1::ReadPiece& piece = *copied.mutable_pieces(static_cast<int>(i));
      const BlockView& block = now[i * parts + part_];
      const bool stands = block.tier == TierKind::kWarm && block.id == piece.block().id() &&
                          block.offset == piece.block().offset();
      if (!stands) piece.clear_data();
    }
    return absl::OkStatus();
  }

  const uint32_t space_;
  const uint16_t part_;
  const absl::StatusOr<WireNames> keys_;
};

}  // namespace

grpc::ServerWriteReactor<v1::ReadResponse>* StartBlocksOut(ServiceContext& services,
                                                           grpc::CallbackServerContext& context,
                                                           const v1::ReadRequest& request) {
  auto stream = std::make_shared<LeasedBlocks>(services, context, request);
  stream->Hold(stream);
  stream->Begin(Authenticate(context, services, Right::kFetch));
  return stream.get();
}

grpc::ServerWriteReactor<v1::ReadResponse>* StartKeysOut(ServiceContext& services,
                                                         grpc::CallbackServerContext& context,
                                                         const v1::ReadKeysRequest& request) {
  auto stream = std::make_shared<KeyBlocks>(services, context, request);
  stream->Hold(stream);
  stream->Begin(Authenticate(context, services, Right::kFetch));
  return stream.get();
}

}  // namespace thermocline
