// The parts of bench/cold.
#pragma once
#include <memory>
#include <span>
#include <string>

#include "bench/cold_store.h"
#include "bench/report.h"
#include "tiers/tier.h"

namespace thermocline::bench {

/// What the parts have in common. Each makes its own directory below `directory`, and removes it.
struct ColdBench {
  std::string directory;
  std::span<const std::byte> content;
  std::string content_file;  // the same
  bool quick = false;
  bool has_fio = false;
  bool has_lmcache = false;
  Report& report;
};

/// A directory that goes with all that is in it.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(std::string path);
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

/// The cold tier as the daemon has it, in a directory of its own.
absl::StatusOr<std::unique_ptr<Tier>> OpenColdTier(const std::string& directory,
                                                   uint64_t capacity_bytes);

/// `read`, `write`: throughput, processor time and write amplification by size and threads,
/// against fio, raw files and the peers.
absl::Status AddThroughput(const ColdBench& bench);
/// `read_beside`: reads one at a time while another thread writes 150 MiB/s.
absl::Status AddBesideWriter(const ColdBench& bench);
/// `churn`: three times the capacity is written, the oldest makes room, some is read.
absl::Status AddChurn(const ColdBench& bench);
/// `open`: a tier of a million small blocks is opened.
absl::Status AddOpening(const ColdBench& bench);
/// `ack`: commits that wait for the disk, and what is written for them.
absl::Status AddAck(const ColdBench& bench);
/// `trace`: request traces through the tier stack.
absl::Status AddTraces(const ColdBench& bench);

}  // namespace thermocline::bench
