// The soak test: a daemon under mixed load for a long time, in memory that is too small for it.
// The clients are those of the crash test (matches, reads in place compared byte by byte, puts,
// pins, deletes, half-filled slots); here they are killed, stopped, for longer than a lease lasts
// too, and started at random, all but the first, the veteran, whose memory is watched.
//
// In the first half of the time the daemon is killed and started again, too. The second half is one
// life of it: what it takes of the machine (memory, descriptors, threads) must then be flat: no
// more in the last quarter than in any before. At the end, when the clients have left, every slot
// in use holds a block that a match finds; emptied, the daemon grants every slot that there is.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "tests/crash/contents.h"
#include "tests/crash/crew.h"
#include "tests/crash/daemon_under_test.h"
#include "tests/crash/ledger.h"
#include "tests/crash/watcher.h"

namespace thermocline::soak {

struct SoakOptions {
  std::string program;  // of the clients: this one
  std::string daemon;
  uint64_t seed = 0;
  std::chrono::seconds time{600};
  int clients = 5;
  bool keep = false;  // leaves the directories where they are
};

/// Thread: one.
class Soak {
 public:
  explicit Soak(const SoakOptions& options);
  ~Soak();
  Soak(const Soak&) = delete;
  Soak& operator=(const Soak&) = delete;

  /// Prints a row for each tenth of the time, then the violations and the verdict. Returns whether
  /// there were none.
  bool Run();

 private:
  using SteadyTime = std::chrono::steady_clock::time_point;
  struct Peak {
    crash::Footprint daemon;
    uint64_t veteran_bytes = 0;
    void Raise(const Peak& sample);
  };

  void StartDaemon();
  bool AwaitService();
  void EndDaemon();
  void ExpectCleanExit();
  void RunTenth(int tenth);
  void Tick();
  void DisturbClients();
  void DisturbDaemon();
  void Sample();
  void PrintRow(int tenth);
  void CheckFlat();
  void FinalChecks();
  void CheckAllGrantable();

  double Elapsed() const;  // of the whole time: 0 to 1
  std::chrono::milliseconds Between(double least_seconds, double most_seconds);

  const SoakOptions options_;
  const crash::World world_;
  const crash::DaemonDirectories directories_;
  crash::Ledger ledger_;
  crash::Rng rng_;
  crash::DaemonUnderTest daemon_;
  crash::Watcher watcher_;
  crash::Crew crew_;

  SteadyTime start_;
  SteadyTime next_daemon_death_;
  SteadyTime next_client_event_;
  SteadyTime next_sample_;
  uint64_t daemon_kills_ = 0;
  uint64_t daemon_shutdowns_ = 0;
  uint64_t kills_ = 0;  // of clients
  uint64_t stops_ = 0;
  uint64_t long_stops_ = 0;
  Peak tenth_;
  std::vector<Peak> quarters_;  // four
};

}  // namespace thermocline::soak
