#include "tiers/log_tier.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/log.h"
#include "base/units.h"
#include "hashing/checksum.h"
#include "tiers/disk_segments.h"
#include "tiers/log_format.h"

namespace thermocline {
namespace {

constexpr int kMostMoves = 8;  // of one block while it is read; more is not a move

bool Precedes(BlockRef a, BlockRef b) { return std::tie(a.id, a.part) < std::tie(b.id, b.part); }

BlockRef RefOf(const BlockHeader& header) { return {header.id, header.part}; }

/// Says that the segment is to be removed.
EntryChange LeavingEntry(uint64_t sequence) {
  EntryChange entry{LeavingRef(sequence), std::string(kEntryHeadBytes, '\0')};
  SealEntry({entry.ref, sequence}, entry.value);
  return entry;
}

std::string Named(BlockRef ref) {
  return "block " + std::to_string(ref.id) + " part " + std::to_string(ref.part);
}

/// Whether the block is the cause, as against the medium or the caller.
bool IsDamage(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsNotFound(status) ||
         absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status);
}

bool Contains(const std::vector<uint64_t>& sequences, uint64_t sequence) {
  return std::find(sequences.begin(), sequences.end(), sequence) != sequences.end();
}

/// Ascending, each once.
std::vector<BlockRef> Sorted(std::span<const BlockRef> refs) {
  std::vector<BlockRef> sorted(refs.begin(), refs.end());
  std::sort(sorted.begin(), sorted.end(), Precedes);
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return sorted;
}

/// Memory that is not cleared before it is written.
class Room {
 public:
  std::span<std::byte> OfBytes(uint64_t bytes) {
    if (bytes > bytes_) {
      memory_.reset();
      memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      bytes_ = bytes;
    }
    return {memory_.get(), bytes};
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  uint64_t bytes_ = 0;
};

}  // namespace

LogTier::LogTier(Options options) : options_(std::move(options)) {}

LogTier::~LogTier() = default;

absl::Status LogTier::Add(SegmentWriter& writer, const BlockRecord& record,
                          std::span<const std::byte> stored, uint64_t from, Draft& draft) const {
  const BlockRef ref = RefOf(record);
  TC_ASSIGN_OR_RETURN(const FilePlace place, writer.Add(ref, stored));
  EntryChange entry{ref, std::string(kEntryHeadBytes, '\0')};
  TC_RETURN_IF_ERROR(options_.envelope.EncodeRecord(record, entry.value));
  SealEntry({ref, draft.sequence, place}, entry.value);
  draft.records.push_back({std::move(entry), place, from});
  return absl::OkStatus();
}

absl::Status LogTier::Put(const BlockRecord& record, std::span<const std::byte> payload) {
  TierPut put{.record = &record, .payload = payload};
  PutAll({&put, 1});
  return put.status;
}

void LogTier::PutAll(std::span<TierPut> puts) {
  Draft draft;
  const std::vector<size_t> order = Admit(puts, draft);
  if (order.empty()) return;
  const auto write = [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const Database database, Writable());
    draft.sequence = next_sequence_++;
    TC_RETURN_IF_ERROR(WritePuts(*database, puts, order, draft));
    if (draft.records.empty()) return absl::OkStatus();
    TC_RETURN_IF_ERROR(Commit(*database, draft));
    RemoveEmptied(*database);
    return absl::OkStatus();
  };
  const absl::Status status = write();
  for (const size_t i : order) puts[i].status.Update(status);
  MutexLock lock(mutex_);
  reserved_bytes_ -= draft.reserved_bytes;
}

