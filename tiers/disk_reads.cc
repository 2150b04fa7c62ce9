#include "tiers/disk_reads.h"

#include <optional>
#include <utility>

#include "base/large_array.h"
#include "base/units.h"

namespace thermocline {
namespace {

constexpr size_t kRoomStepBytes = 2 * MiB;   // a huge page
constexpr size_t kMostKeptBytes = 10 * MiB;  // by each thread that reads
// Of a file system that is not read directly there are no sectors to keep to.
constexpr uint64_t kBufferedSectorBytes = 1;

/// Page-aligned memory: the thread's, which it keeps, or of its own for a value beyond that.
class Room {
 public:
  explicit Room(size_t bytes) {
    if (bytes > kMostKeptBytes) {
      data_ = own_.emplace(bytes).begin();
      return;
    }
    thread_local LargeArray<char> kept(kRoomStepBytes);
    if (kept.size() < bytes) kept = LargeArray<char>(RoundUp(bytes, kRoomStepBytes));
    data_ = kept.begin();
  }
  char* data() { return data_; }

 private:
  std::optional<LargeArray<char>> own_;
  char* data_ = nullptr;
};

}  // namespace

SegmentFiles::SegmentFiles(std::shared_ptr<rocksdb::FileSystem> file_system, bool direct_io,
                           size_t most_open)
    : file_system_(file_system ? std::move(file_system) : rocksdb::FileSystem::Default()),
      direct_io_(direct_io),
      most_open_(most_open) {}

SegmentFiles::File SegmentFiles::Open(const std::string& path) const {
  rocksdb::FileOptions options;
  options.use_direct_reads = direct_io_;
  std::unique_ptr<rocksdb::FSRandomAccessFile> file;
  const rocksdb::IOStatus status = file_system_->NewRandomAccessFile(path, options, &file, nullptr);
  return status.ok() ? std::move(file) : nullptr;
}

void SegmentFiles::Add(uint64_t sequence, std::string path) {
  MutexLock lock(mutex_);
  segments_[sequence].path = std::move(path);
}

SegmentFiles::File SegmentFiles::Take(Segment& segment) {
  if (segment.file) used_.erase(segment.used);
  return std::exchange(segment.file, nullptr);
}

void SegmentFiles::Forget(uint64_t sequence) {
  File last;
  MutexLock lock(mutex_);
  const auto found = segments_.find(sequence);
  if (found == segments_.end()) return;
  last = Take(found->second);
  segments_.erase(found);
}

SegmentFiles::File SegmentFiles::FileOf(uint64_t sequence) {
  std::string path;
  {
    MutexLock lock(mutex_);
    const auto found = segments_.find(sequence);
    if (found == segments_.end()) return nullptr;
    Segment& segment = found->second;
    if (segment.file) {
      used_.splice(used_.begin(), used_, segment.used);
      return segment.file;
    }
    path = segment.path;
  }
  File file = Open(path);
  File oldest;
  MutexLock lock(mutex_);
  const auto found = segments_.find(sequence);  // it may have been forgotten meanwhile
  if (file == nullptr || found == segments_.end() || found->second.file) return file;
  if (used_.size() >= most_open_) oldest = Take(segments_.at(used_.back()));
  found->second.file = file;
  found->second.used = used_.insert(used_.begin(), sequence);
  return file;
}

absl::Status SegmentFiles::Read(
    uint64_t sequence, FilePlace place,
    const std::function<absl::Status(std::span<const std::byte>)>& look) {
  const File file = FileOf(sequence);
  if (file == nullptr) return absl::UnavailableError("its file cannot be opened");
  const uint64_t sector = direct_io_ ? file->GetRequiredBufferAlignment() : kBufferedSectorBytes;
  const uint64_t first = place.offset / sector * sector;
  const uint64_t before = place.offset - first;
  const uint64_t bytes = RoundUp(before + place.bytes, sector);
  Room room(bytes);
  rocksdb::Slice read;
  const rocksdb::IOStatus status =
      file->Read(first, bytes, rocksdb::IOOptions(), &read, room.data(), nullptr);
  if (!status.ok()) return absl::UnavailableError(status.ToString());
  if (read.size() < before + place.bytes) return absl::UnavailableError("its file ends before it");
  return look(std::as_bytes(std::span(read.data() + before, place.bytes)));
}

}  // namespace thermocline
