#include "client/session.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "base/socket_path.h"
#include "proto/shm_layout.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// And the staging memory, where the welcome speaks of some.
constexpr size_t kWelcomeDescriptors = 3;
// Room for more than are expected, so that surplus ones are seen and closed.
constexpr size_t kMaxDescriptors = 8;
constexpr milliseconds kConnectRetry{5};

absl::Status Late(const std::string& socket_path) {
  return absl::DeadlineExceededError("the daemon at " + socket_path +
                                     " did not answer in time; see its log");
}

absl::Status Hangup(const std::string& socket_path) {
  return absl::UnavailableError("the daemon at " + socket_path +
                                " closed the connection before it said welcome; see its log");
}

absl::Status Absent(const std::string& socket_path, int error_number) {
  return absl::UnavailableError("no daemon listens at " + socket_path + " (" +
                                std::strerror(error_number) +
                                "); start one with: thermoclined --socket " + socket_path);
}

/// False when the deadline passed.
absl::StatusOr<bool> WaitFor(int socket, short events, Deadline deadline) {
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now()).count();
    if (left <= 0) return false;
    pollfd entry{.fd = socket, .events = events, .revents = 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll the session socket");
  }
}

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path, Deadline deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(
        "socket path '" + path + "' has " + std::to_string(path.size()) +
        " bytes, and a unix socket's has 1 to " + std::to_string(sizeof address.sun_path - 1) +
        "; choose a shorter one with --socket or THERMOCLINE_SOCKET");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return ErrnoStatus(errno, "open a unix socket");
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
         0) {
    switch (errno) {
      case EINTR:
        break;
      case EAGAIN:  // the daemon's queue of connections is full
        if (steady_clock::now() + kConnectRetry >= deadline) return Late(path);
        std::this_thread::sleep_for(kConnectRetry);
        break;
      case EISCONN:
        return socket;
      case ENOENT:
      case ENOTDIR:
      case ECONNREFUSED:
        return Absent(path, errno);
      case EACCES:
        return ErrnoStatus(errno, "connect to " + path, "run as the user of the daemon");
      default:
        return ErrnoStatus(errno, "connect to " + path);
    }
  }
  return socket;
}

absl::Status Send(int socket, std::span<const std::byte> bytes, const std::string& path,
                  Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      TC_ASSIGN_OR_RETURN(const bool ready, WaitFor(socket, POLLOUT, deadline));
      if (!ready) return Late(path);
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return Hangup(path);
    } else if (errno != EINTR) {
      return ErrnoStatus(errno, "send hello to " + path);
    }
  }
  return absl::OkStatus();
}

/// Fills `bytes` and collects the descriptors that travel beside them.
absl::Status Receive(int socket, std::span<std::byte> bytes, std::vector<UniqueFd>& descriptors,
                     const std::string& path, Deadline deadline) {
  while (!bytes.empty()) {
    TC_ASSIGN_OR_RETURN(const bool ready, WaitFor(socket, POLLIN, deadline));
    if (!ready) return Late(path);
    iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> ancillary;
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.data();
    message.msg_controllen = ancillary.size();
    const ssize_t received = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (received < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      if (errno == ECONNRESET) return Hangup(path);
      return ErrnoStatus(errno, "read the welcome of " + path);
    }
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
        descriptors.emplace_back(fd);
      }
    }
    if (received == 0) return Hangup(path);
    bytes = bytes.subspan(static_cast<size_t>(received));
  }
  return absl::OkStatus();
}

absl::Status CheckDescriptor(const UniqueFd& fd, const char* what, uint64_t least_bytes) {
  struct stat found;
  if (::fstat(fd.get(), &found) != 0) return ErrnoStatus(errno, std::string("look at the ") + what);
  if (!S_ISREG(found.st_mode) || static_cast<uint64_t>(found.st_size) < least_bytes) {
    return absl::InternalError(std::string("the daemon handed over a ") + what + " of " +
                               std::to_string(found.st_size) + " bytes where " +
                               std::to_string(least_bytes) + " were promised; restart the daemon");
  }
  return absl::OkStatus();
}

/// What the daemon says first on a connection, with what came beside it.
struct FirstAnswer {
  UniqueFd socket;
  FrameHeader header;
  std::vector<std::byte> payload;
  std::vector<UniqueFd> descriptors;
};

absl::Status RefusalIn(std::span<const std::byte> payload) {
  v1::Refused refused;
  if (!refused.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::InternalError("the daemon refused the session, in words that do not parse");
  }
  const bool known = refused.code() >= 1 && refused.code() <= 16;
  return absl::Status(
      known ? static_cast<absl::StatusCode>(refused.code()) : absl::StatusCode::kUnknown,
      "the daemon refused the session: " + refused.message());
}

