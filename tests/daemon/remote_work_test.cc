// What stands between a remote client and the arena, without a daemon: tokens, slots in hand,
// messages; and the sessions against a host that answers when a test says so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <future>

#include "base/file_util.h"
#include "daemon/data_write.h"
#include "daemon/grpc_remote_session.h"
#include "daemon/remote_sessions.h"
#include "daemon/remote_tokens.h"
#include "daemon/remote_work.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kToken(40, 't');

std::string HashText(std::string_view token) { return ToHex(HashOfRemoteToken(token)); }

TEST(RemoteTokensTest, LinesAreParsedAndMistakesNamed) {
  // printf %s tttttttttttttttttttttttttttttttttttttttt | sha256sum
  EXPECT_EQ(HashText(kToken), "6a87499eebbac68617673349b2d323e5a7974f5f71745fff8b5160ecf6243b40");
  const auto tokens = ParseRemoteTokens("# nobody\n\n" + HashText(kToken) +
                                            "\tdefault  writer trainer-7 # the big one\r\n" +
                                            HashText("other") + " default reader r",
                                        "tokens", {"default"});
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_EQ(tokens->size(), 2u);
  EXPECT_EQ((*tokens)[0].name, "trainer-7");
  EXPECT_TRUE((*tokens)[0].may_write);
  EXPECT_FALSE((*tokens)[1].may_write);
  const auto wrong = [](const std::string& line) {
    const auto parsed = ParseRemoteTokens("\n" + line, "tokens", {"default"});
    EXPECT_FALSE(parsed.ok()) << line;
    return std::string(parsed.status().message());
  };
  const std::string hash = HashText(kToken);
  EXPECT_THAT(wrong(hash), HasSubstr("tokens:2"));
  EXPECT_THAT(wrong("abc default writer x"), HasSubstr("sha256sum"));
  EXPECT_THAT(wrong(hash + " elsewhere writer x"), HasSubstr("it has \"default\""));
  EXPECT_THAT(wrong(hash + " default admin x"), HasSubstr("role"));
  EXPECT_THAT(wrong(hash + " default writer x y"), HasSubstr("a line is"));
  EXPECT_THAT(wrong(hash + " default writer x\n" + hash + " default reader y"),
              HasSubstr("tokens:3: this token has a line already"));
}

TEST(RemoteTokensTest, TheFileIsReadAgainWhenItChanges) {
  char name[] = "/tmp/tc-tokens-XXXXXX";
  const std::string directory = ::mkdtemp(name);
  const std::string path = directory + "/tokens";
  const std::string line = HashText(kToken) + " default writer a\n";
  EXPECT_FALSE(RemoteTokenFile::Open(path, {"default"}).ok());
  ASSERT_TRUE(WriteFileAtomically(path, line).ok());
  const auto file = RemoteTokenFile::Open(path, {"default"});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto token = (*file)->Find(kToken);
  ASSERT_TRUE(token.has_value());
  EXPECT_EQ(token->name, "a");
  EXPECT_FALSE((*file)->Find("tt").has_value());
  EXPECT_FALSE((*file)->Find(std::string(300, 't')).has_value());
  EXPECT_TRUE((*file)->Has(*token));
  ASSERT_TRUE(WriteFileAtomically(path, HashText(kToken) + " default reader a\n").ok());
  (*file)->ReloadIfChanged();
  EXPECT_FALSE((*file)->Has(*token)) << "another role is another token";
  EXPECT_FALSE((*file)->Find(kToken)->may_write);
  std::filesystem::remove(path);
  (*file)->ReloadIfChanged();
  EXPECT_TRUE((*file)->Find(kToken).has_value()) << "what was read stays";
  ASSERT_TRUE(WriteFileAtomically(path, "").ok());
  (*file)->ReloadIfChanged();
  EXPECT_FALSE((*file)->Find(kToken).has_value());
  std::filesystem::remove_all(directory);
}

TEST(RemoteWorkTest, ASlotIsInOneHandAndFilledInOrder) {
  auto work = std::make_shared<RemoteWork>();
  {
    const auto hand = SlotsInHand::Take(work, {4096, 8192});
    ASSERT_TRUE(hand.ok());
    EXPECT_FALSE(SlotsInHand::Take(work, {12288, 8192}).ok());
    EXPECT_TRUE(SlotsInHand::Take(work, {12288}).ok()) << "the refused took none";
    EXPECT_TRUE(work->Advance(4096, 0, 10).ok());
    EXPECT_FALSE(work->Advance(4096, 11, 10).ok());
    EXPECT_TRUE(work->Advance(4096, 10, 6).ok());
    EXPECT_TRUE(work->Filled(4096, 16));
    EXPECT_TRUE(work->Advance(4096, 0, 4).ok()) << "anew";
    EXPECT_FALSE(work->Filled(4096, 16));
    EXPECT_FALSE(work->Filled(8192, 16));
  }
  EXPECT_FALSE(SlotsInHand::Take(work, {4096, 4096}).ok());
  EXPECT_TRUE(SlotsInHand::Take(work, {4096}).ok());
}

