#include "tiers/disk_aside.h"

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "base/log.h"

namespace thermocline {
namespace {

constexpr int kMaxQuarantines = 100;  // of one second
constexpr char kAsideName[] = "quarantine-%lld-%d";

bool IsThere(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

/// When it was set aside, and as which of that second; nothing: it is no such store.
std::optional<std::pair<long long, int>> AsideAt(const std::string& name) {
  long long seconds = 0;
  int nth = 1;
  if (std::sscanf(name.c_str(), kAsideName, &seconds, &nth) < 1) return std::nullopt;
  return std::pair(seconds, nth);
}

}  // namespace

absl::StatusOr<std::string> SetStoreAside(const std::string& directory, const std::string& why) {
  const int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count();
  std::string target = directory + "/quarantine-" + std::to_string(seconds);
  for (int i = 2; IsThere(target); ++i) {
    if (i > kMaxQuarantines) {
      return absl::ResourceExhaustedError("cold tier: too many quarantined stores in " + directory +
                                          "; remove them");
    }
    target = directory + "/quarantine-" + std::to_string(seconds) + "-" + std::to_string(i);
  }
  if (::rename((directory + "/store").c_str(), target.c_str()) != 0) {
    return ErrnoStatus(errno, "rename " + directory + "/store to " + target,
                       "make the data directory writable");
  }
  LogEvent(LogLevel::kWarning, "cold_tier_set_aside",
           {{"reason", why}, {"now_at", target}, {"advice", "the cold tier begins empty"}});
  return target;
}

std::vector<std::string> StoresAside(const std::string& directory) {
  std::map<std::pair<long long, int>, std::string> stores;
  std::error_code error;
  std::filesystem::directory_iterator at(directory, error);
  for (; !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
    if (const auto when = AsideAt(at->path().filename())) stores[*when] = at->path();
  }
  std::vector<std::string> paths;
  for (const auto& [when, path] : stores) paths.push_back(path);
  return paths;
}

absl::Status RemoveStoreAside(const std::string& store, const std::string& why) {
  std::error_code error;
  std::filesystem::remove_all(store, error);
  if (error) return ErrnoStatus(error.value(), "remove " + store, "remove it by hand");
  LogEvent(LogLevel::kWarning, "cold_quarantine_removed", {{"store", store}, {"reason", why}});
  return absl::OkStatus();
}

}  // namespace thermocline