std::vector<std::byte> Frame(FrameKind kind, const google::protobuf::MessageLite& message) {
  const size_t payload_bytes = message.ByteSizeLong();
  const auto header = EncodeFrameHeader({static_cast<uint32_t>(payload_bytes), kind});
  std::vector<std::byte> frame(kFrameHeaderBytes + payload_bytes);
  std::memcpy(frame.data(), header.data(), header.size());
  message.SerializeWithCachedSizesToArray(
      reinterpret_cast<uint8_t*>(frame.data() + kFrameHeaderBytes));
  return frame;
}

absl::StatusOr<FirstAnswer> Ask(const std::string& path, v1::Hello hello,
                                const std::function<void()>& before_hello, Deadline deadline) {
  FirstAnswer answer;
  TC_ASSIGN_OR_RETURN(answer.socket, ConnectTo(path, deadline));
  const int socket = answer.socket.get();
  ucred daemon{};
  socklen_t daemon_bytes = sizeof daemon;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &daemon, &daemon_bytes) != 0) {
    return ErrnoStatus(errno, "ask who listens at " + path);
  }
  TC_RETURN_IF_ERROR(TrustDaemon(daemon.uid, ::geteuid(), path != DefaultSocketPath(), path));
  if (before_hello) before_hello();
  hello.set_protocol_version(kProtocolVersion);
  hello.set_layout_version(kLayoutVersion);
  // A daemon that refuses before it has read hello closes early: its reason is still to be read.
  const absl::Status sent = Send(socket, Frame(FrameKind::kHello, hello), path, deadline);
  if (!sent.ok() && !absl::IsUnavailable(sent)) return sent;
  std::array<std::byte, kFrameHeaderBytes> header_bytes;
  TC_RETURN_IF_ERROR(Receive(socket, header_bytes, answer.descriptors, path, deadline));
  const std::optional<FrameHeader> header = DecodeFrameHeader(header_bytes);
  if (!header.has_value()) {
    return absl::InternalError("whoever listens at " + path +
                               " does not speak Thermocline's session protocol");
  }
  answer.header = *header;
  answer.payload.resize(header->payload_bytes);
  TC_RETURN_IF_ERROR(Receive(socket, answer.payload, answer.descriptors, path, deadline));
  return answer;
}

}  // namespace

absl::Status TrustDaemon(uid_t daemon_uid, uid_t our_uid, bool named, const std::string& path) {
  if (daemon_uid == our_uid || daemon_uid == 0 || (our_uid == 0 && named)) return absl::OkStatus();
  return absl::PermissionDeniedError(
      "whoever listens at " + path + " runs as uid " + std::to_string(daemon_uid) +
      ", not as uid " + std::to_string(our_uid) +
      " or root, and would be told this process's prompts; start a daemon "
      "of your own at another --socket");
}

absl::StatusOr<v1::Welcome> ParseAnswer(FrameHeader header, std::span<const std::byte> payload,
                                        bool admin) {
  const int bytes = static_cast<int>(payload.size());
  if (header.kind == FrameKind::kRefused) return RefusalIn(payload);
  if (header.kind == FrameKind::kGoodbye) {
    v1::Goodbye goodbye;
    const bool parses = goodbye.ParseFromArray(payload.data(), bytes);
    return absl::UnavailableError("the daemon said goodbye instead of welcome: " +
                                  (parses ? goodbye.reason() : std::string("no reason")));
  }
  v1::Welcome welcome;
  if (header.kind != FrameKind::kWelcome || !welcome.ParseFromArray(payload.data(), bytes)) {
    return absl::InternalError(
        "the daemon answered hello with something that is no welcome; is it of another release?");
  }
  const char* lacks = nullptr;
  if (welcome.session_token().size() != 32) lacks = "a token of 32 bytes";
  if (welcome.grpc_socket().empty() || welcome.grpc_socket()[0] != '/') lacks = "a gRPC socket";
  if (admin && (welcome.admin_socket().empty() || welcome.admin_socket()[0] != '/')) {
    lacks = "an admin socket";
  }
  if (welcome.arena_bytes() == 0 || welcome.arena_bytes() > (uint64_t{1} << 47)) {
    lacks = "an arena of a size that can be mapped";
  }
  if (welcome.staging_bytes() > (uint64_t{1} << 40)) lacks = "staging memory that can be mapped";
  if (lacks != nullptr) {
    return absl::InternalError(std::string("the daemon's welcome lacks ") + lacks);
  }
  return welcome;
}

