#include "tests/crash/daemon_under_test.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/check.h"
#include "base/unique_fd.h"
#include "tests/clean_environment.h"

namespace thermocline::crash {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

pid_t Spawn(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const UniqueFd file(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  TC_CHECK(file.get() >= 0);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, file.get(), 1);
  ::posix_spawn_file_actions_adddup2(&actions, file.get(), 2);
  pid_t pid = -1;
  TC_CHECK(::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ) == 0);
  ::posix_spawn_file_actions_destroy(&actions);
  return pid;
}

std::optional<int> WaitFor(pid_t pid, milliseconds patience) {
  const auto deadline = steady_clock::now() + patience;
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) != pid) {
    if (steady_clock::now() >= deadline) return std::nullopt;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return status;
}

std::string DescribeExit(int wait_status) {
  if (WIFEXITED(wait_status)) return "exit code " + std::to_string(WEXITSTATUS(wait_status));
  return "signal " + std::to_string(WTERMSIG(wait_status));
}

Footprint FootprintOf(pid_t pid) {
  Footprint footprint;
  const std::string directory = "/proc/" + std::to_string(pid);
  std::ifstream file(directory + "/status");
  for (std::string word; file >> word;) {
    uint64_t number = 0;
    if (word == "RssAnon:" && file >> number) footprint.private_bytes = number << 10;
    if (word == "RssShmem:" && file >> number) footprint.shared_bytes = number << 10;
    if (word == "Threads:" && file >> number) footprint.threads = number;
  }
  std::error_code gone;
  for (std::filesystem::directory_iterator at(directory + "/fd", gone), end; !gone && at != end;
       at.increment(gone)) {
    std::error_code closed;
    const std::string target = std::filesystem::read_symlink(at->path(), closed).string();
    if (target.find(".sst") == std::string::npos) ++footprint.descriptors;
  }
  return footprint;
}

DaemonUnderTest::~DaemonUnderTest() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void DaemonUnderTest::Start(const DaemonSettings& settings) {
  TC_CHECK(pid_ < 0);
  std::vector<std::string> command = settings.before;
  const std::vector<std::string> own = {binary_,
                                        "--socket",
                                        directories_.socket(),
                                        "--data-dir",
                                        directories_.data,
                                        "--arena-dir",
                                        directories_.arena,
                                        "--warm-capacity",
                                        settings.warm_capacity,
                                        "--cold-capacity",
                                        settings.cold_capacity,
                                        "--durability",
                                        settings.durability,
                                        "--http",
                                        settings.http,
                                        "--shutdown",
                                        settings.drain ? "drain" : "keep"};
  command.insert(command.end(), own.begin(), own.end());
  command.insert(command.end(), settings.more.begin(), settings.more.end());
  pid_ = Spawn(command, directories_.log());
}

void DaemonUnderTest::Signal(int signal) const {
  TC_CHECK(pid_ > 0);
  ::kill(pid_, signal);
}

std::optional<int> DaemonUnderTest::Ended(milliseconds patience) {
  if (pid_ < 0) return std::nullopt;
  const auto status = WaitFor(pid_, patience);
  if (status) pid_ = -1;
  return status;
}

std::string DaemonUnderTest::Log() const {
  std::ostringstream text;
  text << std::ifstream(directories_.log()).rdbuf();
  return text.str();
}

std::string DaemonUnderTest::LastLine() const {
  std::string log = Log();
  while (!log.empty() && log.back() == '\n') log.pop_back();
  return log.substr(log.rfind('\n') + 1);
}

}  // namespace thermocline::crash