// Answers which of them are to be written, in the order of the segment. Of two copies of one block
// the newer comes first.
std::vector<size_t> LogTier::Admit(std::span<TierPut> puts, Draft& draft) {
  std::vector<size_t> order;
  order.reserve(puts.size());
  for (size_t i = 0; i < puts.size(); ++i) {
    TierPut& put = puts[i];
    put.status = VerifyRecord(*put.record);
    if (put.status.ok() && put.payload.size() != put.record->payload_bytes) {
      put.status = absl::DataLossError("cold tier: the payload of " + Named(RefOf(*put.record)) +
                                       " has another size than its header says; it is not stored");
    }
    if (put.status.ok()) order.push_back(i);
  }
  {
    MutexLock lock(mutex_);
    const uint64_t capacity = CapacityBytes();
    std::erase_if(order, [&](size_t i) TC_NO_THREAD_SAFETY_ANALYSIS {
      const uint64_t bytes = StoredBytes(*puts[i].record);
      const uint64_t used = UsedBytes();
      if (used + bytes <= capacity) {
        reserved_bytes_ += bytes;
        draft.reserved_bytes += bytes;
        return false;
      }
      puts[i].status = absl::ResourceExhaustedError("cold tier: " + FormatBytes(bytes) +
                                                    " do not fit, " + FormatBytes(used) + " of " +
                                                    FormatBytes(capacity) + " are in use");
      return true;
    });
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const BlockRef left = RefOf(*puts[a].record), right = RefOf(*puts[b].record);
    return left == right ? a > b : Precedes(left, right);
  });
  return order;
}

absl::Status LogTier::WritePuts(SegmentDatabase& database, std::span<TierPut> puts,
                                std::span<const size_t> order, Draft& draft) {
  SegmentWriter writer(database, draft.sequence);
  Room room;
  for (const size_t i : order) {
    TierPut& put = puts[i];
    const BlockRef ref = RefOf(*put.record);
    if (!draft.records.empty() && draft.records.back().change.ref == ref) continue;  // a newer one
    TC_RETURN_IF_ERROR(GoOn());
    if (Checksum(put.payload) != put.record->payload_checksum) {
      put.status = absl::DataLossError("cold tier: payload and header of " + Named(ref) +
                                       " disagree; it is not stored");
      continue;
    }
    const auto most = room.OfBytes(BlockEnvelope::MostBytes(*put.record));
    TC_ASSIGN_OR_RETURN(const uint64_t bytes,
                        options_.envelope.Encode(*put.record, put.payload, most));
    TC_RETURN_IF_ERROR(Add(writer, *put.record, most.first(bytes), 0, draft));
  }
  if (draft.records.empty()) return absl::OkStatus();
  TC_ASSIGN_OR_RETURN(draft.bytes, writer.Finish());
  return absl::OkStatus();
}

// After a failure the segment is there, and whether its entries are nobody knows: it stays.
absl::Status LogTier::Commit(SegmentDatabase& database, Draft& draft) {
  MutexLock order(order_mutex_);
  std::vector<EntryChange> changes;
  {
    MutexLock lock(mutex_);
    std::erase_if(draft.records, [&](const Record& record) TC_NO_THREAD_SAFETY_ANALYSIS {
      const LogIndex::Place* const place = index_.Find(record.change.ref);
      return record.from != 0 && (place == nullptr || place->sequence != record.from);
    });
    std::vector<BlockRef> moved;
    for (const Record& record : draft.records) {
      changes.push_back(record.change);
      moved.push_back(record.change.ref);
    }
    for (const uint64_t sequence : index_.SegmentsWithin(moved)) {
      changes.push_back(LeavingEntry(sequence));
    }
  }
  const bool is_written = draft.bytes > 0;
  const absl::Status status = Noted(database.Commit(changes, /*durable=*/is_written));
  entry_table_bytes_ = database.EntryTableBytes();
  MutexLock lock(mutex_);
  reserved_bytes_ -= std::exchange(draft.reserved_bytes, 0);
  if (is_written) index_.AddSegment(draft.sequence, draft.bytes);
  bool is_needed = !status.ok();
  for (const Record& record : draft.records) {
    const BlockRef ref = record.change.ref;
    if (!status.ok()) {
      if (record.is_erasure()) to_erase_.insert(ref);
    } else if (record.is_erasure()) {
      index_.Erase(ref);
    } else {
      const size_t bytes = sizeof(EntryKey) + record.change.value.size();
      index_.Set(ref, {draft.sequence, static_cast<uint32_t>(bytes), record.place});
      is_needed = true;
    }
  }
  if (is_written && !is_needed) to_remove_.push_back(draft.sequence);
  return status;
}

