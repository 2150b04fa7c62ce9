// The arena: the file, on a tmpfs or a hugetlbfs, in which a tenant's warm blocks lie. The daemon
// and the tenant's clients map it; it outlives the daemon, not the machine.
//
//   page 0       ArenaHeader
//   from 2 MiB   chunks of chunk_bytes (the last one may be shorter), each lent as a whole to slots
//                of one size (catalog/slabs.h)
//
// A chunk is allocated and touched before anything in it is granted: a page that the file system
// cannot give is a refusal here and never a SIGBUS there. A memory control group that cannot give
// it would have the daemon killed, so it is asked before. An exclusive lock keeps a second daemon
// out.
//
// Clients that put in place may write anywhere in the file, cut it and stretch it. So the daemon
// reads its header once, guards its mapping (catalog/mapping_guard.h), and mends the file from time
// to time: what a client does to it costs its own tenant.
//
// On a hugetlbfs nothing is reserved by mapping: every mapping of it, the clients' too, is made
// with MAP_NORESERVE, and a chunk's pages are taken from the pool when it is lent. Chunks are whole
// huge pages there; what is asked for by the byte, the slot headers, lies on a tmpfs.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "catalog/mapping_guard.h"

namespace thermocline {

inline constexpr uint64_t kArenaMagic = 0x31414e5241434354;  // "TCCARNA1"
inline constexpr uint32_t kArenaLayoutVersion = 1;
inline constexpr uint64_t kArenaDataOffset = 2 * MiB;  // huge pages stay aligned
inline constexpr uint64_t kDefaultChunkBytes = 64 * MiB;
inline constexpr uint32_t kMaxChunks = 16384;

struct ArenaHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t owner_pid;  // of the daemon that holds the lock, or held it last
  uint64_t epoch;      // of that daemon
  uint64_t capacity_bytes;
  uint64_t chunk_bytes;
  std::array<uint8_t, 16> uuid;
};
static_assert(sizeof(ArenaHeader) == 56 && offsetof(ArenaHeader, epoch) == 16 &&
              offsetof(ArenaHeader, uuid) == 40);

enum class HugePages {
  kNone,
  kTransparent,  // of the tmpfs, which is mounted with huge=advise or more; 2 MiB each where it can
  kHugetlb,      // all of them, of the pool that was set apart; the file lies on a hugetlbfs
};

struct ArenaOptions {
  std::string path;
  std::string metadata_path;    // of its slot headers; "": MetadataPath(path)
  uint64_t capacity_bytes = 0;  // of blocks; rounded down to pages
  uint64_t chunk_bytes = kDefaultChunkBytes;
  uint64_t least_epoch = 0;     // the new epoch is at least this
  bool needs_room = true;       // for all of its capacity; else somebody counts for several
  std::string capacity_option;  // what the user can change, for error texts: "warm.capacity"
  HugePages huge_pages = HugePages::kNone;
};

/// Thread: one; data() and Slot() any. Owner: unmaps, unlocks and closes in its destructor; the
/// file stays.
class Arena {
 public:
  /// Creates the file (0600) or opens what an earlier daemon left, under a new epoch: greater than
  /// the file's last and not below the wall clock in seconds, so that an arena that was dropped and
  /// created again does not repeat one. A greater capacity grows the file; a lesser one leaves it,
  /// because clients of the earlier daemon may still be reading there: see PunchBeyondCapacity.
  /// Errors: AlreadyExists when another process holds the lock (names it and the path), DataLoss
  ///         for a file that is no arena, or has another layout version or chunk size (Remove it to
  ///         start empty), FailedPrecondition for another's, or when its file system has not the
  ///         pages that were asked for, ResourceExhausted when it has not that much left,
  ///         InvalidArgument.
  static absl::StatusOr<Arena> Open(const ArenaOptions& options);

