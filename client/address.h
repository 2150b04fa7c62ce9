// Where a daemon is when it is not behind the session socket of this machine, and what a client
// shows there: read from options, else from the environment, so that no program needs flags for it.
#pragma once
#include <string>
#include <string_view>

#include "base/status.h"
#include "client/client.h"

namespace thermocline {
inline namespace client_v1 {

struct DaemonAddress {
  enum class Kind { kTls, kPlaintext, kUnix };
  Kind kind = Kind::kTls;
  std::string target;  // "HOST:PORT", "[V6]:PORT" or the path of a socket
};

/// "tls://HOST:PORT", "plaintext://HOST:PORT" (of a daemon that was started --insecure) or
/// "unix://PATH", the daemon's gRPC socket.
/// Errors: InvalidArgument, with an example.
absl::StatusOr<DaemonAddress> ParseDaemonAddress(std::string_view text);

/// Fills what is empty from THERMOCLINE_ADDRESS, THERMOCLINE_CA, THERMOCLINE_CERTIFICATE,
/// THERMOCLINE_KEY and THERMOCLINE_CLIENT_TOKEN_FILE.
RemoteOptions WithEnvironment(RemoteOptions options);

}  // namespace client_v1
}  // namespace thermocline
