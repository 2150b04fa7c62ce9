#include "tiers/device_wire.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace thermocline {
namespace {

constexpr int kBacklog = 16;
constexpr size_t kMaxDescriptors = 253;  // of one packet: SCM_MAX_FD
constexpr std::chrono::milliseconds kProbePatience{1000};

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError("the path of a socket has at most " +
                                      std::to_string(sizeof address.sun_path - 1) +
                                      " bytes: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> MakeSocket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return ErrnoStatus(errno, "socket");
  return fd;
}

/// All that came along with a message: the kernel has opened them, whatever we expected.
std::vector<UniqueFd> DescriptorsOf(msghdr& message) {
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int raw = -1;
      std::memcpy(&raw, CMSG_DATA(header) + i * sizeof raw, sizeof raw);
      descriptors.emplace_back(raw);
    }
  }
  return descriptors;
}

}  // namespace

WireStatus WireStatus::Of(const absl::Status& status, bool sticky) {
  WireStatus wire;
  wire.code = static_cast<uint32_t>(status.code());
  wire.sticky = sticky ? 1 : 0;
  status.message().copy(wire.message, sizeof wire.message - 1);
  return wire;
}

absl::Status WireStatus::Get() const {
  const auto* const end = static_cast<const char*>(std::memchr(message, 0, sizeof message));
  const size_t count = end == nullptr ? sizeof message : static_cast<size_t>(end - message);
  const auto known =
      std::min<uint32_t>(code, static_cast<uint32_t>(absl::StatusCode::kUnauthenticated));
  return absl::Status(static_cast<absl::StatusCode>(known), std::string(message, count));
}

absl::Status SendPacket(int socket, std::span<const std::byte> bytes, int fd) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  while (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "send to a process of the hot tier");
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> ReceivePacket(int socket, std::span<std::byte> room, UniqueFd& fd) {
  iovec part{room.data(), room.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got = 0;
  while ((got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0) {
    if (errno == ECONNRESET) return size_t{0};
    if (errno != EINTR) return ErrnoStatus(errno, "receive from a process of the hot tier");
  }
  fd.Reset();
  std::vector<UniqueFd> descriptors = DescriptorsOf(message);
  if (descriptors.size() > 1 || (message.msg_flags & MSG_CTRUNC) != 0) {
    return absl::DataLossError("a process of the hot tier sent more than one descriptor");
  }
  if (!descriptors.empty()) fd = std::move(descriptors.front());
  if ((message.msg_flags & MSG_TRUNC) != 0) {
    return absl::DataLossError("a process of the hot tier sent a longer message than there are");
  }
  return static_cast<size_t>(got);
}

// Only who holds the lock takes a socket away, so that of two who start at once one stays.
absl::StatusOr<Listener> ListenAt(const std::string& path) {
  TC_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  const std::string lock_path = path + ".lock";
  UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return ErrnoStatus(errno, "open " + lock_path, "is its directory there?");
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0 || ConnectTo(path, kProbePatience).ok()) {
    return absl::AlreadyExistsError("somebody listens at " + path +
                                    " already; end it first, or give another path");
  }
  ::unlink(path.c_str());
  TC_ASSIGN_OR_RETURN(UniqueFd fd, MakeSocket());
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(mask);
  if (bound != 0) return ErrnoStatus(error, "bind " + path, "is its directory there?");
  if (::listen(fd.get(), kBacklog) != 0) return ErrnoStatus(errno, "listen at " + path);
  return Listener{.lock = std::move(lock), .socket = std::move(fd)};
}

void SetPatience(int socket, std::chrono::milliseconds patience) {
  const timeval time{.tv_sec = patience.count() / 1000, .tv_usec = patience.count() % 1000 * 1000};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path, std::chrono::milliseconds patience) {
  TC_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  TC_ASSIGN_OR_RETURN(UniqueFd fd, MakeSocket());
  SetPatience(fd.get(), patience);  // the connecting, too
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return absl::UnavailableError("connect " + path + ": " + std::strerror(errno) +
                                  "; is the custodian running?");
  }
  return fd;
}

bool IsOwnPeer(int socket) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
         (peer.uid == ::geteuid() || peer.uid == 0);
}

}  // namespace thermocline
