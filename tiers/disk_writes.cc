#include "tiers/disk_writes.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "base/large_array.h"
#include "base/mutex.h"
#include "base/units.h"

namespace thermocline {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

constexpr size_t kBufferBytes = 2 * MiB;  // a huge page

/// Says to RocksDB that it is not direct, which then hands it what it has without a copy.
class WriteBehindFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  explicit WriteBehindFile(std::unique_ptr<rocksdb::FSWritableFile> file)
      : FSWritableFileOwnerWrapper(std::move(file)) {}
  ~WriteBehindFile() override { EndThread(); }

  using FSWritableFileWrapper::Append;
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& /*options*/,
                  IODebugContext* /*debug*/) override {
    for (size_t at = 0; at < data.size();) {
      if (filled_bytes_ == kBufferBytes) {
        const IOStatus status = HandOver();
        if (!status.ok()) return status;
      }
      const size_t bytes = std::min(data.size() - at, kBufferBytes - filled_bytes_);
      std::memcpy(filling_.begin() + filled_bytes_, data.data() + at, bytes);
      filled_bytes_ += bytes;
      at += bytes;
    }
    return IOStatus::OK();
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& /*sums*/, IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Flush(const IOOptions& /*options*/, IODebugContext* /*debug*/) override {
    return IOStatus::OK();
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    const IOStatus status = WriteRest();
    return status.ok() ? FSWritableFileWrapper::Sync(options, debug) : status;
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    const IOStatus status = WriteRest();
    return status.ok() ? FSWritableFileWrapper::Fsync(options, debug) : status;
  }
  IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
    IOStatus status = WriteRest();
    EndThread();
    const IOStatus closed = FSWritableFileWrapper::Close(options, debug);
    return status.ok() ? closed : status;
  }
  uint64_t GetFileSize(const IOOptions& /*options*/, IODebugContext* /*debug*/) override {
    return handed_bytes_ + filled_bytes_;
  }
  bool use_direct_io() const override { return false; }
  // What is written directly is in no cache.
  IOStatus InvalidateCache(size_t /*offset*/, size_t /*length*/) override { return IOStatus::OK(); }

 private:
  /// Once the other buffer is written this one is to be.
  IOStatus HandOver() {
    if (!writing_) {
      writing_.emplace(kBufferBytes);
      try {
        thread_ = std::jthread([this] { WriteBehind(); });
      } catch (const std::system_error&) {  // there are too many: as it is, then
      }
    }
    const IOStatus status = AwaitWritten();
    if (!status.ok()) return status;
    std::swap(filling_, *writing_);
    const uint64_t at = std::exchange(handed_bytes_, handed_bytes_ + kBufferBytes);
    filled_bytes_ = 0;
    if (!thread_.joinable()) {
      IOStatus written = Write(*writing_, kBufferBytes, at);
      MutexLock lock(mutex_);
      return status_ = std::move(written);
    }
    MutexLock lock(mutex_);
    offset_ = at;
    changed_.NotifyAll();
    return IOStatus::OK();
  }

  // Whole sectors; the file is cut to its length behind them.
  IOStatus WriteRest() {
    IOStatus status = AwaitWritten();
    if (!status.ok() || handed_bytes_ + filled_bytes_ == written_bytes_) return status;
    const size_t padded = RoundUp(filled_bytes_, target()->GetRequiredBufferAlignment());
    std::memset(filling_.begin() + filled_bytes_, 0, padded - filled_bytes_);
    const uint64_t bytes = handed_bytes_ + filled_bytes_;
    status = Write(filling_, padded, handed_bytes_);
    if (status.ok()) status = target()->Truncate(bytes, IOOptions(), nullptr);
    if (status.ok()) written_bytes_ = bytes;
    return status;
  }

  IOStatus Write(const LargeArray<char>& buffer, size_t bytes, uint64_t at) {
    return target()->PositionedAppend({buffer.begin(), bytes}, at, IOOptions(), nullptr);
  }

  /// How that ended; an error stays.
  IOStatus AwaitWritten() {
    MutexLock lock(mutex_);
    while (offset_) changed_.Wait(mutex_);
    return status_;
  }

  void WriteBehind() {
    MutexLock lock(mutex_);
    while (true) {
      while (!offset_ && !ends_) changed_.Wait(mutex_);
      if (!offset_) return;
      const uint64_t at = *offset_;
      mutex_.unlock();
      IOStatus status = Write(*writing_, kBufferBytes, at);
      mutex_.lock();
      status_ = std::move(status);
      offset_.reset();
      changed_.NotifyAll();
    }
  }

  void EndThread() {
    if (!thread_.joinable()) return;
    {
      MutexLock lock(mutex_);
      ends_ = true;
      changed_.NotifyAll();
    }
    thread_.join();
  }

  LargeArray<char> filling_{kBufferBytes};
  size_t filled_bytes_ = 0;
  uint64_t handed_bytes_ = 0;   // before those
  uint64_t written_bytes_ = 0;  // of the whole file, by the last WriteRest
  // The thread's while there is an offset, else the file's.
  std::optional<LargeArray<char>> writing_;
  std::jthread thread_;
  Mutex mutex_;
  CondVar changed_;
  std::optional<uint64_t> offset_ TC_GUARDED_BY(mutex_);  // where `writing_` is to be written
  bool ends_ TC_GUARDED_BY(mutex_) = false;
  IOStatus status_ TC_GUARDED_BY(mutex_);
};

class WriteBehindFileSystem : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "WriteBehindFileSystem"; }
  IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* file,
                           IODebugContext* debug) override {
    rocksdb::FileOptions direct = options;
    direct.use_direct_writes = true;
    const IOStatus status = FileSystemWrapper::NewWritableFile(path, direct, file, debug);
    if (status.ok()) *file = std::make_unique<WriteBehindFile>(std::move(*file));
    return status;
  }
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> WithWritesBehind(std::shared_ptr<rocksdb::FileSystem> below) {
  return std::make_shared<WriteBehindFileSystem>(std::move(below));
}

}  // namespace thermocline
