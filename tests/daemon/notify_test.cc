// What the service manager hears from the daemon: a real datagram socket stands where systemd's
// would, and a thread of the daemon is stopped to see whether anybody notices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <fstream>

#include "tests/daemon/daemon_process.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using testing::DaemonPlace;
using testing::DaemonProcess;
using ::testing::HasSubstr;
using testing::RawClient;

constexpr milliseconds kPatience{60'000};

/// The far end of $NOTIFY_SOCKET.
class Manager {
 public:
  explicit Manager(const DaemonPlace& place) : path_(place.root + "/notify") {
    socket_.Reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }

  /// For the child, between fork and exec.
  std::function<void()> Environment(milliseconds watchdog = milliseconds(0)) const {
    return [path = path_, watchdog] {
      ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
      if (watchdog.count() == 0) return;
      ::setenv("WATCHDOG_USEC", std::to_string(watchdog.count() * 1000).c_str(), 1);
      ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
    };
  }
  /// The next message; "" when none comes in time.
  std::string Next(milliseconds patience) {
    timeval time{.tv_sec = patience.count() / 1000, .tv_usec = patience.count() % 1000 * 1000};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    char bytes[4096];
    const ssize_t got = ::recv(socket_.get(), bytes, sizeof bytes, 0);
    return got <= 0 ? "" : std::string(bytes, static_cast<size_t>(got));
  }
  /// The first message that holds `text`; "" when none comes in time.
  std::string WaitFor(const std::string& text, milliseconds patience = kPatience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < deadline) {
      const std::string message = Next(milliseconds(100));
      if (message.find(text) != std::string::npos) return message;
    }
    return "";
  }
  void ForgetAll() {
    while (!Next(milliseconds(1)).empty()) continue;
  }
  int CountWithin(const std::string& text, milliseconds time) {
    const auto deadline = std::chrono::steady_clock::now() + time;
    int count = 0;
    while (std::chrono::steady_clock::now() < deadline) {
      if (Next(milliseconds(20)).find(text) != std::string::npos) ++count;
    }
    return count;
  }

 private:
  const std::string path_;
  UniqueFd socket_;
};

/// Stops the threads of a child that have this name, and no others, until it goes. Threads that
/// those have started have their name too, unless they took another.
class StoppedThreads {
 public:
  StoppedThreads(pid_t process, const std::string& name) {
    for (const auto& task :
         std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
      std::string found;
      std::getline(std::ifstream(task.path() / "comm"), found);
      if (found != name) continue;
      const pid_t thread = std::stoi(task.path().filename());
      if (::ptrace(PTRACE_SEIZE, thread, 0, 0) != 0) continue;
      stopped_.push_back(thread);
      EXPECT_EQ(::ptrace(PTRACE_INTERRUPT, thread, 0, 0), 0);
      EXPECT_EQ(::waitpid(thread, nullptr, __WALL), thread);
    }
  }
  ~StoppedThreads() {
    for (const pid_t thread : stopped_) ::ptrace(PTRACE_DETACH, thread, 0, 0);
  }
  bool any() const { return !stopped_.empty(); }

 private:
  std::vector<pid_t> stopped_;
};

TEST(DaemonNotify, ReadyIsSaidOnceClientsCanConnect) {
  DaemonPlace place;
  Manager manager(place);
  DaemonProcess daemon(place, {}, manager.Environment());
  EXPECT_THAT(manager.Next(kPatience), HasSubstr("STATUS=opening"));
  const std::string ready = manager.Next(kPatience);
  EXPECT_EQ(ready, "READY=1\nSTATUS=serving at " + place.socket);
  EXPECT_TRUE(RawClient(place).session.welcomed()) << "at once";
  EXPECT_EQ(manager.CountWithin("WATCHDOG", milliseconds(500)), 0) << "nobody asked for it";
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(DaemonNotify, EndIsSaidWithTheTimeThatItMayTake) {
  DaemonPlace place;
  Manager manager(place);
  DaemonProcess daemon(place, {"--shutdown-timeout=100s"}, manager.Environment());
  ASSERT_FALSE(manager.WaitFor("READY=1").empty()) << daemon.log();
  EXPECT_EQ(daemon.Stop(), 0);
  EXPECT_THAT(manager.WaitFor("STOPPING=1"),
              AllOf(HasSubstr("EXTEND_TIMEOUT_USEC=120000000\n"), HasSubstr("STATUS=stopping")));
}

TEST(DaemonNotify, RefusedStartSaysWhyAndNeverReady) {
  DaemonPlace place;
  Manager manager(place);
  std::ofstream(place.root + "/file") << "x";
  DaemonProcess daemon(place, {"--data-dir=" + place.root + "/file"}, manager.Environment());
  EXPECT_EQ(daemon.Wait(), 1);
  EXPECT_THAT(manager.WaitFor("STATUS=refused to start: "), HasSubstr("--data-dir"));
  EXPECT_EQ(manager.CountWithin("READY", milliseconds(50)), 0);
}

/// The daemon answers at other doors meanwhile: it is the strand that must be alive.
TEST(DaemonNotify, StuckStrandIsSilentAndTheWatchdogSeesIt) {
  DaemonPlace place;
  Manager manager(place);
  DaemonProcess daemon(place, {}, manager.Environment(milliseconds(1000)));
  ASSERT_FALSE(manager.WaitFor("READY=1").empty()) << daemon.log();
  for (int beat = 0; beat < 5; ++beat) {
    EXPECT_EQ(manager.Next(kPatience), "WATCHDOG=1") << "again and again";
  }
  {
    const StoppedThreads strand(daemon.pid(), "tc-strand");
    if (!strand.any()) GTEST_SKIP() << "ptrace is not permitted here";
    manager.ForgetAll();
    EXPECT_EQ(manager.CountWithin("WATCHDOG=1", milliseconds(2500)), 0);
  }
  EXPECT_EQ(manager.Next(kPatience), "WATCHDOG=1") << "and it goes on";
  {
    const StoppedThreads workers(daemon.pid(), "tc-worker");
    EXPECT_TRUE(workers.any());
    manager.ForgetAll();
    for (int beat = 0; beat < 2; ++beat) {
      EXPECT_EQ(manager.Next(kPatience), "WATCHDOG=1") << "others may be slow";
    }
  }
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(DaemonNotify, MissingManagerIsAWarningOnly) {
  DaemonPlace place;
  DaemonProcess daemon(place, {}, [] { ::setenv("NOTIFY_SOCKET", "/nowhere/at/all", 1); });
  ASSERT_TRUE(daemon.Ready());
  EXPECT_TRUE(testing::Eventually([&] {
    return daemon.log().find("service_manager_unreachable") != std::string::npos;
  })) << daemon.log();
  EXPECT_EQ(daemon.Stop(), 0);
}

}  // namespace
}  // namespace thermocline
