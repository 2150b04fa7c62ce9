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

namespace thermocline {
namespace {

constexpr int kPauseMilliseconds = 100;  // after an accept that failed

}  // namespace

ConnectionDoorOptions DoorFor(std::string path, mode_t mode) {
  rlimit limit{};
  const size_t descriptors = ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 1024;
  const size_t all = std::clamp<size_t>(descriptors / 4, 16, size_t{1} << 14);
  const size_t of_process = std::clamp<size_t>(descriptors / 16, 8, 1024);
  return {.path = std::move(path),
          .mode = mode,
          .limits = {.all = all,
                     .of_user = std::max(all / 4, of_process),
                     .of_process = of_process,
                     .own_user = ::geteuid()}};
}

absl::StatusOr<std::unique_ptr<ConnectionDoor>> ConnectionDoor::Open(
    ConnectionDoorOptions options, std::function<void(int)> hand_on) {
  ::unlink(options.path.c_str());
  std::unique_ptr<ConnectionDoor> door(new ConnectionDoor(std::move(options), std::move(hand_on)));
  TC_ASSIGN_OR_RETURN(door->listener_,
                      ListenAt({.lock = {}, .path = door->options_.path}, door->options_.mode));
  door->stop_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!door->stop_) return ErrnoStatus(errno, "eventfd");
  door->thread_ = std::thread([raw = door.get()] {
    ::pthread_setname_np(::pthread_self(), "tc-door");
    raw->Run();
  });
  return door;
}

ConnectionDoor::~ConnectionDoor() {
  if (!thread_.joinable()) return;
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
  ::unlink(options_.path.c_str());
}

void ConnectionDoor::Run() {
  pollfd watched[] = {{stop_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(watched, 2, -1) < 0 && errno != EINTR) break;
    if (watched[0].revents != 0) return;
    if (!Accept() && ::poll(watched, 1, kPauseMilliseconds) > 0) return;
  }
  LogEvent(LogLevel::kError, "door_closed", {{"socket", options_.path}, {"errno", errno}});
}

// False when there were no descriptors, or no memory, for whoever comes: it waits at the door.
bool ConnectionDoor::Accept() {
  const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    const bool passing = error == EAGAIN || error == EINTR || error == ECONNABORTED;
    if (passing) return true;
    if (const auto left_out = failures_.Admit()) {
      LogEvent(LogLevel::kError, "accept_failed",
               {{"socket", options_.path},
                {"reason", ErrnoStatus(error, "accept")},
                {"left_out", *left_out}});
    }
    return false;
  }
  if (const absl::Status admitted = Admit(fd); !admitted.ok()) {
    ::close(fd);
    if (const auto left_out = refusals_.Admit()) {
      LogEvent(LogLevel::kWarning, "connection_refused",
               {{"socket", options_.path}, {"reason", admitted}, {"left_out", *left_out}});
    }
    return true;
  }
  hand_on_(fd);
  return true;
}

absl::Status ConnectionDoor::Admit(int fd) {
  TC_ASSIGN_OR_RETURN(const PeerUser peer, UserOf(fd));
  return guests_.Admit(fd, peer);
}

}  // namespace thermocline
