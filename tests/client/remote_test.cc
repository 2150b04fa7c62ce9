// The client library from elsewhere: over TLS with certificates made here, by options and by the
// environment; and where the daemon is near but its memory cannot be had.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_util.h"
#include "client/address.h"
#include "client/mirror.h"
#include "tests/client/blocks.h"
#include "tests/client/fake_session.h"
#include "tests/client/tls_daemon.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

/// Whether a client may put blocks and find them again.
void ExpectToWork(const absl::StatusOr<std::unique_ptr<Client>>& client, int32_t seed) {
  ASSERT_TRUE(client.ok()) << client.status();
  const auto space = (*client)->OpenSpace(TestSpace(1 << 20));
  ASSERT_TRUE(space.ok()) << space.status();
  const auto tokens = Prompt(seed, 5);
  {
    auto lease = space->Match(tokens);
    ASSERT_TRUE(lease.ok()) << lease.status();
    const absl::Status put = Extend(*space, *lease, tokens, 5);
    ASSERT_TRUE(put.ok()) << put;
    EXPECT_EQ(RightPlaces(*space, *lease, tokens), 5u) << "what was sent is here";
  }
  auto hit = space->Match(tokens);
  ASSERT_TRUE(hit.ok()) << hit.status();
  EXPECT_EQ(hit->depth(), 5u);
  EXPECT_TRUE(Holds(hit->View(3), Content(tokens, 3, 0, 1 << 20))) << "fetched by itself";
  EXPECT_EQ(*hit->Load(), 5u);
  EXPECT_EQ(RightPlaces(*space, *hit, tokens), 5u);
  EXPECT_TRUE(hit->StillValid());
}

class RemoteClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    tls_ = TlsDaemon::Start();
    if (tls_ == nullptr) GTEST_SKIP() << "needs the program openssl";
    remote_ = tls_->remote();
  }
  std::string File(const std::string& name) const { return tls_->File(name); }
  std::unique_ptr<TlsDaemon> tls_;
  RemoteOptions remote_;
};

