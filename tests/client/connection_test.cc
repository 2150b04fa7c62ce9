// One session's life against a scripted daemon: heartbeat, leases in time, loss, reconnection.
#include "client/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include "client/client.h"
#include "tests/client/fake_session.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr milliseconds kPatience{60'000};

uint64_t BootNow() {
  timespec now;
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = steady_clock::now() + kPatience;
  while (!condition()) {
    if (steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

/// A daemon that welcomes everybody and hangs up when told to.
class ConnectionTest : public ::testing::Test {
 protected:
  ConnectionTest()
      : server_([this](FakePeer& peer) {
          peer.ReadHello();
          ++welcomed_;  // before the frame: a connected client finds itself counted
          peer.Send(Frame(FrameKind::kWelcome, grant_.welcome), grant_.descriptors());
          if (say_goodbye_) {
            v1::Goodbye goodbye;
            goodbye.set_reason("shutting down");
            peer.Send(Frame(FrameKind::kGoodbye, goodbye));
          }
          if (!hang_up_) peer.WaitForEnd();
          while (!hang_up_ && !over_) std::this_thread::sleep_for(milliseconds(2));
        }) {}
  ~ConnectionTest() override { over_ = true; }

  std::shared_ptr<Connection> Connect() {
    auto connection = Connection::Open({.socket_path = server_.path(), .client_name = "test"},
                                       steady_clock::now() + kPatience);
    EXPECT_TRUE(connection.ok()) << connection.status();
    return *connection;
  }

  FakeGrant grant_;
  std::atomic<bool> hang_up_{false}, over_{false}, say_goodbye_{false};
  std::atomic<int> welcomed_{0};
  FakeSessionServer server_;
};

TEST_F(ConnectionTest, TheHeartBeats) {
  const auto connection = Connect();
  over_ = true;
  EXPECT_TRUE(Eventually([&] { return grant_.area->heartbeat.load() >= 2; }));
}

TEST_F(ConnectionTest, ALeaseHoldsInItsTimeGenerationAndEpochOnly) {
  const auto connection = Connect();
  over_ = true;
  const uint64_t generation = connection->LeaseGeneration();
  EXPECT_FALSE(connection->LeaseHolds(generation));  // lease_until is 0
  grant_.area->lease_until_ns = BootNow() + 600'000'000'000;
  EXPECT_TRUE(connection->LeaseHolds(generation));
  grant_.area->lease_generation = generation + 1;
  EXPECT_FALSE(connection->LeaseHolds(generation));
  EXPECT_TRUE(connection->LeaseHolds(generation + 1));
  grant_.area->epoch = 8;
  EXPECT_FALSE(connection->LeaseHolds(generation + 1));
}

TEST_F(ConnectionTest, WhichClientEverComesBackTheLeasesOfLostSessionsEndFirst) {
  FakeGrant living_grant;
  living_grant.area->lease_until_ns = BootNow() + 600'000'000'000;
  FakeSessionServer living_server([&](FakePeer& peer) {
    peer.ReadHello();
    peer.Send(Frame(FrameKind::kWelcome, living_grant.welcome), living_grant.descriptors());
    peer.WaitForEnd();
  });
  const auto living =
      Connection::Open({.socket_path = living_server.path()}, steady_clock::now() + kPatience);
  ASSERT_TRUE(living.ok()) << living.status();
  grant_.area->lease_until_ns = BootNow() + 600'000'000'000;
  hang_up_ = true;
  const auto lost = Connect();
  EXPECT_TRUE(Eventually([&] { return !lost->Alive().ok(); }));
  EXPECT_TRUE(lost->LeaseHolds(0)) << "its daemon still protects them";
  hang_up_ = false;
  over_ = true;
  const auto other = Connect();  // another client of this process
  EXPECT_FALSE(lost->LeaseHolds(0)) << "a daemon that counts by process does so no more";
  EXPECT_TRUE(other->LeaseHolds(0));
  EXPECT_TRUE((*living)->LeaseHolds(0));
}

TEST_F(ConnectionTest, AControlAreaOfAnotherEpochIsRefused) {
  grant_.area->epoch = 6;
  over_ = true;
  const auto connection =
      Connection::Open({.socket_path = server_.path()}, steady_clock::now() + kPatience);
  EXPECT_EQ(connection.status().code(), absl::StatusCode::kInternal);
}

TEST_F(ConnectionTest, CallsFailAtOnceWhereNobodyServes) {
  const auto connection = Connect();
  over_ = true;
  const auto start = steady_clock::now();
  const auto stats = connection->calls().Stats({}, start + kPatience);
  EXPECT_EQ(connection->Explain(stats.status()).code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(steady_clock::now() - start, kPatience / 2);
}

TEST_F(ConnectionTest, AfterALossViewsStayReadableAndWritesReachNobody) {
  grant_.area->lease_until_ns = BootNow() + 600'000'000'000;
  ASSERT_EQ(::pwrite(grant_.arena.get(), "kept", 4, 8192), 4);
  hang_up_ = true;
  const auto connection = Connect();
  EXPECT_TRUE(Eventually([&] { return !connection->Alive().ok(); }));
  EXPECT_EQ(connection->Alive().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(connection->Alive().message()), HasSubstr(server_.path()));
  EXPECT_TRUE(connection->LeaseHolds(0));
  const std::span<std::byte> bytes = connection->Bytes(8192, 4096);
  EXPECT_EQ(std::memcmp(bytes.data(), "kept", 4), 0);
  std::memcpy(bytes.data(), "lost", 4);
  char stored[4];
  ASSERT_EQ(::pread(grant_.arena.get(), stored, 4, 8192), 4);
  EXPECT_EQ(std::memcmp(stored, "kept", 4), 0);
}

TEST_F(ConnectionTest, AGoodbyeTellsItsReason) {
  say_goodbye_ = hang_up_ = true;
  const auto connection = Connect();
  EXPECT_TRUE(Eventually([&] { return !connection->Alive().ok(); }));
  EXPECT_THAT(std::string(connection->Alive().message()), HasSubstr("shutting down"));
}

TEST_F(ConnectionTest, ARangeOutsideTheArenaIsNotContained) {
  const auto connection = Connect();
  over_ = true;
  EXPECT_TRUE(connection->Contains((1 << 20) - 16, 16));
  EXPECT_FALSE(connection->Contains((1 << 20) - 15, 16));
  EXPECT_FALSE(connection->Contains(~uint64_t{0}, 16));
  EXPECT_FALSE(connection->Contains(16, ~uint64_t{0}));
}

TEST_F(ConnectionTest, AClientThatLostItsDaemonConnectsAgainOnItsNextCall) {
  hang_up_ = true;
  auto client = Client::Connect({.socket_path = server_.path(), .timeout = kPatience});
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(Eventually([&] { return !(*client)->Connected(); }));
  hang_up_ = false;
  over_ = true;
  EXPECT_FALSE((*client)->Stats().ok());  // connects, but nobody serves gRPC
  EXPECT_EQ(welcomed_.load(), 2);
  EXPECT_TRUE((*client)->Connected());
}

TEST_F(ConnectionTest, WithoutAutomaticReconnectionOnlyReconnectDoes) {
  hang_up_ = true;
  auto client = Client::Connect({.socket_path = server_.path(), .auto_reconnect = false});
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(Eventually([&] { return !(*client)->Connected(); }));
  hang_up_ = false;
  over_ = true;
  EXPECT_EQ((*client)->Stats().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(welcomed_.load(), 1);
  EXPECT_TRUE((*client)->Reconnect().ok());
  EXPECT_EQ(welcomed_.load(), 2);
}

TEST(ClientConnectTest, AnAbsentDaemonIsUnavailable) {
  const auto client = Client::Connect({.socket_path = "/tmp/tc-no-such.sock"});
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("thermoclined --socket"));
}

}  // namespace
}  // namespace thermocline
