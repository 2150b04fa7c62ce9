#include "daemon/grpc_remote_session.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/version.h"
#include "daemon/session_hello.h"
#include "proto/shm_layout.h"

namespace thermocline {
namespace {

/// Who opens a session: by the token that came with the call, else a guest of this door, if it has
/// guests.
absl::StatusOr<RemoteSessions::Guest> GuestOf(const ServiceContext& services,
                                              const grpc::CallbackServerContext& context) {
  RemoteSessions::Guest guest{.tenant = services.tenant_of_guests,
                              .host = services.tenant_of_guests,
                              .may_write = true,
                              .over_tcp = services.over_tcp,
                              .peer = context.peer(),
                              .still_welcome = [] { return true; },
                              .ended = {}};
  const auto& metadata = context.client_metadata();
  const auto value = metadata.find("authorization");
  const std::string_view authorization =
      value == metadata.end() ? std::string_view()
                              : std::string_view(value->second.data(), value->second.size());
  const std::optional<std::string_view> bearer = BearerOf(authorization);
  if (guest.tenant != nullptr && (!bearer || services.tokens == nullptr)) return guest;
  if (services.tokens == nullptr) {
    return absl::PermissionDeniedError(
        "this socket serves users of several tenants and cannot tell them apart; say hello at the "
        "session socket, or have the daemon's user set token_file and give you a token");
  }
  if (!bearer) {
    return absl::UnauthenticatedError(
        "a remote session needs a token: send metadata \"authorization: Bearer TOKEN\"");
  }
  services.tokens->ReloadIfChanged();
  std::optional<RemoteToken> token = services.tokens->Find(*bearer);
  if (!token) {
    return absl::UnauthenticatedError("the token is not in this daemon's token file");
  }
  const auto named =
      std::find_if(services.tenants.begin(), services.tenants.end(),
                   [&](const Tenant* tenant) { return tenant->name() == token->tenant; });
  TC_CHECK(named != services.tenants.end());  // the file names no other
  guest.tenant = *named;
  guest.host = *named;
  guest.may_write = token->may_write;
  guest.peer += " " + token->name;
  guest.still_welcome = [tokens = services.tokens, token = *std::move(token)] {
    tokens->ReloadIfChanged();
    return tokens->Has(token);
  };
  return guest;
}

/// Reads, writes and the session's end come on different threads; one write at a time.
/// Owner: gRPC until OnDone (`self_`), and the session's callbacks.
class SessionStream final
    : public grpc::ServerBidiReactor<v1::RemoteSessionRequest, v1::RemoteSessionResponse> {
 public:
  explicit SessionStream(ServiceContext& services) : sessions_(services.remote) {}
  void Hold(std::shared_ptr<SessionStream> self) { self_ = std::move(self); }

  void Begin(absl::StatusOr<RemoteSessions::Guest> guest) {
    if (!guest.ok()) {
      sessions_.CountStranger(guest.status());
      return End(guest.status());
    }
    may_write_ = guest->may_write;
    tenant_ = guest->tenant;
    guest->ended = [weak = std::weak_ptr<SessionStream>(self_)](absl::Status why) {
      if (const auto self = weak.lock()) self->End(std::move(why));
    };
    const absl::StatusOr<uint64_t> session = sessions_.Open(*std::move(guest));
    if (!session.ok()) return End(session.status());
    session_ = *session;
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      sessions_.End(session_, "the client has gone");
      return End(absl::OkStatus());
    }
    sessions_.Beat(session_);
    const bool is_hello = !std::exchange(greeted_, true);
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      beat_ = request_.beat();
      if (!is_hello) answer_due_ = true;  // the welcome answers that
    }
    if (is_hello) {
      const absl::Status hello = CheckRemoteHello(request_);
      if (!hello.ok()) {
        sessions_.End(session_, "refused");
        return End(hello);
      }
      sessions_.Admit(
          session_, CleanName(request_.hello().client_name()),
          [self = self_](const absl::StatusOr<SessionToken>& token) { self->Welcome(token); });
    }
    StartRead(&request_);
    Step();
  }
  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
    }
    if (ok) return Step();
    sessions_.End(session_, "the client has gone");
    End(absl::OkStatus());
  }
  void OnDone() override {
    sessions_.End(session_, "the client has gone");
    std::exchange(self_, nullptr).reset();
  }

 private:
  void Welcome(const absl::StatusOr<SessionToken>& token) {
    if (!token.ok()) return End(token.status());
    {
      MutexLock lock(mutex_);
      v1::RemoteWelcome& welcome = welcome_.emplace();
      welcome.set_session_token(token->data(), token->size());
      welcome.set_epoch(tenant_->epoch());
      welcome.set_session(session_);
      welcome.set_tenant(tenant_->name());
      welcome.set_may_write(may_write_);
      welcome.set_daemon_version(std::string(Version()));
      welcome.set_arena_bytes(tenant_->arena_bytes());
      welcome.set_lease_ms(static_cast<uint64_t>(sessions_.lease().count()));
    }
    Step();
  }
  void End(absl::Status status) {
    {
      MutexLock lock(mutex_);
      if (std::exchange(ended_, true)) return;
      end_ = std::move(status);
    }
    Step();
  }
  /// Starts the next write or finishes, whichever is due, with no lock held across it. A beat
  /// before the welcome is answered with it.
  void Step() {
    absl::Status status;
    bool finish = false;
    {
      MutexLock lock(mutex_);
      if (writing_ || finished_) return;
      if (ended_) {
        finished_ = finish = true;
        status = end_;
      } else if (welcome_ || (welcomed_ && answer_due_)) {
        response_.Clear();
        if (welcome_) *response_.mutable_welcome() = *std::exchange(welcome_, std::nullopt);
        response_.set_beat(beat_);
        welcomed_ = true;
        answer_due_ = false;
        writing_ = true;
      } else {
        return;
      }
    }
    if (finish) return Finish(ToGrpc(status));
    StartWrite(&response_);
  }

  RemoteSessions& sessions_;
  const Tenant* tenant_ = nullptr;  // the guest's
  bool may_write_ = false;
  uint64_t session_ = 0;                // 0: none
  bool greeted_ = false;                // by the client
  v1::RemoteSessionRequest request_;    // of the read under way
  v1::RemoteSessionResponse response_;  // of the write under way
  Mutex mutex_;
  std::optional<v1::RemoteWelcome> welcome_ TC_GUARDED_BY(mutex_);  // to be sent
  uint64_t beat_ TC_GUARDED_BY(mutex_) = 0;
  bool welcomed_ TC_GUARDED_BY(mutex_) = false;
  bool answer_due_ TC_GUARDED_BY(mutex_) = false;
  bool writing_ TC_GUARDED_BY(mutex_) = false;
  bool ended_ TC_GUARDED_BY(mutex_) = false;
  bool finished_ TC_GUARDED_BY(mutex_) = false;
  absl::Status end_ TC_GUARDED_BY(mutex_);
  std::shared_ptr<SessionStream> self_;
};

}  // namespace

absl::Status CheckRemoteHello(const v1::RemoteSessionRequest& request) {
  if (!request.has_hello()) {
    return absl::InvalidArgumentError("the first message of a remote session must hold a hello");
  }
  const uint32_t theirs = request.hello().protocol_version();
  if (theirs == kProtocolVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the client speaks protocol version " + std::to_string(theirs) + ", this daemon version " +
      std::to_string(kProtocolVersion) + "; upgrade the " +
      (theirs < kProtocolVersion ? "client" : "daemon") + " so that both are of one release");
}

std::optional<std::string_view> BearerOf(std::string_view authorization) {
  static constexpr std::string_view kScheme = "Bearer ";
  if (authorization.substr(0, kScheme.size()) != kScheme) return std::nullopt;
  return authorization.substr(kScheme.size());
}

grpc::ServerBidiReactor<v1::RemoteSessionRequest, v1::RemoteSessionResponse>* StartRemoteSession(
    ServiceContext& services, grpc::CallbackServerContext& context) {
  auto stream = std::make_shared<SessionStream>(services);
  stream->Hold(stream);
  stream->Begin(GuestOf(services, context));
  return stream.get();
}

}  // namespace thermocline
