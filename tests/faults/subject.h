// Thermocline as the subject of a fault trial: a daemon of its own, and a client that puts and gets
// values of 1 MiB under keys, each a path of one place. A value begins with a mark, by which
// whoever damages it finds it in memory and in files.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/crash/daemon_under_test.h"

namespace thermocline::faults {

/// What asking for a value gave.
enum class Got { kRight, kWrong, kMiss, kError };

/// Counts of many.
struct Tally {
  int right = 0, wrong = 0, misses = 0, errors = 0;
  void Add(Got got);
  std::string ToString() const;  // "12 right, 3 misses"
};

struct SubjectOptions {
  std::string binaries;  // directory of thermoclined
  std::string warm_capacity = "64MiB";
  std::string cold_capacity = "0";
  std::string durability = "write_back";
  bool http = false;                     // on a port of its own
  std::vector<std::string> more = {};    // further arguments of the daemon
  std::vector<std::string> before = {};  // a command that becomes the daemon; DATA is its data_dir
  bool other_user = false;  // it makes the daemon another user's, who alone may flush it
  // Called with the directories before the first start.
  std::function<void(const crash::DaemonDirectories&)> prepare = {};
  std::function<void()> release = {};  // when the daemon is gone, before they are removed
};

/// Of calls, where a trial is not about how long they take: the machine may be busy.
constexpr std::chrono::milliseconds kPatience{20'000};

/// A client of a daemon.
/// Thread: one.
class Caller {
 public:
  /// Errors of the session come with what it does.
  explicit Caller(const std::string& socket, bool verify_always = false,
                  std::chrono::milliseconds timeout = kPatience);

  bool is_connected() const { return space_ != nullptr; }
  absl::Status Put(int key);
  /// The bytes are compared, and count if the lease is valid afterwards.
  Got Get(int key);
  /// Keeps a value in memory for good.
  absl::Status PinWarm(int key);
  absl::StatusOr<DaemonStats> Stats();

 private:
  std::unique_ptr<Client> client_;
  std::unique_ptr<Space> space_;
};

/// Thread: one.
/// Owner:  kills the daemon and removes its directories in the destructor.
class Subject {
 public:
  /// Aborts when no daemon can be started: then there is no trial.
  explicit Subject(const SubjectOptions& options);
  ~Subject();
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  void Start();
  /// Starts it, and waits until it serves or has ended; then the wait status.
  std::optional<int> TryStart();
  void Kill();      // kill -9
  void Shutdown();  // SIGTERM
  void Signal(int signal) { daemon_.Signal(signal); }
  /// Closes the client's session, and opens another. Errors of the new one come with what it does.
  void Reconnect(bool verify_always = false, std::chrono::milliseconds timeout = kPatience);

  absl::Status Put(int key) { return caller_->Put(key); }
  Got Get(int key) { return caller_->Get(key); }
  absl::Status PinWarm(int key) { return caller_->PinWarm(key); }
  Tally GetAll(int keys);
  /// Everything to the cold tier, but for `pinned` values that are kept in memory.
  absl::Status Flush(uint64_t pinned = 0);
  uint64_t CorruptBlocks();
  const std::string& socket() const { return socket_; }
  const crash::DaemonDirectories& directories() const { return directories_; }
  /// Whether the daemon has not ended by itself.
  bool Lives();
  /// Of its /metrics; 0: it has none.
  uint16_t HttpPort() const;
  std::string Log() const { return daemon_.Log(); }
  std::string LastLine() const { return daemon_.LastLine(); }

  /// Turns one bit over behind every mark in the arena; in the cold tier's files. How many.
  int FlipInMemory();
  int FlipOnDisk();
  /// Cuts the largest file of the cold tier in half.
  void CutLargestFile();

 private:
  absl::Status FlushAsItsUser();

  const SubjectOptions options_;
  const crash::DaemonDirectories directories_;
  const std::string socket_;
  crash::DaemonUnderTest daemon_;
  std::unique_ptr<Caller> caller_;
};

/// Milliseconds that `work` takes.
template <class Work>
double Milliseconds(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

}  // namespace thermocline::faults
