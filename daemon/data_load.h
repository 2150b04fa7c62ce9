// Load: a stream of blocks as they become warm.
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {

/// The reactor owns itself until gRPC and the stack are done with it.
/// Thread: gRPC's.
grpc::ServerWriteReactor<v1::LoadResponse>* StartLoad(ServiceContext& services,
                                                      grpc::CallbackServerContext& context,
                                                      const v1::LoadRequest& request);

}  // namespace thermocline
