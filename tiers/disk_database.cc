#include "tiers/disk_database.h"

#include <fcntl.h>
#include <rocksdb/cache.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <vector>

#include "base/file_util.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace thermocline {
namespace {

constexpr uint64_t kMaxFormatBytes = 256;
constexpr int kMaxQuarantines = 100;
constexpr double kFilterBitsPerKey = 10;  // one useless read in a hundred

/// RocksDB's log lines as events of ours. Its chatter below warnings is left out.
class LogToOurs : public rocksdb::Logger {
 public:
  LogToOurs() : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}
  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    Write(LogLevel::kInfo, format, arguments);
  }
  void Logv(rocksdb::InfoLogLevel level, const char* format, va_list arguments) override {
    if (level < rocksdb::InfoLogLevel::WARN_LEVEL) return;
    const bool is_error =
        level == rocksdb::InfoLogLevel::ERROR_LEVEL || level == rocksdb::InfoLogLevel::FATAL_LEVEL;
    Write(is_error ? LogLevel::kError : LogLevel::kWarning, format, arguments);
  }

 private:
  static void Write(LogLevel level, const char* format, va_list arguments) {
    char line[1024];
    std::vsnprintf(line, sizeof line, format, arguments);
    LogEvent(level, "rocksdb", {{"message", line}});
  }
};

bool HasDirectIo(const std::string& directory) {
  const std::string path = directory + "/.direct-io-probe";
  const UniqueFd file(::open(path.c_str(), O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0600));
  ::unlink(path.c_str());
  return static_cast<bool>(file);
}

rocksdb::DBOptions DatabaseOptions(bool direct_io, std::shared_ptr<DiskHealth> health) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.info_log = std::make_shared<LogToOurs>();
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

bool IsThere(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

bool IsHeldByAnother(const std::string& text) {
  return text.find("While lock file") != std::string::npos ||
         text.find("lock hold by current process") != std::string::npos;
}

// What an owner has to mend, as against damage that we can step around.
bool IsOfTheMedium(const rocksdb::Status& status) {
  if (status.IsNoSpace() || status.IsBusy()) return true;
  if (!status.IsIOError()) return false;
  const std::string text = status.ToString();
  if (IsHeldByAnother(text)) return true;
  for (const char* sign : {"Permission denied", "Read-only file system", "No space left",
                           "Too many open files", "Input/output error"}) {
    if (text.find(sign) != std::string::npos) return true;
  }
  return false;
}

// A daemon was killed when it had made the directory and not named its form yet.
bool IsUnfinished(const std::string& store) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(store, error)) {
    if (entry.path().filename() != "FORMAT.tmp") return false;
  }
  return !error;
}

// An empty name: the store is not there yet.
absl::StatusOr<std::string> StoredFormat(const std::string& store) {
  if (!IsThere(store)) return std::string();
  auto format = ReadFile(store + "/FORMAT", kMaxFormatBytes);
  if (absl::IsNotFound(format.status())) {
    return std::string(IsUnfinished(store) ? "" : "unnamed");
  }
  TC_RETURN_IF_ERROR(format.status());
  while (!format->empty() && format->back() == '\n') format->pop_back();
  return *format;
}

absl::Status PrepareStore(const std::string& directory, std::string& set_aside) {
  const std::string store = directory + "/store";
  TC_ASSIGN_OR_RETURN(const std::string format, StoredFormat(store));
  if (format == kDiskFormat) return absl::OkStatus();
  if (!format.empty()) {
    TC_ASSIGN_OR_RETURN(set_aside,
                        SetStoreAside(directory, "its form is " + format + ", not " + kDiskFormat));
  }
  TC_RETURN_IF_ERROR(MakeDirectories(store));
  return WriteFileAtomically(store + "/FORMAT", std::string(kDiskFormat) + "\n");
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

absl::Status DiskStatus(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = "cold tier: " + what + ": " + status.ToString();
  if (status.IsNoSpace() || text.find("No space left") != std::string::npos) {
    return absl::ResourceExhaustedError(text + "; free some disk or lower cold_capacity");
  }
  if (text.find("Permission denied") != std::string::npos) {
    return absl::PermissionDeniedError(text + "; make the data directory writable");
  }
  if (IsHeldByAnother(text)) {
    return absl::FailedPreconditionError(text + "; another daemon has this data directory open");
  }
  if (status.IsCorruption()) return absl::DataLossError(text);
  return absl::UnavailableError(text);
}

void DiskHealth::OnBackgroundError(rocksdb::BackgroundErrorReason /*reason*/,
                                   rocksdb::Status* status) {
  LogEvent(LogLevel::kError, "cold_tier_refuses_writes", {{"cause", status->ToString()}});
  MutexLock lock(mutex_);
  error_ = status->ToString();
}

void DiskHealth::OnErrorRecoveryEnd(const rocksdb::BackgroundErrorRecoveryInfo& info) {
  if (!info.new_bg_error.ok()) return;
  LogEvent(LogLevel::kInfo, "cold_tier_accepts_writes");
  MutexLock lock(mutex_);
  error_.clear();
}

std::string DiskHealth::State() const {
  MutexLock lock(mutex_);
  if (error_.empty()) return "ok";
  return "reads only: " + error_ + "; free some disk, or restart the daemon to open it anew";
}

DiskDatabase::~DiskDatabase() {
  if (blocks != nullptr) db->DestroyColumnFamilyHandle(blocks);
  if (headers != nullptr) db->DestroyColumnFamilyHandle(headers);
}

absl::StatusOr<std::string> SetStoreAside(const std::string& directory, const std::string& why) {
  const int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count();
  std::string target = directory + "/quarantine-" + std::to_string(seconds);
  for (int i = 2; IsThere(target); ++i) {
    if (i > kMaxQuarantines) {
      return absl::ResourceExhaustedError("cold tier: too many quarantined stores in " + directory +
                                          "; remove them");
    }
    target = directory + "/quarantine-" + std::to_string(seconds) + "-" + std::to_string(i);
  }
  if (::rename((directory + "/store").c_str(), target.c_str()) != 0) {
    return ErrnoStatus(errno, "rename " + directory + "/store to " + target,
                       "make the data directory writable");
  }
  LogEvent(LogLevel::kWarning, "cold_tier_set_aside",
           {{"reason", why}, {"now_at", target}, {"advice", "the cold tier begins empty"}});
  return target;
}

absl::StatusOr<std::unique_ptr<DiskDatabase>> OpenDiskDatabase(const std::string& directory) {
  auto database = std::make_unique<DiskDatabase>();
  database->health = std::make_shared<DiskHealth>();
  const std::string path = directory + "/store/db";
  std::string foreign;
  TC_RETURN_IF_ERROR(Annotate(PrepareStore(directory, foreign), "cold tier"));
  TC_RETURN_IF_ERROR(MakeDirectories(path));
  rocksdb::Status status = OpenOnce(path, *database);
  if (!status.ok() && !IsOfTheMedium(status)) {
    TC_ASSIGN_OR_RETURN(foreign, SetStoreAside(directory, status.ToString()));
    std::string none;
    TC_RETURN_IF_ERROR(PrepareStore(directory, none));
    TC_RETURN_IF_ERROR(MakeDirectories(path));
    status = OpenOnce(path, *database);
  }
  TC_RETURN_IF_ERROR(DiskStatus(status, "open " + path));
  database->set_aside = std::move(foreign);
  return database;
}

}  // namespace thermocline