  /// Deletes an arena and its metadata. Absent files are fine.
  static absl::Status Remove(const std::string& path, const std::string& metadata_path = "");

  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  /// Makes a chunk safe to touch: allocates what is not there.
  /// Errors: ResourceExhausted when the file system is full. A hugetlbfs may have given a part.
  absl::Status AllocateChunk(uint32_t chunk);
  /// Whether the file has as much memory as its header and these chunks take: then they need not be
  /// allocated again, which takes a microsecond a page.
  bool MayHaveAll(uint64_t bytes_of_chunks) const;
  /// Makes a chunk safe to touch, and touches it all: whoever writes there first does not pay.
  /// Errors: ResourceExhausted when file system or memory limits refuse, or would have killed us;
  ///         as AllocateChunk.
  /// Cost:   zeroes what was not there: 64 MiB take 20 to 60 ms.
  absl::Status PopulateChunk(uint32_t chunk);
  /// Gives a chunk's memory back; its bytes are zeros from now on.
  absl::Status PunchChunk(uint32_t chunk);

  /// Gives back what lies beyond the capacity, where an earlier daemon had more. Only once no
  /// client of that daemon is reading any more.
  absl::Status PunchBeyondCapacity();

  /// What a client can do to the file itself undone: its length changed, pages taken out of it, and
  /// pages put where nothing is lent, which nobody has counted. `used_bytes`: what of the chunks
  /// may have memory, of which `is_used` tells. Answers what was found, in words; empty: nothing.
  /// Cost: a system call, when nothing was.
  std::string Mend(uint64_t used_bytes, const std::function<bool(uint32_t chunk)>& is_used);

  /// False when an earlier daemon's arena was opened.
  bool created() const { return created_; }
  /// As this daemon wrote it: clients can write to the file's own.
  const ArenaHeader& header() const { return header_; }
  uint64_t epoch() const { return header().epoch; }
  const std::string& path() const { return path_; }
  const std::string& metadata_path() const { return metadata_path_; }
  int fd() const { return fd_.get(); }
  uint64_t capacity_bytes() const { return header().capacity_bytes; }
  uint64_t chunk_bytes() const { return header().chunk_bytes; }
  uint32_t chunk_count() const;
  uint64_t BytesOfChunk(uint32_t chunk) const;
  uint64_t OffsetOfChunk(uint32_t chunk) const { return kArenaDataOffset + chunk * chunk_bytes(); }
  /// What a client may map.
  uint64_t mapped_bytes() const { return mapped_bytes_; }

  /// The bytes from page number `page` on (a warm slot's number in a Word).
  std::byte* data(uint32_t page) const { return base_ + uint64_t{page} * kPageBytes; }

 private:
  Arena(const ArenaOptions& options, UniqueFd lock, UniqueFd fd);
  absl::StatusOr<ArenaHeader> Adopt(const ArenaOptions& options, uint64_t file_bytes);
  absl::Status AskForHugePages();
  absl::Status CheckCgroup(uint32_t chunk) const;
  uint64_t MissingBytes(uint32_t chunk) const;
  absl::Status MapAndStamp(const ArenaOptions& options, const ArenaHeader& last);
  absl::Status Map();
  absl::Status PunchRange(uint64_t begin, uint64_t end, const std::string& what);

  std::string path_;
  std::string metadata_path_;
  // The lock belongs to an open file description of its own: fd_ is handed to clients, whose
  // descriptors and mappings outlive a killed daemon and would keep the next one out.
  UniqueFd lock_;
  UniqueFd fd_;
  ArenaHeader header_ = {};
  std::byte* base_ = nullptr;
  std::unique_ptr<MappingGuard> guard_;
  uint64_t mended_ = 0;  // of what the guard saved
  uint64_t mapped_bytes_ = 0;
  bool created_ = false;
  HugePages huge_pages_ = HugePages::kNone;
  uint64_t page_bytes_ = kPageBytes;  // of the file
};

/// Opens the file of an arena or of its slot headers for reading and writing, and creates it 0600.
/// Errors: FailedPrecondition when it is a link, no file, somebody else's, or open to others.
absl::StatusOr<UniqueFd> OpenArenaFile(const std::string& path);

/// The file that holds an arena's slot headers, where no other is named.
inline std::string MetadataPath(const std::string& arena_path) { return arena_path + ".meta"; }

}  // namespace thermocline