TEST(RemoteWorkTest, SlotsAreIdleOnceTheLastHandLetsGo) {
  auto work = std::make_shared<RemoteWork>();
  int idle = 0, cancelled = 0;
  const auto first = work->EnterStream([&] { ++cancelled; });
  const auto second = work->EnterStream([&] { ++cancelled; });
  ASSERT_TRUE(first && second);
  work->LeaveStream(*first);
  {
    const auto hand = SlotsInHand::Take(work, {4096});
    work->Close([&] { ++idle; });
    EXPECT_EQ(cancelled, 1) << "the one that is still open";
    EXPECT_EQ(idle, 0);
    EXPECT_FALSE(SlotsInHand::Take(work, {8192}).ok());
    EXPECT_FALSE(work->EnterStream([] {}).has_value());
  }
  EXPECT_EQ(idle, 1);
  work->Close([&] { ++idle; });
  EXPECT_EQ(idle, 1);
}

TEST(RemoteWorkTest, StreamsAreBounded) {
  RemoteWork work;
  std::optional<uint64_t> last;
  for (size_t i = 0; i < kMaxRemoteStreams; ++i) {
    last = work.EnterStream([] {});
    ASSERT_TRUE(last.has_value());
  }
  EXPECT_FALSE(work.EnterStream([] {}).has_value());
  work.LeaveStream(*last);
  EXPECT_TRUE(work.EnterStream([] {}).has_value());
}

TEST(RemoteWorkTest, MessagesAreChecked) {
  v1::WriteRequest write;
  EXPECT_FALSE(CheckWrite(write).ok());
  write.add_pieces()->set_data(std::string(kMaxChunkBytes, 'x'));
  EXPECT_TRUE(CheckWrite(write).ok());
  write.add_pieces()->set_data("y");
  EXPECT_FALSE(CheckWrite(write).ok());
  write.mutable_pieces(0)->clear_data();
  EXPECT_FALSE(CheckWrite(write).ok());
  v1::RemoteSessionRequest hello;
  EXPECT_FALSE(CheckRemoteHello(hello).ok());
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  EXPECT_TRUE(CheckRemoteHello(hello).ok());
  EXPECT_EQ(BearerOf("Bearer abc"), "abc");
  EXPECT_EQ(BearerOf("Basic abc"), std::nullopt);
  EXPECT_EQ(BearerOf(""), std::nullopt);
}

/// Keeps what was asked of it.
class FakeHost final : public SessionHost {
 public:
  void Join(uint64_t session, pid_t pid, uint64_t start_time, SessionMemory memory,
            std::function<void(absl::Status)> done) override {
    EXPECT_EQ(pid, 0);
    EXPECT_EQ(start_time, session);
    EXPECT_EQ(memory.control, nullptr);
    joins.push_back(std::move(done));
  }
  void Put(uint64_t, std::shared_ptr<std::atomic<bool>>) override {}
  void Leave(uint64_t session, Departure how) override {
    EXPECT_EQ(how, Departure::kLost);
    events.push_back("leave " + std::to_string(session - kFirstRemoteSession));
  }
  void ProcessGone(pid_t, uint64_t session) override {
    events.push_back("gone " + std::to_string(session - kFirstRemoteSession));
  }
  void Awaits(pid_t, uint64_t, std::function<void(bool)>) override {}
  void ExpireLeases(uint64_t, std::function<void()>) override {}
  void EndGrace() override {}
  void ExportSlab(uint64_t, std::function<void(absl::StatusOr<ExportedSlab>)> done) override {
    done(absl::NotFoundError("there is no hot tier"));
  }

  std::vector<std::function<void(absl::Status)>> joins;
  std::vector<std::string> events;
};

