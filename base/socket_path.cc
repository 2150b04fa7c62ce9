#include "base/socket_path.h"

#include <sys/stat.h>
#include <unistd.h>

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
  return "/tmp/thermocline-" + std::to_string(::geteuid()) + "/thermocline.sock";
}

std::string ClientSocketPath() {
  const char* given = std::getenv("THERMOCLINE_SOCKET");
  return given != nullptr && given[0] != '\0' ? given : DefaultSocketPath();
}

}  // namespace thermocline
