#include "daemon/session_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/file_util.h"
#include "base/process.h"
#include "base/socket_path.h"
#include "daemon/lock_file.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // since Linux 6.5; Debian 12's headers are older
#endif

namespace thermocline {
namespace {

constexpr size_t kMaxDescriptors = 4;
constexpr size_t kUsualGroups = 32;
constexpr const char* kSocketAdvice = "stop that daemon or choose another --socket";

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError("socket path " + path + " has " +
                                      std::to_string(path.size()) + " bytes; a unix socket takes " +
                                      std::to_string(sizeof address.sun_path - 1) +
                                      " at most; choose a shorter --socket");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

/// Whether a process listens there. A socket whose process is gone refuses.
absl::Status RefuseLiveListener(const std::string& path, const sockaddr_un& address) {
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return ErrnoStatus(errno, "socket");
  const int connected =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (connected != 0 && (errno == ECONNREFUSED || errno == ENOENT)) return absl::OkStatus();
  ucred credentials{};
  socklen_t length = sizeof credentials;
  const bool known = connected == 0 &&
                     ::getsockopt(probe.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0;
  return absl::FailedPreconditionError("socket path " + path + " in use by pid " +
                                       (known ? std::to_string(credentials.pid) : "(unknown)") +
                                       "; " + kSocketAdvice);
}

}  // namespace

absl::StatusOr<SocketClaim> ClaimSocketPath(const std::string& path) {
  TC_RETURN_IF_ERROR(AddressOf(AdminSocketPath(path)).status());
  TC_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  const std::string directory = std::filesystem::path(path).parent_path().string();
  if (!directory.empty()) {
    TC_RETURN_IF_ERROR(Annotate(MakeDirectories(directory, 0700), "directory of --socket"));
  }
  SocketClaim claim;
  claim.path = path;
  TC_ASSIGN_OR_RETURN(claim.lock, TakeLock(path + ".lock", "socket path " + path, kSocketAdvice));
  struct stat found;
  if (::lstat(path.c_str(), &found) == 0) {
    if (!S_ISSOCK(found.st_mode)) {
      return absl::FailedPreconditionError("socket path " + path +
                                           " is there and is not a socket; move it away or choose "
                                           "another --socket");
    }
    TC_RETURN_IF_ERROR(RefuseLiveListener(path, address));
    if (::unlink(path.c_str()) != 0) {
      return ErrnoStatus(errno, "remove the socket of a dead daemon, " + path);
    }
  } else if (errno != ENOENT) {
    return ErrnoStatus(errno, "look at " + path);
  }
  return claim;
}

absl::StatusOr<UniqueFd> ListenAt(const SocketClaim& claim, mode_t mode) {
  TC_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(claim.path));
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return ErrnoStatus(errno, "socket");
  // Before it listens nobody can connect, so the mode is right before it matters.
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoStatus(errno, "bind " + claim.path);
  }
  if (::chmod(claim.path.c_str(), mode) != 0) return ErrnoStatus(errno, "chmod " + claim.path);
  if (::listen(listener.get(), SOMAXCONN) != 0) {
    return ErrnoStatus(errno, "listen at " + claim.path);
  }
  return listener;
}

absl::StatusOr<PeerUser> UserOf(int socket_fd) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return ErrnoStatus(errno, "SO_PEERCRED");
  }
  PeerUser user{.uid = credentials.uid, .gids = {credentials.gid}, .pid = credentials.pid};
  // Without them the primary group alone counts. Where there are more, the kernel says how many.
  std::vector<gid_t> others(kUsualGroups);
  int error = ERANGE;
  for (int attempt = 0; attempt < 2 && error == ERANGE; ++attempt) {
    length = static_cast<socklen_t>(others.size() * sizeof(gid_t));
    const int read = ::getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, others.data(), &length);
    error = read == 0 ? 0 : errno;
    others.resize(length / sizeof(gid_t));
  }
  if (error == 0) user.gids.insert(user.gids.end(), others.begin(), others.end());
  return user;
}

absl::StatusOr<PeerProcess> IdentifyPeer(int socket_fd) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return ErrnoStatus(errno, "SO_PEERCRED");
  }
  PeerProcess peer;
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;
  if (peer.pid <= 0) {
    return absl::UnavailableError(
        "the client's process cannot be seen from the daemon's pid namespace; share it (hostPID "
        "or shareProcessNamespace)");
  }
  int pidfd = -1;
  length = sizeof pidfd;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) == 0) {
    peer.pidfd.Reset(pidfd);
  } else {
    // An older kernel: the pid can be another process's by now only if the peer has died, and then
    // its socket is at its end too.
    TC_ASSIGN_OR_RETURN(peer.pidfd, OpenPidFd(peer.pid));
  }
  TC_ASSIGN_OR_RETURN(peer.start_time, ProcessStartTime(peer.pid));
  if (HasExited(peer.pidfd)) return absl::UnavailableError("the client's process is gone");
  return peer;
}

absl::Status SendNow(int socket_fd, std::span<const std::byte> bytes, std::span<const int> fds) {
  iovec piece{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    if (fds.size() > kMaxDescriptors) return absl::InternalError("too many descriptors to send");
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  const ssize_t sent = ::sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) return ErrnoStatus(errno, "sendmsg to a client");
  if (static_cast<size_t>(sent) != bytes.size()) {
    return absl::UnavailableError("the client's socket took only a part of a frame");
  }
  return absl::OkStatus();
}

}  // namespace thermocline
