// The gRPC servers: Control and Data on one unix socket (and on TCP where it is asked for), Admin
// on another, each 0600, each with health and reflection, so that grpcurl and Kubernetes find what
// they know.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "base/executor.h"
#include "base/status.h"
#include "daemon/metrics.h"
#include "daemon/session_registry.h"
#include "daemon/tenant.h"

namespace thermocline {

struct GrpcServerOptions {
  std::string socket;        // of Control and Data; both paths are this daemon's to replace
  std::string admin_socket;  // of Admin
  std::string tcp_address;   // "": none
};

/// Thread: any, one at a time.
class GrpcServer {
 public:
  /// Borrows everything that it is given; all of it outlives the server.
  /// Errors: Unavailable when an address cannot be listened at.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                           SessionRegistry& registry,
                                                           Tenant& tenant, Executor& workers,
                                                           DaemonMetrics& metrics);
  /// Refuses new calls; those that wait are cancelled after a moment. Returns at once.
  void BeginStop();
  /// Waits until every call is answered: whoever holds one must answer it or drop it before.
  ~GrpcServer();

  /// Of tcp_address, when its port was 0.
  int tcp_port() const;

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermocline
