// The client library from elsewhere: over TLS with certificates made here, by options and by the
// environment; and where the daemon is near but its memory cannot be had.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_util.h"
#include "client/address.h"
#include "client/mirror.h"
#include "hashing/sha256.h"
#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr char kToken[] = "0123456789abcdef0123456789abcdef";

/// Certificates of one authority for a daemon and a client, by the openssl program.
bool MakeCertificates(const std::string& directory) {
  const std::string script =
      "mkdir -p " + directory + " && cd " + directory +
      " && exec >log 2>&1 && new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes' &&"
      " openssl req -x509 $new -days 2 -subj '/CN=CA' -keyout ca.key -out ca.pem &&"
      " echo 'subjectAltName=IP:127.0.0.1' >ext && for name in server client; do"
      " openssl req -new $new -subj /CN=$name -keyout $name.key -out $name.csr && openssl x509 -req"
      " -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext"
      " -out $name.pem || exit 1; done";
  return std::system(script.c_str()) == 0;
}

class RemoteClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/tc-remote-XXXXXX";
    directory_ = ::mkdtemp(name);
    if (!MakeCertificates(directory_)) GTEST_SKIP() << "needs the program openssl";
    Sha256Builder sha;
    sha.Raw(std::as_bytes(std::span(kToken, sizeof kToken - 1)));
    ASSERT_TRUE(
        WriteFileAtomically(File("tokens"), ToHex(sha.Finish()) + " default writer t").ok());
    ASSERT_TRUE(WriteFileAtomically(File("token"), std::string(kToken) + "\n").ok());
    daemon_.emplace(DaemonProcess::Options{
        .more = {"--grpc-listen", "127.0.0.1:0", "--tls-certificate", File("server.pem"),
                 "--tls-key", File("server.key"), "--tls-client-ca", File("ca.pem"), "--token-file",
                 File("tokens")}});
    const auto address = ReadFile(daemon_->socket() + ".tcp", 100);
    ASSERT_TRUE(address.ok()) << address.status();
    remote_ = {.address = "tls://" + address->substr(0, address->size() - 1),
               .ca_file = File("ca.pem"),
               .certificate_file = File("client.pem"),
               .key_file = File("client.key"),
               .token_file = File("token")};
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string File(const std::string& name) const { return directory_ + "/" + name; }
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
  std::string directory_;
  std::optional<DaemonProcess> daemon_;
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
  ::setenv("THERMOCLINE_TOKEN_FILE", remote_.token_file.c_str(), 1);
  ExpectToWork(Client::Connect({.socket_path = File("no.sock")}), 2);
  for (const char* name : {"ADDRESS", "CA", "CERTIFICATE", "KEY", "TOKEN_FILE"}) {
    ::unsetenv((std::string("THERMOCLINE_") + name).c_str());
  }
  EXPECT_FALSE(Client::Connect({.socket_path = File("no.sock")}).ok());
}

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

TEST(MirrorTest, ABlockStaysWhileSomebodyHoldsIt) {
  Mirror mirror;
  ASSERT_TRUE(mirror.Map(1 << 20).ok());
  const std::string bytes(8192, 'x');
  const uint64_t sum = Checksum(std::as_bytes(std::span(bytes.data(), bytes.size())));
  mirror.Hold(4096, 8192);
  mirror.Hold(4096, 8192);
  mirror.Store(4096, 7, 0, bytes.substr(0, 5000));
  EXPECT_FALSE(mirror.Land(4096, 7, 8192, sum)) << "half of it";
  mirror.Store(4096, 7, 5000, bytes.substr(5000));
  EXPECT_TRUE(mirror.Land(4096, 7, 8192, sum));
  mirror.Store(4096, 7, 0, "y");
  EXPECT_TRUE(mirror.Has(4096, 7));
  EXPECT_EQ(mirror.data()[4096], std::byte{'x'}) << "what has landed is read by others";
  mirror.Drop(4096);
  EXPECT_TRUE(mirror.Has(4096, 7));
  mirror.Drop(4096);
  EXPECT_FALSE(mirror.Has(4096, 7));
  mirror.Hold(4096, 8192);
  EXPECT_EQ(mirror.data()[4096], std::byte{0}) << "the memory was given back";
  mirror.Drop(4096);
}

}  // namespace
}  // namespace thermocline
