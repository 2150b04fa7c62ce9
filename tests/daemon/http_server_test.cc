// The HTTP server with a handler that takes its time.
#include "daemon/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <string>

#include "base/unique_fd.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

/// A request that is under way.
UniqueFd Ask(uint16_t port, const std::string& path) {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(port);
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&peer), sizeof peer), 0);
  const std::string request = "GET " + path + " HTTP/1.1\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  return socket;
}

std::string AnswerOf(const UniqueFd& socket) {
  std::string answer;
  char bytes[4096];
  for (ssize_t n; (n = ::recv(socket.get(), bytes, sizeof bytes, 0)) > 0;) {
    answer.append(bytes, static_cast<size_t>(n));
  }
  return answer;
}

TEST(HttpServerTest, ASlowScrapeKeepsNoLivenessProbeWaiting) {
  std::promise<void> begun, go_on;
  auto server = HttpServer::Start(
      "127.0.0.1", 0,
      [&](std::string_view path) {
        begun.set_value();
        go_on.get_future().wait();
        return HttpAnswer{.body = "of " + std::string(path) + "\n"};
      },
      [] { return true; });
  ASSERT_TRUE(server.ok()) << server.status();
  const uint16_t port = (*server)->port();
  const UniqueFd scrape = Ask(port, "/metrics?all");
  begun.get_future().wait();
  EXPECT_THAT(AnswerOf(Ask(port, "/livez")), HasSubstr("200 OK"));
  go_on.set_value();
  EXPECT_THAT(AnswerOf(scrape), HasSubstr("of /metrics\n"));
}

TEST(HttpServerTest, AStuckDaemonIsNotAlive) {
  std::atomic<bool> alive{true};
  auto server = HttpServer::Start(
      "127.0.0.1", 0, [](std::string_view) { return HttpAnswer{}; }, [&] { return alive.load(); });
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT(AnswerOf(Ask((*server)->port(), "/livez")), HasSubstr("200 OK"));
  alive = false;
  EXPECT_THAT(AnswerOf(Ask((*server)->port(), "/livez")), HasSubstr("503 Service Unavailable"));
}

TEST(HttpServerTest, EndsWithRequestsUnderWay) {
  auto server = HttpServer::Start(
      "127.0.0.1", 0,
      [](std::string_view) {
        ::usleep(50'000);
        return HttpAnswer{.body = "late\n"};
      },
      [] { return true; });
  ASSERT_TRUE(server.ok()) << server.status();
  std::vector<UniqueFd> asked;
  for (int i = 0; i < 8; ++i) asked.push_back(Ask((*server)->port(), "/readyz"));
  ::usleep(20'000);
  server->reset();
}

}  // namespace
}  // namespace thermocline
