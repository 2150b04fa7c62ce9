#include "tiers/disk_ends.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/large_array.h"

namespace thermocline {
namespace {

using rocksdb::FSRandomAccessFile;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

/// Some bytes of a file, from page to page, which ends with the file at the latest.
struct Piece {
  uint64_t begin = 0;
  size_t bytes = 0;
  LargeArray<char> data;
};

IOStatus IsShorter(const std::string& path) {
  return IOStatus::IOError(path + " is shorter than what was written");
}

IOStatus ReadPiece(FSRandomAccessFile& file, const std::string& path, uint64_t begin, uint64_t end,
                   const IOOptions& options, std::vector<Piece>& pieces, IODebugContext* debug) {
  const uint64_t page = file.GetRequiredBufferAlignment();
  begin -= begin % page;
  const size_t room = (end - begin + page - 1) / page * page;
  Piece piece{.begin = begin, .data = LargeArray<char>(room)};
  Slice found;
  const IOStatus status = file.Read(begin, room, options, &found, piece.data.begin(), debug);
  if (!status.ok()) return status;
  if (found.size() < end - begin) return IsShorter(path);
  if (found.data() != piece.data.begin()) {
    std::memcpy(piece.data.begin(), found.data(), found.size());
  }
  piece.bytes = found.size();
  pieces.push_back(std::move(piece));
  return IOStatus::OK();
}

class EndsFile : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  EndsFile(std::unique_ptr<FSRandomAccessFile> file, std::vector<Piece> pieces)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), pieces_(std::move(pieces)) {}

  IOStatus Read(uint64_t offset, size_t bytes, const IOOptions& options, Slice* result, char* room,
                IODebugContext* debug) const override {
    for (const Piece& piece : pieces_) {
      const uint64_t end = piece.begin + piece.bytes;
      const bool to_the_end = &piece == &pieces_.back();
      if (offset < piece.begin || (offset + bytes > end && !to_the_end)) continue;
      const size_t at = std::min<uint64_t>(offset - piece.begin, piece.bytes);
      const size_t found = std::min(bytes, piece.bytes - at);
      std::memcpy(room, piece.data.begin() + at, found);
      *result = Slice(room, found);
      return IOStatus::OK();
    }
    return FSRandomAccessFileOwnerWrapper::Read(offset, bytes, options, result, room, debug);
  }

 private:
  const std::vector<Piece> pieces_;  // the last is the end of the file
};

}  // namespace

void EndsFileSystem::Keep(const std::string& path, Ends ends) {
  MutexLock lock(mutex_);
  kept_[path] = ends;
}

IOStatus EndsFileSystem::NewRandomAccessFile(const std::string& path,
                                             const rocksdb::FileOptions& options,
                                             std::unique_ptr<FSRandomAccessFile>* file,
                                             IODebugContext* debug) {
  Ends ends;
  {
    MutexLock lock(mutex_);
    const auto kept = kept_.extract(path);
    if (!kept) return FileSystemWrapper::NewRandomAccessFile(path, options, file, debug);
    ends = kept.mapped();
  }
  const IOOptions& io = options.io_options;
  std::unique_ptr<FSRandomAccessFile> below;
  uint64_t file_bytes = 0;
  std::vector<Piece> pieces;
  IOStatus status = FileSystemWrapper::NewRandomAccessFile(path, options, &below, debug);
  if (status.ok()) status = GetFileSize(path, io, &file_bytes, debug);
  if (status.ok() && file_bytes <= ends.tail_begin) status = IsShorter(path);
  if (status.ok() && ends.head_end > 0) {
    status = ReadPiece(*below, path, 0, ends.head_end, io, pieces, debug);
  }
  if (status.ok()) {
    status = ReadPiece(*below, path, ends.tail_begin, file_bytes, io, pieces, debug);
  }
  if (status.ok()) *file = std::make_unique<EndsFile>(std::move(below), std::move(pieces));
  return status;
}

}  // namespace thermocline