absl::StatusOr<std::optional<BlockRecord>> LogTier::Get(BlockRef ref,
                                                        std::span<std::byte> payload) {
  for (int moves = 0; moves < kMostMoves; ++moves) {
    Database database;
    LogIndex::Place place;
    {
      MutexLock lock(mutex_);
      if (database_ == nullptr) {
        return absl::UnavailableError("cold tier: it is being opened anew: " + refusal_);
      }
      const LogIndex::Place* const found = index_.Find(ref);
      if (found == nullptr) return std::nullopt;
      place = *found;
      database = database_;
    }
    std::optional<BlockRecord> record;
    const absl::Status status = database->ReadBlock(
        {ref, place.sequence, place.at}, [&](std::span<const std::byte> stored) {
          auto read = options_.envelope.Decode(ref, stored, payload);
          if (read.ok()) record = *std::move(read);
          return read.status();
        });
    if (status.ok()) return record;
    if (!IsDamage(status)) return status;
    if (PlaceOf(ref).sequence != place.sequence) continue;  // DropSegment has moved it meanwhile
    DropUnusable(*database, ref, place.sequence, status);
    if (absl::IsFailedPrecondition(status)) return status;
    return std::nullopt;
  }
  return absl::UnavailableError("cold tier: " + Named(ref) + " moves too often to be read");
}

LogIndex::Place LogTier::PlaceOf(BlockRef ref) const {
  MutexLock lock(mutex_);
  const LogIndex::Place* const place = index_.Find(ref);
  return place == nullptr ? LogIndex::Place{} : *place;
}

void LogTier::DropUnusable(SegmentDatabase& database, BlockRef ref, uint64_t sequence,
                           const absl::Status& why) {
  if (!absl::IsFailedPrecondition(why)) NoteDamage(1);
  if (const auto left_out = dropped_limit_.Admit()) {  // all that a missing key had sealed
    LogEvent(LogLevel::kWarning, "cold_block_dropped",
             {{"id", ref.id}, {"part", ref.part}, {"reason", why}, {"left_out", *left_out}});
  }
  if (PlaceOf(ref).sequence != sequence) return;
  Draft draft;
  draft.records.push_back({.change = {ref, ""}, .from = sequence});
  (void)Commit(database, draft);
  {
    MutexLock lock(mutex_);  // if it cannot be erased now, it is not here any more all the same
    const LogIndex::Place* const place = index_.Find(ref);
    if (place != nullptr && place->sequence == sequence) index_.Erase(ref);
  }
  RemoveEmptied(database);
}

void LogTier::NoteDamage(uint64_t count) {
  if (count == 0) return;
  corrupt_count_ += count;
  TellDamage();
}

void LogTier::TellDamage() {
  MutexLock lock(mutex_);
  damage_told_until_ = std::chrono::steady_clock::now() + options_.damage_told;
}

absl::Status LogTier::Erase(BlockRef ref) { return EraseAll({&ref, 1}); }

absl::Status LogTier::EraseAll(std::span<const BlockRef> refs) {
  Draft draft;
  {
    MutexLock lock(mutex_);
    for (const BlockRef ref : refs) {
      if (index_.Find(ref) != nullptr) draft.records.push_back({.change = {ref, ""}});
    }
  }
  if (draft.records.empty()) return absl::OkStatus();
  TC_ASSIGN_OR_RETURN(const Database database, Writable());
  TC_RETURN_IF_ERROR(Commit(*database, draft));
  RemoveEmptied(*database);
  return absl::OkStatus();
}

