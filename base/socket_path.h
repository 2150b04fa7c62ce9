// Where the daemon listens when nobody says otherwise: one rule, which the daemon and its clients
// share, so that neither needs an option on a machine with one daemon.
#pragma once
#include <string>
#include <string_view>

#include "base/status.h"

namespace thermocline {

/// /run/thermocline/thermocline.sock where this user may create it; else
/// $XDG_RUNTIME_DIR/thermocline/thermocline.sock; else thermocline.sock in FallbackDirectory().
/// Thread: any (reads the environment).
std::string DefaultSocketPath();

/// /tmp/thermocline-UID. Anybody may make it first: MakeOwnDirectory before anything in it is used.
std::string FallbackDirectory();

/// Makes `directory` (0700). One that is there must be this user's (or root's) and writable by
/// nobody else, or what lies in it may be somebody else's trap.
/// Errors: FailedPrecondition when it is not so; of mkdir.
absl::Status MakeOwnDirectory(const std::string& directory);

/// What clients use: $THERMOCLINE_SOCKET, else DefaultSocketPath().
std::string ClientSocketPath();

/// Sockets of one daemon beside its session socket.
inline std::string GrpcSocketPath(std::string_view socket) { return std::string(socket) + ".grpc"; }
inline std::string AdminSocketPath(std::string_view socket) {
  return std::string(socket) + ".admin";
}

}  // namespace thermocline
