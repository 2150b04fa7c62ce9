// RocksDB as the log uses it (tiers/log_format.h): segments that are written once, as tables that
// SstFileWriter makes and the database takes over, and never compacted; and the entries, a small
// family with a log of its own. A table has an index and no filter: nobody asks for a block that
// is not there, and the read of a block is one read of the disk: from its place in the file, which
// an entry tells (tiers/disk_reads.h), or else by RocksDB.
//
//   <directory>/store/incoming   tables being written; what is there at an opening is removed
//
// Order is what makes a crash harmless: a table is durable under its name and in the manifest
// before entries point into it (SegmentWriter::Finish, then Commit), and it leaves after they do.
// No header of RocksDB is reached through this one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "base/units.h"
#include "tiers/log_format.h"
#include "tiers/tier.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
class FileLock;
class FileSystem;
class SstFileWriter;
class Status;
}  // namespace rocksdb

namespace thermocline {

class DiskHealth;
class EndsFileSystem;
class IngestedTables;
class SegmentFiles;

/// Half of them are RocksDB's, which opens the first sixteen with the store.
inline constexpr size_t kLeastOpenFiles = 256;

/// What RocksDB's logs and manifests need, and all that is of use to them.
inline constexpr uint64_t kLeastOwnBytes = 1 * MiB;
inline constexpr uint64_t kMostOwnBytes = 32 * MiB;

/// An entry to be set, or erased if it has no value.
struct EntryChange {
  BlockRef ref;
  std::string value;
};

/// Thread: any, concurrently.
class SegmentDatabase {
 public:
  struct Options {
    std::string directory;
    std::shared_ptr<rocksdb::FileSystem> file_system = nullptr;  // nullptr: the machine's
    std::string damage = "";             // if any, the store that is there is set aside for it
    size_t open_files = 0;               // at most, but for a few; not less than kLeastOpenFiles
    uint64_t own_bytes = kMostOwnBytes;  // of files that are no tables; at least kLeastOwnBytes
  };
  /// Opens the store, setting aside what cannot be used, and leaving out segments that cannot.
  /// Errors: what the directory's owner has to mend, with advice. Damage is no error.
  static absl::StatusOr<std::unique_ptr<SegmentDatabase>> Open(const Options& options);
  /// Opens it to look only; nothing on the disk is changed, and damage stays where it is.
  /// Errors: NotFound, of another form, in use, or too damaged to be opened.
  static absl::StatusOr<std::unique_ptr<SegmentDatabase>> OpenToLook(const std::string& directory);
  ~SegmentDatabase();
  SegmentDatabase(const SegmentDatabase&) = delete;

  struct Segment {
    uint64_t sequence = 0;
    uint64_t bytes = 0;  // of its file
    std::string file;
  };
  std::vector<Segment> Segments() const;
  /// What the tables of the entries take, with those that will be made of what is still in memory;
  /// as much again while they are merged.
  uint64_t EntryTableBytes();

  using Look = std::function<absl::Status(std::span<const std::byte>)>;
  /// Calls `look` with the block as stored, which is valid until it returns, and answers what that
  /// does. It is read from its place, if that is known; unless `look` takes what lies there it is
  /// called again, with what RocksDB finds. It must read nothing here itself.
  /// Errors: NotFound when it is not there, DataLoss for damage, Unavailable.
  absl::Status ReadBlock(const EntryHead& block, const Look& look) const;
  /// Calls `look` with what lies at the place, whatever it is. Errors: Unavailable.
  absl::Status ReadPlace(uint64_t sequence, FilePlace place, const Look& look) const;

  /// Calls `look` with the value of a block's entry. Errors: its own, NotFound, Unavailable.
  absl::Status ReadEntryOf(BlockRef ref, const Look& look) const;
  /// Until `visit(key, value)` returns false. Errors: DataLoss when they cannot be read on.
  absl::Status ForEachEntry(const std::function<bool(std::span<const std::byte>,
                                                     std::span<const std::byte>)>& visit) const;

