#include "daemon/door_guests.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace thermocline {

bool DoorGuests::Guest::is_here() const {
  struct stat now {};
  return ::fstat(fd, &now) == 0 && S_ISSOCK(now.st_mode) && now.st_ino == inode;
}

template <class Which>
bool DoorGuests::IsFull(size_t limit, const Which& which) {
  const auto count = [&] {
    return static_cast<size_t>(std::count_if(guests_.begin(), guests_.end(), which));
  };
  if (count() < limit) return false;
  std::erase_if(guests_, [&](const Guest& guest) { return which(guest) && !guest.is_here(); });
  return count() >= limit;
}

absl::Status DoorGuests::Admit(int fd, const PeerUser& peer) {
  const auto of_user = [&](const Guest& guest) { return guest.uid == peer.uid; };
  const auto of_process = [&](const Guest& guest) { return guest.pid == peer.pid; };
  const std::string user = "user " + std::to_string(peer.uid);
  if (peer.pid != 0 && IsFull(limits_.of_process, of_process)) {
    return absl::ResourceExhaustedError("process " + std::to_string(peer.pid) + " of " + user +
                                        " has " + std::to_string(limits_.of_process) +
                                        " connections already; a client needs one");
  }
  if (peer.uid != limits_.own_user && IsFull(limits_.of_user, of_user)) {
    return absl::ResourceExhaustedError(
        user + " has " + std::to_string(limits_.of_user) + " connections already, process " +
        std::to_string(peer.pid) +
        " gets none; raise the limit of open files (LimitNOFILE, ulimit -n) if it has so many "
        "clients");
  }
  return Take({.fd = fd, .uid = peer.uid, .pid = peer.pid});
}

absl::Status DoorGuests::Admit(int fd, const std::string& address) {
  const auto of_address = [&](const Guest& guest) { return guest.address == address; };
  if (IsFull(limits_.of_address, of_address)) {
    return absl::ResourceExhaustedError(
        "address " + address + " has " + std::to_string(limits_.of_address) +
        " connections already; a client needs one; raise the limit of open files (LimitNOFILE, "
        "ulimit -n) if so many come from there");
  }
  return Take({.fd = fd, .address = address});
}

absl::Status DoorGuests::Take(Guest guest) {
  struct stat own {};
  if (::fstat(guest.fd, &own) != 0) return ErrnoStatus(errno, "fstat of a connection");
  guest.inode = own.st_ino;
  if (IsFull(limits_.all, [](const Guest&) { return true; })) {
    return absl::ResourceExhaustedError("all of the " + std::to_string(limits_.all) +
                                        " connections of this socket are taken; raise "
                                        "the limit of open files (LimitNOFILE, ulimit -n)");
  }
  guests_.push_back(std::move(guest));
  return absl::OkStatus();
}

}  // namespace thermocline
