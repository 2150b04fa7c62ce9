#include "catalog/slot_headers.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace thermocline {
namespace {

constexpr uint64_t kChunkRecordsOffset = kPageBytes;
constexpr uint64_t kRegionsOffset = kChunkRecordsOffset + kMaxChunks * sizeof(ChunkRecord);
static_assert(kRegionsOffset % kPageBytes == 0);

constexpr uint32_t kFirstPage = kArenaDataOffset / kPageBytes;

// A slot is a page at least.
uint64_t RecordsBytes(uint64_t chunk_bytes) {
  return RoundUp(chunk_bytes / kPageBytes * sizeof(SlotRecord), kPageBytes);
}

uint64_t RegionBytes(uint64_t chunk_bytes) { return RecordsBytes(chunk_bytes) + chunk_bytes; }

}  // namespace

absl::StatusOr<SlotHeaders> SlotHeaders::Open(const Arena& arena) {
  return Open(SlotHeadersOf{.path = arena.metadata_path(),
                            .uuid = arena.header().uuid,
                            .capacity_bytes = arena.capacity_bytes(),
                            .chunk_bytes = arena.chunk_bytes()});
}

absl::StatusOr<SlotHeaders> SlotHeaders::Open(const SlotHeadersOf& memory) {
  TC_ASSIGN_OR_RETURN(UniqueFd fd, OpenArenaFile(memory.path));
  SlotHeaders headers(memory, std::move(fd));
  TC_RETURN_IF_ERROR(headers.Map(memory.uuid));
  return headers;
}

SlotHeaders::SlotHeaders(const SlotHeadersOf& memory, UniqueFd fd)
    : path_(memory.path),
      fd_(std::move(fd)),
      chunk_bytes_(memory.chunk_bytes),
      capacity_bytes_(memory.capacity_bytes),
      chunk_count_(static_cast<uint32_t>(RoundUp(capacity_bytes_, chunk_bytes_) / chunk_bytes_)) {}

absl::Status SlotHeaders::Map(const std::array<uint8_t, 16>& arena_uuid) {
  MetaHeader header{};
  const auto got = pread(fd_.get(), &header, sizeof header, 0);
  if (got < 0) return ErrnoStatus(errno, "read " + path_);
  const bool readable = got == sizeof header && header.magic == kMetaMagic;
  if (readable && header.layout_version != kMetaLayoutVersion) {
    return absl::DataLossError("arena metadata " + path_ + ": has layout version " +
                               std::to_string(header.layout_version) + ", this program reads " +
                               std::to_string(kMetaLayoutVersion));
  }
  adopted_ = readable && header.arena_uuid == arena_uuid && header.chunk_bytes == chunk_bytes_;
  if (!adopted_ && ftruncate(fd_.get(), 0) != 0) return ErrnoStatus(errno, "empty " + path_);
  mapped_bytes_ = kRegionsOffset + chunk_count_ * RegionBytes(chunk_bytes_);
  if (ftruncate(fd_.get(), static_cast<off_t>(mapped_bytes_)) != 0) {
    return ErrnoStatus(errno, "resize " + path_);
  }
  const uint64_t fixed = kChunkRecordsOffset + chunk_count_ * sizeof(ChunkRecord);
  if (fallocate(fd_.get(), 0, 0, static_cast<off_t>(fixed)) != 0) {
    return ErrnoStatus(errno, "allocate " + path_,
                       "its file system is full: free some of it, or lower the capacity");
  }
  void* base = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (base == MAP_FAILED) return ErrnoStatus(errno, "map " + path_);
  base_ = static_cast<std::byte*>(base);
  if (adopted_) TC_RETURN_IF_ERROR(FitToCapacity(header.capacity_bytes));
  auto& fresh = *reinterpret_cast<MetaHeader*>(base_);
  fresh.layout_version = kMetaLayoutVersion;
  fresh.chunk_bytes = chunk_bytes_;
  fresh.capacity_bytes = capacity_bytes_;
  fresh.arena_uuid = arena_uuid;
  std::atomic_signal_fence(std::memory_order_release);  // the magic last: a kill leaves no half
  fresh.magic = kMetaMagic;
  return absl::OkStatus();
}

