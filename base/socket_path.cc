#include "base/socket_path.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace thermocline {
namespace {

bool MayCreateIn(const char* directory, const char* parent) {
  struct stat found;
  if (::stat(directory, &found) == 0) {
    return S_ISDIR(found.st_mode) && ::access(directory, W_OK | X_OK) == 0;
  }
  return ::access(parent, W_OK | X_OK) == 0;
}

}  // namespace

std::string DefaultSocketPath() {
  if (MayCreateIn("/run/thermocline", "/run")) return "/run/thermocline/thermocline.sock";
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') {
    return std::string(runtime) + "/thermocline/thermocline.sock";
  }
  return FallbackDirectory() + "/thermocline.sock";
}

std::string FallbackDirectory() { return "/tmp/thermocline-" + std::to_string(::geteuid()); }

absl::Status MakeOwnDirectory(const std::string& directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, "create " + directory);
  }
  struct stat found;
  if (::lstat(directory.c_str(), &found) != 0) return ErrnoStatus(errno, "stat " + directory);
  const bool ours = found.st_uid == ::geteuid() || found.st_uid == 0;
  if (S_ISDIR(found.st_mode) && ours && (found.st_mode & 022) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      directory +
      " is there and is not a directory of this user's alone, so that others could pose "
      "as the daemon in it; remove it, or choose another with --socket and --data-dir");
}

std::string ClientSocketPath() {
  const char* given = std::getenv("THERMOCLINE_SOCKET");
  return given != nullptr && given[0] != '\0' ? given : DefaultSocketPath();
}

}  // namespace thermocline
