// The cold tier: blocks are immutable and large, so it is a log. What PutAll writes is one segment,
// which is never changed; its room comes back when its last block is erased, or by DropSegment.
// Format "segments.v1" (tiers/log_format.h) in a RocksDB (tiers/disk_segments.h).
//
// A Put is durable when it returns. The segment is so first, and then its entries: a crash leaves a
// segment without entries at most. The same order moves what DropSegment keeps, and what Fold
// moves: new segment, then in one batch the entries of what stays and of what goes, then the old
// files. So at any moment each
// block is found exactly once. Erasures are not, before a Sync: a power loss may bring erased
// blocks back, as long as their segment is there.
//
// used_bytes is what the disk holds or may hold by its own count, without that this is asked: the
// segments' files, erased blocks included, in whole pages; the tables of the entries, with those
// that will be made of what is still in memory, twice, as they are for a moment when they are
// merged; and own_bytes for all else (RocksDB's logs and manifests), which is not more by its
// options (tiers/disk_segments.cc). Of a PutAll the blocks fit whose StoredBytes do; what the
// medium adds (MostUsedBytes, kMostExtraBytes) is counted once they are written, and so a caller
// that does not leave room for it exceeds the capacity by that; and so does what is written anew.
//
// The newest store that was set aside counts, too. It is a segment without blocks, older than all
// others, so that it is the first to go when room is made; at an opening into which it does not fit
// it goes at once, as older ones do.
//
// A failed write of entries leaves nobody knowing what the disk has, and RocksDB takes no more
// writes until it is opened anew. So from then on all are refused, and those under way end at their
// next block, while reads go on; after a pause the next of PutAll, Erase, DropSegment and Fold
// looks whether the directory takes writes, and if so closes the database behind the tier and opens
// it again. Puts that failed are not there then; blocks that were to be erased when it failed may
// be gone.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/log_limit.h"
#include "base/mutex.h"
#include "tiers/block_envelope.h"
#include "tiers/disk_segments.h"
#include "tiers/log_index.h"
#include "tiers/tier.h"
#include "tiers/tier_budget.h"

namespace thermocline {

class LogTier : public Tier {
 public:
  struct Options {
    std::string directory;  // must exist and be writable
    uint64_t capacity_bytes = 0;
    BudgetAccount account = {};  // if there is one, the capacity is what that holds, in units of
    uint64_t unit_bytes = 0;
    std::chrono::milliseconds reopen_pause{2000};  // between attempts, after a failed write
    std::chrono::milliseconds damage_told = std::chrono::minutes(15);  // by State, after the last
    BlockEnvelope envelope = {};  // how blocks and their records are kept
    size_t open_files = 0;        // at most; 0: few
    // Of the capacity, for what is no table (OwnBytes); 0: only segments and entries are counted.
    uint64_t own_bytes = 0;
    std::shared_ptr<rocksdb::FileSystem> file_system = nullptr;  // nullptr: the machine's
  };
  /// Errors: PermissionDenied, ResourceExhausted (a full disk), FailedPrecondition (in use by
  ///         another process): what the directory's owner has to mend. Damage is no error.
  static absl::StatusOr<std::unique_ptr<LogTier>> Open(Options options);
  /// What of such a capacity is for RocksDB's logs and manifests.
  static uint64_t OwnBytes(uint64_t capacity_bytes) {
    return std::clamp(capacity_bytes / kOwnShare, kLeastOwnBytes, kMostOwnBytes);
  }
  ~LogTier() override;

  absl::Status Put(const BlockRecord& record, std::span<const std::byte> payload) override;
  void PutAll(std::span<TierPut> puts) override;
  absl::StatusOr<std::optional<BlockRecord>> Get(BlockRef ref,
                                                 std::span<std::byte> payload) override;
  absl::Status Erase(BlockRef ref) override;
  absl::Status EraseAll(std::span<const BlockRef> refs) override;
  std::optional<TierSegment> SegmentFrom(uint64_t sequence) const override;
  std::vector<SegmentSize> SegmentSizes() const override;
  absl::Status DropSegment(uint64_t sequence, std::span<const BlockRef> keep) override;
  absl::StatusOr<std::vector<uint64_t>> Fold(std::span<const BlockRef> blocks) override;
  absl::Status ForEach(const std::function<bool(const BlockRecord&)>& visit) override;
  absl::Status Sync() override;
  TierUsage Usage() const override;
  std::vector<LostBlock> TakeLost() override;
  bool RefusesWrites() const override;
  void TellDamage() override TC_EXCLUDES(mutex_);
  std::string State() const override;

 private:
  static constexpr uint64_t kOwnShare = 16;
  static constexpr uint64_t kAsideSequence = 0;  // segments begin at 1
  using Database = std::shared_ptr<SegmentDatabase>;
  using Refs = std::unordered_set<BlockRef, BlockRefHash>;
  /// A block that is put, moved or erased.
  struct Record {
    EntryChange change;
    FilePlace place = {};  // in the draft's segment
    uint64_t from = 0;  // the segment where it must be until then, else it stays as it is; 0: any
    bool is_erasure() const { return change.value.empty(); }
  };
  /// What one segment will have, when it is written, and what goes with that.
  struct Draft {
    uint64_t sequence = 0;
    uint64_t bytes = 0;                // of its file; 0: it is not written
    uint64_t reserved_bytes = 0;       // until that is known
    std::vector<Record> records = {};  // of its blocks, ascending; then erasures
  };

  /// What an opening finds.
  struct Contents {
    LogIndex index;
    uint64_t damaged = 0;  // segments and entries that are not in it, though they should be
    Refs sealed = {};      // of the known ones those that are dropped as their key is gone
  };

