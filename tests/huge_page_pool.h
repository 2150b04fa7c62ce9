// Huge pages for one test: sets some apart (which takes root) and mounts a hugetlbfs; puts all
// back. One test at a time: the pool is the machine's.
#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>

#include "base/unique_fd.h"
#include "base/units.h"

namespace thermocline::testing {

inline constexpr uint64_t kHugePageBytes = 2 * MiB;

class HugePagePool {
 public:
  /// `directory` is created. Where there are no huge pages to be had, why_not() says so.
  HugePagePool(const std::string& directory, uint64_t pages, const std::string& options = "")
      : lock_(::open("/tmp/tc-huge-page-pool", O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
        directory_(directory) {
    why_not_ = Prepare(pages, options);
  }
  HugePagePool(const HugePagePool&) = delete;
  HugePagePool& operator=(const HugePagePool&) = delete;
  ~HugePagePool() {
    if (is_mounted_) ::umount2(directory_.c_str(), MNT_DETACH);
    if (owns_pool_) (void)SetPages(0);
  }

  const std::string& why_not() const { return why_not_; }
  /// False when the kernel makes fewer. Those in use stay until they are free.
  bool SetPages(uint64_t pages) {
    std::ofstream(kPool + "nr_hugepages") << pages << std::flush;
    return Read("nr_hugepages") == pages;
  }
  uint64_t free() const { return Read("free_hugepages"); }
  uint64_t reserved() const { return Read("resv_hugepages"); }

 private:
  inline static const std::string kPool = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
  static uint64_t Read(const std::string& file) {
    uint64_t pages = 0;
    std::ifstream(kPool + file) >> pages;
    return pages;
  }
  /// What is in the way; "" if nothing is.
  std::string Prepare(uint64_t pages, const std::string& options) {
    if (!lock_ || ::flock(lock_.get(), LOCK_EX) != 0) return "no lock can be had";
    if (Read("nr_hugepages") != 0) return "the machine uses its pool of huge pages";
    owns_pool_ = true;
    if (!SetPages(pages)) return "the kernel does not set huge pages apart (root?)";
    const std::string all = "pagesize=2M" + (options.empty() ? "" : "," + options);
    if (::mkdir(directory_.c_str(), 0700) != 0 ||
        ::mount("none", directory_.c_str(), "hugetlbfs", 0, all.c_str()) != 0) {
      return "no hugetlbfs can be mounted";
    }
    is_mounted_ = true;
    return "";
  }

  UniqueFd lock_;
  const std::string directory_;
  bool owns_pool_ = false;
  bool is_mounted_ = false;
  std::string why_not_;
};

}  // namespace thermocline::testing
