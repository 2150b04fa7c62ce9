// A read-only bind mount, in a mount namespace of the calling thread and what it starts, for tests
// of tenants whose clients may not write in the arena.
#pragma once
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

namespace thermocline::testing {

/// False where that is not allowed (who is not root, a container without the capability).
inline bool MountReadOnly(const std::string& directory, const std::string& view) {
  static const bool apart = ::unshare(CLONE_NEWNS) == 0 &&
                            ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  return apart && (::mkdir(view.c_str(), 0700) == 0 || errno == EEXIST) &&
         ::mount(directory.c_str(), view.c_str(), nullptr, MS_BIND, nullptr) == 0 &&
         ::mount(nullptr, view.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) == 0;
}

}  // namespace thermocline::testing
