#include "catalog/slabs.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace thermocline {

SlotReservation::SlotReservation(SlotReservation&& other) noexcept
    : slabs_(std::exchange(other.slabs_, nullptr)),
      page_(other.page_),
      slot_bytes_(other.slot_bytes_) {}

SlotReservation& SlotReservation::operator=(SlotReservation&& other) noexcept {
  if (this != &other) {
    Abort();
    slabs_ = std::exchange(other.slabs_, nullptr);
    page_ = other.page_;
    slot_bytes_ = other.slot_bytes_;
  }
  return *this;
}

uint32_t SlotReservation::Commit() && {
  TC_CHECK(slabs_ != nullptr);
  slabs_->reserved_bytes_ -= slot_bytes_;
  slabs_->used_bytes_ += slot_bytes_;
  slabs_ = nullptr;
  return page_;
}

void SlotReservation::Abort() {
  if (slabs_ == nullptr) return;
  slabs_->reserved_bytes_ -= slot_bytes_;
  slabs_->Return(page_);
  slabs_ = nullptr;
}

SlabAllocator::SlabAllocator(SlabOptions options) : options_(std::move(options)) {
  TC_CHECK(options_.chunk_bytes >= kPageBytes);
  TC_CHECK(options_.chunk_bytes % kPageBytes == 0);
  options_.capacity_bytes = options_.capacity_bytes / kPageBytes * kPageBytes;
  const uint64_t count =
      (options_.capacity_bytes + options_.chunk_bytes - 1) / options_.chunk_bytes;
  chunks_.resize(count);
  for (uint64_t chunk = count; chunk > 0; --chunk) {  // chunk 0 first
    Push(unlent_, static_cast<uint32_t>(chunk - 1));
  }
}

absl::StatusOr<std::optional<SlotReservation>> SlabAllocator::Reserve(uint64_t slot_bytes) {
  if (slot_bytes == 0 || slot_bytes % kPageBytes != 0 || chunks_.empty() ||
      slot_bytes > BytesOfChunk(0)) {
    return absl::InvalidArgumentError(
        "slabs: a slot of " + FormatBytes(slot_bytes) + " does not fit a chunk of " +
        (chunks_.empty() ? std::string("0 B") : FormatBytes(BytesOfChunk(0))) +
        "; raise the capacity, or use smaller blocks");
  }
  const uint32_t chunk = ChunkWithFreeSlot(slot_bytes);
  if (chunk == kNone) return std::optional<SlotReservation>();
  const uint32_t slot = chunks_[chunk].free.back();
  Take(chunk, slot);
  reserved_bytes_ += slot_bytes;
  const auto page = static_cast<uint32_t>(FirstPage(chunk) + slot * (slot_bytes / kPageBytes));
  return std::optional<SlotReservation>(SlotReservation(this, page, slot_bytes));
}

// Of this size: a chunk in use, an empty one; then one that can be lent to it.
uint32_t SlabAllocator::ChunkWithFreeSlot(uint64_t slot_bytes) {
  if (const auto size = sizes_.find(slot_bytes); size != sizes_.end()) {
    if (size->second.partial.first != kNone) return size->second.partial.first;
    if (size->second.empty.first != kNone) return size->second.empty.first;
  }
  for (uint32_t chunk = ChunkToLend(slot_bytes); chunk != kNone; chunk = ChunkToLend(slot_bytes)) {
    if (chunks_[chunk].slot_bytes != 0) Uncut(chunk);
    const absl::Status lent = options_.lend ? options_.lend(chunk, slot_bytes) : absl::OkStatus();
    if (absl::IsUnavailable(lent)) return kNone;
    may_lend_ = lent.ok();
    lend_status_ = lent;
    if (!lent.ok()) continue;
    Cut(chunk, slot_bytes);
    return chunk;
  }
  return kNone;
}

