#include "tiers/disk_segments.h"

#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/file_system.h>
#include <rocksdb/flush_block_policy.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "hashing/checksum.h"
#include "tiers/disk_aside.h"
#include "tiers/disk_ends.h"
#include "tiers/disk_reads.h"
#include "tiers/disk_store.h"
#include "tiers/disk_writes.h"
#include "tiers/log_format.h"

// The sum that tables carry, in place of librocksdb's own, which calls it by this name: Debian's is
// built for any x86-64, and costs a segment's write more of a processor.
extern "C" uint64_t ROCKSDB_XXH3_64bits(const void* data, size_t bytes) {
  return thermocline::Checksum({static_cast<const std::byte*>(data), bytes});
}

namespace thermocline {
namespace {

constexpr size_t kWriteBytes = 1 * MiB;
// What is written behind is gathered there (tiers/disk_writes.h): longer values go past this.
constexpr size_t kPassingBytes = 64 * KiB;
constexpr uint64_t kSegmentBlockBytes = 4 * KiB;
// Shares of what RocksDB's own files get. There may be three logs, as long as the entries of two
// are made tables, each somewhat longer than the buffer and by one write; two tables that nobody
// knows of yet; and two manifests, when a new one begins. The rest is for those writes.
constexpr uint64_t kEntryBufferShare = 16;
constexpr uint64_t kManifestShare = 8;
constexpr uint64_t kLogsShare = 4;
constexpr size_t kScanBytes = 2 * MiB;
constexpr size_t kProbeBytes = 4 * KiB;
constexpr uint64_t kMostValueBytes = kMaxPartBytes + MiB;  // with record and envelope
constexpr uint64_t kKeyTailBytes = 8;                      // that RocksDB adds to a key
constexpr uint64_t kEntryTailBytes = 40;                   // that a table adds to one, at most

template <size_t kBytes>
rocksdb::Slice SliceOf(const std::array<char, kBytes>& key) {
  return {key.data(), key.size()};
}

std::span<const std::byte> BytesOf(const rocksdb::Slice& slice) {
  return std::as_bytes(std::span(slice.data(), slice.size()));
}

rocksdb::BlockBasedTableOptions TableOptions(size_t block_bytes) {
  rocksdb::BlockBasedTableOptions table;
  // A cache of no bytes keeps nothing, but what is in it can be read in place: one copy less.
  table.block_cache = rocksdb::NewLRUCache(0, 0, false);
  table.checksum = rocksdb::kXXH3;
  table.block_size = block_bytes;
  return table;
}

/// Ends blocks of a table as if they were to have kSegmentBlockBytes, whatever the options say:
/// then these are only the room that each gets, and a long value is not copied once more for its
/// end.
class SegmentBlocks : public rocksdb::FlushBlockBySizePolicyFactory {
 public:
  const char* Name() const override { return "SegmentBlocks"; }
  rocksdb::FlushBlockPolicy* NewFlushBlockPolicy(
      const rocksdb::BlockBasedTableOptions& options,
      const rocksdb::BlockBuilder& builder) const override {
    return FlushBlockBySizePolicyFactory::NewFlushBlockPolicy(
        kSegmentBlockBytes, options.block_size_deviation, builder);
  }
};

/// For values of so many bytes.
rocksdb::ColumnFamilyOptions SegmentOptions(size_t value_bytes = 0) {
  rocksdb::ColumnFamilyOptions options;
  rocksdb::BlockBasedTableOptions table = TableOptions(value_bytes + kSegmentBlockBytes);
  // A value that is longer than a block of the table is one of its own.
  table.flush_block_policy_factory = std::make_shared<SegmentBlocks>();
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;
  options.disable_auto_compactions = true;
  options.write_buffer_size = kWriteBytes;  // nothing is written there
  return options;
}

rocksdb::ColumnFamilyOptions EntryOptions(uint64_t own_bytes) {
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions(16 * KiB)));
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = own_bytes / kEntryBufferShare;
  options.level_compaction_dynamic_level_bytes = true;
  options.disable_auto_compactions = true;  // until BeginMerging
  return options;
}

