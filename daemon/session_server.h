// The session socket: who connects, says hello and is welcomed with a token and its descriptors;
// whose heart beats; who has gone. A session's life is its socket's, but what it held outlives the
// socket as long as somebody may still use it:
//
// - goodbye: its leases end at once, and its reservations as soon as a lease's time has passed.
// - end of stream: its leases end once lease_until has passed, as the process may be reading.
// - silence: its leases end once lease_until has passed, and slots that it holds in advance of need
//   come back; it stays, and may lease again.
// - process exit: everything returns at once; a forked child that still holds the socket is no
//   reason to wait, since its copy of the client is dead.
//
// A connection may also ask, by a session's token, for a slab of the device's memory in which that
// session reads blocks in place; it gets the descriptor, and ends.
//
// A client that misbehaves is refused with a reason, and nobody else notices. After a restart the
// server knows from the file of sessions which processes of the last epoch still live, and says
// when all of them are back or gone (the end of the grace). So a client is welcome only once it
// stands in that file, and where the file cannot be read the grace lasts its whole time.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "daemon/session_registry.h"
#include "daemon/session_socket.h"
#include "daemon/staging.h"
#include "proto/shm_layout.h"
#include "tiers/device_memory.h"
#include "tiers/tier_stack.h"

namespace thermocline {

/// What a session shares with its client alone. Owner: shared by the session and its tenant.
struct SessionMemory {
  std::shared_ptr<ControlArea> control;    // none: a remote session
  std::shared_ptr<const Staging> staging;  // none: slots are filled in place
};

/// What sessions need of the rest of the daemon.
/// Thread: called on the server's thread; must not block.
class SessionHost {
 public:
  virtual ~SessionHost() = default;
  /// A new session. `done` is called once, on any thread; an error refuses the client.
  virtual void Join(uint64_t session, pid_t pid, uint64_t start_time, SessionMemory memory,
                    std::function<void(absl::Status)> done) = 0;
  /// There is something in the ring of commits of its control area. `posted` is made false before
  /// anybody looks there; until then it need not be called again.
  virtual void Put(uint64_t session, std::shared_ptr<std::atomic<bool>> posted) = 0;
  virtual void Leave(uint64_t session, Departure how) = 0;
  virtual void ProcessGone(pid_t pid, uint64_t start_time) = 0;
  /// Whether it waits for that process to end. `done` is called once, on any thread.
  virtual void Awaits(pid_t pid, uint64_t start_time, std::function<void(bool)> done) = 0;
  /// `done` is called once, on any thread, when they have ended.
  virtual void ExpireLeases(uint64_t session, std::function<void()> done) = 0;
  virtual void EndGrace() = 0;
  /// Of the device's memory, for a client of this tenant. `done` is called once, on any thread.
  virtual void ExportSlab(uint64_t slab,
                          std::function<void(absl::StatusOr<ExportedSlab>)> done) = 0;
};

/// A tenant, as its sessions see it: who keeps their books, and what they map. All borrowed.
struct SessionHome {
  SessionHost* host = nullptr;
  Tenant* tenant = nullptr;  // what the session's token stands for
  uint64_t epoch = 0;
  int arena_fd = -1;
  uint64_t arena_bytes = 0;
  int catalog_fd = -1;
  uint64_t staging_bytes = 0;  // of each session; 0: slots are filled in place
};

struct SessionServerOptions {
  std::vector<SessionHome> homes;  // one at least
  /// Which of them a user's sessions have, by its credentials alone. Errors: who has none.
  std::function<absl::StatusOr<size_t>(const PeerUser&)> home_of;
  mode_t socket_mode = 0600;
  std::string grpc_socket;
  std::string admin_socket;
  std::string daemon_version;
  std::string sessions_file;  // "": sessions are not remembered, and there is no grace
  size_t max_sessions = 64;   // of each home
  std::chrono::milliseconds lease{kLeaseMilliseconds};
  std::chrono::milliseconds tick{1000};
  std::chrono::milliseconds hello_deadline{5000};
  std::chrono::milliseconds grace{kLeaseMilliseconds};
};

/// Thread: any; its own thread does the work.
class SessionServer {
 public:
  /// Listens at the claimed path. Borrows the homes and `registry`, which outlive the server.
  static absl::StatusOr<std::unique_ptr<SessionServer>> Start(SessionServerOptions options,
                                                              SocketClaim claim,
                                                              SessionRegistry& registry);
  /// Says goodbye with a reason to everybody, removes the socket and joins the thread. Idempotent.
  /// `revoke_leases`: what clients read from now on is a miss to them, because the bytes go away;
  /// otherwise they may read on until lease_until.
  void Stop(const std::string& reason, bool revoke_leases);
  ~SessionServer();

  /// Ends a session whose client misbehaves: its leases are revoked, it is told why, and so is the
  /// log. Nothing happens when it has gone already.
  void CutOff(uint64_t session, const std::string& why);

  struct Counters {
    uint64_t sessions = 0;  // open now
    uint64_t opened = 0;
    uint64_t refused = 0;
    uint64_t expired = 0;  // times that a silent client's leases ended

    Counters& operator+=(const Counters& other) {
      sessions += other.sessions;
      opened += other.opened;
      refused += other.refused;
      expired += other.expired;
      return *this;
    }
  };
  Counters counters() const;

 private:
  class Impl;
  explicit SessionServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;  // shared with its pending operations
};

}  // namespace thermocline
