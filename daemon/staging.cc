#include "daemon/staging.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <utility>

#include "base/file_util.h"

namespace thermocline {

absl::StatusOr<std::shared_ptr<const Staging>> Staging::Create(uint64_t bytes) {
  TC_ASSIGN_OR_RETURN(UniqueFd fd, MakeSealedMemory("staging memory", bytes));
  void* base = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return ErrnoStatus(errno, "mmap of staging memory");
  return std::shared_ptr<const Staging>(
      new Staging(std::move(fd), static_cast<const std::byte*>(base), bytes));
}

Staging::~Staging() { ::munmap(const_cast<std::byte*>(base_), bytes_); }

absl::StatusOr<UniqueFd> OpenArenaView(const std::string& view_path, int arena_fd) {
  const std::string advice =
      "; arena_view must be a read-only bind mount of the arena's directory (mount --bind, then "
      "mount -o remount,bind,ro; or BindReadOnlyPaths= of the systemd unit)";
  UniqueFd view(::open(view_path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!view) {
    const int error = errno;
    return absl::FailedPreconditionError("open " + view_path + ": " +
                                         std::string(ErrnoStatus(error, "").message()) + advice);
  }
  struct stat seen, arena;
  if (::fstat(view.get(), &seen) != 0 || ::fstat(arena_fd, &arena) != 0 ||
      seen.st_dev != arena.st_dev || seen.st_ino != arena.st_ino) {
    return absl::FailedPreconditionError(view_path + " is not the arena" + advice);
  }
  const UniqueFd writable(::open(view_path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (writable || errno != EROFS) {
    return absl::FailedPreconditionError(view_path + " can be opened for writing" + advice);
  }
  return view;
}

}  // namespace thermocline
