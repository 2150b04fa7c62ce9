// fio, the measure of what a disk can do: O_DIRECT, one read or write at a time a thread; readers
// are pinned as ours are (bench/pinned.h).
#pragma once
#include <string>

#include "base/status.h"

namespace thermocline::bench {

/// Why it cannot be had here; empty: it can.
std::string FioMissing();

struct FioLoad {
  bool write = false;  // in order, into a new file a thread, which is gone afterwards
  std::string path;    // read: the file, at random; write: a directory
  size_t block_bytes = 0;
  size_t thread_bytes = 0;  // moved by each thread; a write is synced once behind them
  int threads = 1;
};

/// Answers MiB/s. Errors: what fio said.
absl::StatusOr<double> RunFio(const FioLoad& load);

}  // namespace thermocline::bench
