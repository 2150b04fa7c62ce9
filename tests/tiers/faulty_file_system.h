// A file system under RocksDB that fails when it is told to, for tests. "Cut": from some change of
// the disk on none happens any more, as when the process is killed there; reads go on, so that the
// process can be taken down in order. Then DropUnsynced makes it a power cut: files lose what was
// written since their last sync, and directories the names that they were not synced with.
#pragma once
#include <rocksdb/file_system.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/mutex.h"

namespace thermocline {

class FaultyFileSystem : public rocksdb::FileSystemWrapper {
 public:
  using IOStatus = rocksdb::IOStatus;
  using Options = rocksdb::IOOptions;
  using Debug = rocksdb::IODebugContext;
  static constexpr int64_t kNever = INT64_MAX;

  FaultyFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FaultyFileSystem"; }

  /// The next `changes` changes happen, then `failures` of them fail.
  void FailAfter(int64_t changes, int64_t failures = kNever, bool full = false) {
    MutexLock lock(mutex_);
    left_ = changes;
    failures_ = failures;
    full_ = full;
    hit_ = false;
  }
  void Heal() { FailAfter(kNever, 0); }
  void FailReads(bool fail) {
    MutexLock lock(mutex_);
    fail_reads_ = fail;
  }
  /// As one bad sector does: reads of this byte of the file with this name. "": none.
  void FailReadsAt(const std::string& name, uint64_t offset) {
    MutexLock lock(mutex_);
    bad_name_ = name;
    bad_offset_ = offset;
  }
  uint64_t bad_reads() const {
    MutexLock lock(mutex_);
    return bad_reads_;
  }
  /// Called before each read of a file, without a lock. To be set before it is used.
  std::function<void()> before_read;
  /// Whether a change has failed since FailAfter.
  bool hit() const {
    MutexLock lock(mutex_);
    return hit_;
  }
  /// When nobody uses it any more.
  void DropUnsynced() {
    MutexLock lock(mutex_);
    std::error_code ignored;
    for (const std::string& path : unnamed_) std::filesystem::remove(path, ignored);
    for (const auto& [path, file] : files_) {
      if (unnamed_.contains(path) || file.written <= file.synced) continue;
      std::filesystem::resize_file(path, file.synced, ignored);
    }
  }

  IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* file, Debug* debug) override {
    if (const IOStatus fault = Change(); !fault.ok()) return fault;
    const IOStatus status = FileSystemWrapper::NewWritableFile(path, options, file, debug);
    if (!status.ok()) return status;
    Created(path, {});
    *file = std::make_unique<File>(std::move(*file), path, *this);
    return status;
  }
  IOStatus NewRandomAccessFile(const std::string& path, const rocksdb::FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                               Debug* debug) override {
    const IOStatus status = FileSystemWrapper::NewRandomAccessFile(path, options, file, debug);
    if (status.ok()) *file = std::make_unique<Source>(std::move(*file), path, *this);
    return status;
  }
  IOStatus NewDirectory(const std::string& path, const Options& options,
                        std::unique_ptr<rocksdb::FSDirectory>* directory, Debug* debug) override {
    const IOStatus status = FileSystemWrapper::NewDirectory(path, options, directory, debug);
    if (status.ok()) *directory = std::make_unique<Directory>(std::move(*directory), path, *this);
    return status;
  }
  IOStatus DeleteFile(const std::string& path, const Options& options, Debug* debug) override {
    if (const IOStatus fault = Change(); !fault.ok()) return fault;
    return FileSystemWrapper::DeleteFile(path, options, debug);
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const Options& options,
                      Debug* debug) override {
    if (const IOStatus fault = Change(); !fault.ok()) return fault;
    return FileSystemWrapper::RenameFile(from, to, options, debug);
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const Options& options,
                    Debug* debug) override {
    if (const IOStatus fault = Change(); !fault.ok()) return fault;
    const IOStatus status = FileSystemWrapper::LinkFile(from, to, options, debug);
    MutexLock lock(mutex_);
    if (status.ok()) {
      unnamed_.insert(to);
      files_[to] = files_[from];
    }
    return status;
  }

 private:
  struct Bytes {
    uint64_t written = 0;
    uint64_t synced = 0;
  };

  class File : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(std::unique_ptr<rocksdb::FSWritableFile> file, std::string path, FaultyFileSystem& owner)
        : FSWritableFileOwnerWrapper(std::move(file)), path_(std::move(path)), owner_(owner) {}
    using FSWritableFileWrapper::Append;
    using FSWritableFileWrapper::PositionedAppend;
    IOStatus Append(const rocksdb::Slice& data, const Options& options, Debug* debug) override {
      if (const IOStatus fault = owner_.Change(); !fault.ok()) return fault;
      owner_.Written(path_, 0, data.size());
      return FSWritableFileWrapper::Append(data, options, debug);
    }
    IOStatus Append(const rocksdb::Slice& data, const Options& options,
                    const rocksdb::DataVerificationInfo&, Debug* debug) override {
      return Append(data, options, debug);
    }
    IOStatus PositionedAppend(const rocksdb::Slice& data, uint64_t at, const Options& options,
                              Debug* debug) override {
      if (const IOStatus fault = owner_.Change(); !fault.ok()) return fault;
      owner_.Written(path_, at, data.size());
      return FSWritableFileWrapper::PositionedAppend(data, at, options, debug);
    }
    IOStatus PositionedAppend(const rocksdb::Slice& data, uint64_t at, const Options& options,
                              const rocksdb::DataVerificationInfo&, Debug* debug) override {
      return PositionedAppend(data, at, options, debug);
    }
    IOStatus Sync(const Options& options, Debug* debug) override {
      if (const IOStatus fault = owner_.Change(); !fault.ok()) return fault;
      owner_.Synced(path_);
      return FSWritableFileWrapper::Sync(options, debug);
    }
    IOStatus Fsync(const Options& options, Debug* debug) override { return Sync(options, debug); }

   private:
    const std::string path_;
    FaultyFileSystem& owner_;
  };

  class Source : public rocksdb::FSRandomAccessFileOwnerWrapper {
   public:
    Source(std::unique_ptr<rocksdb::FSRandomAccessFile> file, const std::string& path,
           FaultyFileSystem& owner)
        : FSRandomAccessFileOwnerWrapper(std::move(file)),
          name_(std::filesystem::path(path).filename()),
          owner_(owner) {}
    IOStatus Read(uint64_t at, size_t bytes, const Options& options, rocksdb::Slice* result,
                  char* room, Debug* debug) const override {
      if (owner_.before_read) owner_.before_read();
      {
        MutexLock lock(owner_.mutex_);
        const bool is_bad = owner_.bad_name_ == name_ && owner_.bad_offset_ - at < bytes;
        owner_.bad_reads_ += is_bad ? 1 : 0;
        if (owner_.fail_reads_ || is_bad) return IOStatus::IOError("Input/output error");
      }
      return FSRandomAccessFileOwnerWrapper::Read(at, bytes, options, result, room, debug);
    }

   private:
    const std::string name_;
    FaultyFileSystem& owner_;
  };

  class Directory : public rocksdb::FSDirectoryWrapper {
   public:
    Directory(std::unique_ptr<rocksdb::FSDirectory> directory, std::string path,
              FaultyFileSystem& owner)
        : FSDirectoryWrapper(std::move(directory)), path_(std::move(path)), owner_(owner) {}
    IOStatus Fsync(const Options& options, Debug* debug) override {
      if (const IOStatus fault = owner_.Change(); !fault.ok()) return fault;
      owner_.Named(path_);
      return FSDirectoryWrapper::Fsync(options, debug);
    }
    IOStatus FsyncWithDirOptions(const Options& options, Debug* debug,
                                 const rocksdb::DirFsyncOptions&) override {
      return Fsync(options, debug);
    }

   private:
    const std::string path_;
    FaultyFileSystem& owner_;
  };

  /// To be called before each change of the disk.
  IOStatus Change() {
    MutexLock lock(mutex_);
    if (left_ == kNever || left_-- > 0) return IOStatus::OK();
    left_ = 0;
    if (failures_ != kNever && failures_-- <= 0) {
      left_ = kNever;
      return IOStatus::OK();
    }
    hit_ = true;
    return full_ ? IOStatus::NoSpace("No space left on device")
                 : IOStatus::IOError("Input/output error");
  }
  void Created(const std::string& path, Bytes bytes) {
    MutexLock lock(mutex_);
    files_[path] = bytes;
    unnamed_.insert(path);
  }
  void Written(const std::string& path, uint64_t at, uint64_t bytes) {
    MutexLock lock(mutex_);
    Bytes& file = files_[path];
    file.written = at > 0 ? std::max(file.written, at + bytes) : file.written + bytes;
  }
  void Synced(const std::string& path) {
    MutexLock lock(mutex_);
    files_[path].synced = files_[path].written;
  }
  void Named(const std::string& directory) {
    MutexLock lock(mutex_);
    std::erase_if(unnamed_, [&](const std::string& path) {
      return std::filesystem::path(path).parent_path() == directory;
    });
  }

  mutable Mutex mutex_;
  int64_t left_ TC_GUARDED_BY(mutex_) = kNever;  // changes until one fails
  int64_t failures_ TC_GUARDED_BY(mutex_) = 0;
  bool full_ TC_GUARDED_BY(mutex_) = false;
  bool hit_ TC_GUARDED_BY(mutex_) = false;
  bool fail_reads_ TC_GUARDED_BY(mutex_) = false;
  std::string bad_name_ TC_GUARDED_BY(mutex_);
  uint64_t bad_offset_ TC_GUARDED_BY(mutex_) = 0;
  uint64_t bad_reads_ TC_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Bytes> files_ TC_GUARDED_BY(mutex_);
  std::set<std::string> unnamed_ TC_GUARDED_BY(mutex_);  // of which the directory is not synced
};

}  // namespace thermocline