// `strictly`: a table that cannot be opened fails the opening. Without it a failed write would not
// stop the ones after it, so it is for looking round only.
rocksdb::DBOptions DatabaseOptions(rocksdb::Env* env, bool direct_io, size_t open_files,
                                   uint64_t own_bytes, bool strictly) {
  rocksdb::DBOptions options;
  options.env = env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = strictly;
  // An entry stands for itself and is checked against the segments, so none is lost for another.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kSkipAnyCorruptedRecords;
  options.info_log = MakeDiskLog();
  options.use_direct_reads = direct_io;
  options.use_direct_io_for_flush_and_compaction = direct_io;
  options.max_open_files = static_cast<int>(open_files / 2);
  options.max_file_opening_threads = 4;
  options.skip_stats_update_on_db_open = true;
  options.max_background_jobs = 2;
  options.max_bgerror_resume_count = 0;  // after an error we open it anew
  options.allow_fallocate = false;       // what is allocated ahead takes room, too
  options.max_total_wal_size = own_bytes / kLogsShare;
  options.max_manifest_file_size = own_bytes / kManifestShare;
  options.verify_sst_unique_id_in_manifest = false;  // tables that are taken over have none there
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

uint64_t VarintBytes(uint64_t value) {
  uint64_t bytes = 1;
  for (; value >= 128; value >>= 7) ++bytes;
  return bytes;
}

absl::Status Failed(const rocksdb::Status& status, const std::string& what) {
  if (status.IsNotFound()) return absl::NotFoundError("cold tier: " + what + ": not there");
  return DiskStatus(status, what);
}

std::string NameOf(uint64_t sequence) { return "segment " + std::to_string(sequence); }

std::vector<rocksdb::SstFileMetaData> FilesOf(rocksdb::DB& db, rocksdb::ColumnFamilyHandle* of) {
  rocksdb::ColumnFamilyMetaData family;
  db.GetColumnFamilyMetaData(of, &family);
  std::vector<rocksdb::SstFileMetaData> files;
  for (const auto& level : family.levels) {
    files.insert(files.end(), level.files.begin(), level.files.end());
  }
  return files;
}

std::optional<uint64_t> SequenceOf(const rocksdb::SstFileMetaData& file) {
  const auto first = ParseSegmentKey(BytesOf(file.smallestkey));
  const auto last = ParseSegmentKey(BytesOf(file.largestkey));
  if (!first || !last || first->first != last->first) return std::nullopt;
  return first->first;
}

/// Why a table cannot be used; OK: its first block can be read.
rocksdb::Status LookAt(const rocksdb::SstFileMetaData& file, rocksdb::Env* env, rocksdb::DB& db,
                       rocksdb::ColumnFamilyHandle* family) {
  uint64_t bytes = 0;
  rocksdb::Status status = env->GetFileSize(file.db_path + file.name, &bytes);
  if (!status.ok()) return status;
  if (bytes != file.size) return rocksdb::Status::Corruption("it has another size");
  if (!SequenceOf(file)) return rocksdb::Status::Corruption("it is no segment");
  rocksdb::PinnableSlice value;
  return db.Get(rocksdb::ReadOptions(), family, file.smallestkey, &value);
}

std::vector<rocksdb::ColumnFamilyDescriptor> Families(uint64_t own_bytes) {
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, SegmentOptions());
  families.emplace_back("segments", SegmentOptions());
  families.emplace_back("entries", EntryOptions(own_bytes));
  return families;
}

std::shared_ptr<rocksdb::FileSystem> OrDefault(std::shared_ptr<rocksdb::FileSystem> file_system) {
  return file_system ? std::move(file_system) : rocksdb::FileSystem::Default();
}

std::unique_ptr<rocksdb::Env> EnvOver(std::shared_ptr<rocksdb::FileSystem> file_system) {
  return rocksdb::NewCompositeEnv(OrDefault(std::move(file_system)));
}

}  // namespace

