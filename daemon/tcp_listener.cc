#include "daemon/tcp_listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace thermocline {
namespace {

constexpr int kUserTimeoutMilliseconds = 10'000;  // a peer that takes nothing for so long is gone

absl::Status CannotListen(const ListenAddress& address, const char* call) {
  const int error = errno;
  const bool v6 = address.host.find(':') != std::string::npos;
  const std::string host = v6 ? "[" + address.host + "]" : address.host;
  return absl::UnavailableError(
      "gRPC cannot listen at " + host + ":" + std::to_string(address.port) + " (" + call + ": " +
      std::strerror(error) + "); is the address taken, or not this machine's?");
}

socklen_t Fill(const ListenAddress& address, sockaddr_storage& out) {
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&out);
  if (::inet_pton(AF_INET, address.host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(address.port);
    return sizeof *v4;
  }
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&out);
  if (::inet_pton(AF_INET6, address.host.c_str(), &v6->sin6_addr) != 1) return 0;
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(address.port);
  return sizeof *v6;
}

void Set(int fd, int level, int option, int value) {
  // Where one cannot be set the door works all the same.
  static_cast<void>(::setsockopt(fd, level, option, &value, sizeof value));
}

}  // namespace

absl::StatusOr<TcpListener> ListenAtTcp(const ListenAddress& address) {
  sockaddr_storage at{};
  socklen_t length = Fill(address, at);
  if (length == 0) return absl::InvalidArgumentError("'" + address.host + "' is no IP address");
  TcpListener listener;
  listener.fd.Reset(::socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = listener.fd.get();
  if (fd < 0) return CannotListen(address, "socket");
  Set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (at.ss_family == AF_INET6) Set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  // What is accepted inherits these.
  Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  Set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMilliseconds);
  auto* const name = reinterpret_cast<sockaddr*>(&at);
  if (::bind(fd, name, length) != 0) return CannotListen(address, "bind");
  if (::listen(fd, SOMAXCONN) != 0) return CannotListen(address, "listen");
  if (::getsockname(fd, name, &length) != 0) return ErrnoStatus(errno, "getsockname");
  // The port is at one place in both.
  listener.port = ntohs(reinterpret_cast<const sockaddr_in*>(&at)->sin_port);
  return listener;
}

absl::StatusOr<std::string> PeerNetwork(const sockaddr_storage& peer) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  in6_addr v6{};
  if (peer.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(peer).sin_addr;
    return std::string(::inet_ntop(AF_INET, &v4, text.data(), text.size()));
  }
  if (peer.ss_family != AF_INET6) return absl::InvalidArgumentError("this peer has no IP address");
  v6 = reinterpret_cast<const sockaddr_in6&>(peer).sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&v6)) {
    return std::string(::inet_ntop(AF_INET, &v6.s6_addr[12], text.data(), text.size()));
  }
  std::fill(&v6.s6_addr[8], &v6.s6_addr[8] + 8, uint8_t{0});
  return std::string(::inet_ntop(AF_INET6, &v6, text.data(), text.size())) + "/64";
}

}  // namespace thermocline
