// The session socket against a host that only takes notes: who is welcomed, who is refused and why,
// and when a client's leases, reservations and process are over. Times are shortened.
#include "daemon/session_server.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/file_util.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/process.h"
#include "daemon/control_area.h"
#include "tests/daemon/raw_session.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using testing::ConnectUnix;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HelloWords;
using testing::RawSession;
using testing::ReceiveFrame;
using testing::SayHello;
using testing::SendBytes;

/// Notes "join 1", "leave 1 alive", "leave 1 gone", "leave 1 goodbye", "gone", "expire 1", "grace".
class NotingHost final : public SessionHost {
 public:
  void Join(uint64_t session, pid_t, uint64_t, SessionMemory memory,
            std::function<void(absl::Status)> done) override {
    TC_CHECK(memory.control != nullptr);
    Note("join " + std::to_string(session));
    done(join_answer);
  }
  void Put(uint64_t, std::shared_ptr<std::atomic<bool>>) override {}
  void Leave(uint64_t session, Departure how) override {
    const char* const words[] = {" gone", " goodbye", " alive"};
    Note("leave " + std::to_string(session) + words[static_cast<size_t>(how)]);
  }
  void ProcessGone(pid_t, uint64_t) override { Note("gone"); }
  void Awaits(pid_t, uint64_t, std::function<void(bool)> done) override {
    done(++asked > 0 && awaits);
  }
  void ExpireLeases(uint64_t session, std::function<void()> done) override {
    Note("expire " + std::to_string(session));
    MutexLock lock(mutex_);
    hold_expiry ? waiting_.push_back(std::move(done)) : done();
  }
  void EndGrace() override { Note("grace"); }
  void ExportSlab(uint64_t slab, std::function<void(absl::StatusOr<ExportedSlab>)> done) override {
    if (slab == kSlowSlab) {
      ++exports_under_way;
      MutexLock lock(mutex_);
      return waiting_.push_back([this, done = std::move(done)] {
        --exports_under_way;
        done(absl::UnavailableError("at last"));
      });
    }
    if (slab == 7) return done(ExportedSlab{UniqueFd(::memfd_create("slab", MFD_CLOEXEC)), 4096});
    done(absl::NotFoundError("there is no such slab"));
  }

  bool Noted(const std::string& what) {
    MutexLock lock(mutex_);
    return std::find(notes_.begin(), notes_.end(), what) != notes_.end();
  }
  std::vector<std::string> notes() {
    MutexLock lock(mutex_);
    return notes_;
  }
  /// What waits while hold_expiry is set, and exports of kSlowSlab.
  void Expire() {
    MutexLock lock(mutex_);
    hold_expiry = false;
    for (const auto& done : waiting_) done();
    waiting_.clear();
  }
  absl::Status join_answer;
  std::atomic<bool> hold_expiry = false;
  std::atomic<bool> awaits = true;
  std::atomic<int> asked = 0;
  static constexpr uint64_t kSlowSlab = 9;
  std::atomic<size_t> exports_under_way = 0;

 private:
  void Note(std::string what) {
    MutexLock lock(mutex_);
    notes_.push_back(std::move(what));
  }
  Mutex mutex_;
  std::vector<std::function<void()>> waiting_ TC_GUARDED_BY(mutex_);
  std::vector<std::string> notes_ TC_GUARDED_BY(mutex_);
};

/// At once, even where the machine is busy, and long before a lease of that length is over.
constexpr milliseconds kAtOnce{30'000}, kLongLease{60'000};

