// The database of the form "rocksdb-kv.v1": how it is opened.
#pragma once
#include <memory>
#include <string>

#include "tiers/disk_store.h"

namespace thermocline {

inline constexpr const char* kDiskFormat = "rocksdb-kv.v1";

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

}  // namespace thermocline
