// When a client's leases, reservations and process are over.
#include "tests/daemon/session_server_fixture.h"

namespace thermocline {
namespace {

TEST_F(SessionServerTest, AHeartbeatKeepsTheLeases) {
  options_.lease = milliseconds(1000);
  Start();
  uint64_t before = BootNanoseconds(), longest_round = 0;
  RawSession session = SayHello(path_);
  ASSERT_TRUE(session.welcomed());
  const uint64_t first = session.control->lease_until_ns.load();
  uint64_t until = first, generation = 0;
  while (before < first + 200'000'000 || until == first) {
    session.Beat();
    std::this_thread::sleep_for(milliseconds(5));
    until = session.control->lease_until_ns.load();
    generation = session.control->lease_generation.load();
    const uint64_t now = BootNanoseconds();
    longest_round = std::max(longest_round, now - std::exchange(before, now));
  }
  if (longest_round > 400'000'000) GTEST_SKIP() << "this machine was too late to beat in time";
  EXPECT_EQ(generation, 0u);
}

TEST_F(SessionServerTest, SilenceEndsLeasesAndAHeartbeatBringsTheSessionBack) {
  options_.lease = milliseconds(500);
  Start();
  RawSession session = SayHello(path_);
  ASSERT_TRUE(session.welcomed());
  const uint64_t number = session.welcome.session();
  EXPECT_EQ(session.control->lease_generation.load(), 0u);
  ASSERT_TRUE(Eventually([&] { return host_.Noted("expire " + std::to_string(number)); }));
  EXPECT_LT(session.control->lease_until_ns.load(), BootNanoseconds());
  EXPECT_EQ(session.control->lease_generation.load(), 1u);
  EXPECT_TRUE(registry_.Find(session.token())) << "the session itself stays";
  EXPECT_TRUE(Eventually([&] { return LeasesAgain(session); }));
}

TEST_F(SessionServerTest, GoodbyeEndsTheSessionAtOnce) {
  Start();
  const RawSession session = SayHello(path_);
  SendBytes(session.socket.get(), testing::Frame(4, ""));
  EXPECT_TRUE(Eventually([&] { return host_.Noted("leave 1 goodbye"); }, kAtOnce));
  EXPECT_FALSE(registry_.Find(session.token()));
}

size_t WatchedProcesses() {
  size_t count = 0;
  for (const auto& descriptor : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the iterator's own
    const std::string target = std::filesystem::read_symlink(descriptor, gone).string();
    count += target.find("pidfd") != std::string::npos ? 1 : 0;
  }
  return count;
}

TEST_F(SessionServerTest, AProcessOfWhichNobodyAwaitsTheEndIsForgotten) {
  Start();
  const size_t before = WatchedProcesses();
  const RawSession session = SayHello(path_);
  SendBytes(session.socket.get(), testing::Frame(4, ""));
  ASSERT_TRUE(Eventually([&] { return host_.asked > 2; })) << "again and again";
  EXPECT_EQ(WatchedProcesses(), before + 1) << "what it was granted it may yet write";
  const RawSession again = SayHello(path_);
  host_.awaits = false;
  std::this_thread::sleep_for(5 * options_.tick);
  EXPECT_EQ(WatchedProcesses(), before + 1) << "it has a session";
  SendBytes(again.socket.get(), testing::Frame(4, ""));
  EXPECT_TRUE(Eventually([&] { return WatchedProcesses() == before; }));
}

TEST_F(SessionServerTest, ClosedSocketOfALivingProcessKeepsItsLeasesUntilTheyRunOut) {
  options_.lease = milliseconds(1000);
  Start();
  const RawSession session = SayHello(path_);
  const uint64_t until = session.control->lease_until_ns.load();
  ::shutdown(session.socket.get(), SHUT_RDWR);
  ASSERT_TRUE(Eventually([&] { return !registry_.Find(session.token()); }));
  ASSERT_TRUE(Eventually([&] { return host_.Noted("leave 1 alive"); }));
  EXPECT_GT(BootNanoseconds(), until);
  EXPECT_EQ(session.control->lease_until_ns.load(), until) << "it was not extended";
}

TEST_F(SessionServerTest, ExitOfTheProcessFreesEverythingAtOnce) {
  Start();
  const pid_t child = ChildWithSession([](RawSession&) {});
  ::kill(child, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return host_.Noted("leave 1 gone"); }, kAtOnce));
  EXPECT_TRUE(Eventually([&] { return host_.Noted("gone"); }));
  ::waitpid(child, nullptr, 0);
}

