#include "daemon/grpc_call.h"

#include <algorithm>
#include <string>

namespace thermocline {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

namespace {

absl::Status CheckRight(const SessionIdentity& identity, Right right) {
  if (Grants(identity.role(), right)) return absl::OkStatus();
  const std::string session = "session " + std::to_string(identity.session);
  switch (right) {
    case Right::kDestroy:
      return absl::PermissionDeniedError(
          session + " is no admin session; say hello with admin = true as the daemon's own user");
    case Right::kFetch:
    case Right::kSend:
      if (identity.remote == nullptr) {
        return absl::PermissionDeniedError(
            session + " has the arena mapped, and reads and fills blocks there");
      }
      break;
    default:
      break;
  }
  return absl::PermissionDeniedError(session + " only reads: its token's role is \"reader\"");
}

}  // namespace

absl::StatusOr<SessionIdentity> Authenticate(const grpc::CallbackServerContext& context,
                                             const ServiceContext& services, Right right) {
  const auto& metadata = context.client_metadata();
  const auto token = metadata.find(kSessionMetadataKey);
  if (token == metadata.end()) {
    return absl::UnauthenticatedError(
        std::string("the call carries no session: send the token of Welcome, in hexadecimal, as "
                    "metadata \"") +
        kSessionMetadataKey + "\"");
  }
  const auto identity =
      services.registry.Find(std::string_view(token->second.data(), token->second.size()));
  if (!identity || identity->over_tcp != services.over_tcp) {
    return absl::UnauthenticatedError(
        "the session token is of no session that was opened here and lives; say hello again");
  }
  TC_RETURN_IF_ERROR(CheckRight(*identity, right));
  return *identity;
}

std::chrono::milliseconds TimeLeft(const grpc::CallbackServerContext& context,
                                   std::chrono::milliseconds limit) {
  const auto now = std::chrono::system_clock::now();
  const auto deadline = context.deadline();
  if (deadline <= now) return std::chrono::milliseconds(0);
  // Compared before it is narrowed: a call without a deadline has one at the end of time.
  if (deadline - now >= limit) return limit;
  return std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now);
}

void UnaryCall::Finish(const absl::Status& status) {
  metrics_->Answered(operation_, status.code(), Clock::Real().Now() - arrived_);
  room_.reset();
  std::exchange(reactor_, nullptr)->Finish(ToGrpc(status));
}

grpc::ServerUnaryReactor* RunOnStrand(ServiceContext& services,
                                      grpc::CallbackServerContext* context,
                                      const google::protobuf::Message& request, Operation operation,
                                      Right right, absl::AnyInvocable<void(StrandCall)> task,
                                      WhenGone when_gone) {
  // Shared, so that the call is still here to be refused when the strand does not take the task.
  auto call = std::make_shared<UnaryCall>(*context, services.metrics, operation);
  // Kept aside: once the call is answered, by whichever thread, it has none.
  grpc::ServerUnaryReactor* const reactor = call->reactor();
  auto identity = Authenticate(*context, services, right);
  if (!identity.ok()) {
    call->Finish(identity.status());
    return reactor;
  }
  Tenant& home = *identity->tenant;
  std::shared_ptr<void> room = home.TakeRoom(request.SpaceUsedLong());
  const bool has_room = room != nullptr;
  call->Hold(std::move(room));
  const bool posted = has_room && home.Post([call, when_gone, &home, session = identity->session,
                                             remote = std::move(identity->remote),
                                             task = std::move(task)](TenantView& tenant) mutable {
    if (when_gone == WhenGone::kNothing && call->Cancelled()) {
      return call->Finish(absl::CancelledError("the caller has gone"));
    }
    const absl::StatusOr<ClientNumber> client = tenant.ClientOf(session);
    if (!client.ok()) return call->Finish(client.status());
    task({tenant, home, session, *client, std::move(remote), std::move(*call)});
  });
  if (!posted) {
    call->Finish(absl::ResourceExhaustedError(
        "the daemon has too many requests waiting, or stops; try again"));
  }
  return reactor;
}

grpc::ServerUnaryReactor* AnswerOnStrand(
    ServiceContext& services, grpc::CallbackServerContext* context,
    const google::protobuf::Message& request, Operation operation, Right right,
    absl::AnyInvocable<absl::Status(TenantView&, ClientNumber)> task, WhenGone when_gone) {
  return RunOnStrand(
      services, context, request, operation, right,
      [task = std::move(task)](StrandCall strand) mutable {
        const absl::Status answer = task(strand.tenant, strand.client);
        strand.call.Finish(answer);
      },
      when_gone);
}

grpc::ServerUnaryReactor* Refuse(ServiceContext& services, grpc::CallbackServerContext* context,
                                 Operation operation, Right right, const absl::Status& why) {
  UnaryCall call(*context, services.metrics, operation);
  grpc::ServerUnaryReactor* const reactor = call.reactor();
  const auto identity = Authenticate(*context, services, right);
  call.Finish(identity.ok() ? why : identity.status());
  return reactor;
}

}  // namespace thermocline
