#include "daemon/connection_door.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "daemon/session_socket.h"
#include "daemon/tcp_listener.h"

namespace thermocline {
namespace {

constexpr uid_t kNobodyKnown = static_cast<uid_t>(-1);  // which no process has
constexpr int kPauseMilliseconds = 100;                 // after an accept that failed

}  // namespace

DoorGuests::Limits DoorLimits() {
  rlimit limit{};
  const size_t descriptors = ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 1024;
  const size_t all = std::clamp<size_t>(descriptors / 4, 16, size_t{1} << 14);
  const size_t of_process = std::clamp<size_t>(descriptors / 16, 8, 1024);
  return {.all = all,
          .of_user = std::max(all / 4, of_process),
          .of_process = of_process,
          .of_address = std::max<size_t>(all / 4, 8),
          .own_user = ::geteuid()};
}

absl::StatusOr<std::unique_ptr<ConnectionDoor>> ConnectionDoor::Open(
    const std::string& path, mode_t mode, const DoorGuests::Limits& limits, Knows knows,
    HandOn hand_on) {
  ::unlink(path.c_str());
  std::unique_ptr<ConnectionDoor> door(new ConnectionDoor(path, limits, std::move(hand_on)));
  door->knows_ = std::move(knows);
  TC_ASSIGN_OR_RETURN(door->listener_, ListenAt({.lock = {}, .path = path}, mode));
  TC_RETURN_IF_ERROR(door->Start());
  return door;
}

absl::StatusOr<std::unique_ptr<ConnectionDoor>> ConnectionDoor::OpenTcp(
    const ListenAddress& address, const DoorGuests::Limits& limits, HandOn hand_on) {
  TC_ASSIGN_OR_RETURN(TcpListener listener, ListenAtTcp(address));
  std::unique_ptr<ConnectionDoor> door(
      new ConnectionDoor("TCP port " + std::to_string(listener.port), limits, std::move(hand_on)));
  door->listener_ = std::move(listener.fd);
  door->tcp_port_ = listener.port;
  TC_RETURN_IF_ERROR(door->Start());
  return door;
}

absl::Status ConnectionDoor::Start() {
  stop_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_) return ErrnoStatus(errno, "eventfd");
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "tc-door");
    Run();
  });
  return absl::OkStatus();
}

ConnectionDoor::~ConnectionDoor() {
  if (!thread_.joinable()) return;
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
  if (tcp_port_ == 0) ::unlink(place_.c_str());
}

void ConnectionDoor::Run() {
  pollfd watched[] = {{stop_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(watched, 2, -1) < 0 && errno != EINTR) break;
    if (watched[0].revents != 0) return;
    if (!Accept() && ::poll(watched, 1, kPauseMilliseconds) > 0) return;
  }
  LogEvent(LogLevel::kError, "door_closed", {{"socket", place_}, {"errno", errno}});
}

// False when there were no descriptors, or no memory, for whoever comes: it waits at the door.
bool ConnectionDoor::Accept() {
  sockaddr_storage peer{};
  socklen_t length = sizeof peer;
  const int fd = ::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&peer), &length,
                           SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    const bool passing = error == EAGAIN || error == EINTR || error == ECONNABORTED;
    if (passing) return true;
    if (const auto left_out = failures_.Admit()) {
      LogEvent(
          LogLevel::kError, "accept_failed",
          {{"socket", place_}, {"reason", ErrnoStatus(error, "accept")}, {"left_out", *left_out}});
    }
    return false;
  }
  if (const absl::Status admitted = Admit(fd, peer); !admitted.ok()) {
    ::close(fd);
    if (const auto left_out = refusals_.Admit()) {
      LogEvent(LogLevel::kWarning, "connection_refused",
               {{"socket", place_}, {"reason", admitted}, {"left_out", *left_out}});
    }
    return true;
  }
  hand_on_(fd);
  return true;
}

absl::Status ConnectionDoor::Admit(int fd, const sockaddr_storage& peer) {
  if (tcp_port_ != 0) {
    TC_ASSIGN_OR_RETURN(const std::string network, PeerNetwork(peer));
    return guests_.Admit(fd, network);
  }
  TC_ASSIGN_OR_RETURN(PeerUser user, UserOf(fd));
  if (knows_ && !knows_(user)) user.uid = kNobodyKnown;
  return guests_.Admit(fd, user);
}

}  // namespace thermocline
