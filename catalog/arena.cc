#include "catalog/arena.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <utility>

#include "base/check.h"
#include "base/memory_cgroup.h"
#include "catalog/arena_places.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace thermocline {
namespace {

std::string DirectoryOf(const std::string& path) {
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  return directory.empty() ? "." : directory.string();
}

absl::Status CheckOptions(const ArenaOptions& options) {
  const std::string where = "arena " + options.path + ": ";
  if (options.chunk_bytes == 0 || options.chunk_bytes % kPageBytes != 0 ||
      options.chunk_bytes > kDefaultChunkBytes) {
    return absl::InvalidArgumentError(where + "chunks of " + std::to_string(options.chunk_bytes) +
                                      " bytes; must be whole pages and at most 64 MiB");
  }
  if (options.capacity_bytes < kPageBytes) {
    return absl::InvalidArgumentError(where + "a capacity of " +
                                      FormatBytes(options.capacity_bytes) +
                                      " holds no block; raise " + options.capacity_option);
  }
  if (options.capacity_bytes > kMaxChunks * options.chunk_bytes - kArenaDataOffset) {
    return absl::InvalidArgumentError(
        where + "a capacity of " + FormatBytes(options.capacity_bytes) + " is more than " +
        std::to_string(kMaxChunks) + " chunks; lower " + options.capacity_option);
  }
  return absl::OkStatus();
}

absl::Status Lock(int fd, const std::string& path) {
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "lock " + path);
  ArenaHeader header{};
  const bool known = pread(fd, &header, sizeof header, 0) == sizeof header &&
                     header.magic == kArenaMagic && header.owner_pid != 0;
  return absl::AlreadyExistsError(
      "arena " + path + ": in use by " +
      (known ? "process " + std::to_string(header.owner_pid) : std::string("another process")) +
      "; stop it, or give this daemon another directory");
}

// What the control group keeps for the rest of the process: page tables, the catalog, its heap.
constexpr uint64_t kCgroupMargin = 16 * MiB;

// The file system must have the pages that are asked for, before there is a file on it.
absl::Status CheckFileSystem(const ArenaOptions& options) {
  const std::string directory = DirectoryOf(options.path);
  const auto page_bytes = HugetlbPageBytes(directory);
  const bool wants_hugetlb = options.huge_pages == HugePages::kHugetlb;
  if (!wants_hugetlb && !page_bytes) return absl::OkStatus();
  const std::string where = "arena directory " + directory + ": ";
  if (!wants_hugetlb) {
    return absl::FailedPreconditionError(
        where + "is on a hugetlbfs; set huge_pages = \"hugetlb\" and name it as huge_page_dir");
  }
  if (!page_bytes) {
    return absl::FailedPreconditionError(
        where +
        "huge_pages is \"hugetlb\", and this is on no hugetlbfs; mount one (mount -t hugetlbfs -o "
        "pagesize=2M none DIRECTORY), or set huge_pages = \"none\"");
  }
  if (options.chunk_bytes % *page_bytes == 0 && kArenaDataOffset % *page_bytes == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(where + "has pages of " + FormatBytes(*page_bytes) +
                                       ", of which chunks of " + FormatBytes(options.chunk_bytes) +
                                       " cannot be made; mount one with pagesize=2M");
}

constexpr uint64_t kMostEpochsAhead = 1 << 24;  // of the clock, which may have been set back

uint64_t WallSeconds() { return static_cast<uint64_t>(std::time(nullptr)); }

}  // namespace

absl::StatusOr<UniqueFd> OpenArenaFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return ErrnoStatus(errno, "open " + path, "is its directory there and writable?");
  struct stat file;
  if (fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, "stat " + path);
  if (!S_ISREG(file.st_mode) || file.st_uid != geteuid() || (file.st_mode & 077) != 0) {
    return absl::FailedPreconditionError("arena " + path +
                                         ": exists and is not a file of this user with mode 0600; "
                                         "move it away or give another directory");
  }
  return fd;
}

Arena::Arena(const ArenaOptions& options, UniqueFd lock, UniqueFd fd)
    : path_(options.path),
      metadata_path_(options.metadata_path.empty() ? MetadataPath(options.path)
                                                   : options.metadata_path),
      lock_(std::move(lock)),
      fd_(std::move(fd)),
      huge_pages_(options.huge_pages),
      page_bytes_(HugetlbPageBytes(options.path).value_or(kPageBytes)) {}