/// What RocksDB calls the tables that it took over. Thread: any.
class IngestedTables : public rocksdb::EventListener {
 public:
  void OnExternalFileIngested(rocksdb::DB* /*db*/,
                              const rocksdb::ExternalFileIngestionInfo& info) override {
    MutexLock lock(mutex_);
    paths_[info.external_file_path] = info.internal_file_path;
  }
  /// Once; empty: it did not.
  std::string TakePathOf(const std::string& external_path) {
    MutexLock lock(mutex_);
    const auto found = paths_.extract(external_path);
    return found ? found.mapped() : "";
  }

 private:
  Mutex mutex_;
  std::unordered_map<std::string, std::string> paths_ TC_GUARDED_BY(mutex_);
};

SegmentDatabase::SegmentDatabase(const Options& options)
    : store_(options.directory + "/store"),
      file_system_(options.file_system),
      ends_(std::make_shared<EndsFileSystem>(OrDefault(file_system_))),
      env_(EnvOver(ends_)),
      open_files_(std::max(options.open_files, kLeastOpenFiles)),
      own_bytes_(options.own_bytes) {}

SegmentDatabase::~SegmentDatabase() {
  Close();
  if (looking_ != nullptr) (void)env_->UnlockFile(looking_);
}

void SegmentDatabase::Close() {
  if (db_ == nullptr) return;
  files_.reset();
  db_->DestroyColumnFamilyHandle(segments_);
  db_->DestroyColumnFamilyHandle(entries_);
  db_.reset();
}

rocksdb::Status SegmentDatabase::OpenOnce(bool strictly) {
  rocksdb::DBOptions options =
      DatabaseOptions(env_.get(), direct_io_, open_files_, own_bytes_, strictly);
  health_ = std::make_shared<DiskHealth>();
  ingested_ = std::make_shared<IngestedTables>();
  options.listeners = {health_, ingested_};
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(options, store_ + "/db", Families(own_bytes_), &handles, &db);
  if (status.ok()) Adopt(db, handles);
  return status;
}

void SegmentDatabase::Adopt(rocksdb::DB* db,
                            const std::vector<rocksdb::ColumnFamilyHandle*>& handles) {
  db_.reset(db);
  db->DestroyColumnFamilyHandle(handles[0]);
  segments_ = handles[1];
  entries_ = handles[2];
  files_ = std::make_unique<SegmentFiles>(file_system_, direct_io_, open_files_ / 2);
  for (const rocksdb::SstFileMetaData& file : FilesOf(*db_, segments_)) {
    if (const auto sequence = SequenceOf(file)) files_->Add(*sequence, file.db_path + file.name);
  }
}

absl::StatusOr<std::unique_ptr<SegmentDatabase>> SegmentDatabase::OpenToLook(
    const std::string& directory) {
  std::unique_ptr<SegmentDatabase> made(new SegmentDatabase({.directory = directory}));
  TC_ASSIGN_OR_RETURN(const std::string format, StoredFormat(made->store_));
  if (format.empty()) return absl::NotFoundError("no store in " + directory);
  if (format != kLogFormat) {
    return absl::FailedPreconditionError(made->store_ + " is of the form " + format + ", not " +
                                         kLogFormat + "; use the matching build");
  }
  const std::string lock = made->store_ + "/db/LOCK";
  if (made->env_->FileExists(lock).ok()) {
    TC_RETURN_IF_ERROR(DiskStatus(made->env_->LockFile(lock, &made->looking_), "look into it"));
  }
  rocksdb::DBOptions options = DatabaseOptions(made->env_.get(), false, made->open_files_,
                                               made->own_bytes_, /*strictly=*/false);
  options.create_if_missing = false;
  options.create_missing_column_families = false;
  made->health_ = std::make_shared<DiskHealth>();
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(
      options, made->store_ + "/db", Families(made->own_bytes_), &handles, &db);
  TC_RETURN_IF_ERROR(DiskStatus(status, "open " + made->store_));
  made->Adopt(db, handles);
  return made;
}

