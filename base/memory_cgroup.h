// How much memory the control groups of this process leave it. The kernel answers who asks for
// more by killing, also where the system call that asked could have failed; so we look before.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace thermocline {

struct MemoryCgroupRoom {
  uint64_t bytes = 0;  // until the limit; the caches of files on disks, which give way, not counted
  uint64_t limit_bytes = 0;
  std::string directory;  // of the group that leaves the least
};

/// Of this process's group and those above it, in the first version of control groups or in the
/// second; nullopt where none has a limit, or nothing can be known.
/// Cost: reads a few files of /sys.
std::optional<MemoryCgroupRoom> RoomInMemoryCgroup(
    const std::string& membership = "/proc/self/cgroup",
    const std::string& root = "/sys/fs/cgroup");

}  // namespace thermocline
