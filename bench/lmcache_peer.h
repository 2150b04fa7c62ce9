// LMCache's native file back end as a peer of bench/cold, from the wheel that bench/run.sh installs
// under build/: a file a block, O_DIRECT, nothing synced, nothing verified. Driven through
// lmcache_peer.py.
#pragma once
#include <memory>
#include <string>

#include "bench/cold_store.h"
#include "bench/coprocess.h"

namespace thermocline::bench {

/// Why it cannot be had here; empty: it can.
std::string LmcacheMissing();

class Lmcache : public ColdStore {
 public:
  /// `content`: a file with what the blocks hold. `read_batch`: blocks a read; a write takes
  /// sixteen.
  static absl::StatusOr<std::unique_ptr<Lmcache>> Start(const ColdBlocks& blocks,
                                                        const std::string& directory,
                                                        const std::string& content,
                                                        size_t read_batch);
  std::string name() const override { return "lmcache_fs"; }
  absl::StatusOr<DiskWork> Write(size_t first, size_t count, int writers) override;
  absl::StatusOr<DiskWork> Read(std::span<const size_t> blocks, int threads) override;
  absl::Status Check(size_t block) override;
  absl::Status Drop(size_t first, size_t count) override;

 private:
  Lmcache(const ColdBlocks& blocks, std::unique_ptr<Coprocess> process, size_t read_batch)
      : ColdStore(blocks), process_(std::move(process)), read_batch_(read_batch) {}

  const std::unique_ptr<Coprocess> process_;
  const size_t read_batch_;
};

}  // namespace thermocline::bench
