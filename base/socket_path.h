// Where the daemon listens when nobody says otherwise: one rule, which the daemon and its clients
// share, so that neither needs an option on a machine with one daemon.
#pragma once
#include <string>
#include <string_view>

namespace thermocline {

/// /run/thermocline/thermocline.sock where this user may create it; else
/// $XDG_RUNTIME_DIR/thermocline/thermocline.sock; else /tmp/thermocline-UID/thermocline.sock.
/// Thread: any (reads the environment).
std::string DefaultSocketPath();

/// What clients use: $THERMOCLINE_SOCKET, else DefaultSocketPath().
std::string ClientSocketPath();

/// Sockets of one daemon beside its session socket.
inline std::string GrpcSocketPath(std::string_view socket) { return std::string(socket) + ".grpc"; }
inline std::string AdminSocketPath(std::string_view socket) {
  return std::string(socket) + ".admin";
}

}  // namespace thermocline
