// One variant of the crash test: a daemon of certain capacities under the load of several players,
// killed and started again many times, and looked over at the end. With power cuts its disk is one
// that loses what was not synced (loop_disk.h), and its memory goes, too; so it may without, as at
// a reboot. Then no player plays while it is looked whether all is there that was answered to be on
// disk: nobody is to bring back what was lost.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/crash/contents.h"
#include "tests/crash/crew.h"
#include "tests/crash/daemon_under_test.h"
#include "tests/crash/ledger.h"
#include "tests/crash/loop_disk.h"
#include "tests/crash/watcher.h"

namespace thermocline::crash {

struct Variant {
  std::string name;
  std::string world;
  uint64_t warm_mib = 0;
  uint64_t cold_mib = 0;
  bool drains = true;     // some lives are to empty the arena when they are told to stop
  uint64_t disk_mib = 0;  // the data directory is a tmpfs of that size; 0: it is on the disk
  uint64_t loop_mib = 0;  // it is on a disk of that size whose power is cut; 0: it is not
  bool durable = false;   // durability = "ack"
  bool reboots = false;   // every other kill takes the memory, too
  bool roomy = false;     // the cold tier holds all that is ever written: nothing may go
  bool pins = true;
  double share = 0;          // of all kills, or of all cuts
  double restart_limit = 0;  // seconds that half of the restarts may take at most; 0: any
};

struct SiegeOptions {
  std::string program;  // of the players: this one
  std::string daemon;
  uint64_t seed = 0;
  int kills = 0;  // or cuts
  int clients = 3;
  bool stops = false;  // also stops players for longer than a lease lasts
  bool keep = false;   // leaves the directories where they are
};

struct SiegeReport {
  std::string skipped;             // why
  int kills = 0;                   // kill -9, some of them while it starts or stops
  int cuts = 0;                    // of power, after each of which the daemon was killed
  int reboots = 0;                 // kills after which its memory was gone
  int set_aside = 0;               // stores that could not be opened
  int shutdowns = 0;               // clean ones
  int refused_starts = 0;          // on a full disk, with advice
  std::vector<double> restart_ms;  // from the start to the first answered match
  uint64_t matches = 0, hits = 0, checked_blocks = 0, checked_bytes = 0, committed_blocks = 0;
  uint64_t late_reads = 0, ended_leases = 0, unreadable_blocks = 0, refused_reserves = 0;
  uint64_t deaths = 0, pins = 0, durable_commits = 0, not_on_disk = 0;
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
  bool IsDone() const;
  bool MakeDisk();
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
  void EndDaemon();
  bool cuts_power() const { return variant_.loop_mib > 0; }
  bool forgets() const { return cuts_power() || variant_.reboots; }
  bool MountLoopDisk();
  void CutPower();
  void AwaitMoment();
  void LoseMemory();
  void LookAfterLoss();
  void StartLoad();
  void StopOrKillPlayers();
  void Flush();
  void FinalChecks();
  void CheckEmptied();
  SiegeReport Report();

  const Variant variant_;
  const SiegeOptions options_;
  const World world_;
  uint64_t disk_mib_;
  const DaemonDirectories directories_;
  bool mounted_ = false;
  Ledger ledger_;
  Rng rng_;
  DaemonUnderTest daemon_;
  Watcher watcher_;
  Crew crew_;
  std::unique_ptr<LoopDisk> disk_;
  SiegeReport report_;
};

}  // namespace thermocline::crash
