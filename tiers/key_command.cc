#include "tiers/key_command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/process.h"
#include "base/unique_fd.h"

namespace thermocline {
namespace {

constexpr std::chrono::milliseconds kStopStep{50};  // until it is seen that it is to stop

using Deadline = std::chrono::steady_clock::time_point;

std::vector<std::string> WordsOf(const std::string& command) {
  std::vector<std::string> words;
  for (size_t at = 0; (at = command.find_first_not_of(" \t", at)) != std::string::npos;) {
    const size_t end = std::min(command.find_first_of(" \t", at), command.size());
    words.push_back(command.substr(at, end - at));
    at = end;
  }
  return words;
}

/// How the child begins: what it inherits, and what it does not.
class SpawnPlan {
 public:
  explicit SpawnPlan(int output) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
    sigset_t none, all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    for (const int error :
         {posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0),
          posix_spawn_file_actions_adddup2(&actions_, output, STDOUT_FILENO),
          posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1),
          posix_spawnattr_setsigmask(&attributes_, &none),
          posix_spawnattr_setsigdefault(&attributes_, &all),
          posix_spawnattr_setpgroup(&attributes_, 0),
          posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                     POSIX_SPAWN_SETPGROUP)}) {
      if (error != 0) error_ = error;
    }
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  absl::StatusOr<pid_t> Start(std::vector<std::string> words) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t pid = -1;
    if (error_ == 0) {
      error_ =
          ::posix_spawn(&pid, arguments[0], &actions_, &attributes_, arguments.data(), environ);
    }
    if (error_ != 0) return ErrnoStatus(error_, "start " + words[0]);
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
  int error_ = 0;
};

/// A started program: ended, with all of its group, and waited for, when this goes.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    if (pid_ < 0) return;
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);  // a group that it has not entered yet has no members
    Reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  /// Its wait status. REQUIRES: it has ended, or is about to.
  int Reap() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_;
};

/// Whether `fd` can be read (or has ended) before the deadline, and before it is to stop.
bool AwaitInput(int fd, Deadline deadline, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd poll_fd{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&poll_fd, 1, static_cast<int>(std::min(left, kStopStep).count()));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
  return false;
}

}  // namespace

absl::StatusOr<size_t> RunKeyCommand(const std::string& command, std::span<std::byte> room,
                                     std::chrono::milliseconds patience,
                                     const std::stop_token& stop) {
  const Deadline deadline = std::chrono::steady_clock::now() + patience;
  std::vector<std::string> words = WordsOf(command);
  if (words.empty() || words[0][0] != '/') {
    return absl::InvalidArgumentError(
        "the command for keys must begin with a program's absolute path; it is run without a "
        "shell, so name one (/bin/sh) if you need it");
  }
  const std::string program = words[0];
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe for " + program);
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  TC_ASSIGN_OR_RETURN(const pid_t pid, SpawnPlan(input.get()).Start(std::move(words)));
  Child child(pid);
  input.Reset();
  TC_ASSIGN_OR_RETURN(const UniqueFd ended, OpenPidFd(pid));
  const auto late = [&]() -> absl::Status {
    if (stop.stop_requested()) return absl::CancelledError(program + " was ended");
    return absl::DeadlineExceededError(program + " has not printed the keys and ended within " +
                                       std::to_string(patience.count()) + " ms; it was ended");
  };
  for (size_t used = 0;;) {
    if (!AwaitInput(output.get(), deadline, stop)) return late();
    std::byte beyond;
    std::byte* const to = used < room.size() ? room.data() + used : &beyond;
    const ssize_t count = ::read(output.get(), to, used < room.size() ? room.size() - used : 1);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "read what " + program + " prints");
    if (count > 0 && used == room.size()) {
      return absl::ResourceExhaustedError(program + " prints more than " +
                                          std::to_string(room.size()) +
                                          " bytes, the most that is read; does it print keys?");
    }
    used += static_cast<size_t>(count);
    if (count > 0) continue;
    if (!AwaitInput(ended.get(), deadline, stop)) return late();
    const int status = child.Reap();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return used;
    return absl::AbortedError(program +
                              (WIFEXITED(status)
                                   ? " ended with code " + std::to_string(WEXITSTATUS(status))
                                   : " was ended by signal " + std::to_string(WTERMSIG(status))) +
                              "; what it said is in the daemon's standard error");
  }
}

}  // namespace thermocline
