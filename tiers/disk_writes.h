// A segment's file as it is written: what its table consists of is gathered in one of two buffers
// while a thread writes the other to the disk, directly. So the copies and sums that a table costs
// are made while the disk works, and not between its writes. A file that fits into one buffer is
// written by its own thread, when it is synced.
#pragma once
#include <rocksdb/file_system.h>

#include <memory>

namespace thermocline {

/// A file system that opens files for writing so, of a disk that is written directly: `below` must
/// take FileOptions::use_direct_writes. All else is done by `below`.
/// Thread: any; a file is one thread's.
std::shared_ptr<rocksdb::FileSystem> WithWritesBehind(std::shared_ptr<rocksdb::FileSystem> below);

}  // namespace thermocline
