// Write: the bytes of reserved slots, from remote sessions.
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {

/// What can be said of a message of the stream without asking whose the slots are.
/// Errors: InvalidArgument for no piece, too many, empty ones, and more payload than a message has.
absl::Status CheckWrite(const v1::WriteRequest& request);

/// The reactor owns itself until gRPC and its tasks are done with it.
/// Thread: gRPC's.
grpc::ServerReadReactor<v1::WriteRequest>* StartBlocksIn(ServiceContext& services,
                                                         grpc::CallbackServerContext& context,
                                                         v1::WriteResponse& response);

}  // namespace thermocline
