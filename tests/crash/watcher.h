// The eye of a test that kills daemons: a client that changes nothing until the load is over, asks
// the daemon what it holds, and looks at the end whether everything that clients had has come back:
// leases, slots, pins, files.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/crash/contents.h"
#include "tests/crash/daemon_under_test.h"
#include "tests/crash/ledger.h"
#include "tests/crash/reader.h"

namespace thermocline::crash {

struct WatcherOptions {
  std::string name;  // begins every violation
  uint64_t warm_mib = 0;
  uint64_t cold_mib = 0;
  uint64_t seed = 0;
};

/// Thread: one.
/// Errors: what must not be is a violation in the ledger.
/// Owner:  borrows everything it is made with.
class Watcher {
 public:
  Watcher(const World& world, Ledger& ledger, const DaemonUnderTest& daemon,
          WatcherOptions options);

  void Violation(const std::string& text) { ledger_.AddViolation(options_.name + ": " + text); }
  /// Whether a match is answered.
  bool Answers();
  /// Ends its session.
  void Leave() {
    spaces_.clear();
    client_.reset();
  }
  /// The most private memory of a daemon that CheckStats met.
  uint64_t daemon_bytes() const { return daemon_bytes_; }

  /// Capacities and damage. Nothing: there was no answer.
  std::optional<DaemonStats> CheckStats();
  /// While other clients are gone, or once they are.
  void CheckNothingHeld();
  /// Every pin of the ledger, loaded and compared.
  void CheckPins();
  /// Whether every path of the ledger that is durable is there to its end; up to `loads` of them,
  /// random ones, are loaded and compared.
  void CheckDurable(size_t loads);
  /// Random paths, loaded and compared.
  void Sweep();
  /// How many slots of a space a new client gets before the daemon refuses; it gives them back.
  uint64_t CountGrantable(size_t space);
  /// Every slot in use holds a block that a match finds: visits the whole world.
  void CheckReachable();
  /// Unpins and flushes everything: no slot is left over. `before_cold`, when given, is called
  /// between the tiers.
  void CheckEmptied(const std::function<void(AdminClient&)>& before_cold = {});
  void CheckMemory();
  void CheckLog();
  void CheckFiles();

 private:
  bool EventuallyStats(const std::function<bool(const DaemonStats&)>& holds);
  void LoadWhole(size_t space, const Path& path, const char* what);
  uint32_t LoadAndCheck(size_t space, const Path& path, uint32_t* matched);

  const World& world_;
  Ledger& ledger_;
  const DaemonUnderTest& daemon_;
  const WatcherOptions options_;
  Rng rng_;
  BlockReader reader_;
  std::unique_ptr<Client> client_;
  std::vector<Space> spaces_;
  uint64_t daemon_bytes_ = 0;
};

uint64_t UsedBytes(const DaemonStats& stats, BlockTier tier);

}  // namespace thermocline::crash
