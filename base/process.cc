#include "base/process.h"

#include <poll.h>
#include <sys/syscall.h>

#include <cerrno>
#include <charconv>
#include <string>

#include "base/file_util.h"

namespace thermocline {
namespace {

constexpr uint64_t kStatLimitBytes = 64 * 1024;
constexpr int kStartTimeField = 22;  // proc(5)
constexpr int kFieldAfterName = 3;

absl::Status NoProcess(pid_t pid) {
  return absl::NotFoundError("there is no process " + std::to_string(pid));
}

}  // namespace

absl::StatusOr<uint64_t> ProcessStartTime(pid_t pid) {
  const auto read = ReadFile("/proc/" + std::to_string(pid) + "/stat", kStatLimitBytes);
  if (absl::IsResourceExhausted(read.status())) return read.status();  // of our descriptors
  if (!read.ok()) return NoProcess(pid);
  // The second field is the program's name in parentheses, which may hold spaces and parentheses.
  const std::string& stat = *read;
  size_t at = stat.rfind(')');
  for (int field = kFieldAfterName; at != std::string::npos && field <= kStartTimeField; ++field) {
    at = stat.find(' ', at + 1);
  }
  uint64_t ticks = 0;
  if (at == std::string::npos ||
      std::from_chars(stat.data() + at + 1, stat.data() + stat.size(), ticks).ec != std::errc()) {
    return absl::InternalError("/proc/" + std::to_string(pid) + "/stat is not as proc(5) says");
  }
  return ticks;
}

absl::StatusOr<UniqueFd> OpenPidFd(pid_t pid) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));  // always close-on-exec
  if (fd) return fd;
  if (errno == ESRCH) return NoProcess(pid);
  return ErrnoStatus(errno, "pidfd_open of process " + std::to_string(pid));
}

absl::StatusOr<UniqueFd> OpenPidFd(pid_t pid, uint64_t start_time) {
  TC_ASSIGN_OR_RETURN(UniqueFd fd, OpenPidFd(pid));
  TC_ASSIGN_OR_RETURN(const uint64_t found, ProcessStartTime(pid));
  if (found != start_time) return NoProcess(pid);
  return fd;
}

bool HasExited(const UniqueFd& pidfd) {
  pollfd poll_fd{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

bool HasExited(pid_t pid, uint64_t start_time) {
  if (pid == 0) return true;
  const absl::StatusOr<UniqueFd> pidfd = OpenPidFd(pid, start_time);
  return pidfd.ok() ? HasExited(*pidfd) : absl::IsNotFound(pidfd.status());
}

}  // namespace thermocline
