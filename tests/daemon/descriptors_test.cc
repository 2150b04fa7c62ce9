// A process that opens connections at every door until it gets no more: it is refused, by name, and
// the others go on, also when the daemon may have few descriptors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include "base/unique_fd.h"
#include "tests/daemon/remote_client.h"

namespace thermocline {
namespace {

using namespace testing;  // NOLINT: all of daemon_process.h
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 64 * 1024;
constexpr rlim_t kDescriptors = 256;

void LimitDescriptors() {
  const rlimit limit{kDescriptors, kDescriptors};
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

/// Opens a connection after the other at these sockets, says nothing, and keeps them. Its own
/// process, which lives as long as this.
class Hog {
 public:
  explicit Hog(const std::vector<std::string>& sockets) {
    std::vector<sockaddr_un> addresses;
    for (const std::string& socket : sockets) {
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::memcpy(address.sun_path, socket.c_str(), socket.size() + 1);
      addresses.push_back(address);
    }
    pid_ = ::fork();
    if (pid_ != 0) return;
    for (int i = 0; i < kConnections; ++i) {
      const sockaddr_un& address = addresses[static_cast<size_t>(i) % addresses.size()];
      const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
      for (int tries = 0; tries < 100; ++tries) {
        const auto* to = reinterpret_cast<const sockaddr*>(&address);
        if (::connect(fd, to, sizeof address) == 0 || errno != EAGAIN) break;
        ::usleep(1000);
      }
    }
    while (true) ::pause();
  }
  ~Hog() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  static constexpr int kConnections = 800;  // three times what the daemon may have
  pid_t pid_ = -1;
};

class DescriptorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    daemon_ = std::make_unique<DaemonProcess>(place_, std::vector<std::string>{}, LimitDescriptors);
    ASSERT_TRUE(daemon_->Ready());
  }
  /// Whether somebody who comes now is served.
  void ExpectService(int32_t seed) {
    const RawClient client(place_);
    ASSERT_TRUE(client.session.welcomed());
    const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
    ASSERT_NE(space, 0u);
    ReleaseLease(client, PutTokens(client, space, 3, seed, kBlockBytes));
    EXPECT_EQ(MatchTokens(client, space, 3, seed).depth(), 3u);
  }
  size_t Descriptors() const {
    size_t count = 0;
    const std::string directory = "/proc/" + std::to_string(daemon_->pid()) + "/fd";
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      static_cast<void>(entry);
      ++count;
    }
    return count;
  }

  DaemonPlace place_;
  std::unique_ptr<DaemonProcess> daemon_;
};

TEST_F(DescriptorsTest, WhoTakesAllTheConnectionsThereAreIsRefusedAndNobodyElse) {
  const RawClient before(place_);
  ASSERT_TRUE(before.session.welcomed());
  const uint32_t space = OpenTestSpace(before, TestSpace(kBlockBytes));
  const uint64_t lease = PutTokens(before, space, 5, 1, kBlockBytes);
  const size_t calm = Descriptors();
  {
    const Hog hog({place_.socket, place_.socket + ".grpc", place_.socket + ".admin"});
    const std::string hogs = std::to_string(hog.pid());
    ASSERT_TRUE(Eventually([&] {
      const std::string log = daemon_->log();
      return log.find("connection_refused") != std::string::npos &&
             log.find("of this process") != std::string::npos;
    })) << daemon_->log();
    const std::string log = daemon_->log();
    EXPECT_THAT(log, HasSubstr("process " + hogs + " of user"));
    EXPECT_THAT(log, HasSubstr("a client needs one"));
    EXPECT_THAT(log, HasSubstr("pid=" + hogs));
    for (int32_t round = 0; round < 5; ++round) {
      EXPECT_EQ(MatchTokens(before, space, 5, 1).depth(), 5u);
      ExpectService(10 + round);
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    EXPECT_LT(Descriptors(), kDescriptors);
    EXPECT_EQ(daemon_->log().find("accept_failed"), std::string::npos) << daemon_->log();
  }
  ReleaseLease(before, lease);
  EXPECT_TRUE(Eventually([&] { return Descriptors() <= calm + 8; })) << Descriptors();
  ExpectService(20);
  EXPECT_EQ(daemon_->Stop(), 0);
}

TEST(TcpDescriptorsTest, AnAddressThatTakesAllItCanAtTheTcpDoorShutsOutNoOther) {
  DaemonPlace place;
  DaemonProcess daemon(place, {"--grpc-listen=127.0.0.1:0", "--insecure"}, LimitDescriptors);
  ASSERT_TRUE(daemon.Ready());
  std::string address = ContentOf(place.socket + ".tcp");
  address.pop_back();  // the newline
  sockaddr_in from{}, to{};
  from.sin_family = to.sin_family = AF_INET;
  from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  std::vector<UniqueFd> flood;
  for (rlim_t i = 0; i < kDescriptors; ++i) {
    flood.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int fd = flood.back().get();
    ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof from), 0);
    ASSERT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  }
  ASSERT_TRUE(Eventually([&] {
    return daemon.log().find("address 127.0.0.2 has 16 connections already") != std::string::npos;
  })) << daemon.log();
  RemoteClient client(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()), "");
  EXPECT_TRUE(client.welcomed());
  EXPECT_TRUE(client.Beat());
  EXPECT_EQ(daemon.log().find("accept_failed"), std::string::npos) << daemon.log();
}

}  // namespace
}  // namespace thermocline