struct SessionsTest : ::testing::Test {
  RemoteSessions::Guest Guest() {
    return {.host = &host,
            .may_write = true,
            .peer = "test",
            .still_welcome = [] { return true; },
            .ended = [this](absl::Status why) { ended.set_value(std::move(why)); }};
  }
  Executor timers{{.name = "timers"}};
  FakeHost host;
  SessionRegistry registry;
  std::promise<absl::Status> ended;
  std::shared_ptr<RemoteSessions> Make(milliseconds lease) {
    return RemoteSessions::Make({.max_sessions = 2, .lease = lease, .tick = milliseconds(20)},
                                registry, timers);
  }
  std::shared_ptr<RemoteSessions> sessions = Make(milliseconds(60'000));
};

TEST_F(SessionsTest, ASessionThatEndsBeforeItHasJoinedLeavesAllTheSame) {
  const auto session = sessions->Open(Guest());
  ASSERT_TRUE(session.ok());
  bool welcomed = false;
  sessions->Admit(*session, "c", [&](const auto&) { welcomed = true; });
  sessions->End(*session, "gone");
  EXPECT_THAT(host.events, ElementsAre());
  host.joins.at(0)(absl::OkStatus());
  EXPECT_FALSE(welcomed);
  EXPECT_THAT(host.events, ElementsAre("leave 0", "gone 0"));
  EXPECT_EQ(registry.size(), 0u);
}

TEST_F(SessionsTest, SlotsStayUntilTheDaemonHasFilledThem) {
  const auto session = sessions->Open(Guest());
  absl::StatusOr<SessionToken> token = absl::UnknownError("");
  sessions->Admit(*session, "c", [&](const auto& given) { token = given; });
  host.joins.at(0)(absl::OkStatus());
  ASSERT_TRUE(token.ok());
  const auto identity = registry.Find(ToHex(*token));
  ASSERT_TRUE(identity.has_value());
  EXPECT_EQ(identity->role(), Role::kWriter);
  {
    const auto hand = SlotsInHand::Take(identity->remote, {4096});
    sessions->End(*session, "gone");
    EXPECT_THAT(host.events, ElementsAre("leave 0"));
    EXPECT_FALSE(registry.Find(ToHex(*token)).has_value());
  }
  EXPECT_THAT(host.events, ElementsAre("leave 0", "gone 0"));
}

TEST_F(SessionsTest, RoomIsBounded) {
  RemoteSessions::Guest guest = Guest();
  guest.ended = [](const absl::Status&) {};
  ASSERT_TRUE(sessions->Open(guest).ok());
  const auto second = sessions->Open(guest);
  ASSERT_TRUE(second.ok());
  const absl::Status refused = sessions->Open(guest).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("max_remote_sessions"));
  EXPECT_EQ(sessions->counters().refused, 1u);
  sessions->End(*second, "gone");
  EXPECT_TRUE(sessions->Open(guest).ok());
}

TEST_F(SessionsTest, WhoNeverSaysHelloIsForgotten) {
  sessions = Make(milliseconds(300));
  ASSERT_TRUE(sessions->Open(Guest()).ok());
  RemoteSessions::Guest second = Guest(), third = Guest();
  std::promise<void> second_ended;
  second.ended = [&](const absl::Status&) { second_ended.set_value(); };
  third.ended = [](const absl::Status&) {};
  ASSERT_TRUE(sessions->Open(second).ok());
  EXPECT_EQ(ended.get_future().get().code(), absl::StatusCode::kDeadlineExceeded);
  second_ended.get_future().wait();
  EXPECT_EQ(sessions->counters().expired, 2u);
  EXPECT_TRUE(sessions->Open(third).ok());
}

TEST_F(SessionsTest, WhoIsNotWelcomeAnyMoreIsEnded) {
  std::atomic<bool> welcome{true};
  RemoteSessions::Guest guest = Guest();
  guest.still_welcome = [&] { return welcome.load(); };
  const auto session = sessions->Open(guest);
  ASSERT_TRUE(session.ok());
  auto end = ended.get_future();
  for (int i = 0; i < 10; ++i) {
    sessions->Beat(*session);
    EXPECT_EQ(end.wait_for(milliseconds(30)), std::future_status::timeout);
  }
  welcome = false;
  EXPECT_EQ(end.get().code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(SessionsTest, AHostThatRefusesIsToldToTheClient) {
  const auto session = sessions->Open(Guest());
  absl::StatusOr<SessionToken> token = absl::UnknownError("");
  sessions->Admit(*session, "c", [&](const auto& given) { token = given; });
  host.joins.at(0)(absl::ResourceExhaustedError("full"));
  EXPECT_EQ(token.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(host.events, ElementsAre());
}

TEST_F(SessionsTest, AStopEndsAllAndTakesNoMore) {
  ASSERT_TRUE(sessions->Open(Guest()).ok());
  sessions->Stop("bye");
  EXPECT_EQ(ended.get_future().get().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(sessions->Open(Guest()).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace thermocline
