// A whole file, mapped read-only into memory.
#pragma once
#include <cstddef>
#include <span>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// Thread: any, when no thread moves it.
/// Owner:  owns the mapping and keeps the descriptor it came from, by which the file is identified.
class MappedFile {
 public:
  /// Errors: those of open(2) and mmap(2); InvalidArgument for anything but a regular file.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  /// The file's bytes as of Open; page-aligned; empty for an empty file.
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  MappedFile() = default;

  std::string path_;
  UniqueFd fd_;
  std::span<const std::byte> bytes_;
};

}  // namespace thermocline
