// A commit's way through the daemon: slots are the caller's (strand), payloads are summed
// (workers), blocks are published (strand).
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {

/// Answers the call by itself, at the end or at what goes wrong.
/// Thread: the strand. Borrows `request` and `response` until the call is answered.
void StartCommit(ServiceContext& services, StrandCall strand, const v1::CommitRequest& request,
                 WireNames names, v1::CommitResponse& response);

}  // namespace thermocline