TEST_F(SessionServerTest, ForkedChildThatHoldsTheSocketIsNoReasonToWait) {
  Start();
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ChildWithSession([&](RawSession&) {
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      for (;;) ::pause();
    }
    if (::write(pipe_fds[1], &grandchild, sizeof grandchild) < 0) ::_exit(1);
  });
  pid_t grandchild = 0;
  ASSERT_EQ(::read(pipe_fds[0], &grandchild, sizeof grandchild),
            static_cast<ssize_t>(sizeof grandchild));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(Eventually([&] { return host_.Noted("leave 1 gone"); }, kAtOnce));
  ::kill(grandchild, SIGKILL);
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
}

TEST_F(SessionServerTest, StoppedProcessLosesItsLeasesButNotItsSlots) {
  options_.lease = milliseconds(500);
  Start();
  const pid_t child = ChildWithSession([](RawSession& session) {
    for (;;) {
      session.Beat();
      ::usleep(20'000);
    }
  });
  ::kill(child, SIGSTOP);
  ASSERT_EQ(::waitpid(child, nullptr, WUNTRACED), child);
  const size_t before = host_.notes().size();  // it may have been late before
  EXPECT_TRUE(Eventually([&] { return host_.notes().size() > before; }));
  EXPECT_TRUE(host_.Noted("expire 1"));
  EXPECT_FALSE(host_.Noted("leave 1 gone"));
  ::kill(child, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return host_.Noted("leave 1 gone"); }));
  ::waitpid(child, nullptr, 0);
}

// What a client pins in shared memory between its waking and the end of its old pins would end with
// them: until then it is not trusted with time.
TEST_F(SessionServerTest, ASilentClientLeasesAgainOnlyOnceItsOldLeasesHaveEnded) {
  host_.hold_expiry = true;
  options_.lease = milliseconds(500);
  Start();
  RawSession session = SayHello(path_);
  ASSERT_TRUE(session.welcomed());
  EXPECT_TRUE(Eventually([&] { return host_.Noted("expire 1"); }));
  EXPECT_EQ(session.control->lease_generation.load(), 1u);
  const uint64_t until = session.control->lease_until_ns.load();
  for (int i = 0; i < 10; ++i) {
    session.Beat();
    std::this_thread::sleep_for(options_.tick);
  }
  EXPECT_EQ(session.control->lease_until_ns.load(), until);
  host_.Expire();
  EXPECT_TRUE(Eventually([&] { return LeasesAgain(session); }));
}

TEST_F(SessionServerTest, StopSaysGoodbyeAndRevokesLeasesOnlyWhenAsked) {
  for (const bool revoke : {false, true}) {
    Start();
    const RawSession session = SayHello(path_);
    ASSERT_TRUE(session.welcomed());
    server_->Stop("gone for lunch", revoke);
    const auto frame = ReceiveFrame(session.socket.get());
    ASSERT_TRUE(frame && frame->kind == FrameKind::kGoodbye);
    v1::Goodbye goodbye;
    goodbye.ParseFromString(frame->payload);
    EXPECT_EQ(goodbye.reason(), "gone for lunch");
    EXPECT_EQ(session.control->lease_until_ns.load() == 0, revoke);
    EXPECT_EQ(session.control->lease_generation.load(), revoke ? 1u : 0u);
    EXPECT_FALSE(std::filesystem::exists(path_));
    server_.reset();
  }
}

