// The TCP door: whose connections count together, and that nobody takes another's.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "daemon/connection_door.h"
#include "daemon/tcp_listener.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

sockaddr_in AddressOf(const char* host, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  EXPECT_EQ(::inet_pton(AF_INET, host, &address.sin_addr), 1);
  return address;
}

/// A connection from one of the loopback's addresses. The kernel takes it, whatever the door says.
UniqueFd ConnectFrom(const char* host, int port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in from = AddressOf(host, 0), to = AddressOf("127.0.0.1", port);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from), 0);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  return fd;
}

/// Whether the door has taken this connection in: it is greeted then, and ended else.
bool IsIn(const UniqueFd& fd) {
  pollfd waited{fd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&waited, 1, 60'000), 1) << "neither greeted nor ended";
  char byte = 0;
  return ::recv(fd.get(), &byte, 1, 0) == 1;
}

TEST(TcpDoorTest, AFloodFromOneAddressShutsOutNobodyElse) {
  constexpr DoorGuests::Limits kLimits{.all = 32, .of_address = 8};
  Mutex mutex;
  std::vector<UniqueFd> inside;
  auto door = ConnectionDoor::OpenTcp({"127.0.0.1", 0}, kLimits, [&](int fd) {
    EXPECT_EQ(::send(fd, "x", 1, 0), 1);
    MutexLock lock(mutex);
    inside.emplace_back(fd);
  });
  ASSERT_TRUE(door.ok()) << door.status();
  const int port = (*door)->tcp_port();
  std::vector<UniqueFd> flood;
  size_t taken_in = 0;
  for (int i = 0; i < 100; ++i) {
    flood.push_back(ConnectFrom("127.0.0.2", port));
    taken_in += IsIn(flood.back()) ? 1 : 0;
  }
  EXPECT_EQ(taken_in, kLimits.of_address);
  for (const char* other : {"127.0.0.1", "127.0.0.3"}) {
    EXPECT_TRUE(IsIn(ConnectFrom(other, port))) << other;
  }
  {
    MutexLock lock(mutex);
    inside.clear();
  }
  EXPECT_TRUE(IsIn(ConnectFrom("127.0.0.2", port))) << "those that were there have gone";
  door->reset();
}

TEST(TcpDoorTest, AnAddressThatIsTakenIsNamed) {
  const auto first = ListenAtTcp({"127.0.0.1", 0});
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_GT(first->port, 0);
  const auto second = ListenAtTcp({"127.0.0.1", first->port});
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(second.status().message(),
              HasSubstr("cannot listen at 127.0.0.1:" + std::to_string(first->port)));
  EXPECT_TRUE(absl::IsUnavailable(ListenAtTcp({"192.0.2.1", 0}).status())) << "nobody's";
  EXPECT_TRUE(absl::IsInvalidArgument(ListenAtTcp({"a.name", 0}).status()));
}

TEST(TcpDoorTest, AHostIsCountedOnceWhicheverOfItsAddressesItTakes) {
  const auto of = [](const char* text) {
    sockaddr_storage peer{};
    auto& v6 = reinterpret_cast<sockaddr_in6&>(peer);
    auto& v4 = reinterpret_cast<sockaddr_in&>(peer);
    if (::inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) {
      v6.sin6_family = AF_INET6;
    } else if (::inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
      v4.sin_family = AF_INET;
    }
    return PeerNetwork(peer);
  };
  EXPECT_EQ(*of("192.0.2.7"), "192.0.2.7");
  EXPECT_EQ(*of("::ffff:192.0.2.7"), "192.0.2.7");
  EXPECT_EQ(*of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
  EXPECT_EQ(*of("2001:db8:1:2::1"), "2001:db8:1:2::/64");
  EXPECT_NE(*of("2001:db8:1:3::1"), *of("2001:db8:1:2::1"));
  EXPECT_TRUE(absl::IsInvalidArgument(of("nothing").status()));
}

}  // namespace
}  // namespace thermocline