bool Eventually(const std::function<bool()>& condition,
                milliseconds patience = milliseconds(60'000)) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

class SessionServerTest : public ::testing::Test {
 protected:
  SessionServerTest() {
    char name[] = "/tmp/tc-session-XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = directory_ + "/s/t.sock";
    arena_.Reset(::memfd_create("arena", MFD_CLOEXEC));
    catalog_.Reset(::memfd_create("catalog", MFD_CLOEXEC));
    options_.homes = {{.host = &host_,
                       .epoch = 77,
                       .arena_fd = arena_.get(),
                       .arena_bytes = 8192,
                       .catalog_fd = catalog_.get()}};
    options_.home_of = [](const PeerUser&) { return size_t{0}; };
    options_.grpc_socket = "G";
    options_.admin_socket = "A";
    options_.daemon_version = "1.2.3";
    options_.max_sessions = 4;
    options_.lease = kLongLease;
    options_.tick = milliseconds(20);
    options_.hello_deadline = kLongLease;
    options_.grace = milliseconds(500);
  }
  ~SessionServerTest() override {
    server_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Start() {
    auto claim = ClaimSocketPath(path_);
    ASSERT_TRUE(claim.ok()) << claim.status();
    auto server = SessionServer::Start(options_, *std::move(claim), registry_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  static std::string AskForSlab(uint64_t slab, const std::string& token) {
    v1::Hello hello;
    hello.ParseFromString(testing::HelloFrame().substr(kFrameHeaderBytes));
    hello.set_slab(slab);
    hello.set_session_token(token);
    return testing::Frame(1, hello.SerializeAsString());
  }
  /// What the server says to these bytes.
  v1::Refused RefusalOf(const std::string& bytes) {
    UniqueFd socket = ConnectUnix(path_);
    SendBytes(socket.get(), bytes);
    v1::Refused refused;
    const auto frame = ReceiveFrame(socket.get());
    EXPECT_TRUE(frame && frame->kind == FrameKind::kRefused);
    if (frame) refused.ParseFromString(frame->payload);
    char byte;
    EXPECT_LE(::recv(socket.get(), &byte, 1, 0), 0) << "the connection must end";
    return refused;
  }
  /// Whether a session that beats has leases again after its silences. Dead stay the leases of
  /// before a silence, and those of the silence, which may have ended with them: hence two
  /// generations a silence, of which a late test sees some more.
  bool LeasesAgain(RawSession& session) {
    session.Beat();
    const uint64_t silences = server_->counters().expired;
    return silences > 0 && session.control->lease_generation.load() == 2 * silences &&
           session.control->lease_until_ns.load() > BootNanoseconds();
  }
  /// A process that says hello, and tells once it was welcomed; it ends when killed.
  pid_t ChildWithSession(const std::function<void(RawSession&)>& then) {
    int pipe_fds[2];
    TC_CHECK(::pipe(pipe_fds) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      RawSession session = SayHello(path_);
      const char word = session.welcomed() ? 'y' : 'n';
      if (::write(pipe_fds[1], &word, 1) != 1) ::_exit(1);
      then(session);
      for (;;) ::pause();
    }
    char word = 0;
    EXPECT_EQ(::read(pipe_fds[0], &word, 1), 1);
    EXPECT_EQ(word, 'y');
    ::close(pipe_fds[0]);
    ::close(pipe_fds[1]);
    return child;
  }

  std::string directory_, path_;
  UniqueFd arena_, catalog_;
  SessionServerOptions options_;
  NotingHost host_;
  SessionRegistry registry_;
  std::unique_ptr<SessionServer> server_;
};

TEST_F(SessionServerTest, HelloIsWelcomedWithTokenAndDescriptors) {
  Start();
  const RawSession session = SayHello(path_);
  ASSERT_TRUE(session.welcomed()) << session.refused.message();
  EXPECT_EQ(session.welcome.session_token().size(), 32u);
  EXPECT_EQ(session.welcome.epoch(), 77u);
  EXPECT_EQ(session.welcome.arena_bytes(), 8192u);
  EXPECT_EQ(session.welcome.grpc_socket(), "G");
  EXPECT_EQ(session.welcome.admin_socket(), "") << "it did not ask for it";
  EXPECT_EQ(session.welcome.daemon_version(), "1.2.3");
  EXPECT_EQ(session.control->magic.load(), kControlAreaMagic);
  EXPECT_EQ(session.control->epoch.load(), 77u);
  EXPECT_GT(session.control->lease_until_ns.load(), BootNanoseconds());
  EXPECT_EQ(::ftruncate(session.control_fd.get(), 0), -1) << "a shrunk area would kill the daemon";
  const auto identity = registry_.Find(session.token());
  ASSERT_TRUE(identity);
  EXPECT_EQ(identity->session, session.welcome.session());
  EXPECT_FALSE(identity->admin);
  struct stat found;
  ASSERT_EQ(::stat(path_.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((directory_ + "/s").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700u);
}

TEST_F(SessionServerTest, AdminGetsTheAdminSocketAndRole) {
  Start();
  const RawSession session = SayHello(path_, {.admin = true});
  ASSERT_TRUE(session.welcomed());
  EXPECT_EQ(session.welcome.admin_socket(), "A");
  EXPECT_TRUE(registry_.Find(session.token())->admin);
}

TEST_F(SessionServerTest, TokensDifferAndOnlyOpenOnesAreKnown) {
  Start();
  const RawSession first = SayHello(path_);
  std::string ended;
  {
    const RawSession second = SayHello(path_);
    ended = second.token();
    EXPECT_NE(first.token(), ended);
    EXPECT_TRUE(registry_.Find(ended));
  }
  EXPECT_TRUE(Eventually([&] { return !registry_.Find(ended); }));
  EXPECT_TRUE(registry_.Find(first.token()));
  EXPECT_FALSE(registry_.Find(std::string(64, '0')));
  EXPECT_FALSE(registry_.Find("short"));
  EXPECT_FALSE(registry_.Find(""));
}

TEST_F(SessionServerTest, OtherVersionsAreRefusedWithAdvice) {
  Start();
  EXPECT_THAT(RefusalOf(testing::HelloFrame({.protocol_version = kProtocolVersion + 1})).message(),
              HasSubstr("upgrade the daemon"));
  EXPECT_THAT(RefusalOf(testing::HelloFrame({.protocol_version = 0})).message(),
              HasSubstr("upgrade the client"));
  const v1::Refused layout = RefusalOf(testing::HelloFrame({.layout_version = kLayoutVersion + 1}));
  EXPECT_THAT(layout.message(), HasSubstr("layout version " + std::to_string(kLayoutVersion + 1)));
  EXPECT_EQ(layout.code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
}

TEST_F(SessionServerTest, WhoAsksForSlabsAndGoesDoesNotPileUpExports) {
  Start();
  const RawSession session = SayHello(path_);
  ASSERT_TRUE(session.welcomed());
  const std::string words = AskForSlab(NotingHost::kSlowSlab, session.welcome.session_token());
  for (int i = 0; i < 500; ++i) {
    UniqueFd socket = ConnectUnix(path_);
    SendBytes(socket.get(), words);
  }
  // Behind all of them; and there is room for those who want no slab.
  EXPECT_TRUE(Eventually([&] { return SayHello(path_).welcomed(); }));
  EXPECT_GT(host_.exports_under_way, 0u);
  EXPECT_LE(host_.exports_under_way, 16u);
  host_.Expire();
  EXPECT_TRUE(Eventually([&] {
    UniqueFd socket = ConnectUnix(path_);
    SendBytes(socket.get(), AskForSlab(7, session.welcome.session_token()));
    const auto frame = ReceiveFrame(socket.get());
    return frame && frame->kind == FrameKind::kSlab;
  }));
}

TEST_F(SessionServerTest, ASlabOfTheDeviceIsHandedToWhoHasASession) {
  Start();
  const RawSession session = SayHello(path_);
  UniqueFd socket = ConnectUnix(path_);
  SendBytes(socket.get(), AskForSlab(7, session.welcome.session_token()));
  const auto frame = ReceiveFrame(socket.get());
  ASSERT_TRUE(frame && frame->kind == FrameKind::kSlab);
  EXPECT_EQ(frame->fds.size(), 1u);
  v1::Slab slab;
  EXPECT_TRUE(slab.ParseFromString(frame->payload));
  EXPECT_EQ(slab.bytes(), 4096u);
  char byte;
  EXPECT_LE(::recv(socket.get(), &byte, 1, 0), 0) << "the connection ends";
  EXPECT_THAT(RefusalOf(AskForSlab(8, session.welcome.session_token())).message(),
              HasSubstr("no such"));
  EXPECT_EQ(RefusalOf(AskForSlab(7, std::string(32, 'x'))).code(),
            static_cast<uint32_t>(absl::StatusCode::kUnauthenticated));
  EXPECT_EQ(server_->counters().sessions, 1u);
}

TEST_F(SessionServerTest, GarbageIsRefusedAndHurtsNobodyElse) {
  Start();
  RawSession good = SayHello(path_);
  EXPECT_THAT(RefusalOf(std::string(64, 'x')).message(), HasSubstr("no frame"));
  EXPECT_THAT(RefusalOf(testing::Frame(4, "")).message(), HasSubstr("must be Hello"));
  EXPECT_THAT(RefusalOf(testing::Frame(1, "\xff\xff\xff\xff")).message(), HasSubstr("parse"));
  std::string oversize = testing::Frame(1, "");
  const uint32_t bytes = kMaxFrameBytes + 1;
  std::memcpy(oversize.data(), &bytes, 4);
  EXPECT_THAT(RefusalOf(oversize).message(), HasSubstr("longer than"));
  RawSession twice = SayHello(path_);
  SendBytes(twice.socket.get(), testing::HelloFrame());
  const auto refused = ReceiveFrame(twice.socket.get());
  ASSERT_TRUE(refused && refused->kind == FrameKind::kRefused);
  EXPECT_THAT(refused->payload, HasSubstr("only Goodbye"));
  EXPECT_TRUE(registry_.Find(good.token()));
  EXPECT_TRUE(SayHello(path_).welcomed());
  EXPECT_EQ(server_->counters().refused, 5u);
}

TEST_F(SessionServerTest, SlowHelloIsRefused) {
  options_.hello_deadline = milliseconds(200);
  Start();
  UniqueFd socket = ConnectUnix(path_);
  SendBytes(socket.get(), "abc");
  const auto frame = ReceiveFrame(socket.get());
  ASSERT_TRUE(frame);
  v1::Refused refused;
  refused.ParseFromString(frame->payload);
  EXPECT_THAT(refused.message(), HasSubstr("no Hello within 200 ms"));
}

TEST_F(SessionServerTest, OneSessionTooManyIsRefused) {
  Start();
  std::vector<RawSession> sessions;
  for (int i = 0; i < 4; ++i) sessions.push_back(SayHello(path_));
  for (const RawSession& session : sessions) EXPECT_TRUE(session.welcomed());
  EXPECT_THAT(SayHello(path_).refused.message(), HasSubstr("max_sessions"));
  SendBytes(sessions[0].socket.get(), testing::Frame(4, ""));
  EXPECT_TRUE(Eventually([&] { return SayHello(path_).welcomed(); }));
}

TEST_F(SessionServerTest, WhatTheStackRefusesIsRefused) {
  host_.join_answer = absl::ResourceExhaustedError("no pin area is free");
  Start();
  EXPECT_THAT(SayHello(path_).refused.message(), HasSubstr("no pin area"));
  EXPECT_EQ(registry_.size(), 0u);
}

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
