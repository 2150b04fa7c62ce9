// A directory on a tmpfs (or wherever /dev/shm is) for one test.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/check.h"

namespace thermocline {

/// Owner: removes it and all in it in its destructor.
class ShmDirectory {
 public:
  ShmDirectory() {
    std::string path =
        access("/dev/shm", W_OK) == 0 ? "/dev/shm/tc-test-XXXXXX" : "/tmp/tc-test-XXXXXX";
    TC_CHECK(mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  ShmDirectory(const ShmDirectory&) = delete;
  ShmDirectory& operator=(const ShmDirectory&) = delete;
  ~ShmDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace thermocline
