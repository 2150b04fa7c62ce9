#include "daemon/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

namespace thermocline {
namespace {

std::string OwnerOf(int fd) {
  char text[32] = {};
  const ssize_t length = ::pread(fd, text, sizeof text - 1, 0);
  std::string pid(text, length > 0 ? static_cast<size_t>(length) : 0);
  while (!pid.empty() && pid.back() == '\n') pid.pop_back();
  return pid.empty() ? "(unknown)" : pid;
}

}  // namespace

absl::StatusOr<UniqueFd> TakeLock(const std::string& path, std::string_view what,
                                  std::string_view advice) {
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return ErrnoStatus(errno, "open lock file " + path, advice);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "flock " + path);
    return absl::FailedPreconditionError(std::string(what) + " in use by pid " +
                                         OwnerOf(file.get()) + "; " + std::string(advice));
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(file.get(), 0) != 0 ||
      ::pwrite(file.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return ErrnoStatus(errno, "write lock file " + path, advice);
  }
  return file;
}

}  // namespace thermocline
