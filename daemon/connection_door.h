// Lets connections in at a unix socket, or at a TCP port, and hands them on, to gRPC: which itself
// closes its listener for good when an accept fails for lack of descriptors, and counts nobody. So
// one process, or one address, gets so many connections at most, and all together leave descriptors
// over for what the daemon has to do; who wants more is refused, with a line in the log.
#pragma once
#include <sys/socket.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/log_limit.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "daemon/door_guests.h"
#include "daemon/options.h"

namespace thermocline {

/// What a process that may have so many descriptors can spend on one door.
DoorGuests::Limits DoorLimits();

/// Thread: any.
class ConnectionDoor {
 public:
  /// Called on the door's thread with each connection, which is its own from then on.
  using HandOn = std::function<void(int)>;
  /// Whether the daemon serves that user; those that it does not know count as one, together.
  /// Called on the door's thread; none: it knows whoever comes.
  using Knows = std::function<bool(const PeerUser&)>;

  /// At a unix socket; what lies at `path` is replaced.
  /// Errors: those of listening there.
  static absl::StatusOr<std::unique_ptr<ConnectionDoor>> Open(const std::string& path, mode_t mode,
                                                              const DoorGuests::Limits& limits,
                                                              Knows knows, HandOn hand_on);
  static absl::StatusOr<std::unique_ptr<ConnectionDoor>> OpenTcp(const ListenAddress& address,
                                                                 const DoorGuests::Limits& limits,
                                                                 HandOn hand_on);
  /// Lets nobody in any more, and removes the socket.
  ~ConnectionDoor();

  int tcp_port() const { return tcp_port_; }

 private:
  ConnectionDoor(std::string place, const DoorGuests::Limits& limits, HandOn hand_on)
      : place_(std::move(place)), hand_on_(std::move(hand_on)), guests_(limits) {}
  absl::Status Start();
  void Run();
  bool Accept();
  absl::Status Admit(int fd, const sockaddr_storage& peer);

  const std::string place_;  // the path, or for people
  const HandOn hand_on_;
  Knows knows_;
  UniqueFd listener_, stop_;
  int tcp_port_ = 0;  // 0: a unix socket
  LogLimit refusals_, failures_;
  DoorGuests guests_;  // of the thread
  std::thread thread_;
};

}  // namespace thermocline
