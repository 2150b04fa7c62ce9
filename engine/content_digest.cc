#include "engine/content_digest.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"

namespace thermocline {
namespace {

constexpr size_t kReadBytes = size_t{1} << 20;
constexpr size_t kMaxCacheBytes = size_t{1} << 20;
constexpr int64_t kSettledNs = 1'000'000'000;

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// All that identifies an unchanged file, as the start of its cache line.
struct FileState {
  std::string text;
  int64_t changed_ns = 0;
};

absl::StatusOr<FileState> StateOf(const MappedFile& file) {
  struct stat info {};
  if (::fstat(file.fd(), &info) != 0) return ErrnoStatus(errno, "fstat " + file.path());
  return FileState{absl::StrCat(info.st_dev, " ", info.st_ino, " ", info.st_size, " ",
                                Nanoseconds(info.st_mtim), " ", Nanoseconds(info.st_ctim)),
                   Nanoseconds(info.st_ctim)};
}

// By pread, not through the mapping: a file that shrinks meanwhile gives an error here, not SIGBUS.
absl::StatusOr<Sha256> HashContent(const MappedFile& file) {
  Sha256Builder sha;
  std::vector<std::byte> buffer(kReadBytes);
  off_t offset = 0;
  while (true) {
    const ssize_t got = ::pread(file.fd(), buffer.data(), buffer.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "read " + file.path());
    if (got == 0) return sha.Finish();
    sha.Raw(std::span(buffer).first(static_cast<size_t>(got)));
    offset += got;
  }
}

std::optional<std::filesystem::path> CachePath() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') {
    return std::filesystem::path(cache) / "thermocline" / "weights.sha256";
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') return std::nullopt;
  return std::filesystem::path(home) / ".cache" / "thermocline" / "weights.sha256";
}

std::vector<std::string> ReadCacheLines(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxCacheBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

std::optional<Sha256> Recall(const std::vector<std::string>& lines, const std::string& state) {
  for (const std::string& line : lines) {
    if (line.compare(0, state.size() + 1, state + ' ') != 0) continue;
    if (const auto digest = Sha256FromHex(line.substr(state.size() + 1)); digest.ok()) {
      return *digest;
    }
  }
  return std::nullopt;
}

// The newest line first; written beside and renamed over, so that no reader meets half a file. Of
// two processes that race, one's line is lost and hashed again another day.
void Remember(const std::filesystem::path& path, std::vector<std::string> lines,
              const std::string& state, const Sha256& digest) {
  lines.insert(lines.begin(), absl::StrCat(state, " ", ToHex(digest)));
  if (lines.size() > kMaxRememberedFiles) lines.resize(kMaxRememberedFiles);
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  const std::string fresh = absl::StrCat(path.string(), ".", ::getpid());
  {
    std::ofstream file(fresh, std::ios::binary | std::ios::trunc);
    for (const std::string& line : lines) file << line << '\n';
    file.flush();
    if (!file) {
      std::filesystem::remove(fresh, error);
      return;
    }
  }
  std::filesystem::rename(fresh, path, error);
  if (error) std::filesystem::remove(fresh, error);
}

absl::StatusOr<Sha256> DigestOfFile(const MappedFile& file) {
  TC_ASSIGN_OR_RETURN(const FileState before, StateOf(file));
  const std::optional<std::filesystem::path> cache = CachePath();
  std::vector<std::string> lines;
  if (cache) lines = ReadCacheLines(*cache);
  if (const auto known = Recall(lines, before.text)) return *known;

  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  TC_ASSIGN_OR_RETURN(const Sha256 digest, HashContent(file));
  TC_ASSIGN_OR_RETURN(const FileState after, StateOf(file));
  if (after.text != before.text) {
    return absl::AbortedError(file.path() +
                              ": changed while its content was hashed; start again when it is "
                              "complete");
  }
  const bool settled = Nanoseconds(now) - before.changed_ns > kSettledNs;
  if (cache && settled) Remember(*cache, std::move(lines), before.text, digest);
  return digest;
}

}  // namespace

absl::StatusOr<Sha256> DigestOfFiles(std::span<const MappedFile> files) {
  TC_CHECK(!files.empty());
  if (files.size() == 1) return DigestOfFile(files.front());
  Sha256Builder sha;
  for (const MappedFile& file : files) {
    TC_ASSIGN_OR_RETURN(const Sha256 digest, DigestOfFile(file));
    sha.Raw(std::as_bytes(std::span(digest)));
  }
  return sha.Finish();
}

}  // namespace thermocline
