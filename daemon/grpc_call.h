// What every gRPC call has in common: the session behind its token, the way to the tenant's strand
// and back, and how its answer is counted. gRPC's threads translate and post, nothing more.
#pragma once
#include <absl/functional/any_invocable.h>
#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/metrics.h"
#include "daemon/remote_sessions.h"
#include "daemon/remote_tokens.h"
#include "daemon/session_registry.h"
#include "daemon/tenant.h"
#include "daemon/wire.h"

namespace thermocline {

/// What services need. Borrowed; outlives the gRPC servers.
struct ServiceContext {
  SessionRegistry& registry;
  const std::vector<Tenant*>& tenants;  // the default one first
  DaemonMetrics& metrics;
  RemoteSessions& remote;
  std::chrono::steady_clock::time_point started;
  // Of the door that these services stand behind.
  bool over_tcp = false;
  RemoteTokenFile* tokens = nullptr;  // nullptr: nobody has any
  // Whose guest one is who comes through the door and shows no token; nullptr: a token is needed.
  Tenant* tenant_of_guests = nullptr;
};

inline constexpr char kSessionMetadataKey[] = "thermocline-session";

grpc::Status ToGrpc(const absl::Status& status);

/// Whose call this is. Errors: Unauthenticated without the token of an open session that came
/// through this door; PermissionDenied when the session's role does not grant `right`.
absl::StatusOr<SessionIdentity> Authenticate(const grpc::CallbackServerContext& context,
                                             const ServiceContext& services, Right right);

/// How long the caller still waits, at most `limit`.
std::chrono::milliseconds TimeLeft(const grpc::CallbackServerContext& context,
                                   std::chrono::milliseconds limit);

/// A unary call that is answered once, from any thread.
/// Thread: one at a time.
class UnaryCall {
 public:
  UnaryCall(grpc::CallbackServerContext& context, DaemonMetrics& metrics, Operation operation)
      : context_(&context),
        reactor_(context.DefaultReactor()),
        metrics_(&metrics),
        operation_(operation),
        arrived_(Clock::Real().Now()) {}
  UnaryCall(UnaryCall&& other) noexcept
      : context_(other.context_),
        reactor_(std::exchange(other.reactor_, nullptr)),
        metrics_(other.metrics_),
        operation_(other.operation_),
        arrived_(other.arrived_),
        room_(std::move(other.room_)) {}
  UnaryCall& operator=(UnaryCall&&) = delete;
  /// A call that nobody answered: its task was dropped because the daemon stops.
  ~UnaryCall() {
    if (reactor_ != nullptr) Finish(absl::UnavailableError("the daemon stops; connect again"));
  }

  /// Of its request, until it is answered.
  void Hold(std::shared_ptr<void> room) { room_ = std::move(room); }
  /// What the handler returns to gRPC.
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }
  /// Context, request and response may not be touched any more.
  void Finish(const absl::Status& status);
  /// The caller has gone or its deadline has passed: work for it is wasted.
  bool Cancelled() const { return context_->IsCancelled(); }

 private:
  grpc::CallbackServerContext* context_;
  grpc::ServerUnaryReactor* reactor_;
  DaemonMetrics* metrics_;
  Operation operation_;
  SteadyTime arrived_;
  std::shared_ptr<void> room_;
};

/// Of a call on the strand.
struct StrandCall {
  TenantView& tenant;  // as long as the stack may call back
  Tenant& home;        // whose strand it is
  uint64_t session;
  ClientNumber client;
  std::shared_ptr<RemoteWork> remote;  // none: a local session
  UnaryCall call;
};

/// What is done for a caller that has gone when the strand comes to its call.
enum class WhenGone {
  kNothing,
  kTheSame,  // it gave something back, or forgets what it offered: that must not be lost
};

/// Authenticates, and runs `task` on the strand with the session's client; answers by itself when
/// that cannot be. `task` answers the call. `request` takes of the tenant's room until then.
grpc::ServerUnaryReactor* RunOnStrand(ServiceContext& services,
                                      grpc::CallbackServerContext* context,
                                      const google::protobuf::Message& request, Operation operation,
                                      Right right, absl::AnyInvocable<void(StrandCall)> task,
                                      WhenGone when_gone = WhenGone::kNothing);

/// As RunOnStrand, for a task that knows its answer at once.
grpc::ServerUnaryReactor* AnswerOnStrand(
    ServiceContext& services, grpc::CallbackServerContext* context,
    const google::protobuf::Message& request, Operation operation, Right right,
    absl::AnyInvocable<absl::Status(TenantView&, ClientNumber)> task,
    WhenGone when_gone = WhenGone::kNothing);

/// Answers at once: what came is wrong. To one who may not call at all, that.
grpc::ServerUnaryReactor* Refuse(ServiceContext& services, grpc::CallbackServerContext* context,
                                 Operation operation, Right right, const absl::Status& why);

}  // namespace thermocline
