#include "bench/cold_rocks.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include <array>
#include <cstring>

#include "base/units.h"

namespace thermocline::bench {
namespace {

constexpr uint64_t kFileBytes = 256 * MiB;
constexpr uint64_t kMemtableBytes = 64 * MiB;
constexpr uint64_t kCacheBytes = 64 * MiB;

absl::Status StatusOf(const rocksdb::Status& status) {
  return status.ok() ? absl::OkStatus() : absl::UnavailableError("rocksdb: " + status.ToString());
}

rocksdb::Options OptionsOf(const RocksForm& form) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = kMemtableBytes;
  options.max_write_buffer_number = 4;
  options.target_file_size_base = kFileBytes;
  options.max_bytes_for_level_base = 4 * kFileBytes;
  options.max_background_jobs = 4;
  options.use_direct_reads = form.direct;
  options.use_direct_io_for_flush_and_compaction = form.direct;
  options.enable_blob_files = form.blobs;
  options.min_blob_size = 4 * KiB;
  options.blob_file_size = kFileBytes;
  options.enable_blob_garbage_collection = true;
  options.max_open_files = -1;
  options.skip_stats_update_on_db_open = true;
  options.stats_dump_period_sec = 0;
  options.info_log_level = rocksdb::WARN_LEVEL;
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_cache = rocksdb::NewLRUCache(kCacheBytes, 2);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

/// SplitMix64's mixer: keys in no order, as hashes of content are.
uint64_t Mix(uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
  word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
  return word ^ (word >> 31);
}

using Key = std::array<char, 16>;

Key KeyOf(size_t block) {
  const uint64_t words[2] = {Mix(2 * block + 1), Mix(2 * block + 2)};
  Key key;
  std::memcpy(key.data(), words, sizeof words);
  return key;
}

rocksdb::Slice SliceOf(const Key& key) { return {key.data(), key.size()}; }

class RocksStore : public InProcessStore {
 public:
  RocksStore(const ColdBlocks& blocks, const RocksForm& form, std::string directory,
             std::unique_ptr<rocksdb::DB> db)
      : InProcessStore(blocks), form_(form), directory_(std::move(directory)), db_(std::move(db)) {
    without_log_.disableWAL = true;
  }
  std::string name() const override { return form_.name; }

  absl::StatusOr<DiskWork> Write(size_t first, size_t count, int writers) override {
    std::atomic<size_t> next = 0;
    TC_ASSIGN_OR_RETURN(DiskWork work, MeasureDisk([&]() -> absl::Status {
                          TC_RETURN_IF_ERROR(OnThreads(writers, [&](int) -> absl::Status {
                            for (size_t i; (i = next++) < count;) {
                              const auto payload = blocks_.Payload(first + i);
                              const rocksdb::Slice value(
                                  reinterpret_cast<const char*>(payload.data()), payload.size());
                              TC_RETURN_IF_ERROR(StatusOf(
                                  db_->Put(without_log_, SliceOf(KeyOf(first + i)), value)));
                            }
                            return absl::OkStatus();
                          }));
                          return StatusOf(db_->Flush({}));
                        }));
    work.bytes = count * blocks_.bytes();
    return work;
  }

  absl::Status ReadOne(size_t block, std::span<std::byte> into) override {
    rocksdb::ReadOptions read;
    read.fill_cache = false;
    rocksdb::PinnableSlice value;
    TC_RETURN_IF_ERROR(
        StatusOf(db_->Get(read, db_->DefaultColumnFamily(), SliceOf(KeyOf(block)), &value)));
    if (value.size() != into.size()) return absl::DataLossError("rocksdb: another size");
    std::memcpy(into.data(), value.data(), value.size());
    return absl::OkStatus();
  }

  absl::Status Drop(size_t first, size_t count) override {
    for (size_t block = first; block < first + count; ++block) {
      TC_RETURN_IF_ERROR(StatusOf(db_->Delete(without_log_, SliceOf(KeyOf(block)))));
    }
    return absl::OkStatus();
  }

  absl::Status Settle() override {
    for (const char* busy : {"rocksdb.mem-table-flush-pending", "rocksdb.num-running-flushes",
                             "rocksdb.compaction-pending", "rocksdb.num-running-compactions"}) {
      for (uint64_t count = 1; db_->GetIntProperty(busy, &count) && count > 0;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    }
    return absl::OkStatus();
  }

  absl::Status DropCaches() override {
    DropFileCaches(directory_);
    return absl::OkStatus();
  }

 private:
  const RocksForm form_;
  const std::string directory_;
  const std::unique_ptr<rocksdb::DB> db_;
  rocksdb::WriteOptions without_log_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ColdStore>> OpenRocks(const ColdBlocks& blocks,
                                                     const RocksForm& form,
                                                     const std::string& directory) {
  rocksdb::DB* db = nullptr;
  TC_RETURN_IF_ERROR(StatusOf(rocksdb::DB::Open(OptionsOf(form), directory, &db)));
  return std::make_unique<RocksStore>(blocks, form, directory, std::unique_ptr<rocksdb::DB>(db));
}

}  // namespace thermocline::bench
