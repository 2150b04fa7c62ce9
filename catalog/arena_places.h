// Where an arena lies, and whether there is room for it: on a tmpfs, or on a hugetlbfs, whose huge
// pages the machine's administrator has set apart (vm.nr_hugepages) and nobody else gets.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"

namespace thermocline {

struct ArenaPlaces {
  std::string option;           // as given; empty: choose
  std::string file;             // the arena's name in its directory
  uint64_t capacity_bytes = 0;  // for which there must be room
  std::string run_directory = "/run/thermocline";
  std::string shm_directory = "/dev/shm/thermocline";
};

/// Where an arena lies: `option` where it is given; where it lies already; else `run_directory` if
/// that is a writable tmpfs with room for it (/run is small on most machines); else
/// `shm_directory`-UID, created 0700 and refused when it is a link or somebody else's.
absl::StatusOr<std::string> ChooseArenaDirectory(const ArenaPlaces& places);

/// Whether the file system of `directory` has room for `capacity_bytes` of blocks in these files of
/// it, what they hold already counted. A hole costs nothing until it is written, so room is asked
/// for before, not found missing after. `option`: what sets the capacity, for the error text.
/// Errors: ResourceExhausted.
absl::Status CheckRoom(const std::string& directory, std::span<const std::string> files,
                       uint64_t capacity_bytes, const std::string& option);

/// Of the hugetlbfs on which this file or directory lies, the size of a page; nullopt where it is
/// on another file system, or absent.
std::optional<uint64_t> HugetlbPageBytes(const std::string& path);

/// How much of the machine's pool of such pages nobody has or has reserved: what a hugetlbfs
/// without size= does not say of itself. 0 where the kernel has no such pages.
uint64_t FreeHugetlbBytes(uint64_t page_bytes,
                          const std::string& pools = "/sys/kernel/mm/hugepages");

/// Whether the tmpfs of this file gives huge pages to who asks for them.
bool MountHasHugePages(int fd);

}  // namespace thermocline
