// RocksDB as the cold tier uses it: how it is opened, where its log goes, what its background
// errors mean, and its status in our words. Debian's librocksdb is built with assertions, and its
// own log writer aborts the process when the file system fails: the log always goes to ours.
#pragma once
#include <rocksdb/db.h>
#include <rocksdb/listener.h>

#include <memory>
#include <string>

#include "base/mutex.h"
#include "base/status.h"

namespace thermocline {

inline constexpr const char* kDiskFormat = "rocksdb-kv.v1";

/// RocksDB's status as ours: what happened, where, and what to do.
absl::Status DiskStatus(const rocksdb::Status& status, const std::string& what);

/// Remembers the background error under which a database refuses writes.
/// Thread: any.
class DiskHealth : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* status) override;
  void OnErrorRecoveryEnd(const rocksdb::BackgroundErrorRecoveryInfo& info) override;
  /// "ok", or why writes are refused.
  std::string State() const;

 private:
  mutable Mutex mutex_;
  std::string error_ TC_GUARDED_BY(mutex_);
};

/// An open database.
/// Owner: closes it.
struct DiskDatabase {
  std::shared_ptr<DiskHealth> health;
  std::string set_aside;  // where a damaged or foreign store was renamed to; empty: none was
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* blocks = nullptr;
  rocksdb::ColumnFamilyHandle* headers = nullptr;

  DiskDatabase() = default;
  DiskDatabase(const DiskDatabase&) = delete;
  ~DiskDatabase();
};

/// Opens the store in `directory`, setting aside what cannot be used.
absl::StatusOr<std::unique_ptr<DiskDatabase>> OpenDiskDatabase(const std::string& directory);

/// Renames the store away and says so in the log. The database must be closed.
/// Errors: of the rename. Answers the new name.
absl::StatusOr<std::string> SetStoreAside(const std::string& directory, const std::string& why);

}  // namespace thermocline
