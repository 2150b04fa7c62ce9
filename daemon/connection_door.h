// Lets connections in at a unix socket and hands them on, to gRPC: which itself closes its listener
// for good when an accept fails for lack of descriptors, and counts nobody. So one process gets so
// many connections at most, and all together leave descriptors over for what the daemon has to do;
// who wants more is refused, with a line in the log.
#pragma once
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/log_limit.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "daemon/door_guests.h"

namespace thermocline {

struct ConnectionDoorOptions {
  std::string path;  // of a socket: what lies there is replaced
  mode_t mode = 0600;
  DoorGuests::Limits limits{};
};

/// What a process that may have so many descriptors can spend on one door.
ConnectionDoorOptions DoorFor(std::string path, mode_t mode);

/// Thread: any.
class ConnectionDoor {
 public:
  /// `hand_on` is called on the door's thread with each connection, which is its own from then on.
  /// Errors: those of listening there.
  static absl::StatusOr<std::unique_ptr<ConnectionDoor>> Open(ConnectionDoorOptions options,
                                                              std::function<void(int)> hand_on);
  /// Lets nobody in any more, and removes the socket.
  ~ConnectionDoor();

 private:
  ConnectionDoor(ConnectionDoorOptions options, std::function<void(int)> hand_on)
      : options_(std::move(options)), hand_on_(std::move(hand_on)), guests_(options_.limits) {}
  void Run();
  bool Accept();
  absl::Status Admit(int fd);

  const ConnectionDoorOptions options_;
  const std::function<void(int)> hand_on_;
  UniqueFd listener_, stop_;
  LogLimit refusals_, failures_;
  DoorGuests guests_;  // of the thread
  std::thread thread_;
};

}  // namespace thermocline
