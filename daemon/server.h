// The daemon's life: takes its locks, opens the tenants, opens its doors in the order in which a
// client goes through them backwards (gRPC before the session socket, so that whoever is welcome
// finds everything), and closes them again. One daemon per data directory, arena and socket.
#pragma once
#include <memory>
#include <string>

#include "base/status.h"
#include "daemon/options.h"
#include "daemon/tenant.h"

namespace thermocline {

/// Thread: one; its own threads do the work.
class Server {
 public:
  /// Everything is served when it returns.
  /// Errors: say what is in the way and which option to change.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const DaemonOptions& options,
                                                       const Tenant::Opener& open_stack);
  /// Clients are told, the stacks are made durable (and drained, if the options say so).
  /// Errors: DeadlineExceeded when that takes longer than shutdown_timeout: then exit at once, the
  ///         next daemon takes over what is there; others when not everything could be kept.
  absl::Status Shutdown();
  /// REQUIRES: Shutdown() was called and did not run out of time.
  ~Server();

  /// SIGHUP: reads again what may change while it serves, which is what protects the TCP door,
  /// and the keys of what is at rest. By a thread of its own, as a command for keys takes its time;
  /// Shutdown ends that.
  void Reload();

  /// "" when http is off.
  std::string http_address() const;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermocline
