#include "tiers/disk_tier.h"

#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/units.h"
#include "hashing/checksum.h"
#include "tiers/disk_database.h"

namespace thermocline {
namespace {

using DiskKey = std::array<char, 10>;

DiskKey KeyOf(BlockRef ref) {
  DiskKey key;
  for (int i = 0; i < 8; ++i) key[i] = static_cast<char>(ref.id >> (56 - 8 * i));
  key[8] = static_cast<char>(ref.part >> 8);
  key[9] = static_cast<char>(ref.part);
  return key;
}

rocksdb::Slice SliceOf(const DiskKey& key) { return {key.data(), key.size()}; }

rocksdb::Slice SliceOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> BytesOf(const rocksdb::Slice& slice) {
  return std::as_bytes(std::span(slice.data(), slice.size()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(Options options) {
  TC_ASSIGN_OR_RETURN(auto database, OpenDiskDatabase(options.directory));
  std::unique_ptr<DiskTier> tier(new DiskTier(options, std::move(database)));
  const absl::Status built = tier->BuildIndex();
  if (built.ok()) {
    tier->AdoptUnits();
    return tier;
  }
  if (!absl::IsDataLoss(built)) return built;
  tier.reset();  // its headers cannot be read: close it, then step around it
  TC_RETURN_IF_ERROR(SetStoreAside(options.directory, std::string(built.message())).status());
  TC_ASSIGN_OR_RETURN(database, OpenDiskDatabase(options.directory));
  tier.reset(new DiskTier(options, std::move(database)));
  TC_RETURN_IF_ERROR(tier->BuildIndex());
  tier->AdoptUnits();
  return tier;
}

DiskTier::DiskTier(Options options, std::unique_ptr<DiskDatabase> database)
    : options_(std::move(options)), database_(std::move(database)) {}

void DiskTier::AdoptUnits() {
  if (!options_.account) return;
  MutexLock lock(mutex_);
  options_.account.Adopt((used_bytes_ + options_.unit_bytes - 1) / options_.unit_bytes);
}

DiskTier::~DiskTier() = default;

absl::Status DiskTier::BuildIndex() {
  return ForEach([this](const BlockRecord& record) {
    MutexLock lock(mutex_);
    stored_bytes_[{record.id, record.part}] = StoredBytes(record);
    used_bytes_ += StoredBytes(record);
    return true;
  });
}

absl::Status DiskTier::Put(const BlockRecord& record, std::span<const std::byte> payload) {
  TC_RETURN_IF_ERROR(VerifyRecord(record));
  if (payload.size() != record.payload_bytes || Checksum(payload) != record.payload_checksum) {
    return absl::DataLossError("cold tier: payload and header of block " +
                               std::to_string(record.id) + " disagree; the block is not stored");
  }
  const BlockRef ref{record.id, record.part};
  const uint64_t bytes = StoredBytes(record);
  uint64_t replaced = 0;
  {
    MutexLock lock(mutex_);
    const auto old = stored_bytes_.find(ref);
    if (old != stored_bytes_.end()) replaced = old->second;
    if (used_bytes_ - replaced + bytes > CapacityBytes()) {
      return absl::ResourceExhaustedError("cold tier: " + FormatBytes(bytes) + " do not fit, " +
                                          FormatBytes(used_bytes_) + " of " +
                                          FormatBytes(CapacityBytes()) + " are in use");
    }
    used_bytes_ += bytes;
  }
  const DiskKey key = KeyOf(ref);
  const rocksdb::Slice key_slice = SliceOf(key);
  const rocksdb::SliceParts key_parts(&key_slice, 1);
  const BlockHeader& header = record;
  const rocksdb::Slice value[] = {SliceOf(std::as_bytes(std::span(&header, 1))),
                                  SliceOf(std::as_bytes(std::span(record.inner))),
                                  SliceOf(payload)};
  rocksdb::WriteBatch batch;
  rocksdb::Status status = batch.Put(database_->blocks, key_parts, rocksdb::SliceParts(value, 3));
  if (status.ok()) {
    status = batch.Put(database_->headers, key_parts, rocksdb::SliceParts(value, 2));
  }
  if (status.ok()) status = Write(batch);
  MutexLock lock(mutex_);
  if (!status.ok()) {
    used_bytes_ -= bytes;
    return DiskStatus(status, "write block " + std::to_string(ref.id));
  }
  used_bytes_ -= replaced;
  stored_bytes_[ref] = bytes;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<BlockRecord>> DiskTier::Get(BlockRef ref,
                                                         std::span<std::byte> payload) {
  {
    MutexLock lock(mutex_);
    if (!stored_bytes_.contains(ref)) return std::nullopt;
  }
  const DiskKey key = KeyOf(ref);
  rocksdb::PinnableSlice value;
  rocksdb::ReadOptions read;
  const rocksdb::Status status = database_->db->Get(read, database_->blocks, SliceOf(key), &value);
  if (status.IsNotFound() || status.IsCorruption()) {
    DropDamaged(ref, status.ToString());
    return std::nullopt;
  }
  TC_RETURN_IF_ERROR(DiskStatus(status, "read block " + std::to_string(ref.id)));
  const auto bytes = BytesOf(value);
  auto record = ReadRecord(bytes);
  if (!record.ok()) {
    DropDamaged(ref, std::string(record.status().message()));
    return std::nullopt;
  }
  if (record->id != ref.id || record->part != ref.part || StoredBytes(*record) != bytes.size()) {
    DropDamaged(ref, "it is another block");
    return std::nullopt;
  }
  if (record->payload_bytes > payload.size()) {
    return absl::InvalidArgumentError("cold tier: block " + std::to_string(ref.id) + " has " +
                                      std::to_string(record->payload_bytes) + " bytes, room for " +
                                      std::to_string(payload.size()));
  }
  const auto stored = bytes.subspan(RecordBytes(*record));
  if (CopyAndChecksum(payload.first(stored.size()), stored) != record->payload_checksum) {
    DropDamaged(ref, "its payload does not fit its checksum");
    return std::nullopt;
  }
  return *std::move(record);
}

void DiskTier::DropDamaged(BlockRef ref, const std::string& why) {
  ++corrupt_count_;
  LogEvent(LogLevel::kWarning, "cold_block_dropped",
           {{"id", ref.id}, {"part", ref.part}, {"reason", why}});
  if (Erase(ref).ok()) return;
  MutexLock lock(mutex_);  // it cannot be erased now, but it is not here any more
  const auto found = stored_bytes_.find(ref);
  if (found == stored_bytes_.end()) return;
  used_bytes_ -= found->second;
  stored_bytes_.erase(found);
}

absl::Status DiskTier::Erase(BlockRef ref) {
  {
    MutexLock lock(mutex_);
    if (!stored_bytes_.contains(ref)) return absl::OkStatus();
  }
  const DiskKey key = KeyOf(ref);
  rocksdb::WriteBatch batch;
  rocksdb::Status status = batch.Delete(database_->blocks, SliceOf(key));
  if (status.ok()) status = batch.Delete(database_->headers, SliceOf(key));
  if (status.ok()) status = Write(batch);
  TC_RETURN_IF_ERROR(DiskStatus(status, "erase block " + std::to_string(ref.id)));
  MutexLock lock(mutex_);
  const auto found = stored_bytes_.find(ref);
  if (found == stored_bytes_.end()) return absl::OkStatus();
  used_bytes_ -= found->second;
  stored_bytes_.erase(found);
  return absl::OkStatus();
}

absl::Status DiskTier::ForEach(const std::function<bool(const BlockRecord&)>& visit) {
  std::vector<DiskKey> damaged;
  rocksdb::ReadOptions read;
  read.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> at(database_->db->NewIterator(read, database_->headers));
  for (at->SeekToFirst(); at->Valid(); at->Next()) {
    const auto record = ReadRecord(BytesOf(at->value()));
    const bool fits = record.ok() && RecordBytes(*record) == at->value().size() &&
                      at->key() == SliceOf(KeyOf({record->id, record->part}));
    if (!fits) {
      ++corrupt_count_;
      LogEvent(LogLevel::kWarning, "cold_header_dropped",
               {{"reason",
                 record.ok() ? "it is of another block" : std::string(record.status().message())}});
      DiskKey key{};
      if (at->key().size() == key.size()) {
        std::copy_n(at->key().data(), key.size(), key.data());
        damaged.push_back(key);
      }
      continue;
    }
    if (!visit(*record)) break;
  }
  TC_RETURN_IF_ERROR(DiskStatus(at->status(), "read the headers"));
  rocksdb::WriteBatch batch;
  for (const DiskKey& key : damaged) {
    if (!batch.Delete(database_->headers, SliceOf(key)).ok()) continue;
    (void)batch.Delete(database_->blocks, SliceOf(key));
  }
  if (damaged.empty()) return absl::OkStatus();
  return DiskStatus(Write(batch), "drop damaged headers");
}

// A log of which a write has failed must not be synced: Debian's RocksDB aborts the process. So the
// lock is held while the disk is written, which RocksDB does one by one anyway.
rocksdb::Status DiskTier::Write(rocksdb::WriteBatch& batch) {
  MutexLock lock(log_mutex_);
  const rocksdb::Status status = database_->db->Write(rocksdb::WriteOptions(), &batch);
  if (!status.ok()) write_failed_ = true;
  return status;
}

// After a failed write the tables are made durable, once they can be written again.
absl::Status DiskTier::Sync() {
  MutexLock lock(log_mutex_);
  if (!write_failed_) return DiskStatus(database_->db->SyncWAL(), "sync");
  const std::string error = database_->health->Error();
  if (!error.empty()) return absl::UnavailableError("cold tier: sync: " + error);
  return DiskStatus(database_->db->Flush({}, {database_->blocks, database_->headers}), "sync");
}

TierUsage DiskTier::Usage() const {
  MutexLock lock(mutex_);
  return {CapacityBytes(), used_bytes_, stored_bytes_.size(), corrupt_count_};
}

std::string DiskTier::State() const {
  const std::string error = database_->health->Error();
  if (!error.empty()) {
    return "reads only: " + error + "; free some disk, or restart the daemon to open it anew";
  }
  if (database_->set_aside.empty()) return "ok";
  return "began empty: an unusable store was set aside as " + database_->set_aside;
}

}  // namespace thermocline