std::optional<uint32_t> SlabAllocator::NextToLend() const {
  if (!may_lend_ || unlent_.first == kNone || Spare() == 0) return std::nullopt;
  return unlent_.first;
}

// One that nobody has, or an empty one of another size, which has its memory already.
uint32_t SlabAllocator::ChunkToLend(uint64_t slot_bytes) const {
  uint32_t chunk = may_lend_ && Spare() > 0 ? FirstThatFits(unlent_, slot_bytes) : kNone;
  for (auto size = sizes_.begin(); chunk == kNone && size != sizes_.end(); ++size) {
    if (size->first != slot_bytes) chunk = FirstThatFits(size->second.empty, slot_bytes);
  }
  return chunk;
}

// Only the last chunk may be shorter than others, so that the second look is the last.
uint32_t SlabAllocator::FirstThatFits(const List& list, uint64_t slot_bytes) const {
  uint32_t chunk = list.first;
  if (chunk != kNone && BytesOfChunk(chunk) < slot_bytes) chunk = chunks_[chunk].next;
  return chunk;
}

void SlabAllocator::Free(uint32_t page) {
  used_bytes_ -= SlotBytesOf(page);
  Return(page);
}

absl::Status SlabAllocator::RestoreChunk(uint32_t chunk, uint64_t slot_bytes) {
  if (chunk >= chunks_.size() || slot_bytes == 0 || slot_bytes % kPageBytes != 0 ||
      slot_bytes > BytesOfChunk(chunk)) {
    return absl::OutOfRangeError("slabs: chunk " + std::to_string(chunk) + " with slots of " +
                                 FormatBytes(slot_bytes) + " is not in this arena");
  }
  TC_CHECK(chunks_[chunk].slot_bytes == 0);
  Cut(chunk, slot_bytes);
  return absl::OkStatus();
}

absl::Status SlabAllocator::RestoreSlot(uint32_t page) {
  const uint64_t pages_per_chunk = options_.chunk_bytes / kPageBytes;
  const uint64_t chunk =
      page < options_.first_page ? chunks_.size() : (page - options_.first_page) / pages_per_chunk;
  if (chunk >= chunks_.size() || chunks_[chunk].slot_bytes == 0) {
    return absl::OutOfRangeError("slabs: page " + std::to_string(page) + " is in no lent chunk");
  }
  const Chunk& owner = chunks_[chunk];
  const uint64_t pages_per_slot = owner.slot_bytes / kPageBytes;
  const uint64_t offset = page - FirstPage(static_cast<uint32_t>(chunk));
  const uint64_t slot = offset / pages_per_slot;
  if (offset % pages_per_slot != 0 || slot >= owner.slot_count) {
    return absl::OutOfRangeError("slabs: page " + std::to_string(page) + " begins no slot");
  }
  TC_CHECK(owner.position[slot] != kNone);
  Take(static_cast<uint32_t>(chunk), static_cast<uint32_t>(slot));
  used_bytes_ += owner.slot_bytes;
  return absl::OkStatus();
}

void SlabAllocator::Close(uint32_t chunk) {
  TC_CHECK(closed_ == kNone);
  Chunk& owner = chunks_[chunk];
  TC_CHECK(owner.slot_bytes != 0);
  Size& size = sizes_[owner.slot_bytes];
  if (!owner.free.empty()) Unlink(owner.used == 0 ? size.empty : size.partial, chunk);
  size.free_slots -= owner.free.size();
  closed_ = chunk;
}

void SlabAllocator::Reopen() {
  if (closed_ == kNone) return;
  const uint32_t chunk = std::exchange(closed_, kNone);
  Chunk& owner = chunks_[chunk];
  Size& size = sizes_[owner.slot_bytes];
  size.free_slots += owner.free.size();
  if (!owner.free.empty()) Push(owner.used == 0 ? size.empty : size.partial, chunk);
}

std::optional<uint32_t> SlabAllocator::closed() const {
  return closed_ == kNone ? std::nullopt : std::optional(closed_);
}

