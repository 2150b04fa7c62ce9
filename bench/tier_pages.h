// What the pages of the arena change: 4 KiB, transparent huge ones, and those of a hugetlbfs.
#pragma once
#include <cstdint>
#include <string>

#include "base/status.h"
#include "bench/report.h"

namespace thermocline::bench {

/// Measures an arena of so many bytes on each kind in turn, in `directory`, which is on a tmpfs. A
/// kind that this machine or user cannot have is skipped, visibly.
absl::Status ComparePages(const std::string& directory, uint64_t bytes, Report& report);

}  // namespace thermocline::bench