// A segment of which the table is lost or cannot be opened would fail every opening: it goes.
rocksdb::Status SegmentDatabase::DropUnusable() {
  rocksdb::Status dropped = OpenOnce(false);
  if (!dropped.ok()) return dropped;
  for (const rocksdb::SstFileMetaData& file : FilesOf(*db_, segments_)) {
    const rocksdb::Status status = LookAt(file, env_.get(), *db_, segments_);
    if (status.ok()) continue;
    const rocksdb::Slice first(file.smallestkey), last(file.largestkey);
    const rocksdb::Status removed =
        rocksdb::DeleteFilesInRange(db_.get(), segments_, &first, &last);
    if (dropped.ok()) dropped = removed;
    ++dropped_segments_;
    LogEvent(LogLevel::kWarning, "cold_segment_dropped",
             {{"file", file.name}, {"reason", status.ToString()}});
  }
  Close();
  return dropped;
}

// RocksDB would make a new database there, and remove the tables of the old one without a word.
bool SegmentDatabase::HasLostCurrent() const {
  const std::string directory = store_ + "/db";
  std::vector<std::string> names;
  if (!env_->GetChildren(directory, &names).ok()) return false;
  const auto has = [&](auto&& is) { return std::any_of(names.begin(), names.end(), is); };
  return has([](const std::string& name) { return name.ends_with(".sst"); }) &&
         !has([](const std::string& name) { return name == "CURRENT"; });
}

// Answers RocksDB's status; ours are of the directories around it.
absl::StatusOr<rocksdb::Status> SegmentDatabase::OpenStore(const std::string& directory) {
  std::string foreign;
  TC_RETURN_IF_ERROR(Annotate(PrepareStore(directory, kLogFormat, foreign), "cold tier"));
  if (!foreign.empty()) set_aside_ = foreign;
  direct_io_ = HasDirectIo(store_);
  if (direct_io_) writing_env_ = rocksdb::NewCompositeEnv(WithWritesBehind(env_->GetFileSystem()));
  LogEvent(LogLevel::kInfo, "cold_store_opening",
           {{"directory", store_}, {"direct_io", direct_io_ ? 1 : 0}});
  const std::string incoming = store_ + "/incoming";
  TC_RETURN_IF_ERROR(DiskStatus(env_->CreateDirIfMissing(incoming), "make directory " + incoming));
  std::vector<std::string> left;
  TC_RETURN_IF_ERROR(DiskStatus(env_->GetChildren(incoming, &left), "list " + incoming));
  for (const std::string& name : left) (void)env_->DeleteFile(incoming + "/" + name);
  if (HasLostCurrent()) return rocksdb::Status::Corruption("CURRENT is gone");
  rocksdb::Status status = OpenOnce(true);
  if (status.ok() || IsOfTheMedium(status)) return status;
  // A disk that fails meanwhile is not what makes a store worth giving up.
  const rocksdb::Status dropped = DropUnusable();
  if (dropped.ok()) return OpenOnce(true);
  return IsOfTheMedium(dropped) ? dropped : status;
}

absl::StatusOr<std::unique_ptr<SegmentDatabase>> SegmentDatabase::Open(const Options& options) {
  std::unique_ptr<SegmentDatabase> made(new SegmentDatabase(options));
  rocksdb::Status status = rocksdb::Status::Corruption(options.damage);
  if (options.damage.empty()) {
    TC_ASSIGN_OR_RETURN(status, made->OpenStore(options.directory));
  }
  if (!status.ok() && !IsOfTheMedium(status)) {
    TC_ASSIGN_OR_RETURN(made->set_aside_, SetStoreAside(options.directory, status.ToString()));
    TC_ASSIGN_OR_RETURN(status, made->OpenStore(options.directory));
  }
  TC_RETURN_IF_ERROR(DiskStatus(status, "open " + made->store_));
  return made;
}

std::vector<SegmentDatabase::Segment> SegmentDatabase::Segments() const {
  std::vector<Segment> segments;
  for (const rocksdb::SstFileMetaData& file : FilesOf(*db_, segments_)) {
    if (const auto sequence = SequenceOf(file)) {
      segments.push_back({*sequence, file.size, file.name});
    }
  }
  return segments;
}

