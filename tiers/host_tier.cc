#include "tiers/host_tier.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/process.h"
#include "base/sort_by_id.h"
#include "hashing/checksum.h"

namespace thermocline {
namespace {

uint64_t OffsetOf(uint32_t page) { return uint64_t{page} * kPageBytes; }

/// What an earlier daemon left in a chunk.
struct LeftInChunk {
  HostTier::Left* begin = nullptr;  // blocks that can be believed
  HostTier::Left* end = nullptr;
  std::vector<uint32_t> others;  // pages of slots that hold anything else
};

void ReadChunk(const SlotHeaders& headers, uint32_t number, LeftInChunk& found) {
  LeftInChunk chunk = std::move(found);  // of this thread's, until it is done
  const uint64_t slot_bytes = headers.SlotBytesOfChunk(number);
  headers.VisitSlots(number, [&](uint32_t page, const SlotRecord& record) {
    const BlockHeader& block = record.block;
    if (record.state.load(std::memory_order_relaxed) ==
            static_cast<uint32_t>(SlotState::kCommitted) &&
        headers.Verifies(page, record) && block.payload_bytes <= slot_bytes) {
      *chunk.end++ = {block.id, &block, page, block.part};
    } else {
      chunk.others.push_back(page);
    }
  });
  found = std::move(chunk);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Open(const Options& options) {
  auto tier = OpenOnce(options);
  if (!absl::IsDataLoss(tier.status())) return tier;
  LogEvent(LogLevel::kWarning, "arena_discarded", {{"reason", tier.status()}});
  TC_RETURN_IF_ERROR(Arena::Remove(options.arena_path, options.metadata_path));
  return OpenOnce(options);
}

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::OpenOnce(const Options& options) {
  TC_ASSIGN_OR_RETURN(Arena arena, Arena::Open({.path = options.arena_path,
                                                .metadata_path = options.metadata_path,
                                                .capacity_bytes = options.capacity_bytes,
                                                .chunk_bytes = options.chunk_bytes,
                                                .least_epoch = options.least_epoch,
                                                .needs_room = !options.account,
                                                .capacity_option = options.capacity_option,
                                                .huge_pages = options.huge_pages}));
  TC_ASSIGN_OR_RETURN(SlotHeaders headers, SlotHeaders::Open(arena));
  std::unique_ptr<HostTier> tier(
      new HostTier(std::move(arena), std::move(headers), options.account));
  TC_RETURN_IF_ERROR(tier->Adopt());
  return tier;
}

HostTier::HostTier(Arena arena, SlotHeaders headers, BudgetAccount account)
    : arena_(std::move(arena)),
      account_(std::move(account)),
      headers_(std::move(headers)),
      slabs_({.capacity_bytes = arena_.capacity_bytes(),
              .chunk_bytes = arena_.chunk_bytes(),
              .first_page = kArenaDataOffset / kPageBytes,
              .lend = [this](uint32_t chunk, uint64_t slot_bytes)
                          TC_NO_THREAD_SAFETY_ANALYSIS { return Lend(chunk, slot_bytes); },
              .spare = [this]() TC_NO_THREAD_SAFETY_ANALYSIS { return SpareChunks(); }}),
      paid_(arena_.chunk_count()) {}

// Of chunks that are not lent: one that was touched ahead, and those that the account may take.
uint64_t HostTier::SpareChunks() const {
  if (!account_) return UINT64_MAX;
  return account_.Spare() + (HasTouchedAhead() ? 1 : 0);
}

bool HostTier::HasTouchedAhead() const {
  return touched_ && paid_[*touched_] && !slabs_.IsLent(*touched_);
}

bool HostTier::Pay(uint32_t chunk) {
  if (paid_[chunk]) return true;
  if (!account_.Take()) {
    // Another one that is paid for and not lent stands in.
    if (!HasTouchedAhead() || touched_ == chunk || held_.contains(*touched_)) return false;
    if (!arena_.PunchChunk(*touched_).ok()) return false;
    paid_[*touched_] = false;
    touched_.reset();
  }
  paid_[chunk] = true;
  return true;
}

absl::Status HostTier::Punch(uint32_t chunk) {
  if (held_.contains(chunk)) {
    leaving_.insert(chunk);
    return absl::OkStatus();
  }
  TC_RETURN_IF_ERROR(arena_.PunchChunk(chunk));
  if (!paid_[chunk]) return absl::OkStatus();
  paid_[chunk] = false;
  account_.Give(1);
  return absl::OkStatus();
}

absl::Status HostTier::Lend(uint32_t chunk, uint64_t slot_bytes) {
  if (!Pay(chunk)) return absl::UnavailableError("another tenant took the last free chunk");
  absl::Status status = arena_.PopulateChunk(chunk);
  if (status.ok()) status = headers_.LendChunk(chunk, slot_bytes);
  if (!status.ok()) {
    LogEvent(LogLevel::kWarning, "arena_does_not_grow", {{"cause", std::string(status.message())}});
    Punch(chunk).IgnoreError();  // what a hugetlbfs gave before it had no more
  } else {
    leaving_.erase(chunk);
  }
  return status;
}

absl::Status HostTier::Adopt() {
  MutexLock lock(mutex_);
  if (!headers_.adopted()) {
    for (uint32_t chunk = 0; chunk < arena_.chunk_count(); ++chunk) {
      TC_RETURN_IF_ERROR(arena_.PunchChunk(chunk));
    }
    return absl::OkStatus();
  }
  const std::vector<uint32_t> chunks = headers_.TakeOver();
  for (const uint32_t chunk : chunks) {
    TC_RETURN_IF_ERROR(slabs_.RestoreChunk(chunk, headers_.SlotBytesOfChunk(chunk)));
    paid_[chunk] = true;
    account_.Adopt(1);
  }
  AdoptSlots(chunks);
  SortById(left_);
  FreeTwins();
  block_count_ = left_.size();
  // Chunks that lost pages, which no daemon of ours does to them, must not raise SIGBUS later.
  if (arena_.MayHaveAll(slabs_.lent_bytes())) return absl::OkStatus();
  for (const uint32_t chunk : chunks) TC_RETURN_IF_ERROR(arena_.AllocateChunk(chunk));
  return absl::OkStatus();
}

// What is right is most of it, and its headers are read and summed by several threads, each chunk's
// into a stretch of `left_`; the rest is for the caller's.
void HostTier::AdoptSlots(const std::vector<uint32_t>& chunks) {
  size_t slots = 0;
  for (const uint32_t chunk : chunks) slots += headers_.SlotsOfChunk(chunk);
  left_.resize(slots);
  std::vector<LeftInChunk> found(chunks.size());
  Left* next = left_.data();
  for (size_t i = 0; i < chunks.size(); ++i) {
    found[i].begin = found[i].end = next;
    next += headers_.SlotsOfChunk(chunks[i]);
  }
  InParallel(chunks.size(), [&](size_t i) TC_NO_THREAD_SAFETY_ANALYSIS {
    ReadChunk(headers_, chunks[i], found[i]);
  });
  size_t kept = 0;
  for (const LeftInChunk& chunk : found) {
    for (const Left* left = chunk.begin; left != chunk.end; ++left) {
      if (slabs_.RestoreSlot(left->page).ok()) left_[kept++] = *left;
    }
    for (const uint32_t page : chunk.others) AdoptOther(page);
  }
  left_.resize(kept);
}

// A slot that is granted, or whose header does not verify.
void HostTier::AdoptOther(uint32_t page) {
  const SlotRecord& record = headers_.record(page);
  if (record.state.load(std::memory_order_acquire) == static_cast<uint32_t>(SlotState::kGranted)) {
    const ProcessRef owner{static_cast<int>(record.process_id), record.process_start_time};
    if (owner.pid == ::getpid() || HasExited(owner.pid, owner.start_time)) {
      headers_.SetFree(page);
    } else if (slabs_.RestoreSlot(page).ok()) {
      left_granted_.push_back({OffsetOf(page), owner});
    }
    return;
  }
  ++corrupt_count_;
  if (!slabs_.RestoreSlot(page).ok()) return;
  disowned_.insert(page);
  left_damaged_.push_back(OffsetOf(page));
}

// Of two copies of a block the later one stays.
void HostTier::FreeTwins() {
  const auto later = [](const Left& a, const Left& b) {
    return a.part != b.part ? a.part < b.part : a.header->sequence > b.header->sequence;
  };
  for (auto begin = left_.begin(); begin != left_.end();) {
    auto end = begin + 1;
    while (end != left_.end() && end->id == begin->id) ++end;
    if (end - begin > 1) std::stable_sort(begin, end, later);
    begin = end;
  }
  const auto is_twin = [](const Left& a, const Left& b) {
    return a.id == b.id && a.part == b.part;
  };
  if (std::adjacent_find(left_.begin(), left_.end(), is_twin) == left_.end()) return;
  LargeVector<Left> once;
  for (const Left& block : left_) {
    if (once.empty() || !is_twin(once.back(), block)) {
      once.push_back(block);
    } else {
      headers_.SetFree(block.page);
      slabs_.Free(block.page);
    }
  }
  left_ = std::move(once);
}

uint32_t HostTier::PageOf(uint64_t offset) {
  TC_CHECK(offset % kPageBytes == 0);
  return static_cast<uint32_t>(offset / kPageBytes);
}

absl::StatusOr<std::optional<uint64_t>> HostTier::Reserve(uint64_t bytes, ProcessRef owner,
                                                          uint32_t inner_count) {
  if (inner_count * sizeof(Name) > bytes) {
    return absl::InvalidArgumentError("warm tier: a block of " + std::to_string(bytes) +
                                      " bytes is smaller than the names of its " +
                                      std::to_string(inner_count) + " inner places");
  }
  MutexLock lock(mutex_);
  TC_ASSIGN_OR_RETURN(auto slot, slabs_.Reserve(SlabAllocator::SlotBytes(bytes)));
  if (!slot) return std::optional<uint64_t>();
  TC_RETURN_IF_ERROR(headers_.AllocateInner(slot->page(), inner_count));
  const uint32_t page = std::move(*slot).Commit();
  headers_.SetGranted(page, static_cast<uint32_t>(owner.pid), owner.start_time);
  return std::optional<uint64_t>(OffsetOf(page));
}

std::span<std::byte> HostTier::Payload(uint64_t offset, uint64_t bytes) const {
  TC_CHECK(offset >= kArenaDataOffset);
  TC_CHECK(offset + bytes <= arena_.mapped_bytes());
  return {arena_.data(PageOf(offset)), bytes};
}

void HostTier::Commit(uint64_t offset, const BlockRecord& record) {
  const uint32_t page = PageOf(offset);
  MutexLock lock(mutex_);
  TC_CHECK(record.payload_bytes <= slabs_.SlotBytesOf(page));
  if (index_) {
    const bool fresh = index_->try_emplace({record.id, record.part}, page).second;
    TC_CHECK(fresh);
  }
  ++block_count_;
  headers_.SetCommitted(page, record);
}

void HostTier::Free(uint64_t offset) {
  MutexLock lock(mutex_);
  FreeLocked(PageOf(offset));
}

void HostTier::Disown(uint64_t offset) {
  const uint32_t page = PageOf(offset);
  MutexLock lock(mutex_);
  TC_CHECK(headers_.State(page) == SlotState::kCommitted);
  if (disowned_.insert(page).second) Leave(page);
}

void HostTier::Leave(uint32_t page) {
  --block_count_;
  if (!index_) return;
  const BlockHeader& header = headers_.record(page).block;
  index_->erase({header.id, header.part});
}

void HostTier::FreeLocked(uint32_t page) {
  if (headers_.State(page) == SlotState::kCommitted && disowned_.erase(page) == 0) Leave(page);
  headers_.SetFree(page);
  slabs_.Free(page);
}

BlockHeader HostTier::HeaderAt(uint64_t offset) const {
  MutexLock lock(mutex_);
  return headers_.record(PageOf(offset)).block;
}

BlockRecord HostTier::RecordAt(uint64_t offset) const {
  MutexLock lock(mutex_);
  return headers_.Block(PageOf(offset));
}

uint64_t HostTier::FreeSlots(uint64_t bytes) const {
  MutexLock lock(mutex_);
  return slabs_.FreeSlots(SlabAllocator::SlotBytes(bytes));
}

std::vector<uint32_t> HostTier::ChunksToClearFor(uint64_t bytes) const {
  MutexLock lock(mutex_);
  return slabs_.OtherChunks(SlabAllocator::SlotBytes(bytes));
}

std::vector<uint64_t> HostTier::UsedOffsets(uint32_t chunk) const {
  MutexLock lock(mutex_);
  std::vector<uint64_t> offsets;
  for (uint32_t page : slabs_.UsedPages(chunk)) offsets.push_back(OffsetOf(page));
  return offsets;
}

std::vector<uint64_t> HostTier::SlotSizes() const {
  MutexLock lock(mutex_);
  return slabs_.SlotSizes();
}

void HostTier::RetryLending() {
  MutexLock lock(mutex_);
  slabs_.RetryLending();
}

std::optional<uint32_t> HostTier::ChunkToTouch() const {
  MutexLock lock(mutex_);
  const std::optional<uint32_t> next = slabs_.NextToLend();
  return slabs_.lent_bytes() == 0 || next == touched_ ? std::nullopt : next;
}

void HostTier::TouchChunk(uint32_t chunk) {
  {
    MutexLock lock(mutex_);
    if (!Pay(chunk)) return;
  }
  const absl::Status status = arena_.PopulateChunk(chunk);
  MutexLock lock(mutex_);
  if (!status.ok() && !slabs_.IsLent(chunk)) Punch(chunk).IgnoreError();
  if (account_ && HasTouchedAhead() && touched_ != chunk) Punch(*touched_).IgnoreError();
  touched_ = chunk;
}

void HostTier::Mend() {
  std::string what;
  {
    MutexLock lock(mutex_);
    uint64_t used_bytes = 0;
    for (uint32_t chunk = 0; chunk < paid_.size(); ++chunk) {
      if (paid_[chunk]) used_bytes += arena_.BytesOfChunk(chunk);
    }
    what = arena_.Mend(used_bytes,
                       [&](uint32_t chunk) TC_NO_THREAD_SAFETY_ANALYSIS { return paid_[chunk]; });
  }
  if (what.empty()) return;
  if (const auto left_out = mended_limit_.Admit()) {
    LogEvent(LogLevel::kError, "arena_mended",
             {{"path", arena_.path()}, {"a_client_did", what}, {"left_out", *left_out}});
  }
}

uint64_t HostTier::SlotBytesAt(uint64_t offset) const {
  MutexLock lock(mutex_);
  return slabs_.SlotBytesOf(PageOf(offset));
}

absl::Status HostTier::PunchEmptyChunks() {
  MutexLock lock(mutex_);
  if (HasTouchedAhead()) TC_RETURN_IF_ERROR(Punch(*touched_));
  touched_.reset();
  while (const auto chunk = slabs_.ReclaimEmptyChunk()) {
    headers_.ForgetChunk(*chunk);
    TC_RETURN_IF_ERROR(Punch(*chunk));
  }
  return absl::OkStatus();
}

uint64_t HostTier::ReachableBytes() const {
  if (!account_) return arena_.capacity_bytes();
  MutexLock lock(mutex_);
  const uint64_t chunks = slabs_.lent_count() + SpareChunks();
  return std::min(chunks * arena_.chunk_bytes(), arena_.capacity_bytes());
}

bool HostTier::GiveBackChunk() {
  MutexLock lock(mutex_);
  std::optional<uint32_t> chunk = slabs_.ReclaimEmptyChunk();
  if (chunk) headers_.ForgetChunk(*chunk);
  if (!chunk && HasTouchedAhead()) chunk = std::exchange(touched_, std::nullopt);
  if (!chunk || !paid_[*chunk]) return false;
  const absl::Status punched = Punch(*chunk);
  if (!punched.ok()) {
    LogEvent(LogLevel::kWarning, "arena_not_punched", {{"cause", std::string(punched.message())}});
  }
  return punched.ok();
}

void HostTier::CloseChunk(uint32_t chunk) {
  MutexLock lock(mutex_);
  slabs_.Close(chunk);
}

void HostTier::ReopenChunk() {
  MutexLock lock(mutex_);
  slabs_.Reopen();
}

std::optional<uint32_t> HostTier::closed_chunk() const {
  MutexLock lock(mutex_);
  return slabs_.closed();
}

std::vector<uint32_t> HostTier::LentChunks() const {
  MutexLock lock(mutex_);
  return slabs_.LentChunks();
}

// A kill between the two leaves the block twice; of twins a restart keeps one.
void HostTier::Relocate(uint64_t from, uint64_t to) {
  const uint32_t page = PageOf(from);
  MutexLock lock(mutex_);
  const BlockRecord record = headers_.Block(page);
  headers_.SetCommitted(PageOf(to), record);
  headers_.SetFree(page);
  slabs_.Free(page);
  if (index_) index_->insert_or_assign({record.id, record.part}, PageOf(to));
}

std::optional<uint32_t> HostTier::ChunkToHold() const {
  MutexLock lock(mutex_);
  if (held_.size() - leaving_.size() == slabs_.lent_count()) return std::nullopt;
  for (uint32_t chunk = 0; chunk < arena_.chunk_count(); ++chunk) {
    if (slabs_.IsLent(chunk) && !held_.contains(chunk)) return chunk;
  }
  return std::nullopt;
}

void HostTier::HoldChunk(uint32_t chunk) {
  MutexLock lock(mutex_);
  TC_CHECK(slabs_.IsLent(chunk));
  held_.insert(chunk);
}

std::optional<uint32_t> HostTier::ChunkToLetGo() const {
  MutexLock lock(mutex_);
  return leaving_.empty() ? std::nullopt : std::optional(*leaving_.begin());
}

void HostTier::LetGoOfChunk(uint32_t chunk) {
  MutexLock lock(mutex_);
  held_.erase(chunk);
  if (leaving_.erase(chunk) == 0) return;
  if (const absl::Status punched = Punch(chunk); !punched.ok()) {
    LogEvent(LogLevel::kWarning, "arena_not_punched", {{"cause", punched}});
  }
}

void HostTier::LetGoOfAllChunks() {
  while (const auto chunk = ChunkToLetGo()) LetGoOfChunk(*chunk);
  MutexLock lock(mutex_);
  held_.clear();
}

uint64_t HostTier::HeldBytes() const {
  MutexLock lock(mutex_);
  uint64_t bytes = 0;
  for (const uint32_t chunk : held_) bytes += arena_.BytesOfChunk(chunk);
  return bytes;
}

uint64_t HostTier::LeavingChunks() const {
  MutexLock lock(mutex_);
  return leaving_.size();
}

std::unordered_map<BlockRef, uint32_t, BlockRefHash>& HostTier::Index() {
  if (index_) return *index_;
  index_.emplace();
  index_->reserve(block_count_);
  for (uint32_t chunk = 0; chunk < arena_.chunk_count(); ++chunk) {
    for (const uint32_t page : slabs_.UsedPages(chunk)) {
      if (headers_.State(page) != SlotState::kCommitted || disowned_.contains(page)) continue;
      const BlockHeader& header = headers_.record(page).block;
      index_->emplace(BlockRef{header.id, header.part}, page);
    }
  }
  return *index_;
}

absl::Status HostTier::Put(const BlockRecord& record, std::span<const std::byte> payload) {
  TC_RETURN_IF_ERROR(VerifyRecord(record));
  const auto mismatch = [&] {
    return absl::DataLossError("warm tier: payload and header of block " +
                               std::to_string(record.id) + " disagree; the block is not stored");
  };
  if (payload.size() != record.payload_bytes) return mismatch();
  const auto start_time = ProcessStartTime(::getpid());
  TC_RETURN_IF_ERROR(start_time.status());
  TC_ASSIGN_OR_RETURN(const auto offset,
                      Reserve(payload.size(), {::getpid(), *start_time}, record.inner_count));
  if (!offset) {
    return absl::ResourceExhaustedError("warm tier: no slot is free for " +
                                        FormatBytes(payload.size()));
  }
  if (CopyAndChecksum(Payload(*offset, payload.size()), payload) != record.payload_checksum) {
    Free(*offset);
    return mismatch();
  }
  TC_RETURN_IF_ERROR(Erase({record.id, record.part}));
  Commit(*offset, record);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<BlockRecord>> HostTier::Get(BlockRef ref,
                                                         std::span<std::byte> payload) {
  BlockRecord record;
  uint64_t offset = 0;
  {
    MutexLock lock(mutex_);
    const auto found = Index().find(ref);
    if (found == Index().end()) return std::nullopt;
    record = headers_.Block(found->second);
    offset = OffsetOf(found->second);
  }
  if (record.payload_bytes > payload.size()) {
    return absl::InvalidArgumentError("warm tier: block " + std::to_string(ref.id) + " has " +
                                      std::to_string(record.payload_bytes) + " bytes, room for " +
                                      std::to_string(payload.size()));
  }
  const auto stored = Payload(offset, record.payload_bytes);
  if (VerifyRecord(record).ok() &&
      CopyAndChecksum(payload.first(stored.size()), stored) == record.payload_checksum) {
    return record;
  }
  LogEvent(LogLevel::kWarning, "warm_block_dropped", {{"id", ref.id}, {"part", ref.part}});
  MutexLock lock(mutex_);
  ++corrupt_count_;
  FreeLocked(PageOf(offset));
  return std::nullopt;
}

absl::Status HostTier::Erase(BlockRef ref) {
  MutexLock lock(mutex_);
  const auto found = Index().find(ref);
  if (found != Index().end()) FreeLocked(found->second);
  return absl::OkStatus();
}

absl::Status HostTier::ForEach(const std::function<bool(const BlockRecord&)>& visit) {
  MutexLock lock(mutex_);
  for (const auto& [ref, page] : Index()) {
    if (!visit(headers_.Block(page))) break;
  }
  return absl::OkStatus();
}

TierUsage HostTier::Usage() const {
  MutexLock lock(mutex_);
  return {arena_.capacity_bytes(), slabs_.used_bytes(), block_count_, corrupt_count_};
}

std::string HostTier::State() const {
  MutexLock lock(mutex_);
  if (slabs_.lend_status().ok()) return "ok";
  return "serves from the " + FormatBytes(slabs_.lent_bytes()) +
         " that it has: " + std::string(slabs_.lend_status().message());
}

}  // namespace thermocline