std::vector<uint32_t> SlabAllocator::LentChunks() const {
  std::vector<uint32_t> lent;
  for (uint32_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    if (chunks_[chunk].slot_bytes != 0) lent.push_back(chunk);
  }
  SortByUse(lent);
  return lent;
}

void SlabAllocator::SortByUse(std::vector<uint32_t>& chunks) const {
  const auto used_bytes = [&](uint32_t chunk) {
    return chunks_[chunk].used * chunks_[chunk].slot_bytes;
  };
  std::stable_sort(chunks.begin(), chunks.end(),
                   [&](uint32_t a, uint32_t b) { return used_bytes(a) < used_bytes(b); });
}

std::optional<uint32_t> SlabAllocator::ReclaimEmptyChunk() {
  if (closed_ != kNone && chunks_[closed_].used == 0) {
    const uint32_t chunk = closed_;
    Reopen();
    Uncut(chunk);
    return chunk;
  }
  for (auto& [slot_bytes, size] : sizes_) {
    if (const uint32_t chunk = size.empty.first; chunk != kNone) {
      Uncut(chunk);
      return chunk;
    }
  }
  return std::nullopt;
}

std::vector<uint32_t> SlabAllocator::OtherChunks(uint64_t slot_bytes) const {
  std::vector<uint32_t> others;
  for (uint32_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    const uint64_t other_bytes = chunks_[chunk].slot_bytes;
    if (other_bytes == 0 || other_bytes == slot_bytes) continue;
    if (BytesOfChunk(chunk) >= slot_bytes) others.push_back(chunk);
  }
  SortByUse(others);
  return others;
}

std::vector<uint32_t> SlabAllocator::UsedPages(uint32_t chunk) const {
  TC_CHECK(chunk < chunks_.size());
  const Chunk& owner = chunks_[chunk];
  std::vector<uint32_t> pages;
  for (uint32_t slot = 0; slot < owner.slot_count; ++slot) {
    if (owner.position[slot] != kNone) continue;
    pages.push_back(
        static_cast<uint32_t>(FirstPage(chunk) + slot * (owner.slot_bytes / kPageBytes)));
  }
  return pages;
}

uint64_t SlabAllocator::FreeSlots(uint64_t slot_bytes) const {
  TC_CHECK(slot_bytes > 0);
  const auto own = sizes_.find(slot_bytes);
  uint64_t slots = own == sizes_.end() ? 0 : own->second.free_slots;
  const auto count = [&](const List& list, uint64_t most) {
    for (uint32_t chunk = list.first; chunk != kNone && most > 0; chunk = chunks_[chunk].next) {
      slots += BytesOfChunk(chunk) / slot_bytes;
      --most;
    }
  };
  if (may_lend_) count(unlent_, Spare());
  for (const auto& [bytes, size] : sizes_) {
    if (bytes != slot_bytes) count(size.empty, UINT64_MAX);
  }
  return slots;
}

std::vector<uint64_t> SlabAllocator::SlotSizes() const {
  std::vector<uint64_t> sizes;
  for (const auto& [slot_bytes, size] : sizes_) sizes.push_back(slot_bytes);
  return sizes;
}

uint32_t SlabAllocator::ChunkOf(uint32_t page) const {
  TC_CHECK(page >= options_.first_page);
  const uint64_t chunk = (page - options_.first_page) / (options_.chunk_bytes / kPageBytes);
  TC_CHECK(chunk < chunks_.size());
  return static_cast<uint32_t>(chunk);
}

uint64_t SlabAllocator::BytesOfChunk(uint32_t chunk) const {
  return std::min(options_.chunk_bytes, options_.capacity_bytes - chunk * options_.chunk_bytes);
}

uint32_t SlabAllocator::FirstPage(uint32_t chunk) const {
  return static_cast<uint32_t>(options_.first_page + chunk * (options_.chunk_bytes / kPageBytes));
}

