// What a Client and its Spaces share: the options and the session of the moment, replaced when the
// daemon was away and came back.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "client/client.h"
#include "client/connection.h"

namespace thermocline {
inline namespace client_v1 {

/// Thread: any.
class ClientCore {
 public:
  ClientCore(ClientOptions options, bool admin);
  ~ClientCore();
  ClientCore(const ClientCore&) = delete;
  ClientCore& operator=(const ClientCore&) = delete;

  const ClientOptions& options() const { return options_; }
  Deadline DeadlineOf(Timeout timeout) const {
    return std::chrono::steady_clock::now() + timeout.value_or(options_.timeout);
  }

  /// The session to use. Where it is lost: a new one when the backoff allows, else Unavailable.
  absl::StatusOr<std::shared_ptr<Connection>> Get(Deadline deadline);
  /// A new session now, unless this process has a living one.
  absl::Status Reconnect();
  bool Connected() const;

 private:
  // Of one process: a forked child starts over with its own, and leaves its parent's mutex, which
  // another thread may have held at the fork, alone.
  struct ProcessState {
    explicit ProcessState(uint64_t generation) : fork_generation(generation) {}
    const uint64_t fork_generation;
    Mutex mutex;
    std::shared_ptr<Connection> connection TC_GUARDED_BY(mutex);
    bool connecting TC_GUARDED_BY(mutex) = false;
    absl::Status last_error TC_GUARDED_BY(mutex);
    Deadline next_attempt TC_GUARDED_BY(mutex){};
    std::chrono::milliseconds backoff TC_GUARDED_BY(mutex){0};
  };
  absl::StatusOr<std::shared_ptr<Connection>> Open(Deadline deadline) const;
  absl::StatusOr<std::shared_ptr<Connection>> Obtain(ProcessState& state, Deadline deadline,
                                                     bool now);

  const ClientOptions options_;
  const bool admin_;
  std::atomic<ProcessState*> state_;
};

/// A space and where it stands in the session that it was last used in.
/// Thread: any.
struct SpaceState {
  std::shared_ptr<ClientCore> core;  // shared: a space outlives its client
  SpaceSpec spec;
  std::vector<PartRule> rules;  // of its parts
  Fingerprint fingerprint;
  // The connection's serial above, the number and the root's node below: a word each, so that
  // neither is seen without the serial.
  std::atomic<uint64_t> serial_and_number{0};
  std::atomic<uint64_t> serial_and_root{0};

  /// Where the space stands: its number is the tag of its root. Opens it in a session that has not
  /// seen it.
  absl::StatusOr<Root> RootIn(Connection& connection, Deadline deadline);
  absl::StatusOr<uint32_t> NumberIn(Connection& connection, Deadline deadline);

  /// What `call` answers where the space stands. One that holds nothing gives way in a daemon that
  /// has too many: then it is opened again, and called once more.
  template <class Call>
  auto CallIn(Connection& connection, Deadline deadline, Call call) -> decltype(call(Root())) {
    TC_ASSIGN_OR_RETURN(const Root root, RootIn(connection, deadline));
    auto answer = call(root);
    if (!absl::IsNotFound(StatusIn(answer))) return answer;
    uint64_t stood = connection.serial() << 32 | root.node;
    serial_and_root.compare_exchange_strong(stood, 0);  // unless it was opened again meanwhile
    TC_ASSIGN_OR_RETURN(const Root again, RootIn(connection, deadline));
    return call(again);
  }

 private:
  static const absl::Status& StatusIn(const absl::Status& status) { return status; }
  template <class T>
  static const absl::Status& StatusIn(const absl::StatusOr<T>& value) {
    return value.status();
  }
};

}  // namespace client_v1
}  // namespace thermocline
