// The Data service: match, load, reserve, commit, release, and the bytes of those who cannot map
// the arena. See proto/thermocline/v1/data.proto.
// Payloads are summed by the workers, between two visits to the strand: the first says whose the
// slots are, the second publishes what was summed.
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/data.grpc.pb.h"

namespace thermocline {

/// Thread: gRPC's.
class DataService final : public v1::Data::CallbackService {
 public:
  explicit DataService(ServiceContext services) : services_(services) {}

  grpc::ServerUnaryReactor* Match(grpc::CallbackServerContext* context,
                                  const v1::MatchRequest* request,
                                  v1::MatchResponse* response) override;
  grpc::ServerUnaryReactor* LookUp(grpc::CallbackServerContext* context,
                                   const v1::LookUpRequest* request,
                                   v1::LookUpResponse* response) override;
  grpc::ServerWriteReactor<v1::LoadResponse>* Load(grpc::CallbackServerContext* context,
                                                   const v1::LoadRequest* request) override;
  grpc::ServerWriteReactor<v1::ReadResponse>* Read(grpc::CallbackServerContext* context,
                                                   const v1::ReadRequest* request) override;
  grpc::ServerWriteReactor<v1::ReadResponse>* ReadKeys(grpc::CallbackServerContext* context,
                                                       const v1::ReadKeysRequest* request) override;
  grpc::ServerReadReactor<v1::WriteRequest>* Write(grpc::CallbackServerContext* context,
                                                   v1::WriteResponse* response) override;
  grpc::ServerUnaryReactor* Reserve(grpc::CallbackServerContext* context,
                                    const v1::ReserveRequest* request,
                                    v1::ReserveResponse* response) override;
  grpc::ServerUnaryReactor* Commit(grpc::CallbackServerContext* context,
                                   const v1::CommitRequest* request,
                                   v1::CommitResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;
  grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext* context,
                                    const v1::ReleaseRequest* request,
                                    v1::ReleaseResponse* response) override;
  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const v1::ReportRequest* request,
                                   v1::ReportResponse* response) override;

 private:
  ServiceContext services_;
};

}  // namespace thermocline