// A file that cannot be removed now is tried again with the next one.
void LogTier::RemoveEmptied(SegmentDatabase& database) {
  std::vector<uint64_t> segments;
  {
    MutexLock lock(mutex_);
    segments = std::exchange(to_remove_, {});
    for (const uint64_t sequence : index_.TakeEmptied()) segments.push_back(sequence);
  }
  std::vector<EntryChange> gone;
  for (const uint64_t sequence : segments) {
    const absl::Status status = database.RemoveSegment(sequence);
    if (status.ok()) gone.push_back({LeavingRef(sequence), ""});
    MutexLock lock(mutex_);
    if (status.ok()) {
      index_.RemoveSegment(sequence);
    } else {
      to_remove_.push_back(sequence);
    }
  }
  if (!gone.empty()) (void)Noted(database.Commit(gone, /*durable=*/false));
}

// What is not durable are erasures; another one, of what never was, takes them along.
absl::Status LogTier::Sync() {
  TC_ASSIGN_OR_RETURN(const Database database, Writable());
  const EntryChange nothing;
  const absl::Status status = Noted(database->Commit({&nothing, 1}, /*durable=*/true));
  entry_table_bytes_ = database->EntryTableBytes();
  return status;
}

std::optional<TierSegment> LogTier::SegmentFrom(uint64_t sequence) const {
  MutexLock lock(mutex_);
  if (sequence == kAsideSequence && aside_bytes_ > 0) {
    return TierSegment{.sequence = kAsideSequence, .bytes = aside_bytes_};
  }
  return index_.SegmentFrom(sequence);
}

std::vector<SegmentSize> LogTier::SegmentSizes() const {
  MutexLock lock(mutex_);
  return index_.SegmentSizes();
}

