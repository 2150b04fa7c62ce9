#include "base/file_util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace thermocline {
namespace {

constexpr size_t kReadPieceBytes = 64 * 1024;

std::string ParentOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      return ErrnoStatus(errno, "write " + path, "free some space or choose another directory");
    }
    content.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t limit_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(errno, "open " + path);
  std::string content;
  while (true) {
    const size_t held = content.size();
    content.resize(held + kReadPieceBytes);
    const ssize_t count = ::read(fd.get(), content.data() + held, kReadPieceBytes);
    const int error = errno;
    content.resize(held + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (count < 0 && error == EINTR) continue;
    if (count < 0) return ErrnoStatus(error, "read " + path);
    if (count == 0) return content;
    if (content.size() > limit_bytes) {
      return absl::ResourceExhaustedError(path + " has more than " + std::to_string(limit_bytes) +
                                          " bytes, the most that is read; is it the right file?");
    }
  }
}

absl::Status SyncDirectory(const std::string& directory) {
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(errno, "open " + directory);
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "fsync " + directory);
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view content, mode_t mode) {
  const std::string temporary = path + ".tmp";
  const auto write = [&]() -> absl::Status {
    UniqueFd fd(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode));
    if (!fd) return ErrnoStatus(errno, "create " + temporary);
    if (::fchmod(fd.get(), mode) != 0) return ErrnoStatus(errno, "chmod " + temporary);
    TC_RETURN_IF_ERROR(WriteAll(fd.get(), content, temporary));
    if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "fsync " + temporary);
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      return ErrnoStatus(errno, "rename " + temporary + " to " + path);
    }
    return absl::OkStatus();
  };
  if (absl::Status status = write(); !status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return SyncDirectory(ParentOf(path));
}

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  if (path.empty()) return absl::InvalidArgumentError("a directory without a name");
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string directory = path.substr(0, end);
    if (::mkdir(directory.c_str(), mode) != 0) {
      const int error = errno;
      struct stat info {};
      const bool found = ::stat(directory.c_str(), &info) == 0;
      if (found && !S_ISDIR(info.st_mode)) {
        return absl::InvalidArgumentError(directory +
                                          " is not a directory; remove it or choose another path");
      }
      if (!found) return ErrnoStatus(error, "mkdir " + directory, "choose a writable path");
    }
    if (end == std::string::npos) return absl::OkStatus();
  }
}

absl::StatusOr<UniqueFd> MakeSealedMemory(const std::string& name, uint64_t bytes) {
  UniqueFd fd(::memfd_create(("thermocline " + name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return ErrnoStatus(errno, "memfd_create of a " + name);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(errno, "ftruncate of a " + name);
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus(errno, "sealing a " + name);
  }
  return fd;
}

}  // namespace thermocline