uint32_t SlabAllocator::SlotOf(uint32_t page) const {
  const uint32_t chunk = ChunkOf(page);
  const uint64_t pages_per_slot = chunks_[chunk].slot_bytes / kPageBytes;
  TC_CHECK(pages_per_slot > 0);
  const uint64_t offset = page - FirstPage(chunk);
  TC_CHECK(offset % pages_per_slot == 0);
  TC_CHECK(offset / pages_per_slot < chunks_[chunk].slot_count);
  return static_cast<uint32_t>(offset / pages_per_slot);
}

void SlabAllocator::Push(List& list, uint32_t chunk) {
  chunks_[chunk].previous = kNone;
  chunks_[chunk].next = list.first;
  if (list.first != kNone) chunks_[list.first].previous = chunk;
  list.first = chunk;
}

void SlabAllocator::Unlink(List& list, uint32_t chunk) {
  const Chunk& gone = chunks_[chunk];
  if (gone.previous != kNone) chunks_[gone.previous].next = gone.next;
  if (gone.next != kNone) chunks_[gone.next].previous = gone.previous;
  if (list.first == chunk) list.first = gone.next;
}

void SlabAllocator::Cut(uint32_t chunk, uint64_t slot_bytes) {
  Unlink(unlent_, chunk);
  Chunk& cut = chunks_[chunk];
  cut.slot_bytes = slot_bytes;
  cut.slot_count = static_cast<uint32_t>(BytesOfChunk(chunk) / slot_bytes);
  cut.free.resize(cut.slot_count);
  cut.position.resize(cut.slot_count);
  for (uint32_t slot = 0; slot < cut.slot_count; ++slot) {  // slot 0 first
    cut.position[slot] = cut.slot_count - 1 - slot;
    cut.free[cut.position[slot]] = slot;
  }
  Size& size = sizes_[slot_bytes];
  ++size.chunks;
  size.free_slots += cut.slot_count;
  Push(size.empty, chunk);
  lent_bytes_ += BytesOfChunk(chunk);
  ++lent_count_;
}

void SlabAllocator::Uncut(uint32_t chunk) {
  Chunk& cut = chunks_[chunk];
  TC_CHECK(cut.used == 0);
  const auto size = sizes_.find(cut.slot_bytes);
  Unlink(size->second.empty, chunk);
  size->second.free_slots -= cut.slot_count;
  if (--size->second.chunks == 0) sizes_.erase(size);
  lent_bytes_ -= BytesOfChunk(chunk);
  --lent_count_;
  cut = Chunk{};
  Push(unlent_, chunk);
}

void SlabAllocator::Take(uint32_t chunk, uint32_t slot) {
  Chunk& owner = chunks_[chunk];
  Size& size = sizes_[owner.slot_bytes];
  Unlink(owner.used == 0 ? size.empty : size.partial, chunk);
  const uint32_t last = owner.free.back();
  owner.free[owner.position[slot]] = last;
  owner.position[last] = owner.position[slot];
  owner.free.pop_back();
  owner.position[slot] = kNone;
  ++owner.used;
  --size.free_slots;
  if (!owner.free.empty()) Push(size.partial, chunk);
}

void SlabAllocator::Return(uint32_t page) {
  const uint32_t chunk = ChunkOf(page);
  const uint32_t slot = SlotOf(page);
  Chunk& owner = chunks_[chunk];
  TC_CHECK(owner.position[slot] == kNone);
  Size& size = sizes_[owner.slot_bytes];
  if (!owner.free.empty() && chunk != closed_) Unlink(size.partial, chunk);
  owner.position[slot] = static_cast<uint32_t>(owner.free.size());
  owner.free.push_back(slot);
  --owner.used;
  if (chunk == closed_) return;
  ++size.free_slots;
  Push(owner.used == 0 ? size.empty : size.partial, chunk);
}

}  // namespace thermocline
