// RocksDB 7 looks at the first and the last block of a table that it takes over, and not at whether
// that went well: without the first it takes the table without its bounds, without the last it
// aborts the process. So both are read before, where an error is only an error, and RocksDB finds
// them in memory.
#pragma once
#include <rocksdb/file_system.h>

#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"

namespace thermocline {

/// A file system that reads both ends of some files when they are opened. All else is done by
/// `below`.
/// Thread: any.
class EndsFileSystem : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "EndsFileSystem"; }

  /// Bytes [0, head_end) of a file, and all from tail_begin on.
  struct Ends {
    uint64_t head_end = 0;
    uint64_t tail_begin = 0;
  };
  /// Whoever opens `path` next has those in memory, or an error.
  void Keep(const std::string& path, Ends ends) TC_EXCLUDES(mutex_);

  rocksdb::IOStatus NewRandomAccessFile(const std::string& path,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* debug) override
      TC_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  std::map<std::string, Ends> kept_ TC_GUARDED_BY(mutex_);  // by path
};

}  // namespace thermocline
