#include "tests/faults/damage.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace thermocline::faults {
namespace {

constexpr uintmax_t kIndexBytes = 4096;
constexpr uintmax_t kLeastSegmentBytes = 1 << 20;  // a value, at least

bool Is(const std::filesystem::path& path, uintmax_t bytes, StoreFile kind) {
  const std::string name = path.filename().string();
  const bool is_table = path.extension() == ".sst" && bytes > 0;
  switch (kind) {
    case StoreFile::kSegment:
      return is_table && bytes >= kLeastSegmentBytes;
    case StoreFile::kEntries:
      return is_table && bytes < kLeastSegmentBytes;
    case StoreFile::kLog:
      return path.extension() == ".log" && bytes > 0;
    case StoreFile::kManifest:
      return name.rfind("MANIFEST-", 0) == 0;
    case StoreFile::kCurrent:
      return name == "CURRENT";
  }
  return false;
}

std::filesystem::path Largest(const std::string& directory, StoreFile kind) {
  std::filesystem::path largest;
  uintmax_t most = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file() || !Is(entry.path(), entry.file_size(), kind)) continue;
    if (entry.file_size() < most) continue;
    largest = entry.path();
    most = entry.file_size();
  }
  return largest;
}

}  // namespace

std::string FlipBit(const std::string& directory, StoreFile kind, double at) {
  const std::filesystem::path path = Largest(directory, kind);
  if (path.empty()) return "";
  const uintmax_t size = std::filesystem::file_size(path);
  const uintmax_t span = kind == StoreFile::kSegment ? std::min(size, kIndexBytes) : size;
  const auto offset = static_cast<std::streamoff>(
      size - span + static_cast<uintmax_t>(at * static_cast<double>(span - 1)));
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(offset);
  const int byte = file.get();
  file.seekp(offset);
  file.put(static_cast<char>(byte ^ 0x10));
  return path.filename().string();
}

std::string RemoveFile(const std::string& directory, StoreFile kind) {
  const std::filesystem::path path = Largest(directory, kind);
  if (!path.empty()) std::filesystem::remove(path);
  return path.filename().string();
}

}  // namespace thermocline::faults