absl::Status LogTier::DropSegment(uint64_t sequence, std::span<const BlockRef> keep) {
  const std::optional<TierSegment> segment = SegmentFrom(sequence);
  if (!segment || segment->sequence != sequence) {
    return absl::NotFoundError("cold tier: no segment " + std::to_string(sequence));
  }
  if (sequence == kAsideSequence) return RemoveAside("its room is needed");
  TC_ASSIGN_OR_RETURN(const Database database, Writable());
  Draft draft{.sequence = next_sequence_++};
  TC_RETURN_IF_ERROR(WriteKept(*database, Sorted(keep), draft));
  const size_t moved = draft.records.size();
  for (const BlockRef ref : segment->blocks) {
    const auto end = draft.records.begin() + static_cast<ptrdiff_t>(moved);
    const auto at = std::lower_bound(
        draft.records.begin(), end, ref,
        [](const Record& record, BlockRef ref) { return Precedes(record.change.ref, ref); });
    if (at != end && at->change.ref == ref) continue;
    draft.records.push_back({.change = {ref, ""}, .from = sequence});
  }
  TC_RETURN_IF_ERROR(Commit(*database, draft));
  RemoveEmptied(*database);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint64_t>> LogTier::Fold(std::span<const BlockRef> blocks) {
  TC_ASSIGN_OR_RETURN(const Database database, Writable());
  Draft draft{.sequence = next_sequence_++};
  std::vector<uint64_t> unread;
  TC_RETURN_IF_ERROR(WriteKept(*database, Sorted(blocks), draft, &unread));
  TC_RETURN_IF_ERROR(Commit(*database, draft));
  RemoveEmptied(*database);
  return unread;
}

absl::Status LogTier::WriteKept(SegmentDatabase& database, std::span<const BlockRef> keep,
                                Draft& draft, std::vector<uint64_t>* unread) {
  SegmentWriter writer(database, draft.sequence);
  Room room;
  const std::span<std::byte> payload = room.OfBytes(kMaxPartBytes);
  uint64_t bytes = 0;
  for (const BlockRef ref : keep) {
    const LogIndex::Place from = PlaceOf(ref);
    if (from.sequence == 0) continue;
    if (unread != nullptr && Contains(*unread, from.sequence)) continue;
    TC_RETURN_IF_ERROR(GoOn());
    const EntryHead head{ref, from.sequence, from.at};
    absl::Status written;
    const auto noted = NotedRecord(database, ref);
    const absl::Status read = database.ReadBlock(head, [&](std::span<const std::byte> stored) {
      const auto record = options_.envelope.Decode(ref, stored, payload);
      TC_RETURN_IF_ERROR(record.status());
      TC_RETURN_IF_ERROR(noted.status());
      // Else it would be the truth from now on.
      if (record->header_checksum != noted->header_checksum) {
        return absl::DataLossError("it is another block than its entry says");
      }
      const auto added = AddKept(writer, *record, payload.first(record->payload_bytes), stored,
                                 from.sequence, draft);
      written = added.status();
      if (added.ok()) bytes += *added;
      return absl::OkStatus();
    });
    TC_RETURN_IF_ERROR(written);
    if (read.ok() || PlaceOf(ref).sequence != from.sequence) continue;  // it has gone meanwhile
    if (IsDamage(read)) {
      DropUnusable(database, ref, from.sequence, read);
      MutexLock lock(mutex_);
      lost_.push_back({ref, absl::IsFailedPrecondition(read) ? Loss::kSealed : Loss::kDamaged});
    } else if (unread != nullptr) {
      unread->push_back(from.sequence);
    } else {
      return absl::AbortedError(read.message());
    }
  }
  if (draft.records.empty()) return absl::OkStatus();
  TC_ASSIGN_OR_RETURN(draft.bytes, writer.Finish());
  kept_bytes_ += bytes;
  return absl::OkStatus();
}

absl::StatusOr<BlockRecord> LogTier::NotedRecord(const SegmentDatabase& database,
                                                 BlockRef ref) const {
  absl::StatusOr<BlockRecord> record;
  TC_RETURN_IF_ERROR(database.ReadEntryOf(ref, [&](std::span<const std::byte> value) {
    const EntryKey key = EntryKeyOf(ref);
    const auto entry = ReadEntry(std::as_bytes(std::span(key)), value);
    if (!entry.ok()) return entry.status();
    record = options_.envelope.DecodeRecord(ref, entry->record);
    return record.status();
  }));
  return record;
}

absl::StatusOr<uint64_t> LogTier::AddKept(SegmentWriter& writer, const BlockRecord& record,
                                          std::span<const std::byte> payload,
                                          std::span<const std::byte> stored, uint64_t from,
                                          Draft& draft) const {
  Room room;
  if (!options_.envelope.IsUnderNewestKey(stored)) {
    const auto most = room.OfBytes(BlockEnvelope::MostBytes(record));
    TC_ASSIGN_OR_RETURN(const uint64_t bytes, options_.envelope.Encode(record, payload, most));
    stored = most.first(bytes);
  }
  TC_RETURN_IF_ERROR(Add(writer, record, stored, from, draft));
  return stored.size();
}

std::vector<LostBlock> LogTier::TakeLost() {
  MutexLock lock(mutex_);
  return std::exchange(lost_, {});
}

uint64_t LogTier::UsedBytes() const {
  const uint64_t used = index_.segment_bytes() + reserved_bytes_;
  if (options_.own_bytes == 0) return used + index_.entry_bytes();
  return used + index_.segment_count() * kPageBytes + 2 * entry_table_bytes_ + options_.own_bytes +
         aside_bytes_;
}

TierUsage LogTier::Usage() const {
  MutexLock lock(mutex_);
  return {.capacity_bytes = CapacityBytes(),
          .used_bytes = UsedBytes(),
          .block_count = index_.block_count(),
          .corrupt_count = corrupt_count_,
          .kept_bytes = kept_bytes_};
}

}  // namespace thermocline
