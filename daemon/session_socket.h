// The system calls behind the session socket: taking its path, asking who is at the other end, and
// handing descriptors over. No Asio here, so that each can be read and tested alone.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// The right to a socket path: an flock on `PATH.lock`, so that of two daemons that start at once
/// one gets it. The kernel drops the lock with the process, however that ends.
struct SocketClaim {
  UniqueFd lock;
  std::string path;
};

/// Makes the parent directory (0700) and claims `path`: absent is fine, the socket of a dead daemon
/// is removed.
/// Errors: FailedPrecondition when a living process listens there (its pid in the text) or what
///         lies there is no socket; InvalidArgument when the path is too long for a socket (with
///         the `.admin` beside it); PermissionDenied and others of the file system.
absl::StatusOr<SocketClaim> ClaimSocketPath(const std::string& path);

/// A listening, non-blocking socket at a claimed path.
/// `mode`: 0600, or 0666 where users are told apart by their credentials.
absl::StatusOr<UniqueFd> ListenAt(const SocketClaim& claim, mode_t mode = 0600);

/// Whom the kernel says a peer to be, as it was when it connected.
struct PeerUser {
  uid_t uid = 0;
  std::vector<gid_t> gids;  // the primary group, then the others
  pid_t pid = 0;            // 0: not to be seen from here
};
absl::StatusOr<PeerUser> UserOf(int socket_fd);

struct PeerProcess {
  pid_t pid = 0;
  uid_t uid = 0;
  uint64_t start_time = 0;  // base/process.h
  UniqueFd pidfd;           // readable once the process is gone
};

/// Who connected. Errors: Unavailable or NotFound when that process is already gone or cannot be
/// seen from here.
absl::StatusOr<PeerProcess> IdentifyPeer(int socket_fd);

/// Sends `bytes` with descriptors beside them, without waiting: a fresh connection has room, and
/// a peer that lets its buffer fill is not waited for.
absl::Status SendNow(int socket_fd, std::span<const std::byte> bytes, std::span<const int> fds);

}  // namespace thermocline
