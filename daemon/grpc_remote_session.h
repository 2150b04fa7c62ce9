// Control.OpenRemoteSession: the stream whose life is a remote session's.
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/control.pb.h"

namespace thermocline {

/// What a remote client says first. Errors: InvalidArgument when it is no hello, FailedPrecondition
/// for another protocol version than ours, saying which side to upgrade.
absl::Status CheckRemoteHello(const v1::RemoteSessionRequest& request);

/// The token of metadata "authorization: Bearer TOKEN"; nothing for anything else.
std::optional<std::string_view> BearerOf(std::string_view authorization);

/// The reactor owns itself until gRPC and the sessions are done with it.
/// Thread: gRPC's.
grpc::ServerBidiReactor<v1::RemoteSessionRequest, v1::RemoteSessionResponse>* StartRemoteSession(
    ServiceContext& services, grpc::CallbackServerContext& context);

}  // namespace thermocline
