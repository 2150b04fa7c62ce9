// What bench/cold compares: places on a disk that blocks are written to, read from and dropped
// from, in the same way and from the same memory.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"
#include "bench/report.h"
#include "tiers/tier.h"

namespace thermocline::bench {

inline constexpr int kMostThreads = 4;

/// What a piece of work took.
struct DiskWork {
  uint64_t bytes = 0;  // of payload
  double seconds = 0;
  double cpu_s = 0;           // of the process that works, all its threads
  uint64_t device_bytes = 0;  // that this process had the kernel write to a device meanwhile
  uint64_t device_bytes_read = 0;
  std::vector<double> get_ms;  // of each read

  double mib_per_s() const;
  double cpu_s_per_gib() const;
};

/// Adds up consecutive work.
DiskWork& operator+=(DiskWork& sum, const DiskWork& more);

/// Runs `work`, which returns absl::Status, and tells what it took of this process.
absl::StatusOr<DiskWork> MeasureDisk(const std::function<absl::Status()>& work);

/// Memory as the daemon's arena is: shared, zeros at first, in small pages (which a disk takes in
/// more pieces than huge ones).
/// Owner: unmaps in its destructor.
class SharedPages {
 public:
  static absl::StatusOr<SharedPages> Make(size_t bytes);
  SharedPages(SharedPages&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  SharedPages& operator=(SharedPages&&) = delete;
  ~SharedPages();
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  explicit SharedPages(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::span<std::byte> bytes_;
};

/// The blocks of one size: what they hold, and memory to read them into.
class ColdBlocks {
 public:
  /// `content` outlives it, and is a multiple of `block_bytes` long.
  static absl::StatusOr<ColdBlocks> Make(std::span<const std::byte> content, size_t block_bytes);

  size_t bytes() const { return block_bytes_; }
  std::span<const std::byte> Payload(size_t block) const {
    return content_.subspan(block % sums_.size() * block_bytes_, block_bytes_);
  }
  BlockRecord Record(size_t block) const;
  /// Where thread `thread` puts its `nth` read: page-aligned, and no longer in a cache when its
  /// turn comes again.
  std::span<std::byte> Room(int thread, size_t nth) const;

 private:
  std::span<const std::byte> content_;
  size_t block_bytes_ = 0;
  std::vector<uint64_t> sums_;  // of the stretches of the content
  std::vector<SharedPages> rooms_;
};

/// Thread: one; it starts threads of its own.
/// Owner:  borrows the blocks.
class ColdStore {
 public:
  explicit ColdStore(const ColdBlocks& blocks) : blocks_(blocks) {}
  virtual ~ColdStore() = default;
  virtual std::string name() const = 0;
  /// Writes so many blocks from `first` on, divided among `writers` threads. What it answers is as
  /// safe from a power failure as the store makes it.
  virtual absl::StatusOr<DiskWork> Write(size_t first, size_t count, int writers) = 0;
  /// Reads these blocks, each once, by `threads` threads.
  virtual absl::StatusOr<DiskWork> Read(std::span<const size_t> blocks, int threads) = 0;
  /// Reads one block and compares it. Errors: it is not there, or wrong.
  virtual absl::Status Check(size_t block) = 0;
  /// Drops so many blocks from `first` on, which are its oldest.
  virtual absl::Status Drop(size_t first, size_t count) = 0;
  /// What of its capacity is free; nothing: it knows of none.
  virtual std::optional<uint64_t> RoomBytes() const { return std::nullopt; }
  /// Waits until it does nothing more by itself.
  virtual absl::Status Settle() { return absl::OkStatus(); }
  /// Has the kernel forget what it keeps of the store's files.
  virtual absl::Status DropCaches() { return absl::OkStatus(); }

 protected:
  const ColdBlocks& blocks_;
};

/// One that reads block by block in this process.
class InProcessStore : public ColdStore {
 public:
  using ColdStore::ColdStore;
  /// Thread: any. `into` is a block long and page-aligned.
  virtual absl::Status ReadOne(size_t block, std::span<std::byte> into) = 0;
  absl::StatusOr<DiskWork> Read(std::span<const size_t> blocks, int threads) override;
  absl::Status Check(size_t block) override;
};

/// A tier of ours. A writer's share of a Write is one segment.
class TierStore : public InProcessStore {
 public:
  TierStore(const ColdBlocks& blocks, std::unique_ptr<Tier> tier)
      : InProcessStore(blocks), tier_(std::move(tier)) {}
  std::string name() const override { return "thermocline"; }
  absl::StatusOr<DiskWork> Write(size_t first, size_t count, int writers) override;
  absl::Status ReadOne(size_t block, std::span<std::byte> into) override;
  absl::Status Drop(size_t first, size_t count) override;
  std::optional<uint64_t> RoomBytes() const override {
    const TierUsage usage = tier_->Usage();
    return usage.capacity_bytes - std::min(usage.used_bytes, usage.capacity_bytes);
  }
  Tier& tier() { return *tier_; }

 private:
  absl::Status WriteSegment(size_t first, std::span<const BlockRecord> records);

  const std::unique_ptr<Tier> tier_;
};

/// The least there can be: one file, a block at its number, O_DIRECT, no names, nothing verified.
class RawStore : public InProcessStore {
 public:
  static absl::StatusOr<std::unique_ptr<RawStore>> Open(const ColdBlocks& blocks,
                                                        const std::string& path);
  std::string name() const override { return "raw"; }
  absl::StatusOr<DiskWork> Write(size_t first, size_t count, int writers) override;
  absl::Status ReadOne(size_t block, std::span<std::byte> into) override;
  absl::Status Drop(size_t first, size_t count) override;

 private:
  RawStore(const ColdBlocks& blocks, UniqueFd file)
      : InProcessStore(blocks), file_(std::move(file)) {}

  const UniqueFd file_;
};

/// Runs `body(thread)` on so many threads and answers the first error.
absl::Status OnThreads(int threads, const std::function<absl::Status(int)>& body);

/// Has the kernel forget what it keeps of the files below `directory`.
void DropFileCaches(const std::string& directory);

}  // namespace thermocline::bench
