// thermoclined: options, signals, exit codes. 0 is a clean end, 1 a failure, 2 wrong usage.
#include <google/protobuf/stubs/logging.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "base/log.h"
#include "daemon/hot_processes.h"
#include "daemon/options.h"
#include "daemon/server.h"
#include "daemon/service_notify.h"
#include "tiers/log_fsck.h"
#include "tiers/tier_stack.h"

namespace thermocline {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

int Complain(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "thermoclined: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

sigset_t SignalsWaitedFor() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGHUP);
  return signals;
}

/// From now on a stop signal ends the process at once: whoever sends a second one is in a hurry.
void ExitOnNextSignal(const sigset_t& signals) {
  struct sigaction action = {};
  action.sa_handler = [](int) { ::_exit(kFailed); };
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  ::signal(SIGHUP, SIG_IGN);
  ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

/// A quarter of the descriptors is for files of the cold tier, and every client's process is
/// watched by one: more than the 1024 that a service is given softly.
void RaiseOpenFileLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    LogEvent(LogLevel::kWarning, "open_file_limit_kept", {{"reason", std::strerror(errno)}});
  }
}

/// Answers the signals that are waited for. Before the first thread: all of them inherit it, and
/// the main thread waits for the signals.
sigset_t PrepareProcess() {
  const sigset_t signals = SignalsWaitedFor();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(0077);
  RaiseOpenFileLimit();
  return signals;
}

int Serve(const DaemonOptions& options, const sigset_t& signals) {
  HotProcesses hot(options);
  const auto open = [&hot](StackOptions stack) -> absl::StatusOr<std::unique_ptr<TierStack>> {
    TC_RETURN_IF_ERROR(hot.AddTo(stack));
    return TierStack::Open(std::move(stack));
  };
  auto server = Server::Start(options, open);
  if (!server.ok()) {
    LogEvent(LogLevel::kError, "start_failed", {{"reason", server.status()}});
    NotifyStatus("refused to start: " + std::string(server.status().message()));
    return Complain(server.status(), kFailed);
  }
  int signal = 0;
  while (::sigwait(&signals, &signal) == 0 && signal == SIGHUP) (*server)->Reload();
  LogEvent(LogLevel::kInfo, "signal", {{"number", signal}});
  ExitOnNextSignal(signals);
  const absl::Status status = (*server)->Shutdown();
  if (absl::IsDeadlineExceeded(status)) {
    LogEvent(LogLevel::kError, "shutdown_timeout", {{"reason", status}});
    ::_exit(kFailed);  // threads still hold what destructors would take away
  }
  return status.ok() ? 0 : kFailed;
}

/// The stores of the default tenant and of the others.
std::vector<std::string> StoresIn(const std::string& data_dir) {
  std::vector<std::string> directories;
  std::error_code error;
  if (std::filesystem::exists(data_dir + "/store", error)) directories.push_back(data_dir);
  for (const auto& entry : std::filesystem::directory_iterator(data_dir + "/tenants", error)) {
    if (std::filesystem::exists(entry.path() / "store", error)) {
      directories.push_back(entry.path().string());
    }
  }
  return directories;
}

/// Says what is wrong with the cold tiers of a data directory that no daemon has open.
int Fsck(const std::string& data_dir) {
  const std::vector<std::string> directories = StoresIn(data_dir);
  if (directories.empty()) {
    return Complain(
        absl::NotFoundError("no store in " + data_dir + "; --fsck takes the daemon's data_dir"),
        kFailed);
  }
  int exit_code = 0;
  for (const std::string& directory : directories) {
    std::printf("%s/store\n", directory.c_str());
    const auto report = FsckLog(directory);
    if (!report.ok()) {
      exit_code = Complain(report.status(), kFailed);
      continue;
    }
    std::fputs(FsckText(*report).c_str(), stdout);
    if (report->problem_count > 0) exit_code = kFailed;
  }
  return exit_code;
}

int KeepVram(const DaemonOptions& options, sigset_t signals) {
  ::sigdelset(&signals, SIGHUP);  // there is nothing to read again
  const absl::Status status = RunCustodian(options, signals);
  if (status.ok()) return 0;
  LogEvent(LogLevel::kError, "custodian_ended", {{"reason", status}});
  return Complain(status, absl::IsInvalidArgument(status) ? kUsage : kFailed);
}

int Move(std::span<char* const> arguments) {
  PrepareProcess();
  const absl::StatusOr<int> exit_code = RunMover(arguments);
  return exit_code.ok() ? *exit_code : Complain(exit_code.status(), kUsage);
}

int Run(int argc, char** argv) {
  const std::string_view first = argc >= 2 ? argv[1] : "";
  if (first == "--fsck") {
    if (argc == 3) return Fsck(argv[2]);
    return Complain(absl::InvalidArgumentError("--fsck takes a directory and nothing else"),
                    kUsage);
  }
  if (first == "--mover") return Move({argv + 2, argv + argc});
  const int modes = first == "--vram" ? 1 : 0;  // the custodian has the daemon's options
  const OptionSources sources = SourcesOf(argc - modes, argv + modes);
  const auto loaded = LoadOptions(DaemonOptionTable(), sources);
  if (!loaded.ok()) return Complain(loaded.status(), kUsage);
  if (loaded->exit) {  // else they go to the log
    for (const std::string& warning : loaded->warnings) {
      std::fprintf(stderr, "thermoclined: %s\n", warning.c_str());
    }
  }
  const auto& arguments = sources.arguments;
  const bool checks =
      std::find(arguments.begin(), arguments.end(), "--check-config") != arguments.end();
  if (loaded->exit && !checks) {
    std::fputs(loaded->output.c_str(), stdout);
    return 0;
  }
  const auto options = ResolveDaemonOptions(loaded->options);
  if (!options.ok()) return Complain(options.status(), kUsage);
  if (loaded->exit) {
    std::fputs(loaded->output.c_str(), stdout);
    return 0;
  }
  if (const absl::Status log = SetUpLog(options->log); !log.ok()) return Complain(log, kFailed);
  for (const std::string& warning : loaded->warnings) {
    LogEvent(LogLevel::kWarning, "option_ignored", {{"reason", warning}});
  }
  // What it says of a client's garbage belongs into our log, and says less than our refusal does.
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        LogEvent(LogLevel::kDebug, "protobuf", {{"message", message}});
      });
  const sigset_t signals = PrepareProcess();
  return first == "--vram" ? KeepVram(*options, signals) : Serve(*options, signals);
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) { return thermocline::Run(argc, argv); }
