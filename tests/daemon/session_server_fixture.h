// A session server against a host that only takes notes. Times are shortened.
#pragma once
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
inline constexpr milliseconds kAtOnce{30'000}, kLongLease{60'000};

inline bool Eventually(const std::function<bool()>& condition,
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

}  // namespace thermocline
