// The handshake against a scripted daemon: whatever it says or leaves out, the client gets a status
// that helps, in time, and no descriptor leaks.
#include "client/session.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/client/fake_session.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr milliseconds kPatience{60'000};

size_t OpenDescriptors() {
  size_t count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

absl::StatusOr<SessionGrant> Open(const std::string& path, milliseconds within = kPatience,
                                  bool admin = false) {
  return OpenSession({.socket_path = path, .client_name = "a test", .admin = admin},
                     steady_clock::now() + within);
}

absl::Status Answer(const std::string& bytes, const std::vector<int>& descriptors = {}) {
  FakeSessionServer server([&](FakePeer& peer) {
    peer.ReadHello();
    peer.Send(bytes, descriptors);
  });
  return Open(server.path()).status();
}

TEST(SessionTest, AnAbsentDaemonIsNamedWithHowToStartIt) {
  const absl::Status status = Open("/tmp/tc-no-such.sock").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("start one with: thermoclined --socket /tmp/tc-no-such.sock"));
}

TEST(SessionTest, AFileInPlaceOfTheSocketIsNoDaemon) {
  const std::string path = ::testing::TempDir() + "tc-not-a-socket." + std::to_string(::getpid());
  std::ofstream(path) << "text";
  EXPECT_EQ(Open(path).status().code(), absl::StatusCode::kUnavailable);
  ::unlink(path.c_str());
}

TEST(SessionTest, APathThatNoSocketCanHaveIsRefused) {
  EXPECT_EQ(Open("/tmp/" + std::string(200, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Open("").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SessionTest, HelloCarriesVersionsNameAndRole) {
  v1::Hello hello;
  FakeGrant grant;
  grant.welcome.set_admin_socket("/tmp/a.admin");
  FakeSessionServer server([&](FakePeer& peer) {
    hello = peer.ReadHello();
    peer.Send(Frame(FrameKind::kWelcome, grant.welcome), grant.descriptors());
  });
  const auto opened = Open(server.path(), kPatience, true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(hello.protocol_version(), kProtocolVersion);
  EXPECT_EQ(hello.layout_version(), kLayoutVersion);
  EXPECT_EQ(hello.client_name(), "a test");
  EXPECT_TRUE(hello.admin());
  EXPECT_EQ(opened->welcome.epoch(), 7u);
  struct stat arena;
  ASSERT_EQ(::fstat(opened->arena.get(), &arena), 0);
  EXPECT_EQ(arena.st_size, 1 << 20);
}

TEST(SessionTest, AWelcomeInPiecesIsPutTogether) {
  FakeGrant grant;
  FakeSessionServer server([&](FakePeer& peer) {
    peer.ReadHello();
    const std::string bytes = Frame(FrameKind::kWelcome, grant.welcome);
    peer.Send(bytes.substr(0, 3), grant.descriptors());
    for (size_t at = 3; at < bytes.size(); at += 5) {
      std::this_thread::sleep_for(milliseconds(1));
      peer.Send(bytes.substr(at, 5));
    }
  });
  EXPECT_TRUE(Open(server.path()).ok());
}

TEST(SessionTest, EveryTruncationEndsAsUnavailable) {
  FakeGrant grant;
  const std::string whole = Frame(FrameKind::kWelcome, grant.welcome);
  for (const size_t length :
       {size_t{0}, size_t{1}, size_t{7}, size_t{8}, size_t{20}, whole.size() - 1}) {
    FakeSessionServer server([&](FakePeer& peer) {
      peer.ReadHello();
      if (length > 0) peer.Send(whole.substr(0, length), grant.descriptors());
    });
    EXPECT_EQ(Open(server.path()).status().code(), absl::StatusCode::kUnavailable) << length;
  }
}

TEST(SessionTest, ASilentDaemonMeetsTheDeadline) {
  FakeSessionServer server([&](FakePeer& peer) { peer.WaitForEnd(); });
  const auto start = steady_clock::now();
  EXPECT_EQ(Open(server.path(), milliseconds(150)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(steady_clock::now() - start, kPatience / 2);
}

TEST(SessionTest, ARefusalKeepsTheDaemonsCodeAndWords) {
  v1::Refused refused;
  refused.set_code(9);
  refused.set_message("the client speaks layout version 1, this daemon version 2");
  const absl::Status status = Answer(Frame(FrameKind::kRefused, refused));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("this daemon version 2"));
  refused.set_code(0);
  EXPECT_EQ(Answer(Frame(FrameKind::kRefused, refused)).code(), absl::StatusCode::kUnknown);
  refused.set_code(4000);
  EXPECT_EQ(Answer(Frame(FrameKind::kRefused, refused)).code(), absl::StatusCode::kUnknown);
}

TEST(SessionTest, ARefusalBeforeHelloWasReadIsStillHeard) {
  v1::Refused refused;
  refused.set_code(8);
  refused.set_message("too many sessions");
  FakeSessionServer server([&](FakePeer& peer) { peer.Send(Frame(FrameKind::kRefused, refused)); });
  const absl::StatusCode code = Open(server.path()).status().code();
  // The kernel may drop the words when the daemon closes on an unread hello.
  EXPECT_TRUE(code == absl::StatusCode::kResourceExhausted ||
              code == absl::StatusCode::kUnavailable)
      << absl::StatusCodeToString(code);
}

TEST(SessionTest, ADaemonThatStopsBeforeItsWelcomeIsUnavailable) {
  v1::Goodbye goodbye;
  goodbye.set_reason("it stops");
  const absl::Status status = Answer(Frame(FrameKind::kGoodbye, goodbye));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("it stops"));
}

TEST(SessionTest, SomethingElseBehindTheSocketIsTold) {
  EXPECT_EQ(Answer("HTTP/1.1 400 Bad Request\r\n\r\n").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Answer(Frame(FrameKind::kHello, v1::Hello())).code(), absl::StatusCode::kInternal);
  const auto oversize = EncodeFrameHeader({kMaxFrameBytes + 1, FrameKind::kWelcome});
  EXPECT_EQ(Answer(std::string(reinterpret_cast<const char*>(oversize.data()), 8)).code(),
            absl::StatusCode::kInternal);
}

TEST(SessionTest, AWelcomeThatLacksSomethingIsRefused) {
  FakeGrant grant;
  const auto answer = [&](const std::function<void(v1::Welcome&)>& change) {
    v1::Welcome welcome = grant.welcome;
    change(welcome);
    return Answer(Frame(FrameKind::kWelcome, welcome), grant.descriptors()).code();
  };
  EXPECT_EQ(answer([](v1::Welcome&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(answer([](v1::Welcome& w) { w.set_session_token("short"); }),
            absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::Welcome& w) { w.clear_grpc_socket(); }), absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::Welcome& w) { w.set_grpc_socket("relative"); }),
            absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::Welcome& w) { w.set_arena_bytes(0); }), absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::Welcome& w) { w.set_arena_bytes(2 << 20); }),
            absl::StatusCode::kInternal);
  EXPECT_EQ(answer([](v1::Welcome& w) { w.set_arena_bytes(~uint64_t{0}); }),
            absl::StatusCode::kInternal);
}

