// The sessions of clients without the map. There is no process to watch and no memory to read a
// heartbeat from: such a session lives as long as its stream, and ends when no beat has come for as
// long as a lease lasts, when its token is taken out of the token file, or when the daemon stops.
// What it held returns at once, since nobody but the daemon touches it; slots that the daemon is
// filling for it just then, as soon as that is done.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/executor.h"
#include "base/log_limit.h"
#include "base/mutex.h"
#include "base/status.h"
#include "daemon/remote_work.h"
#include "daemon/session_registry.h"
#include "daemon/session_server.h"

namespace thermocline {

/// Local sessions have the numbers below: both kinds are clients of the same tenants.
inline constexpr uint64_t kFirstRemoteSession = uint64_t{1} << 32;

struct RemoteSessionOptions {
  size_t max_sessions = 64;  // of each tenant
  std::chrono::milliseconds lease{kLeaseMilliseconds};
  std::chrono::milliseconds tick{1000};
};

/// Thread: any. Callbacks come on any thread, with no lock held.
/// Owner:  shared with its timer and with what it waits for.
class RemoteSessions : public std::enable_shared_from_this<RemoteSessions> {
 public:
  /// Borrows `registry` and `timers`, which outlive it.
  static std::shared_ptr<RemoteSessions> Make(RemoteSessionOptions options,
                                              SessionRegistry& registry, Executor& timers);

  struct Guest {
    Tenant* tenant = nullptr;     // what its token stands for; borrowed, as is
    SessionHost* host = nullptr;  // who keeps its books: the same
    bool may_write = false;
    bool over_tcp = false;
    std::string peer;                         // for logs
    std::function<bool()> still_welcome;      // asked every tick
    std::function<void(absl::Status)> ended;  // by the daemon, not by End; at most once
  };
  /// A session that has not said hello yet. It may stay so as long as a lease lasts.
  /// Errors: ResourceExhausted, Unavailable when the daemon stops.
  absl::StatusOr<uint64_t> Open(Guest guest) TC_EXCLUDES(mutex_);
  /// Hello: makes it a client of the tenant and its token good. `welcome` is called once, unless
  /// the session ends before.
  void Admit(uint64_t session, const std::string& client_name,
             std::function<void(absl::StatusOr<SessionToken>)> welcome) TC_EXCLUDES(mutex_);
  /// One who is nobody's guest was sent away.
  void CountStranger(const absl::Status& why) TC_EXCLUDES(mutex_);
  /// A sign of life.
  void Beat(uint64_t session) TC_EXCLUDES(mutex_);
  /// The client has gone. Nothing happens when it has ended already.
  void End(uint64_t session, const char* how) TC_EXCLUDES(mutex_);

  /// Ends one that misbehaves, with a line in the log.
  void CutOff(uint64_t session, const std::string& why) TC_EXCLUDES(mutex_);

  /// Ends all of them, and takes no more.
  void Stop(const std::string& reason) TC_EXCLUDES(mutex_);

  /// As those of the local ones.
  SessionServer::Counters counters() const TC_EXCLUDES(mutex_);
  std::chrono::milliseconds lease() const { return options_.lease; }

 private:
  struct Session {
    Guest guest;
    SteadyTime last_beat;
    std::string name;
    bool joining = false;
    bool joined = false;
    std::shared_ptr<RemoteWork> work;  // shared with calls under way
  };
  RemoteSessions(RemoteSessionOptions options, SessionRegistry& registry, Executor& timers)
      : options_(options), registry_(registry), timers_(timers) {}
  void ScheduleTick();
  void Tick() TC_EXCLUDES(mutex_);
  void OnJoined(SessionHost& host, uint64_t session, const absl::Status& joined,
                const std::function<void(absl::StatusOr<SessionToken>)>& welcome)
      TC_EXCLUDES(mutex_);
  /// Takes it out. Nothing when it is not there.
  std::optional<Session> Remove(uint64_t session) TC_EXCLUDES(mutex_);
  /// What a session that was taken out held goes back.
  void Return(uint64_t session, const Session& ended, std::string_view how);
  void LeaveHost(SessionHost& host, uint64_t session, const std::shared_ptr<RemoteWork>& work);

  void LogRefusal(const std::string& peer, const absl::Status& why);

  const RemoteSessionOptions options_;
  SessionRegistry& registry_;
  Executor& timers_;
  LogLimit refusal_limit_;
  mutable Mutex mutex_;
  std::map<uint64_t, Session> sessions_ TC_GUARDED_BY(mutex_);
  uint64_t next_number_ TC_GUARDED_BY(mutex_) = kFirstRemoteSession;
  bool stopped_ TC_GUARDED_BY(mutex_) = false;
  SessionServer::Counters counters_ TC_GUARDED_BY(mutex_);
};

}  // namespace thermocline
