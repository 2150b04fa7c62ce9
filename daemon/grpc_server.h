// The gRPC servers: Control and Data on one unix socket, Admin on another, each 0600; and where it
// is asked for Control and Data on TCP, behind TLS and tokens, for remote sessions alone. Each has
// health and reflection, so that grpcurl and Kubernetes find what they know.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/status.h"
#include "daemon/connection_door.h"
#include "daemon/metrics.h"
#include "daemon/options.h"
#include "daemon/remote_sessions.h"
#include "daemon/session_registry.h"
#include "daemon/tenant.h"
#include "daemon/tls_files.h"

namespace thermocline {

struct GrpcServerOptions {
  std::string socket;        // of Control and Data; both paths are this daemon's to replace
  std::string admin_socket;  // of Admin
  std::optional<ListenAddress> tcp_address;  // of Control and Data, for remote sessions
  TlsFiles tls;                              // of tcp_address; all "": no TLS
  std::string token_file;                    // of tcp_address; "": nobody is asked for a token
  RemoteSessionOptions remote;
  // Users other than the daemon's come, too: `socket` is 0666.
  bool serves_others = false;
  ConnectionDoor::Knows knows;  // of who comes to `socket`
  // Who opens a remote session at `socket` without a token is a client of the default tenant; else
  // it needs one.
  bool guests_are_default = true;
};

/// Thread: any, one at a time.
class GrpcServer {
 public:
  /// Borrows everything that it is given; all of it outlives the server. `tenants`: the default one
  /// first.
  /// Errors: Unavailable when an address cannot be listened at; what is wrong with the files of TLS
  ///         and tokens.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                           SessionRegistry& registry,
                                                           std::vector<Tenant*> tenants,
                                                           Executor& timers,
                                                           DaemonMetrics& metrics);
  /// Refuses new calls; those that wait are cancelled after a moment. Returns at once.
  void BeginStop();
  /// Waits until every call is answered: whoever holds one must answer it or drop it before.
  ~GrpcServer();

  /// Reads the token file again and looks at the files of TLS, which gRPC takes up by itself.
  /// Logs what is wrong; what was read before goes on.
  void Reload();
  /// Ends a remote session that misbehaves. Thread: any.
  void CutOff(uint64_t session, const std::string& why);
  SessionServer::Counters remote_counters() const;
  /// Of tcp_address, when its port was 0. 0: none.
  int tcp_port() const;

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermocline
