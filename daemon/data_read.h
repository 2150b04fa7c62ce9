// Read and ReadKeys: the blocks of a leased path, or of unordered keys, with their bytes, for
// remote sessions.
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {

/// The reactor owns itself until gRPC and the stack are done with it.
/// Thread: gRPC's.
grpc::ServerWriteReactor<v1::ReadResponse>* StartBlocksOut(ServiceContext& services,
                                                           grpc::CallbackServerContext& context,
                                                           const v1::ReadRequest& request);
grpc::ServerWriteReactor<v1::ReadResponse>* StartKeysOut(ServiceContext& services,
                                                         grpc::CallbackServerContext& context,
                                                         const v1::ReadKeysRequest& request);

}  // namespace thermocline
