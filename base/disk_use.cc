#include "base/disk_use.h"

#include <sys/stat.h>

#include <filesystem>
#include <set>
#include <system_error>
#include <vector>

namespace thermocline {
namespace {

constexpr uint64_t kBytesOfABlock = 512;  // of st_blocks, whatever the file system's own are

}  // namespace

uint64_t DiskBytes(const std::string& path) {
  uint64_t blocks = 0;
  std::set<ino_t> linked;  // that are counted
  std::vector<std::string> left = {path};
  while (!left.empty()) {
    const std::string next = std::move(left.back());
    left.pop_back();
    struct stat status {};
    if (::lstat(next.c_str(), &status) != 0) continue;
    if (!S_ISDIR(status.st_mode) && status.st_nlink > 1 && !linked.insert(status.st_ino).second) {
      continue;
    }
    blocks += static_cast<uint64_t>(status.st_blocks);
    if (!S_ISDIR(status.st_mode)) continue;
    std::error_code error;
    std::filesystem::directory_iterator at(next, error);
    for (; !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
      left.push_back(at->path());
    }
  }
  return blocks * kBytesOfABlock;
}

}  // namespace thermocline
