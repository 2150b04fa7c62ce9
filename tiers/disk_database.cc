#include "tiers/disk_database.h"

#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include <utility>
#include <vector>

#include "base/units.h"

namespace thermocline {
namespace {

constexpr double kFilterBitsPerKey = 10;  // one useless read in a hundred

rocksdb::DBOptions DatabaseOptions(bool direct_io, std::shared_ptr<DiskHealth> health) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.info_log = MakeDiskLog();
  options.listeners.push_back(std::move(health));
  options.use_direct_reads = direct_io;
  options.use_direct_io_for_flush_and_compaction = direct_io;
  options.max_open_files = -1;
  options.skip_stats_update_on_db_open = true;
  options.max_background_jobs = 2;
  options.max_total_wal_size = 256 * MiB;
  options.stats_dump_period_sec = 0;
  return options;
}

rocksdb::ColumnFamilyOptions FamilyOptions(uint64_t write_buffer_bytes) {
  rocksdb::BlockBasedTableOptions table;
  // A cache of no bytes keeps nothing, but what is in it can be read in place: one copy less.
  table.block_cache = rocksdb::NewLRUCache(0, 0, false);
  table.checksum = rocksdb::kXXH3;
  table.block_size = 4 * KiB;  // a value that is longer is a block of its own
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kFilterBitsPerKey));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = write_buffer_bytes;
  options.level_compaction_dynamic_level_bytes = true;
  return options;
}

rocksdb::Status OpenOnce(const std::string& path, DiskDatabase& database) {
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, FamilyOptions(MiB));
  families.emplace_back("blocks", FamilyOptions(32 * MiB));
  families.emplace_back("headers", FamilyOptions(4 * MiB));
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const auto options = DatabaseOptions(HasDirectIo(path), database.health);
  const rocksdb::Status status = rocksdb::DB::Open(options, path, families, &handles, &db);
  if (!status.ok()) return status;
  database.db.reset(db);
  db->DestroyColumnFamilyHandle(handles[0]);
  database.blocks = handles[1];
  database.headers = handles[2];
  return status;
}

}  // namespace

DiskDatabase::~DiskDatabase() {
  if (blocks != nullptr) db->DestroyColumnFamilyHandle(blocks);
  if (headers != nullptr) db->DestroyColumnFamilyHandle(headers);
}

absl::StatusOr<std::unique_ptr<DiskDatabase>> OpenDiskDatabase(const std::string& directory) {
  auto database = std::make_unique<DiskDatabase>();
  database->health = std::make_shared<DiskHealth>(/*recovers=*/true);
  const std::string path = directory + "/store/db";
  std::string foreign;
  TC_RETURN_IF_ERROR(Annotate(PrepareStore(directory, kDiskFormat, foreign), "cold tier"));
  rocksdb::Status status = OpenOnce(path, *database);
  if (!status.ok() && !IsOfTheMedium(status)) {
    TC_ASSIGN_OR_RETURN(foreign, SetStoreAside(directory, status.ToString()));
    std::string none;
    TC_RETURN_IF_ERROR(PrepareStore(directory, kDiskFormat, none));
    status = OpenOnce(path, *database);
  }
  TC_RETURN_IF_ERROR(DiskStatus(status, "open " + path));
  database->set_aside = std::move(foreign);
  return database;
}

}  // namespace thermocline
