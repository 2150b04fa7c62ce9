// A client of the crash test, a process of its own: matches random paths, loads and reads them in
// place, commits what is missing, and does all that a client may do wrong: gives slots back full of
// rubbish, dies in the middle of a filling, goes on writing into slots of a daemon that is dead,
// keeps leases across restarts.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/crash/contents.h"
#include "tests/crash/ledger.h"
#include "tests/crash/reader.h"

namespace thermocline::crash {

struct PlayerOptions {
  std::string socket;
  std::string directory;  // of the ledger
  std::string world;
  uint64_t seed = 0;
  bool pins = false;     // pins paths for good, and writes them into the ledger
  bool deletes = false;  // deletes paths, other than those that are pinned for good
  bool durable = false;  // the daemon answers once blocks are on disk: those go into the ledger
};

/// Until the ledger says stop. Returns the exit code.
int RunPlayer(const PlayerOptions& options);

class Player {
 public:
  explicit Player(const PlayerOptions& options);
  /// False when the test stopped before a daemon was there.
  bool Connect();
  void Step();
  bool stopping() { return ledger_.counters().stop != 0; }

 private:
  using SteadyTime = std::chrono::steady_clock::time_point;
  struct HeldLease {
    Lease lease;
    size_t space = 0;
    Path path;
    SteadyTime until;
  };
  struct HeldSlots {
    std::vector<Reservation> slots;
    SteadyTime until;
  };

  void Visit(size_t space, const Path& path);
  bool Load(Lease& lease, size_t space, const Path& path);
  void Extend(Lease& lease, size_t space, const Path& path);
  std::vector<Reservation> Reserve(size_t space, uint32_t blocks);
  bool Misbehave(std::vector<Reservation>& slots);
  void Pin(size_t space);
  bool MakeDurable(size_t space, const Path& path);
  void Delete(size_t space);
  void ReadHeld();
  void ScribbleHeld();
  bool Fine(const absl::Status& status, const char* call);
  void Nap(uint64_t most_ms);
  SteadyTime Soon(uint64_t most_ms);

  const PlayerOptions options_;
  const World world_;
  Ledger ledger_;
  BlockReader reader_;
  Rng rng_;
  std::unique_ptr<Client> client_;
  std::vector<Space> spaces_;
  std::vector<HeldLease> held_;
  std::vector<HeldSlots> abandoned_;
};

}  // namespace thermocline::crash
