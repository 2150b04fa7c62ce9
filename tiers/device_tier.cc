#include "tiers/device_tier.h"

#include <unistd.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/process.h"
#include "hashing/checksum.h"

namespace thermocline {
namespace {

absl::Status Mismatch(const BlockHeader& header) {
  return absl::DataLossError("hot tier: payload and header of block " + std::to_string(header.id) +
                             " disagree; the block is not stored");
}

absl::StatusOr<SlotHeaders> OpenHeaders(const SlotHeadersOf& memory) {
  auto headers = SlotHeaders::Open(memory);
  if (!absl::IsDataLoss(headers.status())) return headers;
  LogEvent(LogLevel::kWarning, "hot_headers_discarded", {{"reason", headers.status()}});
  if (::unlink(memory.path.c_str()) != 0) return headers.status();
  return SlotHeaders::Open(memory);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceTier>> DeviceTier::Open(Options options) {
  if (options.chunk_bytes == 0) return absl::InvalidArgumentError("hot tier: chunks of no bytes");
  options.capacity_bytes = options.capacity_bytes / options.chunk_bytes * options.chunk_bytes;
  if (options.capacity_bytes == 0) {
    return absl::InvalidArgumentError("hot tier: its capacity is less than a chunk of " +
                                      FormatBytes(options.chunk_bytes));
  }
  if (options.chunk_bytes % kPageBytes != 0 ||
      options.capacity_bytes / options.chunk_bytes > kMaxChunks) {
    return absl::InvalidArgumentError("hot tier: chunks of " + FormatBytes(options.chunk_bytes) +
                                      " for a capacity of " + FormatBytes(options.capacity_bytes) +
                                      "; they are whole pages of 4 KiB, and " +
                                      std::to_string(kMaxChunks) + " at most: make them larger");
  }
  const SlotHeadersOf memory{.path = options.metadata_path,
                             .uuid = options.memory->uuid(),
                             .capacity_bytes = options.capacity_bytes,
                             .chunk_bytes = options.chunk_bytes};
  TC_ASSIGN_OR_RETURN(SlotHeaders headers, OpenHeaders(memory));
  std::unique_ptr<DeviceTier> tier(new DeviceTier(std::move(options), std::move(headers)));
  TC_RETURN_IF_ERROR(tier->Adopt());
  return tier;
}

DeviceTier::DeviceTier(Options options, SlotHeaders headers)
    : options_(std::move(options)),
      headers_(std::move(headers)),
      slabs_({.capacity_bytes = options_.capacity_bytes,
              .chunk_bytes = options_.chunk_bytes,
              .first_page = kFirstPage,
              .lend = [this](uint32_t chunk, uint64_t slot_bytes)
                          TC_NO_THREAD_SAFETY_ANALYSIS { return Lend(chunk, slot_bytes); }}) {}

// Memory that is missing is only noted here: who reserves has it lent outside of the lock, for a
// mover may take long, and then asks again.
absl::Status DeviceTier::Lend(uint32_t chunk, uint64_t slot_bytes) {
  absl::Status status;
  if (!has_memory_.contains(chunk)) {
    status = std::exchange(not_lent_, absl::OkStatus());
    if (status.ok()) {
      wanted_ = chunk;
      return absl::UnavailableError("the chunk's memory is to be lent first");
    }
  }
  if (status.ok()) status = headers_.LendChunk(chunk, slot_bytes);
  if (!status.ok() && !refusal_told_) {
    LogEvent(LogLevel::kWarning, "hot_does_not_grow", {{"cause", status}});
  }
  refusal_told_ = !status.ok();
  return status;
}

/// Errors: Unavailable when nobody can say whether there is any; the next one asks again.
absl::Status DeviceTier::LendMemory(uint32_t chunk) {
  const absl::Status status = options_.memory->Lend(chunk);
  MutexLock lock(mutex_);
  if (absl::IsUnavailable(status)) return mover_status_ = status;
  if (status.ok()) has_memory_.emplace(chunk, ++last_slab_);
  not_lent_ = status;
  return absl::OkStatus();
}

// Headers and memory may disagree in two ways: memory of which nobody knows what it holds is given
// back, and headers of memory that has gone are forgotten.
absl::Status DeviceTier::Adopt() {
  MutexLock lock(mutex_);
  std::vector<uint32_t> lent;
  if (headers_.adopted()) lent = headers_.TakeOver();
  // Without an answer nothing is known to be lost.
  TC_ASSIGN_OR_RETURN(const std::vector<uint32_t> there, options_.memory->Chunks());
  for (const uint32_t chunk : there) {
    if (!std::binary_search(lent.begin(), lent.end(), chunk)) options_.memory->Return(chunk);
  }
  for (const uint32_t chunk : lent) {
    if (std::binary_search(there.begin(), there.end(), chunk)) {
      TC_RETURN_IF_ERROR(AdoptChunk(chunk));
      continue;
    }
    headers_.VisitSlots(chunk, [&](uint32_t, const SlotRecord&) { ++lost_count_; });
    headers_.ForgetChunk(chunk);
  }
  return absl::OkStatus();
}

absl::Status DeviceTier::AdoptChunk(uint32_t chunk) {
  TC_RETURN_IF_ERROR(slabs_.RestoreChunk(chunk, headers_.SlotBytesOfChunk(chunk)));
  has_memory_.emplace(chunk, ++last_slab_);
  std::vector<uint32_t> pages;
  headers_.VisitSlots(chunk, [&](uint32_t page, const SlotRecord&) { pages.push_back(page); });
  for (const uint32_t page : pages) AdoptSlot(page);
  return absl::OkStatus();
}

void DeviceTier::AdoptSlot(uint32_t page) {
  if (headers_.State(page) == SlotState::kGranted) {
    const SlotRecord& slot = headers_.record(page);
    const ProcessRef owner{static_cast<int>(slot.process_id), slot.process_start_time};
    if (owner.pid == ::getpid() || HasExited(owner.pid, owner.start_time)) {
      headers_.SetFree(page);
    } else if (slabs_.RestoreSlot(page).ok()) {
      left_granted_.push_back({page, owner});
    }
    return;
  }
  std::optional<BlockRecord> record = headers_.Committed(page);
  if (!record || record->payload_bytes > slabs_.SlotBytesOf(page)) {
    ++corrupt_count_;
    headers_.SetFree(page);
    return;
  }
  const auto [twin, is_fresh] = index_.try_emplace({record->id, record->part}, page);
  if (!is_fresh) {  // a kill amid a replacement; either's bytes are whole
    headers_.SetFree(page);
    return;
  }
  if (!slabs_.RestoreSlot(page).ok()) {
    index_.erase(twin);
    return;
  }
  left_.push_back({*std::move(record), page});
}

absl::StatusOr<std::optional<uint32_t>> DeviceTier::Reserve(uint64_t bytes, ProcessRef owner,
                                                            uint32_t inner_count) {
  {
    MutexLock lock(mutex_);
    auto page = ReserveLocked(bytes, owner, inner_count);
    if (!wanted_) return page;
  }
  MutexLock lending(lending_mutex_);
  for (int i = 0; i < kMaxLendings; ++i) {
    std::optional<uint32_t> wanted;
    {
      MutexLock lock(mutex_);
      auto page = ReserveLocked(bytes, owner, inner_count);
      not_lent_ = absl::OkStatus();
      wanted = wanted_;
      if (!wanted) return page;
    }
    TC_RETURN_IF_ERROR(LendMemory(*wanted));
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<uint32_t>> DeviceTier::ReserveLocked(uint64_t bytes, ProcessRef owner,
                                                                  uint32_t inner_count) {
  wanted_.reset();
  TC_ASSIGN_OR_RETURN(auto reservation, slabs_.Reserve(SlabAllocator::SlotBytes(bytes)));
  if (!reservation) return std::nullopt;
  TC_RETURN_IF_ERROR(headers_.AllocateInner(reservation->page(), inner_count));
  const uint32_t page = std::move(*reservation).Commit();
  headers_.SetGranted(page, static_cast<uint32_t>(owner.pid), owner.start_time);
  return page;
}

void DeviceTier::Commit(uint32_t page, const BlockRecord& record) {
  MutexLock lock(mutex_);
  TC_CHECK(record.payload_bytes <= slabs_.SlotBytesOf(page));
  const bool is_fresh = index_.try_emplace({record.id, record.part}, page).second;
  TC_CHECK(is_fresh);
  headers_.SetCommitted(page, record);
}

void DeviceTier::Free(uint32_t page) {
  MutexLock lock(mutex_);
  FreeLocked(page);
}

void DeviceTier::FreeLocked(uint32_t page) {
  if (headers_.State(page) == SlotState::kCommitted) {
    const BlockHeader& header = headers_.record(page).block;
    index_.erase({header.id, header.part});
  }
  headers_.SetFree(page);
  slabs_.Free(page);
}

void DeviceTier::Disown(uint32_t page) {
  const uint64_t start_time = ProcessStartTime(::getpid()).value_or(0);  // 0: nobody's
  MutexLock lock(mutex_);
  TC_CHECK(headers_.State(page) == SlotState::kCommitted);
  const BlockHeader& header = headers_.record(page).block;
  index_.erase({header.id, header.part});
  headers_.SetGranted(page, static_cast<uint32_t>(::getpid()), start_time);
}

DeviceTier::Location DeviceTier::LocationOf(uint32_t page) const {
  const auto chunk = static_cast<uint32_t>(OffsetOf(page) / options_.chunk_bytes);
  MutexLock lock(mutex_);
  return {has_memory_.at(chunk), OffsetOf(page) % options_.chunk_bytes};
}

absl::StatusOr<ExportedSlab> DeviceTier::ExportSlab(uint64_t slab) {
  MutexLock lending(lending_mutex_);  // or its chunk might be another slab by then
  std::optional<uint32_t> chunk;
  {
    MutexLock lock(mutex_);
    for (const auto& [number, lent] : has_memory_) {
      if (lent == slab) chunk = number;
    }
  }
  if (!chunk) return absl::NotFoundError("the hot tier has no such slab any more");
  TC_ASSIGN_OR_RETURN(UniqueFd fd, options_.memory->Export(*chunk));
  return ExportedSlab{std::move(fd), options_.chunk_bytes};
}

BlockRecord DeviceTier::RecordAt(uint32_t page) const {
  MutexLock lock(mutex_);
  return headers_.Block(page);
}

uint64_t DeviceTier::SlotBytesAt(uint32_t page) const {
  MutexLock lock(mutex_);
  return slabs_.SlotBytesOf(page);
}

uint64_t DeviceTier::FreeSlots(uint64_t bytes) const {
  MutexLock lock(mutex_);
  return slabs_.FreeSlots(SlabAllocator::SlotBytes(bytes));
}

void DeviceTier::ReturnEmptyChunks() {
  MutexLock lending(lending_mutex_);
  std::vector<uint32_t> empty;
  {
    MutexLock lock(mutex_);
    while (const auto chunk = slabs_.ReclaimEmptyChunk()) headers_.ForgetChunk(*chunk);
    for (const auto& [chunk, slab] : has_memory_) {
      if (!slabs_.IsLent(chunk)) empty.push_back(chunk);
    }
    for (const uint32_t chunk : empty) has_memory_.erase(chunk);
  }
  for (const uint32_t chunk : empty) options_.memory->Return(chunk);
  MutexLock lock(mutex_);
  slabs_.RetryLending();
}

bool DeviceTier::IsMoving() const {
  MutexLock lock(mutex_);
  return mover_status_.ok();
}

absl::Status DeviceTier::Probe() {
  MutexLock lending(lending_mutex_);
  std::optional<uint32_t> chunk;
  {
    MutexLock lock(mutex_);
    if (!has_memory_.empty()) chunk = has_memory_.begin()->first;
  }
  absl::Status status;
  if (chunk) {
    std::vector<std::byte> room(kPageBytes);
    const DeviceTransfer transfer{*chunk * options_.chunk_bytes, room.data(), room.size()};
    status = options_.memory->Copy({&transfer, 1}, DeviceDirection::kOut);
  } else if (status = options_.memory->Lend(0); status.ok()) {
    options_.memory->Return(0);
  } else if (absl::IsResourceExhausted(status)) {  // which State tells otherwise
    status = absl::OkStatus();
  }
  MutexLock lock(mutex_);
  return mover_status_ = status;
}

/// A slot for what is to be put, once it is known to be right.
absl::StatusOr<uint32_t> DeviceTier::Stage(const TierPut& put) {
  const BlockRecord& record = *put.record;
  TC_RETURN_IF_ERROR(VerifyRecord(record));
  if (put.payload.size() != record.payload_bytes ||
      Checksum(put.payload) != record.payload_checksum) {
    return Mismatch(record);
  }
  TC_ASSIGN_OR_RETURN(const uint64_t start_time, ProcessStartTime(::getpid()));
  TC_ASSIGN_OR_RETURN(const auto page,
                      Reserve(put.payload.size(), {::getpid(), start_time}, record.inner_count));
  if (!page) {
    return absl::ResourceExhaustedError("hot tier: no slot is free for " +
                                        FormatBytes(put.payload.size()));
  }
  return *page;
}

absl::Status DeviceTier::Put(const BlockRecord& record, std::span<const std::byte> payload) {
  TierPut put{.record = &record, .payload = payload};
  PutAll({&put, 1});
  return put.status;
}

void DeviceTier::PutAll(std::span<TierPut> puts) {
  std::vector<DeviceTransfer> transfers;
  std::vector<std::pair<TierPut*, uint32_t>> staged;
  for (TierPut& put : puts) {
    const absl::StatusOr<uint32_t> page = Stage(put);
    put.status = page.status();
    if (!page.ok()) continue;
    staged.push_back({&put, *page});
    transfers.push_back({OffsetOf(*page), const_cast<std::byte*>(put.payload.data()),
                         put.payload.size()});  // which is only read
  }
  if (transfers.empty()) return;
  const absl::Status status = options_.memory->Copy(transfers, DeviceDirection::kIn);
  MutexLock lock(mutex_);
  mover_status_ = status;
  for (const auto& [put, page] : staged) {
    put->status = status;
    if (!status.ok()) {
      FreeLocked(page);
      continue;
    }
    const BlockRef ref{put->record->id, put->record->part};
    if (const auto older = index_.find(ref); older != index_.end()) FreeLocked(older->second);
    index_[ref] = page;
    headers_.SetCommitted(page, *put->record);
  }
}

absl::StatusOr<std::optional<BlockRecord>> DeviceTier::Get(BlockRef ref,
                                                           std::span<std::byte> payload) {
  const std::optional<uint32_t> page = PageOf(ref);
  if (!page) return std::nullopt;
  absl::StatusOr<BlockRecord> record = ReadSlot(*page, payload);
  if (absl::IsDataLoss(record.status())) {
    Free(*page);
    return std::nullopt;
  }
  return record;
}

std::optional<uint32_t> DeviceTier::PageOf(BlockRef ref) const {
  MutexLock lock(mutex_);
  const auto found = index_.find(ref);
  if (found == index_.end()) return std::nullopt;
  return found->second;
}

absl::StatusOr<BlockRecord> DeviceTier::ReadSlot(uint32_t page, std::span<std::byte> payload) {
  const BlockRecord record = RecordAt(page);
  if (record.payload_bytes > payload.size()) {
    return absl::InvalidArgumentError("hot tier: block " + std::to_string(record.id) + " has " +
                                      std::to_string(record.payload_bytes) + " bytes, room for " +
                                      std::to_string(payload.size()));
  }
  payload = payload.first(record.payload_bytes);
  TC_RETURN_IF_ERROR(CopyOut(page, payload));
  if (VerifyRecord(record).ok() && Checksum(payload) == record.payload_checksum) return record;
  LogEvent(LogLevel::kWarning, "hot_block_dropped", {{"id", record.id}, {"part", record.part}});
  MutexLock lock(mutex_);
  ++corrupt_count_;
  return absl::DataLossError("hot tier: block " + std::to_string(record.id) +
                             " is not what its header says");
}

absl::StatusOr<uint64_t> DeviceTier::SumSlot(uint32_t page, uint64_t bytes) {
  const auto room = std::make_unique_for_overwrite<std::byte[]>(bytes);
  const std::span<std::byte> payload(room.get(), bytes);
  TC_RETURN_IF_ERROR(CopyOut(page, payload));
  return Checksum(payload);
}

absl::Status DeviceTier::CopyOut(uint32_t page, std::span<std::byte> payload) {
  const DeviceTransfer transfer{OffsetOf(page), payload.data(), payload.size()};
  const absl::Status status = options_.memory->Copy({&transfer, 1}, DeviceDirection::kOut);
  MutexLock lock(mutex_);
  mover_status_ = status;
  return status;
}

absl::Status DeviceTier::Erase(BlockRef ref) {
  MutexLock lock(mutex_);
  const auto found = index_.find(ref);
  if (found != index_.end()) FreeLocked(found->second);
  return absl::OkStatus();
}

absl::Status DeviceTier::ForEach(const std::function<bool(const BlockRecord&)>& visit) {
  MutexLock lock(mutex_);
  for (const auto& [ref, page] : index_) {
    if (!visit(headers_.Block(page))) break;
  }
  return absl::OkStatus();
}

TierUsage DeviceTier::Usage() const {
  MutexLock lock(mutex_);
  return {options_.capacity_bytes, slabs_.used_bytes(), index_.size(), corrupt_count_};
}

std::string DeviceTier::State() const {
  MutexLock lock(mutex_);
  if (!mover_status_.ok()) return "cannot move blocks: " + std::string(mover_status_.message());
  if (slabs_.lend_status().ok()) return "ok";
  return "serves from the " + FormatBytes(slabs_.lent_bytes()) +
         " that it has: " + std::string(slabs_.lend_status().message());
}

}  // namespace thermocline
