// A daemon of the benchmark's own: the thermoclined beside this program, on directories of its own,
// stopped by pid.
#pragma once
#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace thermocline::bench {

/// Owner: stops the daemon and removes its directories in the destructor.
class DaemonProcess {
 public:
  struct Options {
    std::string warm_capacity = "1GiB";
    std::string cold_capacity = "2GiB";
    std::vector<std::string> more = {};  // further arguments
  };

  /// Returns once the daemon answers. Errors: what it printed when it does not.
  static absl::StatusOr<std::unique_ptr<DaemonProcess>> Start(const Options& options);
  ~DaemonProcess();
  /// Kills it (SIGKILL) and starts it again on the same directories.
  absl::Status Restart();
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  pid_t pid() const { return pid_; }
  std::string socket_path() const { return (runtime_ / "thermocline.sock").string(); }
  /// For sockets: its path is short wherever the program lies.
  const std::filesystem::path& runtime_directory() const { return runtime_; }
  /// On the file system of the cold tier.
  const std::filesystem::path& directory() const { return directory_; }

 private:
  explicit DaemonProcess(Options options) : options_(std::move(options)) {}
  absl::Status Spawn();

  const Options options_;
  std::filesystem::path directory_;
  std::filesystem::path runtime_;  // the arena's too
  pid_t pid_ = -1;
};

}  // namespace thermocline::bench
