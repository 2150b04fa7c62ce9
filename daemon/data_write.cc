// A message's way in: the slots must be the session's and in nobody else's hands (strand), the
// bytes are copied into them (worker), the next message is read (gRPC). One at a time, so that a
// stream holds one message of payload, and the client waits while the daemon is busy.
#include "daemon/data_write.h"

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "daemon/grpc_stream.h"
#include "daemon/remote_work.h"

namespace thermocline {
namespace {

/// Owner: gRPC until OnDone (`self_`), and the task under way.
class BlocksIn final : public grpc::ServerReadReactor<v1::WriteRequest> {
 public:
  BlocksIn(ServiceContext& services, grpc::CallbackServerContext& context,
           v1::WriteResponse& response)
      : metrics_(services.metrics), response_(response), gate_(context) {}
  void Hold(std::shared_ptr<BlocksIn> self) { self_ = std::move(self); }
  void Begin(absl::StatusOr<SessionIdentity> identity) {
    if (!identity.ok()) return End(identity.status());
    session_ = identity->session;
    tenant_ = identity->tenant;
    const auto stream = identity->remote->EnterStream([weak = std::weak_ptr<BlocksIn>(self_)] {
      if (const auto self = weak.lock()) self->gate_.Cancel();
    });
    if (!stream) {
      return End(absl::ResourceExhaustedError(
          "the session has " + std::to_string(kMaxRemoteStreams) +
          " payload streams open already, or has ended; wait for one of them"));
    }
    stream_ = *stream;
    work_ = std::move(identity->remote);
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());  // all has come, or the caller has gone
    if (absl::Status wrong = CheckWrite(request_); !wrong.ok()) return End(std::move(wrong));
    auto turn = std::make_shared<Turn>(self_);
    const bool posted = tenant_->Post([turn](TenantView& tenant) { Place(turn, tenant); });
    if (!posted) {
      turn->Take()->End(absl::ResourceExhaustedError(
          "the daemon has too many requests waiting, or stops; try again"));
    }
  }
  void OnDone() override {
    gate_.Over();
    if (work_ != nullptr) work_->LeaveStream(stream_);
    std::exchange(self_, nullptr).reset();
  }

 private:
  /// The right to go on with the stream. One that is dropped, because the daemon stops, ends it.
  class Turn {
   public:
    explicit Turn(std::shared_ptr<BlocksIn> stream) : stream_(std::move(stream)) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      if (stream_) stream_->End(absl::UnavailableError("the daemon stops; connect again"));
    }
    std::shared_ptr<BlocksIn> Take() { return std::exchange(stream_, nullptr); }
    BlocksIn& stream() { return *stream_; }

   private:
    std::shared_ptr<BlocksIn> stream_;
  };

  /// On the strand: finds where the bytes belong, and has a worker put them there.
  static void Place(const std::shared_ptr<Turn>& turn, TenantView& tenant) {
    BlocksIn& in = turn->stream();
    std::vector<std::span<std::byte>> targets;
    absl::StatusOr<SlotsInHand> in_hand = in.FindTargets(tenant, targets);
    if (!in_hand.ok()) return turn->Take()->End(in_hand.status());
    // Shared, so that the slots are still in hand when the worker does not take them.
    auto slots = std::make_shared<SlotsInHand>(*std::move(in_hand));
    const bool posted =
        in.tenant_->workers().Post([turn, targets = std::move(targets), slots]() mutable {
          const std::shared_ptr<BlocksIn> stream = turn->Take();
          uint64_t bytes = 0;
          for (size_t i = 0; i < targets.size(); ++i) {
            const std::string& data = stream->request_.pieces(static_cast<int>(i)).data();
            std::memcpy(targets[i].data(), data.data(), data.size());
            bytes += data.size();
          }
          stream->response_.set_bytes(stream->response_.bytes() + bytes);
          stream->metrics_.RemoteBytesIn(bytes);
          slots.reset();  // before the client may hear of it
          stream->StartRead(&stream->request_);
        });
    if (posted) return;
    in.work_->Forget(slots->offsets());
    turn->Take()->End(absl::ResourceExhaustedError(
        "too many blocks wait to be copied, or the daemon stops; go on uncached"));
  }
  absl::StatusOr<SlotsInHand> FindTargets(TenantView& tenant,
                                          std::vector<std::span<std::byte>>& targets) {
    TC_ASSIGN_OR_RETURN(const ClientNumber client, tenant.ClientOf(session_));
    std::vector<uint64_t> offsets;
    for (const v1::WritePiece& piece : request_.pieces()) {
      TC_ASSIGN_OR_RETURN(const uint64_t bytes,
                          tenant.stack->ReservedBytes(client, piece.offset()));
      if (piece.at() > bytes || piece.data().size() > bytes - piece.at()) {
        return absl::InvalidArgumentError(
            "a piece of " + std::to_string(piece.data().size()) + " bytes at " +
            std::to_string(piece.at()) + " of the slot at offset " +
            std::to_string(piece.offset()) + ", which has " + std::to_string(bytes));
      }
      const std::span<std::byte> slot = tenant.stack->SlotPayload(piece.offset(), bytes);
      targets.push_back(slot.subspan(piece.at(), piece.data().size()));
      offsets.push_back(piece.offset());
    }
    TC_ASSIGN_OR_RETURN(SlotsInHand in_hand, SlotsInHand::Take(work_, std::move(offsets)));
    for (const v1::WritePiece& piece : request_.pieces()) {
      absl::Status next = work_->Advance(piece.offset(), piece.at(), piece.data().size());
      if (next.ok()) continue;
      work_->Forget(in_hand.offsets());  // nothing of this message is copied
      return next;
    }
    return in_hand;
  }
  void End(const absl::Status& status) {
    metrics_.Answered(Operation::kWrite, status.code(), Clock::Real().Now() - arrived_);
    Finish(ToGrpc(status));
  }

  Tenant* tenant_ = nullptr;  // the session's
  DaemonMetrics& metrics_;
  const SteadyTime arrived_ = Clock::Real().Now();
  v1::WriteResponse& response_;
  CancelGate gate_;
  uint64_t session_ = 0;
  uint64_t stream_ = 0;
  std::shared_ptr<RemoteWork> work_;
  v1::WriteRequest request_;
  std::shared_ptr<BlocksIn> self_;
};

}  // namespace

absl::Status CheckWrite(const v1::WriteRequest& request) {
  if (request.pieces().empty()) {
    return absl::InvalidArgumentError("a message without a piece");
  }
  TC_RETURN_IF_ERROR(CheckCount("pieces", static_cast<size_t>(request.pieces_size())));
  size_t bytes = 0;
  for (const v1::WritePiece& piece : request.pieces()) {
    if (piece.data().empty()) return absl::InvalidArgumentError("a piece without bytes");
    bytes += piece.data().size();
  }
  if (bytes <= kMaxChunkBytes) return absl::OkStatus();
  return absl::InvalidArgumentError("a message with " + std::to_string(bytes) +
                                    " bytes of payload; the limit is " +
                                    std::to_string(kMaxChunkBytes));
}

grpc::ServerReadReactor<v1::WriteRequest>* StartBlocksIn(ServiceContext& services,
                                                         grpc::CallbackServerContext& context,
                                                         v1::WriteResponse& response) {
  auto stream = std::make_shared<BlocksIn>(services, context, response);
  stream->Hold(stream);
  stream->Begin(Authenticate(context, services, Right::kSend));
  return stream.get();
}

}  // namespace thermocline
