// The Admin service: what destroys. Served on the admin socket alone, to admin sessions alone. See
// proto/thermocline/v1/admin.proto.
#pragma once
#include "daemon/grpc_call.h"
#include "thermocline/v1/admin.grpc.pb.h"

namespace thermocline {

/// Thread: gRPC's.
class AdminService final : public v1::Admin::CallbackService {
 public:
  explicit AdminService(ServiceContext services) : services_(services) {}

  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const v1::DeleteRequest* request,
                                   v1::DeleteResponse* response) override;
  grpc::ServerUnaryReactor* Flush(grpc::CallbackServerContext* context,
                                  const v1::FlushRequest* request,
                                  v1::FlushResponse* response) override;
  grpc::ServerUnaryReactor* DropArena(grpc::CallbackServerContext* context,
                                      const v1::DropArenaRequest* request,
                                      v1::DropArenaResponse* response) override;
  grpc::ServerUnaryReactor* Fsck(grpc::CallbackServerContext* context,
                                 const v1::FsckRequest* request,
                                 v1::FsckResponse* response) override;
  grpc::ServerUnaryReactor* ListTenants(grpc::CallbackServerContext* context,
                                        const v1::ListTenantsRequest* request,
                                        v1::ListTenantsResponse* response) override;

 private:
  ServiceContext services_;
};

}  // namespace thermocline