TEST(SessionTest, TheWrongNumberOfDescriptorsIsRefusedAndNoneLeaks) {
  FakeGrant grant;
  const std::string welcome = Frame(FrameKind::kWelcome, grant.welcome);
  const int arena = grant.arena.get(), control = grant.control.get(), catalog = grant.catalog.fd();
  const size_t before = OpenDescriptors();
  EXPECT_EQ(Answer(welcome).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Answer(welcome, {arena}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Answer(welcome, {arena, control}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Answer(welcome, {arena, control, catalog, arena}).code(), absl::StatusCode::kInternal);
  UniqueFd pipe_like(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(Answer(welcome, {pipe_like.get(), control, catalog}).code(),
            absl::StatusCode::kInternal);
  pipe_like.Reset();
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(SessionTest, AnAdminNeedsAnAdminSocket) {
  FakeGrant grant;
  FakeSessionServer server([&](FakePeer& peer) {
    peer.ReadHello();
    peer.Send(Frame(FrameKind::kWelcome, grant.welcome), grant.descriptors());
  });
  EXPECT_EQ(Open(server.path(), kPatience, true).status().code(), absl::StatusCode::kInternal);
}

TEST(TrustDaemonTest, OnlyOnesOwnDaemonOrRootsIsTold) {
  const std::string path = "/tmp/thermocline-1000/thermocline.sock";
  for (const bool named : {false, true}) {
    EXPECT_TRUE(TrustDaemon(1000, 1000, named, path).ok());
    EXPECT_TRUE(TrustDaemon(0, 1000, named, path).ok());
    const absl::Status foreign = TrustDaemon(1001, 1000, named, path);
    EXPECT_EQ(foreign.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(foreign.message()), HasSubstr("uid 1001"));
  }
  EXPECT_TRUE(TrustDaemon(1001, 0, true, path).ok()) << "whom root names, it means";
  EXPECT_FALSE(TrustDaemon(1001, 0, false, path).ok());
}

}  // namespace
}  // namespace thermocline
