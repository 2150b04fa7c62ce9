#include "tiers/device_mover_lock.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <thread>

#include "base/log.h"
#include "base/process.h"

namespace thermocline {
namespace {

using std::chrono::steady_clock;

constexpr size_t kMaxSignature = 64;
constexpr std::chrono::milliseconds kPause{10};
// Of one that was killed. Only one that cannot be killed takes longer, on whatever machine.
constexpr std::chrono::milliseconds kDeathPatience{10'000};

struct Holder {
  pid_t pid = 0;
  uint64_t start_time = 0;
};

std::optional<Holder> HolderOf(int lock) {
  char text[kMaxSignature];
  const ssize_t got = ::pread(lock, text, sizeof text, 0);
  if (got <= 0) return std::nullopt;
  const char* const end = text + got;
  Holder holder;
  const auto pid = std::from_chars(text, end, holder.pid);
  if (pid.ec != std::errc() || pid.ptr == end || holder.pid <= 0) return std::nullopt;
  const auto start = std::from_chars(pid.ptr + 1, end, holder.start_time);
  if (start.ec != std::errc()) return std::nullopt;
  return holder;
}

// The lock alone would not do: a process that is killed may let go of it before the device does of
// its copies, but both before its pidfd tells.
absl::Status EndHolder(int lock, std::chrono::milliseconds patience) {
  const std::optional<Holder> holder = HolderOf(lock);
  if (!holder) return absl::OkStatus();
  const absl::StatusOr<UniqueFd> process = OpenPidFd(holder->pid, holder->start_time);
  if (absl::IsNotFound(process.status())) return absl::OkStatus();
  TC_RETURN_IF_ERROR(process.status());
  if (WaitForExit(*process, patience)) return absl::OkStatus();
  LogEvent(LogLevel::kWarning, "former_mover_killed", {{"pid", holder->pid}});
  ::syscall(SYS_pidfd_send_signal, process->get(), SIGKILL, nullptr, 0);
  if (WaitForExit(*process, kDeathPatience)) return absl::OkStatus();
  return absl::UnavailableError("an earlier daemon's mover, process " +
                                std::to_string(holder->pid) +
                                ", may still be copying and cannot be killed");
}

}  // namespace

absl::StatusOr<UniqueFd> LockMover(const std::string& path, std::chrono::milliseconds patience) {
  UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return ErrnoStatus(errno, "open the mover's lock " + path);
  TC_RETURN_IF_ERROR(EndHolder(lock.get(), patience));
  const auto deadline = steady_clock::now() + patience;
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return ErrnoStatus(errno, "lock " + path);
    if (steady_clock::now() >= deadline) {
      return absl::UnavailableError(path + " is locked by a process that it does not name; end it");
    }
    std::this_thread::sleep_for(kPause);
    TC_RETURN_IF_ERROR(EndHolder(lock.get(), patience));  // one that has signed only now
  }
  return lock;
}

absl::Status SignMoverLock(int lock) {
  TC_ASSIGN_OR_RETURN(const uint64_t start_time, ProcessStartTime(::getpid()));
  const std::string text = std::to_string(::getpid()) + " " + std::to_string(start_time) + "\n";
  if (::pwrite(lock, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
      ::ftruncate(lock, static_cast<off_t>(text.size())) != 0) {
    return ErrnoStatus(errno, "sign the mover's lock");
  }
  return absl::OkStatus();
}

bool WaitForExit(const UniqueFd& pidfd, std::chrono::milliseconds patience) {
  const auto deadline = steady_clock::now() + patience;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_clock::now());
    pollfd watched{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
    const int got = ::poll(&watched, 1, static_cast<int>(std::max<int64_t>(0, left.count())));
    if (got == 1) return true;
    if (got == 0 || errno != EINTR) return false;
  }
}

}  // namespace thermocline
