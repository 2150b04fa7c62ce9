// The cold tier in its simplest correct form: RocksDB, one value a block. Format "rocksdb-kv.v1":
//
//   <directory>/store/FORMAT    the name of the form, so that a later one knows what it finds
//   <directory>/store/db        the database: key = id (8 bytes) ‖ part (2), both big-endian
//     column family `blocks`    the sealed BlockHeader ‖ inner names ‖ payload: one value, one
//     block
//                               of its file, one read
//     column family `headers`   header and names again: all that an opening has to read
//
// A Put is one write batch with a log, so that after a kill either both are there or none. The
// budget counts headers and payloads; the files may be larger until a compaction has removed what
// was erased. Direct I/O where the file system has it, no cache, no compression, every read
// verified by RocksDB and by us. Tables have filters: without one a look-up reads a whole value
// from each table whose range spans the key.
//
// A store of another form, or one that does not open for damage, is renamed to
// <directory>/quarantine-<time> and an empty one begun: a cold tier is worth hits, never a start.
// After a background error reads go on and writes are refused; State() tells. From a full disk
// RocksDB recovers by itself some seconds after there is room for a write buffer (32 MiB); after
// any other failed write of its log only opening it anew helps (DB::Resume does not), which is a
// restart of the daemon. RocksDB stays behind tiers/disk_*.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "tiers/tier.h"
#include "tiers/tier_budget.h"

namespace rocksdb {
class Status;
class WriteBatch;
}  // namespace rocksdb

namespace thermocline {

struct DiskDatabase;  // tiers/disk_database.h: RocksDB and what it tells us

class DiskTier : public Tier {
 public:
  struct Options {
    std::string directory;  // must exist and be writable
    uint64_t capacity_bytes = 0;
    BudgetAccount account = {};  // if there is one, the capacity is what that holds, in units of
    uint64_t unit_bytes = 0;
  };
  /// Errors: PermissionDenied, ResourceExhausted (a full disk), FailedPrecondition (in use by
  ///         another process): what the directory's owner has to mend. Damage is no error.
  static absl::StatusOr<std::unique_ptr<DiskTier>> Open(Options options);
  ~DiskTier() override;

  absl::Status Put(const BlockRecord& record, std::span<const std::byte> payload) override;
  absl::StatusOr<std::optional<BlockRecord>> Get(BlockRef ref,
                                                 std::span<std::byte> payload) override;
  absl::Status Erase(BlockRef ref) override;
  absl::Status ForEach(const std::function<bool(const BlockRecord&)>& visit) override;
  absl::Status Sync() override;
  TierUsage Usage() const override;
  std::string State() const override;

 private:
  DiskTier(Options options, std::unique_ptr<DiskDatabase> database);
  uint64_t CapacityBytes() const {
    return options_.account ? options_.account.Held() * options_.unit_bytes
                            : options_.capacity_bytes;
  }
  absl::Status BuildIndex();
  void AdoptUnits();
  rocksdb::Status Write(rocksdb::WriteBatch& batch);
  void DropDamaged(BlockRef ref, const std::string& why);

  const Options options_;
  const std::unique_ptr<DiskDatabase> database_;
  mutable Mutex mutex_;  // never held across I/O
  std::unordered_map<BlockRef, uint64_t, BlockRefHash> stored_bytes_ TC_GUARDED_BY(mutex_);
  uint64_t used_bytes_ TC_GUARDED_BY(mutex_) = 0;  // of stored_bytes_ and of Puts under way
  std::atomic<uint64_t> corrupt_count_ = 0;
  Mutex log_mutex_;
  bool write_failed_ TC_GUARDED_BY(log_mutex_) = false;  // once since it was opened
};

}  // namespace thermocline
