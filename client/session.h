// The client's side of the session socket: connect, say hello, take the welcome with its
// descriptors. Blocking calls with poll deadlines; what the daemon says is checked before use.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/unique_fd.h"
#include "proto/session_frame.h"
#include "thermocline/v1/session.pb.h"

namespace thermocline {
inline namespace client_v1 {

using Deadline = std::chrono::steady_clock::time_point;

struct SessionRequest {
  std::string socket_path;
  std::string client_name;
  bool admin = false;
  // Called when the daemon is there, just before Hello: it ends what an earlier session held.
  std::function<void()> before_hello;
};

/// What the daemon granted. The session lives until `socket` is closed.
struct SessionGrant {
  UniqueFd socket;  // non-blocking
  UniqueFd arena;
  UniqueFd control;
  UniqueFd catalog;
  UniqueFd staging;  // only where the welcome says so
  v1::Welcome welcome;
};

/// Errors: Unavailable when nobody listens (says how to start the daemon) or the daemon hung up;
///         PermissionDenied when another user's process listens; DeadlineExceeded; the daemon's own
///         words when it refused; Internal for a welcome that cannot be used; InvalidArgument for a
///         path that no socket can have.
absl::StatusOr<SessionGrant> OpenSession(const SessionRequest& request, Deadline deadline);

/// Of the device's memory, for the session of this token.
struct SlabGrant {
  UniqueFd fd;
  uint64_t bytes = 0;
};
/// Errors: as OpenSession; NotFound when there is no such slab any more, PermissionDenied where
///         this tenant's clients may not have any.
absl::StatusOr<SlabGrant> AskForSlab(const std::string& socket_path, const std::string& token,
                                     uint64_t slab, Deadline deadline);

/// Whether this process may tell its prompts to whoever listens: a daemon of its own user or of
/// root. Root may talk to whom it `named`, and not found at the default path.
/// Errors: PermissionDenied.
absl::Status TrustDaemon(uid_t daemon_uid, uid_t our_uid, bool named, const std::string& path);

/// The daemon's answer to Hello, without its descriptors.
/// Errors: what a Refused frame says; Internal for anything but a usable Welcome.
absl::StatusOr<v1::Welcome> ParseAnswer(FrameHeader header, std::span<const std::byte> payload,
                                        bool admin);

/// Tells a daemon that sleeps that commits wait in the control area's ring. Never blocks; nothing
/// happens when the session has ended.
void WakeDaemon(int socket);

/// Tells the daemon that the session ends in good order. Never blocks, never fails.
void SayGoodbye(int socket, std::string_view reason);

/// What the daemon last said on a session, read without blocking.
/// Returns OK while the session lives; Unavailable with the reason when it has ended.
absl::Status ReadSessionEnd(int socket);

}  // namespace client_v1
}  // namespace thermocline
