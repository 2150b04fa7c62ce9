// Values of segments, read straight from where they lie in their files. RocksDB's own way to them
// takes more of a processor than the disk does: memory that is mapped anew for each, a copy, and a
// checksum beside ours. It stays the owner of the files, and has the last word: what is read here
// is worth nothing before it verifies, and what does not is asked for there.
//
// A read is one of the file system's, of whole sectors where the files are read directly, into
// memory that its thread keeps: nothing is mapped, and it stays in the processor's cache.
#pragma once
#include <rocksdb/file_system.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>

#include <boost/unordered/unordered_flat_map.hpp>

#include "base/mutex.h"
#include "base/status.h"
#include "tiers/log_format.h"

namespace thermocline {

/// The open files of segments: so many at most, beside those that are being read, of which the one
/// goes that was not read for longest. Thread: any, concurrently.
class SegmentFiles {
 public:
  SegmentFiles(std::shared_ptr<rocksdb::FileSystem> file_system, bool direct_io, size_t most_open);

  /// The segment's file, which is opened when it is first read.
  void Add(uint64_t sequence, std::string path);
  /// Closes it, once nobody reads it any more.
  void Forget(uint64_t sequence);

  /// Calls `look` with what lies at `place`, whatever it is, and answers what that does. It is
  /// valid until `look` returns, which must read nothing here itself.
  /// Errors: Unavailable when it cannot be read so.
  absl::Status Read(uint64_t sequence, FilePlace place,
                    const std::function<absl::Status(std::span<const std::byte>)>& look);

 private:
  using File = std::shared_ptr<const rocksdb::FSRandomAccessFile>;  // of whoever reads it, too
  struct Segment {
    std::string path;
    File file;                           // if it is open,
    std::list<uint64_t>::iterator used;  // and where in `used_`
  };
  /// Null: it cannot be opened.
  File Open(const std::string& path) const;
  File FileOf(uint64_t sequence) TC_EXCLUDES(mutex_);
  /// Answers what it has of the segment, to be closed without the lock.
  File Take(Segment& segment) TC_REQUIRES(mutex_);

  const std::shared_ptr<rocksdb::FileSystem> file_system_;
  const bool direct_io_;
  const size_t most_open_;
  Mutex mutex_;  // never held across I/O
  boost::unordered_flat_map<uint64_t, Segment> segments_ TC_GUARDED_BY(mutex_);
  std::list<uint64_t> used_ TC_GUARDED_BY(mutex_);  // those that are open, the last read first
};

}  // namespace thermocline
