// The thermoclined that is killed, and the children of the test in general. Processes are spawned,
// never forked: a child of a process with gRPC's threads is no clean start.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace thermocline::crash {

/// Output and errors are appended to `log`.
pid_t Spawn(const std::vector<std::string>& arguments, const std::string& log);
/// The wait status, or nothing when the child still runs after `patience`.
std::optional<int> WaitFor(pid_t pid, std::chrono::milliseconds patience);
/// "exit code 1", "signal 9".
std::string DescribeExit(int wait_status);

/// What a process takes of the machine; zeros when it is gone.
struct Footprint {
  uint64_t private_bytes = 0;
  uint64_t shared_bytes = 0;  // of tmpfs and memfds, as far as it has touched them
  uint64_t descriptors = 0;   // but for the store's tables, which have a bound of their own
  uint64_t threads = 0;
};
Footprint FootprintOf(pid_t pid);

struct DaemonDirectories {
  std::string root;   // sockets, log, ledger
  std::string arena;  // on a tmpfs
  std::string data;

  std::string socket() const { return root + "/t.sock"; }
  std::string log() const { return root + "/daemon.log"; }
};

struct DaemonSettings {
  std::string warm_capacity;
  std::string cold_capacity;
  bool drain = false;
  std::string durability = "write_back";
  std::string http = "off";
  std::vector<std::string> more = {};    // further arguments
  std::vector<std::string> before = {};  // a command that becomes the daemon
};

class DaemonUnderTest {
 public:
  DaemonUnderTest(std::string binary, DaemonDirectories directories)
      : binary_(std::move(binary)), directories_(std::move(directories)) {}
  ~DaemonUnderTest();
  DaemonUnderTest(const DaemonUnderTest&) = delete;
  DaemonUnderTest& operator=(const DaemonUnderTest&) = delete;

  void Start(const DaemonSettings& settings);
  void Signal(int signal) const;
  /// The wait status once it has ended, else nothing. No daemon: nothing.
  std::optional<int> Ended(std::chrono::milliseconds patience);
  bool running() const { return pid_ > 0; }
  Footprint Measure() const { return running() ? FootprintOf(pid_) : Footprint(); }

  const DaemonDirectories& directories() const { return directories_; }
  /// What the daemons of this test have logged, all lives after each other.
  std::string Log() const;
  std::string LastLine() const;

 private:
  const std::string binary_;
  const DaemonDirectories directories_;
  pid_t pid_ = -1;
};

}  // namespace thermocline::crash
