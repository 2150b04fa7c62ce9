// The Control service: spaces, pins, prefetch, stats. See proto/thermocline/v1/control.proto.
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/control.grpc.pb.h"

namespace thermocline {

/// Thread: gRPC's.
class ControlService final : public v1::Control::CallbackService {
 public:
  explicit ControlService(ServiceContext services) : services_(services) {}

  grpc::ServerBidiReactor<v1::RemoteSessionRequest, v1::RemoteSessionResponse>* OpenRemoteSession(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* OpenSpace(grpc::CallbackServerContext* context,
                                      const v1::OpenSpaceRequest* request,
                                      v1::OpenSpaceResponse* response) override;
  grpc::ServerUnaryReactor* ListSpaces(grpc::CallbackServerContext* context,
                                       const v1::ListSpacesRequest* request,
                                       v1::ListSpacesResponse* response) override;
  grpc::ServerUnaryReactor* Pin(grpc::CallbackServerContext* context, const v1::PinRequest* request,
                                v1::PinResponse* response) override;
  grpc::ServerUnaryReactor* Unpin(grpc::CallbackServerContext* context,
                                  const v1::UnpinRequest* request,
                                  v1::UnpinResponse* response) override;
  grpc::ServerUnaryReactor* ListPins(grpc::CallbackServerContext* context,
                                     const v1::ListPinsRequest* request,
                                     v1::ListPinsResponse* response) override;
  grpc::ServerUnaryReactor* Prefetch(grpc::CallbackServerContext* context,
                                     const v1::PrefetchRequest* request,
                                     v1::PrefetchResponse* response) override;
  grpc::ServerUnaryReactor* Stats(grpc::CallbackServerContext* context,
                                  const v1::StatsRequest* request,
                                  v1::StatsResponse* response) override;

 private:
  ServiceContext services_;
};

/// What is told of a tenant.
void FillStats(const ServiceContext& services, const Tenant& tenant, const StackStats& stats,
               v1::StatsResponse& out);

}  // namespace thermocline
