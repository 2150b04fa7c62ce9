#include "catalog/arena_places.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "base/file_util.h"
#include "base/units.h"

namespace thermocline {
namespace {

bool IsWritableTmpfs(const std::string& directory) {
  struct statfs system;
  return statfs(directory.c_str(), &system) == 0 && system.f_type == TMPFS_MAGIC &&
         access(directory.c_str(), W_OK | X_OK) == 0;
}

bool HasRoomFor(const std::string& directory, uint64_t bytes) {
  struct statfs system;
  return statfs(directory.c_str(), &system) == 0 &&
         uint64_t{system.f_bavail} * static_cast<uint64_t>(system.f_bsize) > bytes;
}

bool IsThere(const std::string& path) {
  struct stat found;
  return lstat(path.c_str(), &found) == 0;
}

// A hugetlbfs without size= says that it has no blocks at all; with it, it may still promise more
// than there are.
uint64_t FreeBytes(const struct statfs& system) {
  const auto block_bytes = static_cast<uint64_t>(system.f_bsize);
  const uint64_t said = uint64_t{system.f_bavail} * block_bytes;
  if (system.f_type != HUGETLBFS_MAGIC) return said;
  const uint64_t pool = FreeHugetlbBytes(block_bytes);
  return system.f_blocks == 0 ? pool : std::min(said, pool);
}

}  // namespace

absl::Status CheckRoom(const std::string& directory, std::span<const std::string> files,
                       uint64_t capacity_bytes, const std::string& option) {
  struct statfs system;
  if (statfs(directory.c_str(), &system) != 0) return ErrnoStatus(errno, "statfs " + directory);
  const bool is_hugetlb = system.f_type == HUGETLBFS_MAGIC;
  const auto block_bytes = static_cast<uint64_t>(system.f_bsize);
  // Of each file the page that its header lies on, too.
  const uint64_t wanted = capacity_bytes + files.size() * (is_hugetlb ? block_bytes : kPageBytes);
  uint64_t room = FreeBytes(system);
  for (const std::string& name : files) {
    struct stat file;
    if (stat((directory + "/" + name).c_str(), &file) == 0) {
      room += static_cast<uint64_t>(file.st_blocks) * 512;
    }
  }
  if (room >= wanted) return absl::OkStatus();
  const std::string how =
      is_hugetlb ? ", or set more huge pages apart (sysctl vm.nr_hugepages; the size= of the mount)"
                 : ", enlarge it (mount -o remount,size=...), or give another directory with "
                   "--arena-dir";
  return absl::ResourceExhaustedError(
      "arena directory " + directory + ": its file system has room for " + FormatBytes(room) +
      " where " + FormatBytes(wanted) + " are asked for; lower " + option + how);
}

absl::StatusOr<std::string> ChooseArenaDirectory(const ArenaPlaces& places) {
  if (!places.option.empty()) return places.option;
  const std::string own = places.shm_directory + "-" + std::to_string(geteuid());
  const auto holds_it = [&](const std::string& directory) {
    return IsThere(directory + "/" + places.file);
  };
  if (IsWritableTmpfs(places.run_directory)) {
    const bool fits = HasRoomFor(places.run_directory, places.capacity_bytes);
    if (holds_it(places.run_directory) || (fits && !holds_it(own))) return places.run_directory;
  }
  const std::string advice = "give another with --arena-dir";
  if (mkdir(own.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, "create " + own, advice);
  }
  struct stat found;
  if (lstat(own.c_str(), &found) != 0) return ErrnoStatus(errno, "stat " + own, advice);
  if (!S_ISDIR(found.st_mode) || found.st_uid != geteuid() || (found.st_mode & 077) != 0) {
    return absl::FailedPreconditionError("arena directory " + own +
                                         ": exists and is not a directory of this user with mode "
                                         "0700; remove it, or " +
                                         advice);
  }
  return own;
}

std::optional<uint64_t> HugetlbPageBytes(const std::string& path) {
  struct statfs system;
  if (statfs(path.c_str(), &system) != 0 || system.f_type != HUGETLBFS_MAGIC) return std::nullopt;
  return static_cast<uint64_t>(system.f_bsize);
}

uint64_t FreeHugetlbBytes(uint64_t page_bytes, const std::string& pools) {
  const std::string pool = pools + "/hugepages-" + std::to_string(page_bytes / KiB) + "kB/";
  const auto pages = [&](const char* file) -> uint64_t {
    const auto text = ReadFile(pool + file, 64);
    return text.ok() ? std::strtoull(text->c_str(), nullptr, 10) : 0;
  };
  // Beyond the pool the kernel may make some more, where that is allowed.
  const uint64_t more = pages("nr_overcommit_hugepages");
  const uint64_t made = pages("surplus_hugepages");
  const uint64_t free = pages("free_hugepages") + (more - std::min(more, made));
  return (free - std::min(free, pages("resv_hugepages"))) * page_bytes;
}

// mountinfo has a line "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS".
bool MountHasHugePages(int fd) {
  struct stat file;
  const auto text = ReadFile("/proc/self/mountinfo", 16 * MiB);
  if (fstat(fd, &file) != 0 || !text.ok()) return false;
  const std::string device =
      std::to_string(major(file.st_dev)) + ":" + std::to_string(minor(file.st_dev));
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, of;
    words >> id >> parent >> of;
    const size_t dash = line.find(" - ");
    if (of != device || dash == std::string::npos) continue;
    for (const char* huge : {"huge=always", "huge=within_size", "huge=advise"}) {
      if (line.find(huge, dash) != std::string::npos) return true;
    }
    return false;
  }
  return false;
}

}  // namespace thermocline
