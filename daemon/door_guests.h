// Who is in at a door, counted by the kernel's word on who connected: so many of a process, so many
// of a user, so many of all; where they come by TCP, so many of an address. A user is counted, too,
// since one has as many processes as it forks; the daemon's own user is not, which could end the
// daemon as well. A process of another pid namespace has no number here, and counts for its user
// alone.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/status.h"
#include "daemon/session_socket.h"

namespace thermocline {

/// Thread: one at a time.
class DoorGuests {
 public:
  struct Limits {
    size_t all = 256;
    size_t of_user = 64;  // of any but `own_user`
    size_t of_process = 64;
    size_t of_address = 64;
    uid_t own_user = 0;
  };
  explicit DoorGuests(const Limits& limits) : limits_(limits) {}

  /// `fd`: a connected socket, borrowed. It counts for as long as this number stands for it.
  /// Errors: ResourceExhausted, with who it was and what was full.
  absl::Status Admit(int fd, const PeerUser& peer);
  /// The same, by where it comes from.
  absl::Status Admit(int fd, const std::string& address);

 private:
  struct Guest {
    int fd = -1;
    ino_t inode = 0;
    uid_t uid = 0;
    pid_t pid = 0;
    std::string address{};
    bool is_here() const;
  };
  /// Forgets those gone among `which` only where there would be too many else.
  template <class Which>
  bool IsFull(size_t limit, const Which& which);
  absl::Status Take(Guest guest);

  const Limits limits_;
  std::vector<Guest> guests_;
};

}  // namespace thermocline