// After a change of capacity: chunks beyond it are forgotten, so that they cannot come back with a
// later change; the chunk that was the short last one gets records for what it has grown by.
absl::Status SlotHeaders::FitToCapacity(uint64_t last_capacity_bytes) {
  const uint64_t beyond = kChunkRecordsOffset + chunk_count_ * sizeof(ChunkRecord);
  if (beyond < kRegionsOffset &&
      fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(beyond),
                static_cast<off_t>(kRegionsOffset - beyond)) != 0) {
    return ErrnoStatus(errno, "punch " + path_);
  }
  if (last_capacity_bytes >= capacity_bytes_ || last_capacity_bytes % chunk_bytes_ == 0) {
    return absl::OkStatus();
  }
  const auto grown = static_cast<uint32_t>(last_capacity_bytes / chunk_bytes_);
  const uint64_t slot_bytes = SlotBytesOfChunk(grown);
  if (slot_bytes == 0 || slot_bytes > BytesOfChunk(grown)) return absl::OkStatus();
  return AllocateRegion(grown, slot_bytes);
}

absl::Status SlotHeaders::AllocateRegion(uint32_t chunk, uint64_t slot_bytes) {
  return Allocate(RegionOffset(chunk), BytesOfChunk(chunk) / slot_bytes * sizeof(SlotRecord));
}

absl::Status SlotHeaders::AllocateInner(uint32_t page, uint32_t inner_count) {
  const uint64_t bytes = inner_count * sizeof(Name);
  TC_CHECK(bytes <= SlotBytesOfChunk(ChunkOf(page)));
  return bytes == 0 ? absl::OkStatus() : Allocate(InnerOffset(page), bytes);
}

absl::Status SlotHeaders::Allocate(uint64_t offset, uint64_t bytes) {
  if (fallocate(fd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, "allocate slot headers in " + path_,
                     "its file system is full: free some of it, or lower the capacity");
}

SlotHeaders::SlotHeaders(SlotHeaders&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::move(other.fd_)),
      chunk_bytes_(other.chunk_bytes_),
      capacity_bytes_(other.capacity_bytes_),
      chunk_count_(other.chunk_count_),
      base_(std::exchange(other.base_, nullptr)),
      mapped_bytes_(other.mapped_bytes_),
      adopted_(other.adopted_) {}

SlotHeaders::~SlotHeaders() {
  if (base_ != nullptr) munmap(base_, mapped_bytes_);
}

absl::Status SlotHeaders::LendChunk(uint32_t chunk, uint64_t slot_bytes) {
  TC_CHECK(slot_bytes > 0);
  TC_CHECK(slot_bytes % kPageBytes == 0);
  const uint64_t slots = BytesOfChunk(chunk) / slot_bytes;
  TC_CHECK(slots > 0);
  TC_RETURN_IF_ERROR(AllocateRegion(chunk, slot_bytes));
  Lent(chunk).slot_bytes.store(0, std::memory_order_release);
  for (uint64_t slot = 0; slot < slots; ++slot) {
    Region(chunk)[slot].state.store(static_cast<uint32_t>(SlotState::kFree),
                                    std::memory_order_relaxed);
  }
  Lent(chunk).slot_bytes.store(slot_bytes, std::memory_order_release);
  return absl::OkStatus();
}

void SlotHeaders::ForgetChunk(uint32_t chunk) {
  Lent(chunk).slot_bytes.store(0, std::memory_order_release);
  // Failing costs memory only: LendChunk frees every record anew.
  (void)fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(RegionOffset(chunk)),
                  static_cast<off_t>(RegionBytes(chunk_bytes_)));
}

uint64_t SlotHeaders::SlotBytesOfChunk(uint32_t chunk) const {
  return Lent(chunk).slot_bytes.load(std::memory_order_relaxed);
}

uint64_t SlotHeaders::SlotsOfChunk(uint32_t chunk) const {
  const uint64_t slot_bytes = SlotBytesOfChunk(chunk);
  return slot_bytes == 0 ? 0 : BytesOfChunk(chunk) / slot_bytes;
}

void SlotHeaders::SetGranted(uint32_t page, uint32_t process_id, uint64_t process_start_time) {
  SlotRecord& record = Record(page);
  record.process_id = process_id;
  record.process_start_time = process_start_time;
  record.state.store(static_cast<uint32_t>(SlotState::kGranted), std::memory_order_release);
}

