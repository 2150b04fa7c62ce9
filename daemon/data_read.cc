// A chunk's way out: the stack says which blocks are warm (strand); those that still are when their
// message is due are held (strand) while they are copied into it (worker), and let go of (strand)
// before it is sent (gRPC). So nothing is copied out of a slot that may be another's by then, or
// memory of nobody's. A lease that has ended ends the stream. Keys that were looked up have none:
// one that has gone, or lies elsewhere, comes without bytes.
#include "daemon/data_read.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

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
  /// On the strand: whether the message is to be sent. Of what is not held nothing may be copied.
  virtual absl::Status Check(TierStack& stack, ClientNumber client, std::vector<Piece>& pieces,
                             const std::vector<bool>& held) const = 0;

  Tenant& tenant() const { return *tenant_; }
  DaemonMetrics& metrics() const { return metrics_; }
  uint64_t session() const { return session_; }

 private:
  /// A message under way to being sent. One that is dropped, because the daemon stops, ends all.
  struct Chunk {
    Chunk(std::shared_ptr<PayloadStream> of, std::vector<Piece> taken)
        : stream(std::move(of)), pieces(std::move(taken)) {}
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;
    ~Chunk() { End(absl::UnavailableError("the daemon stops; connect again")); }
    void End(absl::Status why) {
      if (const auto own = std::exchange(stream, nullptr)) own->Drop(std::move(why));
    }

    std::shared_ptr<PayloadStream> stream;
    std::vector<Piece> pieces;
    uint64_t hold = 0;  // of the stack
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
    auto chunk = std::make_shared<Chunk>(shared_from_this(), std::move(pieces));
    tenant_->PostCompletion([chunk](TenantView& tenant) { HoldAndCopy(chunk, tenant); });
  }
  /// On the strand.
  static void HoldAndCopy(const std::shared_ptr<Chunk>& chunk, TenantView& tenant) {
    const absl::StatusOr<ClientNumber> client = tenant.ClientOf(chunk->stream->session_);
    if (!client.ok()) return chunk->End(client.status());
    std::vector<BlockView> blocks;
    for (const Piece& piece : chunk->pieces) blocks.push_back(piece.block);
    const TierStack::Held held = tenant.stack->Hold(blocks);
    chunk->hold = held.number;
    absl::Status due = chunk->stream->Check(*tenant.stack, *client, chunk->pieces, held.held);
    if (due.ok() && !chunk->stream->tenant_->workers().Post([chunk] { Copy(chunk); })) {
      due = absl::ResourceExhaustedError(
          "too many blocks wait to be copied, or the daemon stops; try again");
    }
    if (due.ok()) return;
    tenant.stack->LetGo(chunk->hold);
    chunk->End(std::move(due));
  }
  /// On a worker.
  static void Copy(const std::shared_ptr<Chunk>& chunk) {
    v1::ReadResponse& response = chunk->stream->response_;
    response.clear_pieces();
    for (const Piece& piece : chunk->pieces) {
      v1::ReadPiece* copied = response.add_pieces();
      ToWire(piece.block, *copied->mutable_block());
      copied->set_at(piece.at);
      copied->set_data(piece.payload.data(), piece.payload.size());
    }
    chunk->stream->tenant_->PostCompletion([chunk](TenantView& tenant) {
      if (tenant.stack) tenant.stack->LetGo(chunk->hold);
      const std::shared_ptr<PayloadStream> stream = std::exchange(chunk->stream, nullptr);
      uint64_t bytes = 0;
      for (const Piece& piece : chunk->pieces) bytes += piece.payload.size();
      stream->metrics_.RemoteBytesOut(bytes);
      stream->StartWrite(&stream->response_);
    });
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
  absl::Status Check(TierStack& stack, ClientNumber client, std::vector<Piece>&,
                     const std::vector<bool>& held) const override {
    TC_RETURN_IF_ERROR(stack.CheckLease(client, lease_));
    if (std::all_of(held.begin(), held.end(), [](bool is_held) { return is_held; })) {
      return absl::OkStatus();
    }
    return absl::InternalError("a block of a path that is leased does not lie where it lay");
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
  absl::Status Check(TierStack&, ClientNumber, std::vector<Piece>& pieces,
                     const std::vector<bool>& held) const override {
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (!held[i]) pieces[i].payload = {};
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
