#include "tiers/disk_store.h"

#include <fcntl.h>
#include <rocksdb/env.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "base/file_util.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "tiers/disk_aside.h"

namespace thermocline {
namespace {

constexpr uint64_t kMaxFormatBytes = 256;

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

bool IsThere(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

bool IsHeldByAnother(const std::string& text) {
  return text.find("While lock file") != std::string::npos ||
         text.find("lock hold by current process") != std::string::npos;
}

// A daemon was killed when it had made the directory and not named its form yet.
bool IsUnfinished(const std::string& store) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(store, error)) {
    if (entry.path().filename() != "FORMAT.tmp") return false;
  }
  return !error;
}

}  // namespace

std::shared_ptr<rocksdb::Logger> MakeDiskLog() { return std::make_shared<LogToOurs>(); }

bool HasDirectIo(const std::string& directory) {
  const std::string path = directory + "/.direct-io-probe";
  const UniqueFd file(::open(path.c_str(), O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0600));
  ::unlink(path.c_str());
  return static_cast<bool>(file);
}

// Whatever an owner may have to mend is not given up: a file that is not there is damage, any other
// error of reading or writing is not.
bool IsOfTheMedium(const rocksdb::Status& status) {
  return status.IsNoSpace() || status.IsBusy() || (status.IsIOError() && !status.IsPathNotFound());
}

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

std::string DiskHealth::Error() const {
  MutexLock lock(mutex_);
  return error_;
}

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

absl::Status PrepareStore(const std::string& directory, const std::string& format,
                          std::string& set_aside) {
  const std::string store = directory + "/store";
  TC_ASSIGN_OR_RETURN(const std::string found, StoredFormat(store));
  if (found != format) {
    if (!found.empty()) {
      TC_ASSIGN_OR_RETURN(set_aside,
                          SetStoreAside(directory, "its form is " + found + ", not " + format));
    }
    TC_RETURN_IF_ERROR(MakeDirectories(store));
    TC_RETURN_IF_ERROR(WriteFileAtomically(store + "/FORMAT", format + "\n"));
  }
  return MakeDirectories(store + "/db");
}

}  // namespace thermocline
