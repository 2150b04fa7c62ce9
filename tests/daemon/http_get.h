// The daemon's HTTP port, asked by hand.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "base/unique_fd.h"
#include "tests/daemon/daemon_process.h"

namespace thermocline::testing {

/// What it answers to `request`, whole; "" when nobody listens.
inline std::string HttpGet(const DaemonPlace& place, const std::string& request) {
  std::ifstream file(place.socket + ".http");
  std::string address;
  file >> address;
  const int port = std::atoi(address.substr(address.rfind(':') + 1).c_str());
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(port));
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&peer), sizeof peer) != 0) return "";
  ::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL);
  std::string answer;
  char bytes[4096];
  for (ssize_t n; (n = ::recv(socket.get(), bytes, sizeof bytes, 0)) > 0;) {
    answer.append(bytes, static_cast<size_t>(n));
  }
  return answer;
}
inline std::string Get(const DaemonPlace& place, const std::string& path) {
  return HttpGet(place, "GET " + path + " HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
}

}  // namespace thermocline::testing