TEST_F(RemoteClientTest, ConnectsByOptions) {
  ExpectToWork(Client::Connect({.socket_path = "/nowhere", .remote = remote_}), 1);
  RemoteOptions wrong = remote_;
  wrong.token_file = File("ca.pem");
  EXPECT_THAT(std::string(Client::Connect({.remote = wrong}).status().message()),
              HasSubstr("a token stands alone in its file"));
  ASSERT_TRUE(WriteFileAtomically(File("forged"), std::string(32, 'f')).ok());
  wrong.token_file = File("forged");
  EXPECT_EQ(Client::Connect({.remote = wrong}).status().code(), absl::StatusCode::kUnauthenticated);
  wrong = remote_;
  wrong.key_file = "/nowhere";
  EXPECT_THAT(std::string(Client::Connect({.remote = wrong}).status().message()),
              HasSubstr("the client's key"));
  wrong = remote_;
  wrong.certificate_file = wrong.key_file = "";
  EXPECT_EQ(Client::Connect({.remote = wrong}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(AdminClient::Connect({.remote = remote_}).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(RemoteClientTest, ConnectsByTheEnvironmentWhereThisMachineHasNoDaemon) {
  ::setenv("THERMOCLINE_ADDRESS", remote_.address.c_str(), 1);
  ::setenv("THERMOCLINE_CA", remote_.ca_file.c_str(), 1);
  ::setenv("THERMOCLINE_CERTIFICATE", remote_.certificate_file.c_str(), 1);
  ::setenv("THERMOCLINE_KEY", remote_.key_file.c_str(), 1);
  ::setenv("THERMOCLINE_CLIENT_TOKEN_FILE", remote_.token_file.c_str(), 1);
  ExpectToWork(Client::Connect({.socket_path = File("no.sock")}), 2);
  for (const char* name : {"ADDRESS", "CA", "CERTIFICATE", "KEY", "CLIENT_TOKEN_FILE"}) {
    ::unsetenv((std::string("THERMOCLINE_") + name).c_str());
  }
  EXPECT_FALSE(Client::Connect({.socket_path = File("no.sock")}).ok());
}

/// What a daemon's answer may lack, so that its memory cannot be had.
struct NoMap {
  const char* name;
  std::function<std::vector<int>(FakeGrant&)> descriptors;
};

class NoMapTest : public ::testing::TestWithParam<NoMap> {};

TEST_P(NoMapTest, AClientGoesOnWithoutTheMapByItself) {
  DaemonProcess daemon;
  FakeGrant grant;
  const std::vector<int> descriptors = GetParam().descriptors(grant);
  // Another's front door, the daemon's other one.
  FakeSessionServer door([&](FakePeer& peer) {
    peer.ReadHello();
    peer.Send(Frame(FrameKind::kWelcome, grant.welcome), descriptors);
    peer.WaitForEnd();
  });
  const std::string link = door.path() + ".grpc";
  {
    const auto alone = Client::Connect({.socket_path = door.path()});
    EXPECT_FALSE(alone.ok()) << "a map was had";
  }
  std::filesystem::create_symlink(daemon.socket() + ".grpc", link);
  ExpectToWork(Client::Connect({.socket_path = door.path()}), 3);
  const auto space = daemon.Connect()->OpenSpace(TestSpace(1 << 20));
  EXPECT_EQ(space->Match(Prompt(3, 5))->depth(), 5u) << "what it put is here";
  const auto admin = AdminClient::Connect({.socket_path = door.path()});
  EXPECT_FALSE(admin.ok()) << "only with the map";
  std::filesystem::remove(link);
}

int ReadOnly(int fd) {
  return ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
}

INSTANTIATE_TEST_SUITE_P(
    , NoMapTest,
    ::testing::Values(
        NoMap{"NoDescriptors", [](FakeGrant&) { return std::vector<int>(); }},
        NoMap{"TooFewDescriptors",
              [](FakeGrant& grant) { return std::vector<int>{grant.arena.get()}; }},
        NoMap{"AnArenaThatMayNotBeWritten",
              [](FakeGrant& grant) {
                grant.arena.Reset(ReadOnly(grant.arena.get()));
                return grant.descriptors();
              }},
        NoMap{"AControlAreaOfAnotherEpoch",
              [](FakeGrant& grant) {
                grant.area->epoch = 8;
                return grant.descriptors();
              }},
        NoMap{"ACatalogOfAnotherEpoch",
              [](FakeGrant& grant) {
                static const auto other = CatalogMemory::Create({.node_count = 100}, 8).value();
                return std::vector<int>{grant.arena.get(), grant.control.get(), other.fd()};
              }}),
    [](const auto& info) { return info.param.name; });

TEST(DaemonAddressTest, IsParsed) {
  const auto tls = ParseDaemonAddress("tls://cache.example:9470");
  ASSERT_TRUE(tls.ok());
  EXPECT_EQ(tls->kind, DaemonAddress::Kind::kTls);
  EXPECT_EQ(tls->target, "cache.example:9470");
  EXPECT_EQ(ParseDaemonAddress("plaintext://[::1]:1")->target, "[::1]:1");
  EXPECT_EQ(ParseDaemonAddress("unix:///a b")->target, "/a b");
  for (const char* wrong :
       {"", "tls://", "tls://host", "tls://host:0", "tls://host:70000", "tls://:1", "tls://a/b:1",
        "unix://relative", "http://host:1", "tls://::1:1", "host:1"}) {
    EXPECT_FALSE(ParseDaemonAddress(wrong).ok()) << wrong;
  }
}

class MirrorTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(mirror_.Map(1 << 20).ok()); }
  static std::string Bytes(char fill) { return std::string(kBytes, fill); }
  static MirroredBlock BlockOf(const std::string& bytes, uint64_t id, uint32_t part = 0) {
    return {.id = id,
            .part = part,
            .checksum = Checksum(std::as_bytes(std::span(bytes.data(), bytes.size())))};
  }

  static constexpr uint64_t kOffset = 4096, kBytes = 8192;
  Mirror mirror_;
};

TEST_F(MirrorTest, ABlockStaysWhileSomebodyHoldsIt) {
  const std::string bytes = Bytes('x');
  const MirroredBlock block = BlockOf(bytes, 7);
  mirror_.Hold(kOffset, kBytes);
  mirror_.Hold(kOffset, kBytes);
  mirror_.Store(kOffset, block, 0, bytes.substr(0, 5000));
  EXPECT_FALSE(mirror_.Land(kOffset, block, kBytes)) << "half of it";
  mirror_.Store(kOffset, block, 5000, bytes.substr(5000));
  EXPECT_TRUE(mirror_.Land(kOffset, block, kBytes));
  mirror_.Store(kOffset, block, 0, "y");
  EXPECT_TRUE(mirror_.Has(kOffset, block));
  EXPECT_EQ(mirror_.data()[kOffset], std::byte{'x'}) << "what has landed is read by others";
  mirror_.Drop(kOffset);
  EXPECT_TRUE(mirror_.Has(kOffset, block));
  mirror_.Drop(kOffset);
  EXPECT_FALSE(mirror_.Has(kOffset, block));
  mirror_.Hold(kOffset, kBytes);
  EXPECT_EQ(mirror_.data()[kOffset], std::byte{0}) << "the memory was given back";
  mirror_.Drop(kOffset);
}

/// The daemon moves blocks: where one part of a place lay, another can lie under the same id while
/// a lease that has forgotten the first one still holds the slot; and a damaged block is filled
/// anew.
TEST_F(MirrorTest, OtherBytesUnderTheSameIdAreFetchedAnew) {
  const std::string before = Bytes('x'), after = Bytes('y');
  mirror_.Hold(kOffset, kBytes);
  mirror_.Become(kOffset, BlockOf(before, 7));
  for (const MirroredBlock& other : {BlockOf(after, 7, 1), BlockOf(before, 7), BlockOf(after, 7)}) {
    EXPECT_FALSE(mirror_.Has(kOffset, other));
    const std::string& bytes = other == BlockOf(before, 7) ? before : after;
    mirror_.Store(kOffset, other, 0, bytes);
    EXPECT_TRUE(mirror_.Land(kOffset, other, kBytes));
    EXPECT_EQ(mirror_.data()[kOffset], std::byte(bytes[0]));
  }
  mirror_.Drop(kOffset);
}

}  // namespace
}  // namespace thermocline
