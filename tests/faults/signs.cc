#include "tests/faults/signs.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "base/unique_fd.h"

namespace thermocline::faults {
namespace {

constexpr timeval kPatience{.tv_sec = 20, .tv_usec = 0};

}  // namespace

absl::StatusOr<std::string> HttpGet(uint16_t port, const std::string& path) {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(errno, "connect to the daemon's http");
  }
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const auto sent = ::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(request.size())) return ErrnoStatus(errno, "send");
  std::string answer;
  char part[4096];
  ssize_t count = 0;
  while ((count = ::recv(socket.get(), part, sizeof(part), 0)) > 0) {
    answer.append(part, static_cast<size_t>(count));
  }
  const size_t body = answer.find("\r\n\r\n");
  if (count < 0 || body == std::string::npos) return absl::UnavailableError("no answer: " + path);
  return answer.substr(body + 4);
}

double MetricOf(const std::string& metrics, const std::string& series) {
  double sum = 0;
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(series, 0) == 0) sum += std::strtod(line.c_str() + line.rfind(' '), nullptr);
  }
  return sum;
}

}  // namespace thermocline::faults