TEST_F(SessionServerTest, GraceLastsUntilTheOldClientIsBack) {
  options_.sessions_file = directory_ + "/sessions";
  options_.grace = milliseconds(60'000);
  Start();
  EXPECT_THAT(host_.notes(), ElementsAre("grace")) << "there was nobody before";
  const RawSession old = SayHello(path_);
  ASSERT_TRUE(old.welcomed());
  server_.reset();  // as good as killed: the file is written at every change
  Start();
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_THAT(host_.notes(), ElementsAre("grace", "join 1"));
  const RawSession again = SayHello(path_);
  ASSERT_TRUE(again.welcomed());
  EXPECT_TRUE(Eventually([&] { return host_.notes().size() == 4; }));
  EXPECT_THAT(host_.notes(), ElementsAre("grace", "join 1", "join 1", "grace"));
}

TEST_F(SessionServerTest, GraceEndsWithTheLastOldProcessOrWithTime) {
  options_.sessions_file = directory_ + "/sessions";
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  const auto start_time = ProcessStartTime(child);
  ASSERT_TRUE(start_time.ok());
  const std::string line = std::to_string(child) + " " + std::to_string(*start_time) + " 2\n";
  const std::string dead = std::to_string(child) + " " + std::to_string(*start_time + 1) + " 1\n";
  ASSERT_TRUE(WriteFileAtomically(options_.sessions_file, line + dead).ok());
  const auto begin = std::chrono::steady_clock::now();
  Start();
  EXPECT_TRUE(Eventually([&] { return host_.Noted("grace"); })) << "by time";
  EXPECT_GE(std::chrono::steady_clock::now() - begin, options_.grace);
  server_.reset();
  options_.grace = milliseconds(60'000);
  NotingHost second;
  options_.homes[0].host = &second;
  auto server = SessionServer::Start(options_, *ClaimSocketPath(path_), registry_);
  ASSERT_TRUE(server.ok());
  EXPECT_FALSE(second.Noted("grace"));
  ::kill(child, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return second.Noted("grace"); })) << "by death";
  EXPECT_TRUE(second.Noted("gone")) << "what it was granted in the last epoch is free";
  ::waitpid(child, nullptr, 0);
}

TEST_F(SessionServerTest, AProcessThatHasNotComeBackInTimeIsForgottenToo) {
  options_.sessions_file = directory_ + "/sessions";
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  const std::string line = std::to_string(child) + " " + std::to_string(*ProcessStartTime(child));
  ASSERT_TRUE(WriteFileAtomically(options_.sessions_file, line + " 1\n").ok());
  host_.awaits = false;
  const size_t before = WatchedProcesses();
  Start();
  EXPECT_TRUE(Eventually([&] { return host_.Noted("grace"); })) << "by time";
  EXPECT_TRUE(Eventually([&] { return WatchedProcesses() == before; }));
  ASSERT_TRUE(SayHello(path_).welcomed());
  EXPECT_THAT(ReadFile(options_.sessions_file, 1 << 20).value(), Not(HasSubstr(line)))
      << "the next daemon does not wait for it either";
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_F(SessionServerTest, DamagedSessionsFileIsNoReasonNotToStartButToWait) {
  options_.sessions_file = directory_ + "/sessions";
  std::ofstream(options_.sessions_file) << "1 2 3 4\nnonsense";
  const auto begin = std::chrono::steady_clock::now();
  Start();
  EXPECT_TRUE(SayHello(path_).welcomed());
  EXPECT_TRUE(Eventually([&] { return host_.Noted("grace"); })) << "by time";
  EXPECT_GE(std::chrono::steady_clock::now() - begin, options_.grace)
      << "somebody may be missing of whom it cannot know";
}

TEST_F(SessionServerTest, NobodyIsWelcomeWhomTheNextDaemonWouldNotKnow) {
  options_.sessions_file = directory_ + "/sessions";
  Start();
  ASSERT_EQ(::mkdir(options_.sessions_file.c_str(), 0700), 0);  // no file can take its place
  const RawSession session = SayHello(path_);
  EXPECT_FALSE(session.welcomed());
  EXPECT_THAT(session.refused.message(), HasSubstr("remember the session"));
  EXPECT_EQ(registry_.size(), 0u);
  ASSERT_EQ(::rmdir(options_.sessions_file.c_str()), 0);
  EXPECT_TRUE(SayHello(path_).welcomed());
}

TEST_F(SessionServerTest, AFloodOfStrangersIsCountedAndBarelyLogged) {
  options_.home_of = [](const PeerUser&) -> absl::StatusOr<size_t> {
    return absl::PermissionDeniedError("a stranger");
  };
  Start();
  const std::string log = directory_ + "/log";
  ASSERT_TRUE(SetUpLog({.file = log}).ok());
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 300; ++i) {
    const UniqueFd socket = ConnectUnix(path_);
    ASSERT_TRUE(ReceiveFrame(socket.get())->kind == FrameKind::kRefused);
  }
  ASSERT_TRUE(SetUpLog({}).ok());
  const auto seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(server_->counters().refused, 300u);
  std::ifstream file(log);
  int64_t lines = 0;
  for (std::string line; std::getline(file, line);) {
    lines += line.find("session_refused") == std::string::npos ? 0 : 1;
  }
  EXPECT_GE(lines, 10);
  EXPECT_LE(lines, 11 + std::chrono::floor<std::chrono::seconds>(seconds).count());
}

}  // namespace
}  // namespace thermocline