absl::StatusOr<Arena> Arena::Open(const ArenaOptions& options) {
  TC_RETURN_IF_ERROR(CheckOptions(options));
  TC_RETURN_IF_ERROR(CheckFileSystem(options));
  TC_ASSIGN_OR_RETURN(UniqueFd lock, OpenArenaFile(options.path));
  TC_RETURN_IF_ERROR(Lock(lock.get(), options.path));
  // The same file, whatever its path names by now.
  UniqueFd fd(open(("/proc/self/fd/" + std::to_string(lock.get())).c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return ErrnoStatus(errno, "open " + options.path + " again");
  struct stat file;
  if (fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, "stat " + options.path);
  Arena arena(options, std::move(lock), std::move(fd));
  TC_ASSIGN_OR_RETURN(const ArenaHeader last,
                      arena.Adopt(options, static_cast<uint64_t>(file.st_size)));
  TC_RETURN_IF_ERROR(arena.MapAndStamp(options, last));
  return arena;
}

// What the file says of its last daemon, or, of a new file, a fresh uuid. The magic is written
// last, so a file without it is one whose creator was killed on the way.
absl::StatusOr<ArenaHeader> Arena::Adopt(const ArenaOptions& options, uint64_t file_bytes) {
  ArenaHeader header{};
  const auto got = pread(fd_.get(), &header, sizeof header, 0);
  if (got < 0) return ErrnoStatus(errno, "read " + path_);
  const bool unfinished =
      got == sizeof header && header.magic == 0 &&
      (header.layout_version == 0 || header.layout_version == kArenaLayoutVersion);
  if (file_bytes == 0 || unfinished) {
    created_ = true;
    header = ArenaHeader{};
    if (getrandom(header.uuid.data(), header.uuid.size(), 0) !=
        static_cast<ssize_t>(header.uuid.size())) {
      return ErrnoStatus(errno, "getrandom");
    }
    return header;
  }
  const std::string where = "arena " + path_ + ": ";
  if (got != sizeof header || header.magic != kArenaMagic) {
    return absl::DataLossError(where + "the file is no arena");
  }
  if (header.layout_version != kArenaLayoutVersion) {
    return absl::DataLossError(where + "has layout version " +
                               std::to_string(header.layout_version) + ", this program reads " +
                               std::to_string(kArenaLayoutVersion));
  }
  if (header.chunk_bytes != options.chunk_bytes) {
    return absl::DataLossError(where + "has chunks of " + FormatBytes(header.chunk_bytes) +
                               ", not " + FormatBytes(options.chunk_bytes));
  }
  // A client may have written it: an epoch far ahead would leave no room for later ones.
  if (header.epoch > std::max(WallSeconds(), options.least_epoch) + kMostEpochsAhead) {
    header.epoch = 0;
  }
  return header;
}

absl::Status Arena::MapAndStamp(const ArenaOptions& options, const ArenaHeader& last) {
  const uint64_t capacity = options.capacity_bytes / page_bytes_ * page_bytes_;
  if (capacity == 0) {
    return absl::InvalidArgumentError(
        "arena " + path_ + ": a capacity of " + FormatBytes(options.capacity_bytes) +
        " is no page of " + FormatBytes(page_bytes_) + "; raise " + options.capacity_option);
  }
  if (options.needs_room) {
    const std::string file = std::filesystem::path(path_).filename().string();
    TC_RETURN_IF_ERROR(
        CheckRoom(DirectoryOf(path_), {&file, 1}, capacity, options.capacity_option));
  }
  struct stat file;
  if (fstat(fd_.get(), &file) != 0) return ErrnoStatus(errno, "stat " + path_);
  const auto old_bytes = static_cast<uint64_t>(file.st_size);
  mapped_bytes_ = std::max(kArenaDataOffset + capacity, old_bytes / page_bytes_ * page_bytes_);
  if (mapped_bytes_ > old_bytes && ftruncate(fd_.get(), static_cast<off_t>(mapped_bytes_)) != 0) {
    return ErrnoStatus(errno, "resize " + path_);
  }
  if (fallocate(fd_.get(), 0, 0, kPageBytes) != 0) {
    return ErrnoStatus(errno, "allocate the header of " + path_, "is its file system full?");
  }
  TC_RETURN_IF_ERROR(Map());
  guard_ = std::make_unique<MappingGuard>(fd_.get(), base_, mapped_bytes_, page_bytes_);
  header_ = {.layout_version = kArenaLayoutVersion,
             .owner_pid = static_cast<uint32_t>(getpid()),
             .epoch = std::max({last.epoch + 1, WallSeconds(), options.least_epoch}),
             .capacity_bytes = capacity,
             .chunk_bytes = options.chunk_bytes,
             .uuid = last.uuid};
  auto& header = *reinterpret_cast<ArenaHeader*>(base_);
  header = header_;
  std::atomic_signal_fence(std::memory_order_release);
  header.magic = header_.magic = kArenaMagic;
  // The chunk that was the short last one may have been lent, and has grown.
  const uint64_t grown = last.capacity_bytes / options.chunk_bytes;
  if (last.capacity_bytes % options.chunk_bytes != 0 && last.capacity_bytes < capacity) {
    return PopulateChunk(static_cast<uint32_t>(grown));
  }
  return absl::OkStatus();
}

// Anew over the old one, too.
absl::Status Arena::Map() {
  void* const base =
      mmap(base_, mapped_bytes_, PROT_READ | PROT_WRITE,
           MAP_SHARED | MAP_NORESERVE | (base_ == nullptr ? 0 : MAP_FIXED), fd_.get(), 0);
  if (base == MAP_FAILED) return ErrnoStatus(errno, "map " + path_);
  base_ = static_cast<std::byte*>(base);
  return huge_pages_ == HugePages::kTransparent ? AskForHugePages() : absl::OkStatus();
}

absl::Status Arena::AskForHugePages() {
  if (MountHasHugePages(fd_.get()) && madvise(base_, mapped_bytes_, MADV_HUGEPAGE) == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      "arena " + path_ +
      ": huge_pages is \"transparent\", and its file system gives none; mount it with huge=advise "
      "(mount -o remount,huge=advise DIRECTORY), or set huge_pages = \"none\"");
}

absl::Status Arena::PunchBeyondCapacity() {
  return PunchRange(kArenaDataOffset + capacity_bytes(), mapped_bytes_, "the end");
}

absl::Status Arena::PunchRange(uint64_t begin, uint64_t end, const std::string& what) {
  if (begin < end && fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               static_cast<off_t>(begin), static_cast<off_t>(end - begin)) != 0) {
    return ErrnoStatus(errno, "punch " + what + " of " + path_);
  }
  return absl::OkStatus();
}

std::string Arena::Mend(uint64_t used_bytes, const std::function<bool(uint32_t)>& is_used) {
  struct stat file;
  if (fstat(fd_.get(), &file) != 0) return "";
  std::string what;
  if (static_cast<uint64_t>(file.st_size) != mapped_bytes_) {
    what = "its file was given another length; ";
    (void)ftruncate(fd_.get(), static_cast<off_t>(mapped_bytes_));
  }
  if (const uint64_t saved = guard_->saved(); saved != mended_) {
    what += "pages were taken out of it; ";
    if (Map().ok()) mended_ = saved;
  }
  // One chunk may be on its way, and what an earlier capacity had beyond this one is punched later.
  const uint64_t end = kArenaDataOffset + capacity_bytes();
  const uint64_t most = page_bytes_ + used_bytes + chunk_bytes() + (mapped_bytes_ - end);
  if (static_cast<uint64_t>(file.st_blocks) * 512 > most) {
    what += "memory was taken where nothing is lent; ";
    (void)PunchRange(page_bytes_, kArenaDataOffset, "the beginning");
    for (uint32_t chunk = 0; chunk < chunk_count(); ++chunk) {
      if (!is_used(chunk)) (void)PunchChunk(chunk);
    }
  }
  return what.empty() ? what : what.substr(0, what.size() - 2);
}

absl::Status Arena::Remove(const std::string& path, const std::string& metadata_path) {
  for (const std::string& file :
       {path, metadata_path.empty() ? MetadataPath(path) : metadata_path}) {
    if (unlink(file.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, "remove " + file);
  }
  return absl::OkStatus();
}

Arena::Arena(Arena&& other) noexcept
    : path_(std::move(other.path_)),
      metadata_path_(std::move(other.metadata_path_)),
      lock_(std::move(other.lock_)),
      fd_(std::move(other.fd_)),
      header_(other.header_),
      base_(std::exchange(other.base_, nullptr)),
      guard_(std::move(other.guard_)),
      mended_(other.mended_),
      mapped_bytes_(other.mapped_bytes_),
      created_(other.created_),
      huge_pages_(other.huge_pages_),
      page_bytes_(other.page_bytes_) {}

Arena::~Arena() {
  guard_.reset();
  if (base_ != nullptr) munmap(base_, mapped_bytes_);
}

uint32_t Arena::chunk_count() const {
  return static_cast<uint32_t>((capacity_bytes() + chunk_bytes() - 1) / chunk_bytes());
}

uint64_t Arena::BytesOfChunk(uint32_t chunk) const {
  TC_CHECK(chunk < chunk_count());
  return std::min(chunk_bytes(), capacity_bytes() - chunk * chunk_bytes());
}

absl::Status Arena::AllocateChunk(uint32_t chunk) {
  const auto bytes = static_cast<off_t>(BytesOfChunk(chunk));
  const auto offset = static_cast<off_t>(OffsetOfChunk(chunk));
  if (fallocate(fd_.get(), 0, offset, bytes) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, "allocate chunk " + std::to_string(chunk) + " of " + path_,
                     huge_pages_ == HugePages::kHugetlb
                         ? "no huge page is left: set more apart (sysctl vm.nr_hugepages), or "
                           "lower the capacity"
                         : "the file system is full: free some of it, or lower the capacity");
}

bool Arena::MayHaveAll(uint64_t bytes_of_chunks) const {
  struct stat file;
  return fstat(fd_.get(), &file) == 0 &&
         static_cast<uint64_t>(file.st_blocks) * 512 >= kPageBytes + bytes_of_chunks;
}

uint64_t Arena::MissingBytes(uint32_t chunk) const {
  const auto end = static_cast<off_t>(OffsetOfChunk(chunk) + BytesOfChunk(chunk));
  uint64_t missing = 0;
  for (auto at = static_cast<off_t>(OffsetOfChunk(chunk)); at < end;) {
    const off_t data = lseek(fd_.get(), at, SEEK_DATA);  // ENXIO: none from here on
    const off_t hole_end = data < 0 ? end : std::min(data, end);
    missing += static_cast<uint64_t>(hole_end - at);
    if (hole_end == end) break;
    at = lseek(fd_.get(), hole_end, SEEK_HOLE);
    if (at < 0) break;
  }
  return missing;
}

// Looking for what is missing takes a microsecond a page: only where it matters.
absl::Status Arena::CheckCgroup(uint32_t chunk) const {
  if (huge_pages_ == HugePages::kHugetlb) return absl::OkStatus();  // who refuses does not kill
  const auto room = RoomInMemoryCgroup();
  if (!room || room->bytes >= BytesOfChunk(chunk) + kCgroupMargin) return absl::OkStatus();
  const uint64_t missing = MissingBytes(chunk);
  if (missing == 0 || room->bytes >= missing + kCgroupMargin) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      "chunk " + std::to_string(chunk) + " of " + path_ + " takes " + FormatBytes(missing) +
      ", and of the memory limit of " + FormatBytes(room->limit_bytes) + " of control group " +
      room->directory + " there are " + FormatBytes(room->bytes) +
      " left; raise it, or lower the capacity");
}

absl::Status Arena::PopulateChunk(uint32_t chunk) {
  TC_RETURN_IF_ERROR(CheckCgroup(chunk));
  const uint64_t bytes = BytesOfChunk(chunk);
  // Only who touches memory that was advised gets huge pages; who allocates it gets small ones.
  if (huge_pages_ == HugePages::kTransparent) {
    if (madvise(base_ + OffsetOfChunk(chunk), bytes, MADV_POPULATE_WRITE) == 0) {
      return absl::OkStatus();
    }
  }
  TC_RETURN_IF_ERROR(AllocateChunk(chunk));
  if (madvise(base_ + OffsetOfChunk(chunk), bytes, MADV_POPULATE_WRITE) == 0) {
    return absl::OkStatus();
  }
  const int error = errno;
  if (error == EINVAL) return absl::OkStatus();  // before Linux 5.14; the pages are allocated
  return absl::ResourceExhaustedError("touch chunk " + std::to_string(chunk) + " of " + path_ +
                                      ": " + std::strerror(error) +
                                      "; raise the memory limit of this process's cgroup, or lower "
                                      "the capacity");
}

absl::Status Arena::PunchChunk(uint32_t chunk) {
  return PunchRange(OffsetOfChunk(chunk), OffsetOfChunk(chunk) + BytesOfChunk(chunk),
                    "chunk " + std::to_string(chunk));
}

}  // namespace thermocline
