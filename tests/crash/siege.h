// One variant of the crash test: a daemon of certain capacities under the load of several players,
// killed and started again many times, and looked over at the end.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/crash/contents.h"
#include "tests/crash/daemon_under_test.h"
#include "tests/crash/ledger.h"
#include "tests/crash/reader.h"

namespace thermocline::crash {

struct Variant {
  std::string name;
  std::string world;
  uint64_t warm_mib = 0;
  uint64_t cold_mib = 0;
  bool drains = true;        // some lives are to empty the arena when they are told to stop
  uint64_t disk_mib = 0;     // the data directory is a tmpfs of that size; 0: it is on the disk
  double share = 0;          // of all kills
  double restart_limit = 0;  // seconds that half of the restarts may take at most; 0: any
};

struct SiegeOptions {
  std::string program;  // of the players: this one
  std::string daemon;
  uint64_t seed = 0;
  int kills = 0;
  int clients = 3;
  bool stops = false;  // also stops players for longer than a lease lasts
  bool keep = false;   // leaves the directories where they are
};

struct SiegeReport {
  std::string skipped;             // why
  int kills = 0;                   // kill -9, some of them while it starts or stops
  int shutdowns = 0;               // clean ones
  int refused_starts = 0;          // on a full disk, with advice
  std::vector<double> restart_ms;  // from the start to the first answered match
  uint64_t matches = 0, hits = 0, checked_blocks = 0, checked_bytes = 0, committed_blocks = 0;
  uint64_t late_reads = 0, ended_leases = 0, unreadable_blocks = 0, refused_reserves = 0;
  uint64_t deaths = 0, pins = 0;
  uint64_t daemon_bytes = 0;  // the most private memory of a daemon
  std::vector<std::string> violations;
};

class Siege {
 public:
  Siege(const Variant& variant, const SiegeOptions& options);
  ~Siege();
  Siege(const Siege&) = delete;
  Siege& operator=(const Siege&) = delete;

  SiegeReport Run();

 private:
  using SteadyTime = std::chrono::steady_clock::time_point;
  struct PlayerProcess {
    pid_t pid = -1;
    bool stopped = false;
    SteadyTime resume_at;
  };

  // ---- siege.cc: lives and deaths
  bool MountSmallDisk();
  bool GrowSmallDisk();
  bool MakeDiskLarger();
  void Life();
  void StartDaemon(bool drain);
  bool AwaitService();
  void Serve(std::chrono::milliseconds time);
  void StopDaemon();
  void ExpectExit(std::chrono::milliseconds patience);
  void Kill();
  void StartPlayer(PlayerProcess& player);
  void TendPlayers();
  void StopOrKillPlayers();
  void DismissPlayers();
  void Flush();
  void Violation(const std::string& text) { ledger_.AddViolation(variant_.name + ": " + text); }

  // ---- siege_checks.cc: what must be so
  bool Answers();
  std::optional<DaemonStats> CheckStats();
  void FinalChecks();
  void CheckPins();
  uint32_t LoadAndCheck(size_t space, const Path& path, uint32_t* matched);
  void Sweep();
  bool EventuallyStats(const std::function<bool(const DaemonStats&)>& holds);
  void CheckNothingHeld();
  void CheckEmptied();
  void CheckLog();
  void CheckFiles();
  SiegeReport Report() const;

  const Variant variant_;
  const SiegeOptions options_;
  const World world_;
  uint64_t disk_mib_;
  const DaemonDirectories directories_;
  bool mounted_ = false;
  Ledger ledger_;
  Rng rng_;
  BlockReader reader_;
  DaemonUnderTest daemon_;
  std::vector<PlayerProcess> players_;
  std::unique_ptr<Client> client_;
  std::vector<Space> spaces_;
  SiegeReport report_;
};

}  // namespace thermocline::crash