void SlotHeaders::SetCommitted(uint32_t page, const BlockRecord& block) {
  SlotRecord& record = Record(page);
  TC_CHECK(State(page) != SlotState::kCommitted);
  if (!block.inner.empty()) {
    std::memcpy(base_ + InnerOffset(page), block.inner.data(), block.inner.size() * sizeof(Name));
  }
  record.block = block;
  record.state.store(static_cast<uint32_t>(SlotState::kCommitted), std::memory_order_release);
}

void SlotHeaders::SetFree(uint32_t page) {
  Record(page).state.store(static_cast<uint32_t>(SlotState::kFree), std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // before whatever the caller does next
}

SlotState SlotHeaders::State(uint32_t page) const {
  return static_cast<SlotState>(Record(page).state.load(std::memory_order_acquire));
}

std::optional<BlockRecord> SlotHeaders::Committed(uint32_t page) const {
  if (State(page) != SlotState::kCommitted || !Verifies(page, Record(page))) return std::nullopt;
  return Block(page);
}

bool SlotHeaders::Verifies(uint32_t page, const SlotRecord& record) const {
  if (!VerifyHeader(record.block).ok()) return false;  // before names are looked for
  return record.block.inner_count == 0 || VerifyRecord(Block(page)).ok();
}

BlockRecord SlotHeaders::Block(uint32_t page) const {
  BlockRecord block(Record(page).block);
  const uint64_t bytes = block.inner_count * sizeof(Name);
  if (bytes == 0 || bytes > SlotBytesOfChunk(ChunkOf(page))) return block;
  block.inner.resize(block.inner_count);
  std::memcpy(block.inner.data(), base_ + InnerOffset(page), bytes);
  return block;
}

std::vector<uint32_t> SlotHeaders::TakeOver() {
  std::vector<uint32_t> chunks;
  for (uint32_t chunk = 0; chunk < chunk_count_; ++chunk) {
    const uint64_t slot_bytes = SlotBytesOfChunk(chunk);
    if (slot_bytes == 0) continue;
    if (slot_bytes % kPageBytes != 0 || slot_bytes > BytesOfChunk(chunk)) {
      ForgetChunk(chunk);
    } else {
      chunks.push_back(chunk);
    }
  }
  return chunks;
}

uint64_t SlotHeaders::BytesOfChunk(uint32_t chunk) const {
  TC_CHECK(chunk < chunk_count_);
  return std::min(chunk_bytes_, capacity_bytes_ - chunk * chunk_bytes_);
}

ChunkRecord& SlotHeaders::Lent(uint32_t chunk) const {
  TC_CHECK(chunk < chunk_count_);
  return reinterpret_cast<ChunkRecord*>(base_ + kChunkRecordsOffset)[chunk];
}

uint64_t SlotHeaders::RegionOffset(uint32_t chunk) const {
  return kRegionsOffset + chunk * RegionBytes(chunk_bytes_);
}

SlotRecord* SlotHeaders::Region(uint32_t chunk) const {
  return reinterpret_cast<SlotRecord*>(base_ + RegionOffset(chunk));
}

uint32_t SlotHeaders::ChunkOf(uint32_t page) const {
  TC_CHECK(page >= kFirstPage);
  return static_cast<uint32_t>(uint64_t{page - kFirstPage} * kPageBytes / chunk_bytes_);
}

uint64_t SlotHeaders::InnerOffset(uint32_t page) const {
  return RegionOffset(ChunkOf(page)) + RecordsBytes(chunk_bytes_) +
         uint64_t{page - kFirstPage} * kPageBytes % chunk_bytes_;
}

SlotRecord& SlotHeaders::Record(uint32_t page) const {
  const uint32_t chunk = ChunkOf(page);
  const uint64_t offset = uint64_t{page - kFirstPage} * kPageBytes;
  const uint64_t slot_bytes = SlotBytesOfChunk(chunk);
  TC_CHECK(slot_bytes > 0);
  TC_CHECK(offset % chunk_bytes_ % slot_bytes == 0);
  const uint64_t slot = offset % chunk_bytes_ / slot_bytes;
  TC_CHECK(slot < BytesOfChunk(chunk) / slot_bytes);
  return Region(chunk)[slot];
}

}  // namespace thermocline