absl::StatusOr<SessionGrant> OpenSession(const SessionRequest& request, Deadline deadline) {
  v1::Hello hello;
  hello.set_client_name(request.client_name.substr(0, 256));
  hello.set_admin(request.admin);
  TC_ASSIGN_OR_RETURN(FirstAnswer answer,
                      Ask(request.socket_path, std::move(hello), request.before_hello, deadline));
  std::vector<UniqueFd>& descriptors = answer.descriptors;
  SessionGrant grant;
  grant.socket = std::move(answer.socket);
  TC_ASSIGN_OR_RETURN(grant.welcome, ParseAnswer(answer.header, answer.payload, request.admin));
  const uint64_t staging_bytes = grant.welcome.staging_bytes();
  const size_t expected = kWelcomeDescriptors + (staging_bytes > 0 ? 1 : 0);
  if (descriptors.size() != expected) {
    return absl::InternalError(
        "the daemon's welcome came with " + std::to_string(descriptors.size()) +
        " descriptors instead of " + std::to_string(expected) +
        " (arena, control area, catalog; staging memory where clients may not write the arena)");
  }
  grant.arena = std::move(descriptors[0]);
  grant.control = std::move(descriptors[1]);
  grant.catalog = std::move(descriptors[2]);
  TC_RETURN_IF_ERROR(CheckDescriptor(grant.arena, "arena", grant.welcome.arena_bytes()));
  TC_RETURN_IF_ERROR(CheckDescriptor(grant.control, "control area", kControlAreaBytes));
  if (staging_bytes > 0) {
    grant.staging = std::move(descriptors[3]);
    TC_RETURN_IF_ERROR(CheckDescriptor(grant.staging, "staging memory", staging_bytes));
  }
  return grant;
}

absl::StatusOr<SlabGrant> AskForSlab(const std::string& socket_path, const std::string& token,
                                     uint64_t slab, Deadline deadline) {
  v1::Hello hello;
  hello.set_slab(slab);
  hello.set_session_token(token);
  TC_ASSIGN_OR_RETURN(FirstAnswer answer, Ask(socket_path, std::move(hello), {}, deadline));
  if (answer.header.kind == FrameKind::kRefused) return RefusalIn(answer.payload);
  v1::Slab granted;
  if (answer.header.kind != FrameKind::kSlab || answer.descriptors.size() != 1 ||
      !granted.ParseFromArray(answer.payload.data(), static_cast<int>(answer.payload.size()))) {
    return absl::InternalError("the daemon at " + socket_path +
                               " was asked for a slab and answered with something else");
  }
  return SlabGrant{std::move(answer.descriptors[0]), granted.bytes()};
}

void WakeDaemon(int socket) {
  const auto header = EncodeFrameHeader({0, FrameKind::kWake});
  (void)::send(socket, header.data(), header.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void SayGoodbye(int socket, std::string_view reason) {
  v1::Goodbye goodbye;
  goodbye.set_reason(std::string(reason));
  const std::vector<std::byte> frame = Frame(FrameKind::kGoodbye, goodbye);
  (void)::send(socket, frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

absl::Status ReadSessionEnd(int socket) {
  std::array<std::byte, kFrameHeaderBytes + 4096> bytes;
  // Peeked, so that several threads may look; nothing but the end is ever said after Welcome.
  const ssize_t count = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_PEEK);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
  std::string reason = count < 0 ? std::strerror(errno) : "it closed the session";
  if (count >= static_cast<ssize_t>(kFrameHeaderBytes)) {
    std::array<std::byte, kFrameHeaderBytes> header_bytes;
    std::copy_n(bytes.begin(), kFrameHeaderBytes, header_bytes.begin());
    const std::optional<FrameHeader> header = DecodeFrameHeader(header_bytes);
    const size_t payload_bytes = static_cast<size_t>(count) - kFrameHeaderBytes;
    v1::Goodbye goodbye;
    v1::Refused refused;
    if (header.has_value() && header->kind == FrameKind::kRefused &&
        header->payload_bytes <= payload_bytes &&
        refused.ParseFromArray(bytes.data() + kFrameHeaderBytes,
                               static_cast<int>(header->payload_bytes))) {
      reason = refused.message();
    } else if (header.has_value() && header->kind == FrameKind::kGoodbye &&
               header->payload_bytes <= payload_bytes &&
               goodbye.ParseFromArray(bytes.data() + kFrameHeaderBytes,
                                      static_cast<int>(header->payload_bytes))) {
      reason = "it said goodbye: " + goodbye.reason();
    } else {
      reason = "it broke the session protocol";
    }
  }
  return absl::UnavailableError(reason);
}

}  // namespace client_v1
}  // namespace thermocline
