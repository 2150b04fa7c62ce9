// What every form of store on disk needs around its RocksDB: where the log goes, what errors mean
// in our words, which background error made it refuse writes, and a directory whose form is named,
// so that a store of another form, or one that does not open for damage, is set aside under a new
// name and an empty one begun. Debian's librocksdb is built with assertions, and its own log writer
// aborts the process when the file system fails: the log always goes to ours.
//
//   <directory>/store/FORMAT   the name of the form
//   <directory>/store/db       the database
#pragma once
#include <rocksdb/db.h>
#include <rocksdb/listener.h>

#include <memory>
#include <string>

#include "base/mutex.h"
#include "base/status.h"

namespace thermocline {

/// RocksDB's status as ours: what happened, where, and what to do.
absl::Status DiskStatus(const rocksdb::Status& status, const std::string& what);

/// Whether an owner has to mend it, as against damage that we can step around.
bool IsOfTheMedium(const rocksdb::Status& status);

/// Remembers the background error under which a database refuses writes, and keeps RocksDB from
/// trying to end it on a thread of its own, which aborted the process when it met our own attempt.
/// Thread: any.
class DiskHealth : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason /*reason*/, rocksdb::Status /*error*/,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* status) override;
  /// Why writes are refused; empty when they are not.
  std::string Error() const;

 private:
  mutable Mutex mutex_;
  std::string error_ TC_GUARDED_BY(mutex_);
};

/// RocksDB's log lines from warnings up, as events of ours.
std::shared_ptr<rocksdb::Logger> MakeDiskLog();

bool HasDirectIo(const std::string& directory);

/// The form of the store in `store`; empty: it is not there yet. "unnamed": it does not say.
absl::StatusOr<std::string> StoredFormat(const std::string& store);

/// Makes <directory>/store of the form `format` and its db, setting aside one of another form,
/// whose new name is answered in `set_aside`.
absl::Status PrepareStore(const std::string& directory, const std::string& format,
                          std::string& set_aside);

}  // namespace thermocline
