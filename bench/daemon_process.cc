#include "bench/daemon_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "client/client.h"
#include "tests/clean_environment.h"

extern char** environ;

namespace thermocline::bench {
namespace {

constexpr std::chrono::seconds kStartLimit{20};
constexpr std::chrono::milliseconds kPollInterval{10};

absl::StatusOr<std::filesystem::path> ScratchDirectory(const std::string& parent) {
  std::string path = parent + "/thermocline-bench.XXXXXX";
  if (mkdtemp(path.data()) == nullptr) return ErrnoStatus(errno, "mkdtemp " + path);
  return std::filesystem::path(path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DaemonProcess>> DaemonProcess::Start(const Options& options) {
  std::unique_ptr<DaemonProcess> daemon(new DaemonProcess(options));
  // The cold tier's figures are those of a disk, and /tmp may be none: beside the program there is
  // one.
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  TC_ASSIGN_OR_RETURN(daemon->directory_, ScratchDirectory(self.parent_path()));
  TC_ASSIGN_OR_RETURN(daemon->runtime_, ScratchDirectory("/dev/shm"));
  TC_RETURN_IF_ERROR(daemon->Spawn());
  return daemon;
}

absl::Status DaemonProcess::Restart() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  return Spawn();
}

absl::Status DaemonProcess::Spawn() {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string log = (directory_ / "log").string();
  std::vector<std::string> words = {(self.parent_path() / "thermoclined").string(),
                                    "--socket",
                                    socket_path(),
                                    "--data-dir",
                                    (directory_ / "data").string(),
                                    "--arena-dir",
                                    runtime_.string(),
                                    "--warm-capacity",
                                    options_.warm_capacity,
                                    "--cold-capacity",
                                    options_.cold_capacity,
                                    "--http",
                                    "off"};
  words.insert(words.end(), options_.more.begin(), options_.more.end());
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
  const int error = posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, "start " + words[0], "build the target thermoclined");

  const auto limit = std::chrono::steady_clock::now() + kStartLimit;
  while (std::chrono::steady_clock::now() < limit) {
    if (Client::Connect({.socket_path = socket_path()}).ok()) return absl::OkStatus();
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      break;
    }
    std::this_thread::sleep_for(kPollInterval);
  }
  std::ifstream file(log);
  return absl::UnavailableError("thermoclined did not start: " +
                                std::string(std::istreambuf_iterator<char>(file), {}));
}

DaemonProcess::~DaemonProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
  std::filesystem::remove_all(runtime_, ignored);
}

}  // namespace thermocline::bench