  explicit LogTier(Options options);
  uint64_t CapacityBytes() const {
    return options_.account ? options_.account.Held() * options_.unit_bytes
                            : options_.capacity_bytes;
  }

  uint64_t UsedBytes() const TC_REQUIRES(mutex_);

  /// Finds the newest store that was set aside, and removes what there is no room for.
  void LookAside() TC_EXCLUDES(mutex_);
  absl::Status RemoveAside(const std::string& why) TC_EXCLUDES(mutex_);
  /// Opens the database, and builds the index of what is there. `known`: nullptr at a start; else
  /// only blocks that are in it too are not dropped.
  absl::Status OpenDatabase(const LogIndex* known) TC_EXCLUDES(mutex_);
  absl::StatusOr<Contents> BuildIndex(SegmentDatabase& database, const LogIndex* known);
  /// The database that takes writes, opened anew if need be.
  absl::StatusOr<Database> Writable() TC_EXCLUDES(mutex_);
  absl::Status Reopen() TC_EXCLUDES(mutex_);
  absl::Status CloseDatabase() TC_EXCLUDES(mutex_);
  /// The status, which refuses further writes if it is an error.
  absl::Status Noted(absl::Status status) TC_EXCLUDES(mutex_);
  /// Errors: Unavailable once writes are refused: whoever writes is in the way of an opening.
  absl::Status GoOn() const TC_EXCLUDES(mutex_);

  /// The record that a block's entry has. Errors: NotFound, DataLoss, Unavailable.
  absl::StatusOr<BlockRecord> NotedRecord(const SegmentDatabase& database, BlockRef ref) const;
  /// Writes a block that was read back: as it is, or anew if another key seals by now. Answers its
  /// bytes.
  absl::StatusOr<uint64_t> AddKept(SegmentWriter& writer, const BlockRecord& record,
                                   std::span<const std::byte> payload,
                                   std::span<const std::byte> stored, uint64_t from,
                                   Draft& draft) const;
  /// Puts a block into the segment that the draft is of.
  absl::Status Add(SegmentWriter& writer, const BlockRecord& record,
                   std::span<const std::byte> stored, uint64_t from, Draft& draft) const;
  std::vector<size_t> Admit(std::span<TierPut> puts, Draft& draft) TC_EXCLUDES(mutex_);
  absl::Status WritePuts(SegmentDatabase& database, std::span<TierPut> puts,
                         std::span<const size_t> order, Draft& draft);
  /// `unread`: gets the segments that keep their blocks, as one of them cannot be read; nullptr:
  /// that is an error, Aborted.
  absl::Status WriteKept(SegmentDatabase& database, std::span<const BlockRef> keep, Draft& draft,
                         std::vector<uint64_t>* unread = nullptr);
  /// Makes the draft's changes durable, and known; but for those of blocks that others have moved,
  /// replaced or erased meanwhile.
  absl::Status Commit(SegmentDatabase& database, Draft& draft) TC_EXCLUDES(mutex_, order_mutex_);
  void RemoveEmptied(SegmentDatabase& database) TC_EXCLUDES(mutex_);
  /// Forgets a block that does not open, unless it lies elsewhere by now. One that does not verify
  /// is counted; one whose key is gone is not damaged.
  void DropUnusable(SegmentDatabase& database, BlockRef ref, uint64_t sequence,
                    const absl::Status& why) TC_EXCLUDES(mutex_);
  /// Counts blocks that do not verify.
  void NoteDamage(uint64_t count) TC_EXCLUDES(mutex_);
  /// Of segment 0: it is not here.
  LogIndex::Place PlaceOf(BlockRef ref) const TC_EXCLUDES(mutex_);

  const Options options_;
  std::atomic<uint64_t> next_sequence_ = 1;
  std::atomic<uint64_t> corrupt_count_ = 0;
  const std::shared_ptr<std::atomic<int>> open_count_ = std::make_shared<std::atomic<int>>(0);
  LogLimit dropped_limit_;
  std::atomic<uint64_t> kept_bytes_ = 0;
  std::atomic<uint64_t> entry_table_bytes_ = 0;  // when they were written last

  // Of two changes of one block the last on disk must be the last that is known. So it is held
  // while entries are written, which is done one by one anyway.
  Mutex order_mutex_;
  mutable Mutex mutex_;  // never held across I/O
  Database database_ TC_GUARDED_BY(mutex_);
  LogIndex index_ TC_GUARDED_BY(mutex_);
  std::string aside_ TC_GUARDED_BY(mutex_);  // the newest store that was set aside; empty: none
  uint64_t aside_bytes_ TC_GUARDED_BY(mutex_) = 0;
  std::vector<LostBlock> lost_ TC_GUARDED_BY(mutex_);  // of which the caller does not know yet
  // By writes that failed: they may be gone, or not.
  Refs to_erase_ TC_GUARDED_BY(mutex_);
  uint64_t reserved_bytes_ TC_GUARDED_BY(mutex_) = 0;      // of Puts under way
  std::vector<uint64_t> to_remove_ TC_GUARDED_BY(mutex_);  // segments of which the file is left
  std::string refusal_ TC_GUARDED_BY(mutex_);   // why writes are refused; empty: they are not
  uint64_t damaged_ TC_GUARDED_BY(mutex_) = 0;  // segments and entries, at the last opening
  std::chrono::steady_clock::time_point damage_told_until_ TC_GUARDED_BY(mutex_);
  bool reopening_ TC_GUARDED_BY(mutex_) = false;
  std::chrono::steady_clock::time_point reopen_at_ TC_GUARDED_BY(mutex_);
};

}  // namespace thermocline
