// Lets connections in at a unix socket and hands them on, to gRPC: which itself closes its listener
// for good when an accept fails for lack of descriptors, and counts nobody. So one process gets so
// many connections at most, and all together leave descriptors over for what the daemon has to do;
// who wants more is refused, with a line in the log.
#pragma once
#include <sys/stat.h>
#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/log_limit.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

struct ConnectionDoorOptions {
  std::string path;  // of a socket: what lies there is replaced
  mode_t mode = 0600;
  size_t max_connections = 256;
  size_t max_of_process = 64;
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
  /// A connection that was handed on, for as long as its descriptor stands for the same socket.
  struct Guest {
    int fd = -1;
    ino_t inode = 0;
    bool is_here() const;
  };
  ConnectionDoor(ConnectionDoorOptions options, std::function<void(int)> hand_on)
      : options_(std::move(options)), hand_on_(std::move(hand_on)) {}
  void Run();
  bool Accept();
  absl::Status Admit(int fd);
  void ForgetThoseGone(std::vector<Guest>& guests);

  const ConnectionDoorOptions options_;
  const std::function<void(int)> hand_on_;
  UniqueFd listener_, stop_;
  LogLimit refusals_, failures_;
  std::map<pid_t, std::vector<Guest>> guests_;  // of the thread
  size_t count_ = 0;                            // of all of them
  std::thread thread_;
};

}  // namespace thermocline