uint64_t SegmentDatabase::EntryTableBytes() {
  using Properties = rocksdb::DB::Properties;
  const auto figure = [this](const std::string& property) {
    uint64_t value = 0;
    db_->GetIntProperty(entries_, property, &value);
    return value;
  };
  const auto in_memory = [&] {
    return figure(Properties::kNumEntriesActiveMemTable) +
           figure(Properties::kNumEntriesImmMemTables);
  };
  MutexLock lock(log_mutex_);
  // Nothing is written meanwhile. What becomes a table between two looks must count, and once only.
  uint64_t before = in_memory(), in_tables = figure(Properties::kTotalSstFilesSize);
  for (uint64_t after; (after = in_memory()) != before; before = after) {
    in_tables = figure(Properties::kTotalSstFilesSize);
  }
  for (; last_entries_.size() > before; last_entries_.pop_front()) {
    last_entries_bytes_ -= last_entries_.front();
  }
  return last_entries_bytes_ + in_tables;
}

absl::Status SegmentDatabase::ReadBlock(const EntryHead& block, const Look& look) const {
  const bool has_place = block.place.bytes > 0;
  if (has_place && ReadPlace(block.sequence, block.place, look).ok()) return absl::OkStatus();
  rocksdb::PinnableSlice value;
  const SegmentKey key = SegmentKeyOf(block.sequence, block.ref);
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), segments_, SliceOf(key), &value);
  if (!status.ok()) return Failed(status, "read block " + std::to_string(block.ref.id));
  return look(BytesOf(value));
}

absl::Status SegmentDatabase::ReadPlace(uint64_t sequence, FilePlace place,
                                        const Look& look) const {
  if (place.bytes > kMostValueBytes) return absl::UnavailableError("no value is so long");
  return files_->Read(sequence, place, look);
}

absl::Status SegmentDatabase::ReadEntryOf(BlockRef ref, const Look& look) const {
  rocksdb::PinnableSlice value;
  const EntryKey key = EntryKeyOf(ref);
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), entries_, SliceOf(key), &value);
  if (!status.ok()) return Failed(status, "read the entry of block " + std::to_string(ref.id));
  return look(BytesOf(value));
}

absl::Status SegmentDatabase::ForEachEntry(
    const std::function<bool(std::span<const std::byte>, std::span<const std::byte>)>& visit)
    const {
  rocksdb::ReadOptions read;
  read.readahead_size = kScanBytes;
  const std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(read, entries_));
  for (at->SeekToFirst(); at->Valid(); at->Next()) {
    if (!visit(BytesOf(at->key()), BytesOf(at->value()))) break;
  }
  return DiskStatus(at->status(), "read the entries");
}

// A failure leaves more tables than need be, until the next opening.
void SegmentDatabase::BeginMerging() {
  db_->EnableAutoCompaction({entries_}).PermitUncheckedError();
}

absl::Status SegmentDatabase::Commit(std::span<const EntryChange> changes, bool durable) {
  rocksdb::WriteBatch batch;
  for (const EntryChange& change : changes) {
    const EntryKey key = EntryKeyOf(change.ref);
    const rocksdb::Status status = change.value.empty()
                                       ? batch.Delete(entries_, SliceOf(key))
                                       : batch.Put(entries_, SliceOf(key), change.value);
    TC_RETURN_IF_ERROR(DiskStatus(status, "write entries"));
  }
  rocksdb::WriteOptions write;
  write.sync = durable;
  MutexLock lock(log_mutex_);
  if (commit_failed_) return absl::UnavailableError("cold tier: write entries: " + Error());
  const rocksdb::Status status = db_->Write(write, &batch);
  commit_failed_ = !status.ok();
  for (const EntryChange& change : changes) {
    last_entries_.push_back(
        static_cast<uint32_t>(sizeof(EntryKey) + change.value.size() + kEntryTailBytes));
    last_entries_bytes_ += last_entries_.back();
  }
  return DiskStatus(status, "write entries");
}

absl::Status SegmentDatabase::RemoveSegment(uint64_t sequence) {
  const SegmentKey first = SegmentKeyOf(sequence, {0, 0});
  const SegmentKey last = SegmentKeyOf(sequence, {UINT64_MAX, UINT16_MAX});
  const rocksdb::Slice from = SliceOf(first), to = SliceOf(last);
  files_->Forget(sequence);
  return DiskStatus(rocksdb::DeleteFilesInRange(db_.get(), segments_, &from, &to),
                    "remove " + NameOf(sequence));
}

