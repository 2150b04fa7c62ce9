// A commit that came as a call.
#pragma once
#include "daemon/commit_steps.h"
#include "daemon/grpc_call.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {

/// Answers the call by itself, at the end or at what goes wrong.
/// Thread: the strand. Borrows `request` and `response` until the call is answered.
void StartCommit(StrandCall strand, const v1::CommitRequest& request, CommitSteps steps,
                 v1::CommitResponse& response);

}  // namespace thermocline