  /// Lets entries be merged in the background, which would disturb whoever reads all of them.
  void BeginMerging();

  /// All of them or none. If `durable`, they survive a power loss, and so do all before. After an
  /// error nobody knows which, until the store is opened anew; no other is taken before.
  absl::Status Commit(std::span<const EntryChange> changes, bool durable);

  /// Gives the segment's room back. Nothing may point to it.
  absl::Status RemoveSegment(uint64_t sequence);

  /// Why writes are refused; empty when they are not.
  std::string Error() const;
  /// Where a damaged or foreign store was renamed to; empty: none was.
  const std::string& set_aside() const { return set_aside_; }
  /// Segments that could not be used, and were dropped.
  uint64_t dropped_segments() const { return dropped_segments_; }

 private:
  friend class SegmentWriter;
  explicit SegmentDatabase(const Options& options);
  absl::StatusOr<rocksdb::Status> OpenStore(const std::string& directory);
  rocksdb::Status OpenOnce(bool strictly);
  bool HasLostCurrent() const;
  rocksdb::Status DropUnusable();
  void Close();
  void Adopt(rocksdb::DB* db, const std::vector<rocksdb::ColumnFamilyHandle*>& handles);

  const std::string store_;                                 // its directory
  const std::shared_ptr<rocksdb::FileSystem> file_system_;  // below ends_
  const std::shared_ptr<EndsFileSystem> ends_;              // below env_
  const std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<rocksdb::Env> writing_env_;  // of segments, if that is done directly
  std::shared_ptr<DiskHealth> health_;
  std::shared_ptr<IngestedTables> ingested_;
  std::unique_ptr<SegmentFiles> files_;
  const size_t open_files_;
  const uint64_t own_bytes_;
  std::string set_aside_;
  uint64_t dropped_segments_ = 0;
  bool direct_io_ = false;
  rocksdb::FileLock* looking_ = nullptr;  // keeps others out, when it is opened to look only
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* segments_ = nullptr;
  rocksdb::ColumnFamilyHandle* entries_ = nullptr;
  // A log of which a write has failed must not be synced: Debian's RocksDB aborts the process. So
  // the lock is held while the disk is written, which RocksDB does one by one anyway.
  Mutex log_mutex_;
  bool commit_failed_ TC_GUARDED_BY(log_mutex_) = false;
  std::deque<uint32_t> last_entries_ TC_GUARDED_BY(log_mutex_);  // bytes of those in no table yet
  uint64_t last_entries_bytes_ TC_GUARDED_BY(log_mutex_) = 0;
};

/// Writes one segment. One that is not finished leaves nothing.
/// Thread: one.
class SegmentWriter {
 public:
  SegmentWriter(SegmentDatabase& database, uint64_t sequence);
  ~SegmentWriter();
  SegmentWriter(const SegmentWriter&) = delete;

  /// Answers where it will lie in the file. REQUIRES: refs ascend, by id and then part.
  absl::StatusOr<FilePlace> Add(BlockRef ref, std::span<const std::byte> stored);
  /// When it returns OK the segment is durable; answers the bytes of its file.
  /// REQUIRES: there is a block in it.
  absl::StatusOr<uint64_t> Finish();

 private:
  /// Of the value just put, before which the file ended at `end_before`.
  FilePlace PlaceOf(uint64_t end_before, uint64_t bytes) const;

  SegmentDatabase& database_;
  const uint64_t sequence_;
  const std::string path_;
  std::unique_ptr<rocksdb::SstFileWriter> table_;
  uint64_t added_ = 0;
  uint64_t first_end_ = 0;  // of the table's first block, once it is there
};

/// Whether the store's directory takes writes now. Errors: why not.
absl::Status ProbeStore(const std::string& directory,
                        const std::shared_ptr<rocksdb::FileSystem>& file_system);

}  // namespace thermocline
