// A directory of a test's own, gone with it.
#pragma once
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/check.h"

namespace thermocline {

class ScratchDirectory {
 public:
  /// Below $TMPDIR or /tmp; `base` "/dev/shm" for memory.
  explicit ScratchDirectory(std::string base = "") {
    if (base.empty()) base = std::filesystem::temp_directory_path();
    path_ = base + "/tc-tiers-XXXXXX";
    TC_CHECK(::mkdtemp(path_.data()) != nullptr);
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// The seed of a randomised test: TC_SEED, else `fallback`.
inline uint64_t TestSeed(uint64_t fallback) {
  const char* text = std::getenv("TC_SEED");
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 0);
}

}  // namespace thermocline
