// A real thermoclined on directories of its own, for tests: started, killed and started again by
// its pid. Needs the binary in the build's bin/, so list thermoclined among a test's dependencies
// (add_dependencies).
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "client/client.h"
#include "tests/clean_environment.h"

namespace thermocline {

#define ASSERT_OK(expression)                    \
  do {                                           \
    const absl::Status tc_status = (expression); \
    ASSERT_TRUE(tc_status.ok()) << tc_status;    \
  } while (false)

/// Of what happens soon, on a machine that may be busy.
inline constexpr std::chrono::milliseconds kPatience{60'000};

inline bool Eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds within = kPatience) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

inline constexpr const char* kDaemonBinary = TC_BUILD_DIR "/bin/thermoclined";
inline constexpr const char* kThermoctlBinary = TC_BUILD_DIR "/bin/thermoctl";

/// Starts a program; posix_spawn, because a fork of a process with gRPC's threads is the test's
/// subject, not its means.
inline pid_t Spawn(const std::vector<std::string>& arguments, int input, int output, int errors) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input, 0);
  ::posix_spawn_file_actions_adddup2(&actions, output, 1);
  ::posix_spawn_file_actions_adddup2(&actions, errors, 2);
  pid_t pid = -1;
  TC_CHECK(::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ) == 0);
  ::posix_spawn_file_actions_destroy(&actions);
  return pid;
}

class DaemonProcess {
 public:
  struct Options {
    std::string warm_capacity = "128MiB";
    std::string cold_capacity = "256MiB";
    std::vector<std::string> more;  // further arguments
    bool remote = false;            // Connect() does without the map
    // Called with the daemon's directory, in which `arena` and `data` lie, before it starts.
    std::function<void(const std::string& directory)> prepare;
    std::string program = kDaemonBinary;
  };
  explicit DaemonProcess(Options options) : options_(std::move(options)) {
    // The arena wants a tmpfs, and a socket's path is short.
    char directory[] = "/dev/shm/tc-test-XXXXXX";
    TC_CHECK(::mkdtemp(directory) != nullptr);
    directory_ = directory;
    ::mkdir((directory_ + "/arena").c_str(), 0700);
    ::mkdir((directory_ + "/data").c_str(), 0700);
    if (options_.prepare) options_.prepare(directory_);
    Start();
  }
  DaemonProcess() : DaemonProcess(Options{}) {}
  ~DaemonProcess() {
    if (pid_ > 0) Stop(SIGKILL);
    std::filesystem::remove_all(directory_);
  }
  DaemonProcess(const DaemonProcess&) = delete;

  /// Returns when the daemon takes clients.
  void Start() {
    TC_CHECK(pid_ < 0);
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    const int log = ::open(log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    std::vector<std::string> arguments = {options_.program,
                                          "--socket",
                                          socket(),
                                          "--data-dir",
                                          directory_ + "/data",
                                          "--arena-dir",
                                          directory_ + "/arena",
                                          "--warm-capacity",
                                          options_.warm_capacity,
                                          "--cold-capacity",
                                          options_.cold_capacity,
                                          "--http",
                                          "off"};
    for (std::string argument : options_.more) {
      const size_t at = argument.find("DIRECTORY");  // the daemon's
      if (at != std::string::npos) argument.replace(at, 9, directory_);
      arguments.push_back(std::move(argument));
    }
    pid_ = Spawn(arguments, null, log, log);
    ::close(null);
    ::close(log);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!Client::Connect({.socket_path = socket(), .client_name = "fixture"}).ok()) {
      const bool exited = ::waitpid(pid_, nullptr, WNOHANG) != 0;
      if (exited || std::chrono::steady_clock::now() > deadline) {
        std::fprintf(stderr, "the daemon did not start:\n%s", Log().c_str());
        std::abort();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  /// Returns the wait status.
  int Stop(int signal = SIGTERM) {
    ::kill(pid_, signal);
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

  std::string socket() const { return directory_ + "/t.sock"; }
  const std::string& directory() const { return directory_; }
  pid_t pid() const { return pid_; }
  std::string log_path() const { return directory_ + "/log"; }
  std::string Log() const {
    std::ostringstream text;
    text << std::ifstream(log_path()).rdbuf();
    return text.str();
  }
  /// Of the socket where clients without the map come in; "" for those with it.
  std::string remote_address() const {
    return options_.remote ? "unix://" + socket() + ".grpc" : "";
  }
  static constexpr std::chrono::milliseconds kCallTimeout{20'000};
  std::unique_ptr<Client> Connect() const {
    auto client = Client::Connect({.socket_path = socket(),
                                   .remote = {.address = remote_address()},
                                   .client_name = "test",
                                   .timeout = kCallTimeout});
    if (!client.ok()) std::fprintf(stderr, "%s\n", std::string(client.status().message()).c_str());
    TC_CHECK(client.ok());
    return *std::move(client);
  }

 private:
  const Options options_;
  std::string directory_;
  pid_t pid_ = -1;
};

/// While it lives no message is answered.
class Silence {
 public:
  explicit Silence(const DaemonProcess& daemon) : pid_(daemon.pid()) {
    ::kill(pid_, SIGSTOP);
    siginfo_t stopped;  // its threads stop one by one
    TC_CHECK(::waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED) == 0);
  }
  ~Silence() { ::kill(pid_, SIGCONT); }

 private:
  const pid_t pid_;
};

}  // namespace thermocline