std::string SegmentDatabase::Error() const { return health_->Error(); }

SegmentWriter::SegmentWriter(SegmentDatabase& database, uint64_t sequence)
    : database_(database),
      sequence_(sequence),
      path_(database.store_ + "/incoming/" + std::to_string(sequence) + ".sst") {}

SegmentWriter::~SegmentWriter() {
  if (table_ == nullptr) return;
  table_.reset();
  (void)database_.env_->DeleteFile(path_);
}

// A value lies in a block of the table, which begins where the file ends once it is put, unless
// others are in that block already: behind the bytes that its key has in common with the one
// before, of which the first of a block has none, the length of the rest, its own, and its key as
// RocksDB has it. Nothing is compressed.
FilePlace SegmentWriter::PlaceOf(uint64_t end_before, uint64_t bytes) const {
  const uint64_t block = table_->FileSize();
  if (block == end_before && added_ > 0) return {};
  constexpr uint64_t kKeyBytes = sizeof(SegmentKey) + kKeyTailBytes;
  const uint64_t offset =
      block + VarintBytes(0) + VarintBytes(kKeyBytes) + VarintBytes(bytes) + kKeyBytes;
  if (offset + bytes > UINT32_MAX) return {};
  return {static_cast<uint32_t>(offset), static_cast<uint32_t>(bytes)};
}

absl::StatusOr<FilePlace> SegmentWriter::Add(BlockRef ref, std::span<const std::byte> stored) {
  if (table_ == nullptr) {
    rocksdb::Options options(rocksdb::DBOptions(), SegmentOptions(stored.size()));
    const bool behind = database_.writing_env_ != nullptr;
    options.env = behind ? database_.writing_env_.get() : database_.env_.get();
    options.info_log = MakeDiskLog();
    rocksdb::EnvOptions files;
    files.writable_file_max_buffer_size = behind ? kPassingBytes : kWriteBytes;
    table_ = std::make_unique<rocksdb::SstFileWriter>(files, options, database_.segments_);
    TC_RETURN_IF_ERROR(DiskStatus(table_->Open(path_), "create " + path_));
  }
  const SegmentKey key = SegmentKeyOf(sequence_, ref);
  const rocksdb::Slice value(reinterpret_cast<const char*>(stored.data()), stored.size());
  const uint64_t end_before = table_->FileSize();
  TC_RETURN_IF_ERROR(DiskStatus(table_->Put(SliceOf(key), value), "write " + NameOf(sequence_)));
  const FilePlace place = PlaceOf(end_before, stored.size());
  ++added_;
  if (first_end_ == 0) first_end_ = table_->FileSize();
  return place;
}

absl::StatusOr<uint64_t> SegmentWriter::Finish() {
  TC_CHECK(table_ != nullptr);
  rocksdb::ExternalSstFileInfo info;
  const EndsFileSystem::Ends ends = {first_end_, table_->FileSize()};  // its first and last block
  TC_RETURN_IF_ERROR(DiskStatus(table_->Finish(&info), "write " + NameOf(sequence_)));
  database_.ends_->Keep(path_, ends);
  rocksdb::IngestExternalFileOptions options;
  options.move_files = true;
  options.write_global_seqno = false;
  options.fail_if_not_bottommost_level = true;  // only there DeleteFilesInRange finds it
  TC_RETURN_IF_ERROR(
      DiskStatus(database_.db_->IngestExternalFile(database_.segments_, {path_}, options),
                 "take over " + NameOf(sequence_)));
  table_.reset();
  database_.files_->Add(sequence_, database_.ingested_->TakePathOf(path_));
  return info.file_size;
}

absl::Status ProbeStore(const std::string& directory,
                        const std::shared_ptr<rocksdb::FileSystem>& file_system) {
  const std::unique_ptr<rocksdb::Env> env = EnvOver(file_system);
  const std::string path = directory + "/store/probe";
  const rocksdb::Status status =
      rocksdb::WriteStringToFile(env.get(), std::string(kProbeBytes, 'x'), path, true);
  const rocksdb::Status removed = env->DeleteFile(path);
  return DiskStatus(status.ok() ? removed : status, "write " + path);
}

}  // namespace thermocline
