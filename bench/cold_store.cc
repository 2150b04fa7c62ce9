#include "bench/cold_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "base/units.h"
#include "bench/pinned.h"
#include "hashing/checksum.h"

namespace thermocline::bench {
namespace {

constexpr size_t kRoomBytes = 32 * MiB;  // a thread

double ProcessCpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

/// Of /proc/self/io: "read_bytes:" or "write_bytes:", what went to or came from a device.
uint64_t DeviceBytes(std::string_view which) {
  std::ifstream file("/proc/self/io");
  std::string name;
  uint64_t value = 0;
  while (file >> name >> value) {
    if (name == which) return value;
  }
  return 0;
}

/// Calls `visit(path)` for every file below `directory`; files come and go meanwhile.
template <class Visit>
void ForEachFile(const std::string& directory, Visit&& visit) {
  std::error_code error;
  std::filesystem::recursive_directory_iterator at(directory, error);
  for (; !error && at != std::filesystem::recursive_directory_iterator(); at.increment(error)) {
    visit(at->path().c_str());
  }
}

}  // namespace

double DiskWork::mib_per_s() const { return static_cast<double>(bytes) / MiB / seconds; }

double DiskWork::cpu_s_per_gib() const { return cpu_s / (static_cast<double>(bytes) / GiB); }

DiskWork& operator+=(DiskWork& sum, const DiskWork& more) {
  sum.bytes += more.bytes;
  sum.seconds += more.seconds;
  sum.cpu_s += more.cpu_s;
  sum.device_bytes += more.device_bytes;
  sum.device_bytes_read += more.device_bytes_read;
  sum.get_ms.insert(sum.get_ms.end(), more.get_ms.begin(), more.get_ms.end());
  return sum;
}

absl::StatusOr<DiskWork> MeasureDisk(const std::function<absl::Status()>& work) {
  DiskWork result;
  const double cpu_before_s = ProcessCpuSeconds();
  const uint64_t written_before = DeviceBytes("write_bytes:");
  const uint64_t read_before = DeviceBytes("read_bytes:");
  absl::Status status;
  result.seconds = Milliseconds([&] { status = work(); }) / 1e3;
  TC_RETURN_IF_ERROR(status);
  result.cpu_s = ProcessCpuSeconds() - cpu_before_s;
  result.device_bytes = DeviceBytes("write_bytes:") - written_before;
  result.device_bytes_read = DeviceBytes("read_bytes:") - read_before;
  return result;
}

absl::StatusOr<SharedPages> SharedPages::Make(size_t bytes) {
  void* const base =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return ErrnoStatus(errno, "map " + FormatBytes(bytes));
  return SharedPages({static_cast<std::byte*>(base), bytes});
}

SharedPages::~SharedPages() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

absl::StatusOr<ColdBlocks> ColdBlocks::Make(std::span<const std::byte> content,
                                            size_t block_bytes) {
  ColdBlocks blocks;
  blocks.content_ = content;
  blocks.block_bytes_ = block_bytes;
  for (size_t at = 0; at < content.size(); at += block_bytes) {
    blocks.sums_.push_back(Checksum(content.subspan(at, block_bytes)));
  }
  for (int thread = 0; thread < kMostThreads; ++thread) {
    TC_ASSIGN_OR_RETURN(SharedPages room, SharedPages::Make(std::max(kRoomBytes, block_bytes)));
    std::memset(room.bytes().data(), 1, room.bytes().size());
    blocks.rooms_.push_back(std::move(room));
  }
  return blocks;
}

BlockRecord ColdBlocks::Record(size_t block) const {
  BlockHeader header;
  header.id = block + 1;
  header.payload_bytes = block_bytes_;
  header.payload_checksum = sums_[block % sums_.size()];
  header.sequence = block + 1;
  header.name.word[0] = block + 1;
  header.Seal();
  return header;
}

std::span<std::byte> ColdBlocks::Room(int thread, size_t nth) const {
  const std::span<std::byte> room = rooms_[static_cast<size_t>(thread)].bytes();
  return room.subspan(nth % (room.size() / block_bytes_) * block_bytes_, block_bytes_);
}

absl::Status OnThreads(int threads, const std::function<absl::Status(int)>& body) {
  std::vector<absl::Status> statuses(static_cast<size_t>(threads));
  {
    std::vector<std::jthread> others;
    for (int i = 1; i < threads; ++i) {
      others.emplace_back([&, i] { statuses[static_cast<size_t>(i)] = body(i); });
    }
    statuses[0] = body(0);
  }
  for (const absl::Status& status : statuses) TC_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

void DropFileCaches(const std::string& directory) {
  ForEachFile(directory, [](const char* path) {
    const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
    if (!file) return;
    fdatasync(file.get());
    posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  });
}

// ---- one that reads block by block

absl::StatusOr<DiskWork> InProcessStore::Read(std::span<const size_t> blocks, int threads) {
  std::atomic<size_t> next = 0;
  std::vector<std::vector<double>> times(static_cast<size_t>(threads));
  TC_ASSIGN_OR_RETURN(DiskWork work, MeasureDisk([&] {
                        return OnThreads(threads, [&](int thread) {
                          const PinnedThread pinned(thread, threads);
                          std::vector<double>& ms = times[static_cast<size_t>(thread)];
                          for (size_t i; (i = next++) < blocks.size();) {
                            absl::Status status;
                            ms.push_back(Milliseconds([&] {
                              status = ReadOne(blocks[i], blocks_.Room(thread, ms.size()));
                            }));
                            TC_RETURN_IF_ERROR(status);
                          }
                          return absl::OkStatus();
                        });
                      }));
  work.bytes = blocks.size() * blocks_.bytes();
  for (const auto& ms : times) work.get_ms.insert(work.get_ms.end(), ms.begin(), ms.end());
  return work;
}

absl::Status InProcessStore::Check(size_t block) {
  const std::span<std::byte> room = blocks_.Room(0, 0);
  std::memset(room.data(), 0, room.size());
  TC_RETURN_IF_ERROR(ReadOne(block, room));
  if (std::memcmp(room.data(), blocks_.Payload(block).data(), room.size()) == 0) {
    return absl::OkStatus();
  }
  return absl::DataLossError(name() + ": block " + std::to_string(block) + " is wrong");
}

// ---- ours

absl::StatusOr<DiskWork> TierStore::Write(size_t first, size_t count, int writers) {
  const size_t share = count / static_cast<size_t>(writers);
  std::vector<BlockRecord> records;
  for (size_t i = 0; i < count; ++i) records.push_back(blocks_.Record(first + i));
  TC_ASSIGN_OR_RETURN(DiskWork work, MeasureDisk([&]() -> absl::Status {
                        TC_RETURN_IF_ERROR(OnThreads(writers, [&](int writer) {
                          const size_t from = static_cast<size_t>(writer) * share;
                          return WriteSegment(first + from,
                                              std::span(records).subspan(from, share));
                        }));
                        return tier_->Sync();
                      }));
  work.bytes = count * blocks_.bytes();
  return work;
}

absl::Status TierStore::WriteSegment(size_t first, std::span<const BlockRecord> records) {
  std::vector<TierPut> puts;
  for (size_t i = 0; i < records.size(); ++i) {
    puts.push_back({.record = &records[i], .payload = blocks_.Payload(first + i)});
  }
  tier_->PutAll(puts);
  for (const TierPut& put : puts) TC_RETURN_IF_ERROR(put.status);
  return absl::OkStatus();
}

absl::Status TierStore::ReadOne(size_t block, std::span<std::byte> into) {
  TC_ASSIGN_OR_RETURN(const auto record, tier_->Get({.id = block + 1}, into));
  if (record) return absl::OkStatus();
  return absl::DataLossError("block " + std::to_string(block) + " is not there");
}

// Segments that hold other blocks, too, stay.
absl::Status TierStore::Drop(size_t first, size_t count) {
  const uint64_t last_id = first + count;
  const auto is_ours = [&](BlockRef ref) { return ref.id > first && ref.id <= last_id; };
  auto segment = tier_->SegmentFrom(0);
  const bool has_segments = segment.has_value();
  for (; segment; segment = tier_->SegmentFrom(segment->sequence + 1)) {
    if (!std::all_of(segment->blocks.begin(), segment->blocks.end(), is_ours)) continue;
    TC_RETURN_IF_ERROR(tier_->DropSegment(segment->sequence, {}));
  }
  if (has_segments) return absl::OkStatus();
  for (uint64_t id = first + 1; id <= last_id; ++id) TC_RETURN_IF_ERROR(tier_->Erase({.id = id}));
  return absl::OkStatus();
}

// ---- raw

absl::StatusOr<std::unique_ptr<RawStore>> RawStore::Open(const ColdBlocks& blocks,
                                                         const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0600));
  if (!file && errno == EINVAL)
    file.Reset(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  if (!file) return ErrnoStatus(errno, "open " + path);
  return std::unique_ptr<RawStore>(new RawStore(blocks, std::move(file)));
}

absl::StatusOr<DiskWork> RawStore::Write(size_t first, size_t count, int writers) {
  std::atomic<size_t> next = 0;
  const auto start = static_cast<off_t>(first * blocks_.bytes());
  TC_ASSIGN_OR_RETURN(DiskWork work, MeasureDisk([&]() -> absl::Status {
                        const auto bytes = static_cast<off_t>(count * blocks_.bytes());
                        const int error = posix_fallocate(file_.get(), start, bytes);
                        if (error != 0) return ErrnoStatus(error, "fallocate");
                        TC_RETURN_IF_ERROR(OnThreads(writers, [&](int) -> absl::Status {
                          for (size_t i; (i = next++) < count;) {
                            const auto payload = blocks_.Payload(first + i);
                            const auto offset = start + static_cast<off_t>(i * blocks_.bytes());
                            if (::pwrite(file_.get(), payload.data(), payload.size(), offset) !=
                                static_cast<ssize_t>(payload.size())) {
                              return ErrnoStatus(errno, "pwrite");
                            }
                          }
                          return absl::OkStatus();
                        }));
                        return fdatasync(file_.get()) == 0 ? absl::OkStatus()
                                                           : ErrnoStatus(errno, "fdatasync");
                      }));
  work.bytes = count * blocks_.bytes();
  return work;
}

absl::Status RawStore::ReadOne(size_t block, std::span<std::byte> into) {
  const auto offset = static_cast<off_t>(block * blocks_.bytes());
  if (::pread(file_.get(), into.data(), into.size(), offset) == static_cast<ssize_t>(into.size())) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, "pread");
}

absl::Status RawStore::Drop(size_t first, size_t count) {
  const auto start = static_cast<off_t>(first * blocks_.bytes());
  const auto bytes = static_cast<off_t>(count * blocks_.bytes());
  const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return ::fallocate(file_.get(), mode, start, bytes) == 0 ? absl::OkStatus()
                                                           : ErrnoStatus(errno, "fallocate");
}

}  // namespace thermocline::bench
