// How a log tier opens its store, at a start and behind its own back, and what it finds there.
#include <absl/strings/str_join.h>

#include <algorithm>
#include <set>
#include <thread>
#include <utility>

#include "base/disk_use.h"
#include "base/log.h"
#include "tiers/disk_aside.h"
#include "tiers/disk_segments.h"
#include "tiers/log_format.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

constexpr size_t kMostUnfinished = 2;           // segments: of a PutAll and of a DropSegment
constexpr std::chrono::seconds kCloseWait{10};  // for reads that are under way
constexpr std::chrono::milliseconds kCloseStep{5};

/// Entries that are given up, for a line of each kind: where a key is gone they may be a million.
class UnusableEntries {
 public:
  void Add(const absl::Status& why) {
    Kind& kind = absl::IsFailedPrecondition(why) ? foreign_ : damaged_;
    if (kind.count++ == 0) kind.first = why;
  }
  /// How many were damaged; the others are sealed in a way that is not here.
  uint64_t Log() const {
    for (const Kind* kind : {&damaged_, &foreign_}) {
      if (kind->count == 0) continue;
      LogEvent(LogLevel::kWarning, "cold_entries_dropped",
               {{"count", kind->count}, {"reason", kind->first}});
    }
    return damaged_.count;
  }

 private:
  struct Kind {
    uint64_t count = 0;
    absl::Status first;
  };
  Kind damaged_, foreign_;
};

/// How many of the segments without entries are not what an end at any moment leaves: those that
/// were being written, those that were to be removed, and those with none that can be used. Of the
/// others the log of the entries is damaged.
uint64_t LostSegments(const std::vector<uint64_t>& orphans, const std::set<uint64_t>& explained) {
  const auto unexplained =
      static_cast<size_t>(std::count_if(orphans.begin(), orphans.end(), [&](uint64_t sequence) {
        return !explained.contains(sequence);
      }));
  if (unexplained <= kMostUnfinished) return 0;
  LogEvent(LogLevel::kWarning, "cold_entries_lost",
           {{"segments", unexplained}, {"reason", "the log of the entries has lost its end"}});
  return unexplained - kMostUnfinished;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogTier>> LogTier::Open(Options options) {
  std::unique_ptr<LogTier> tier(new LogTier(std::move(options)));
  TC_RETURN_IF_ERROR(tier->OpenDatabase(nullptr));
  const uint64_t unit = tier->options_.unit_bytes;
  if (tier->options_.account) {
    tier->options_.account.Adopt((tier->Usage().used_bytes + unit - 1) / unit);
  }
  tier->LookAside();
  return tier;
}

absl::Status LogTier::OpenDatabase(const LogIndex* known) {
  const auto open = [this](const std::string& damage) -> absl::StatusOr<Database> {
    TC_ASSIGN_OR_RETURN(
        auto opened, SegmentDatabase::Open({.directory = options_.directory,
                                            .file_system = options_.file_system,
                                            .damage = damage,
                                            .open_files = options_.open_files,
                                            .own_bytes = options_.own_bytes > 0 ? options_.own_bytes
                                                                                : kMostOwnBytes}));
    ++*open_count_;
    return Database(opened.release(), [count = open_count_](SegmentDatabase* database) {
      std::default_delete<SegmentDatabase>()(database);
      --*count;
    });
  };
  TC_ASSIGN_OR_RETURN(Database database, open(""));
  {
    MutexLock lock(mutex_);
    refusal_.clear();
    to_remove_.clear();
  }
  auto found = BuildIndex(*database, known);
  if (absl::IsDataLoss(found.status())) {  // its entries cannot be read: step around it
    database.reset();
    TC_ASSIGN_OR_RETURN(database, open(std::string(found.status().message())));
    found = BuildIndex(*database, known);
  }
  TC_RETURN_IF_ERROR(found.status());
  entry_table_bytes_ = database->EntryTableBytes();
  database->BeginMerging();
  std::vector<BlockRef> lost;
  if (known != nullptr) lost = known->NotIn(found->index);
  uint64_t damaged = found->damaged;
  MutexLock lock(mutex_);
  for (const BlockRef ref : lost) {
    const Loss why = to_erase_.contains(ref)       ? Loss::kErased
                     : found->sealed.contains(ref) ? Loss::kSealed
                                                   : Loss::kDamaged;
    damaged += why == Loss::kDamaged ? 1 : 0;
    lost_.push_back({ref, why});
  }
  to_erase_.clear();
  corrupt_count_ += damaged;
  damaged_ = damaged;
  index_ = std::move(found->index);
  database_ = std::move(database);
  return absl::OkStatus();
}

// What cannot be removed is tried again at the next opening.
void LogTier::LookAside() {
  std::vector<std::string> stores = StoresAside(options_.directory);
  const std::string newest = stores.empty() ? "" : stores.back();
  for (const std::string& store : stores) {
    if (store != newest) RemoveStoreAside(store, "there is a newer one").IgnoreError();
  }
  if (newest.empty()) return;
  const uint64_t bytes = options_.own_bytes > 0 ? DiskBytes(newest) : 0;
  {
    MutexLock lock(mutex_);
    aside_ = newest;
    aside_bytes_ = bytes;
  }
  const auto fits = [this] {
    MutexLock lock(mutex_);
    return options_.own_bytes == 0 || UsedBytes() <= CapacityBytes();
  };
  while (!fits() && options_.account && options_.account.Take()) continue;
  if (!fits()) RemoveAside("it does not fit into the capacity").IgnoreError();
}

absl::Status LogTier::RemoveAside(const std::string& why) {
  std::string store;
  {
    MutexLock lock(mutex_);
    store = aside_;
  }
  TC_RETURN_IF_ERROR(RemoveStoreAside(store, why));
  MutexLock lock(mutex_);
  aside_.clear();
  aside_bytes_ = 0;
  return absl::OkStatus();
}

absl::StatusOr<LogTier::Contents> LogTier::BuildIndex(SegmentDatabase& database,
                                                      const LogIndex* known) {
  Contents contents;
  LogIndex& index = contents.index;
  for (const auto& segment : database.Segments()) {
    index.AddSegment(segment.sequence, segment.bytes);
  }
  uint64_t newest = index.newest_sequence();
  std::vector<EntryChange> stale;
  std::set<uint64_t> explained;  // if they have no blocks
  UnusableEntries unusable;
  TC_RETURN_IF_ERROR(database.ForEachEntry([&](auto key, auto value) {
    const auto entry = ReadEntry(key, value);
    if (entry.ok()) newest = std::max(newest, entry->sequence);
    if (entry.ok() && IsLeaving(entry->ref)) {
      explained.insert(entry->sequence);
      return true;
    }
    const absl::Status usable =
        entry.ok() ? options_.envelope.LookAtRecord(entry->record) : entry.status();
    if (!usable.ok()) {
      unusable.Add(usable);
      if (entry.ok()) explained.insert(entry->sequence);
      const auto ref = ParseEntryKey(key);
      if (ref) stale.push_back({*ref, ""});
      if (ref && known != nullptr && absl::IsFailedPrecondition(usable))
        contents.sealed.insert(*ref);
      return true;
    }
    const bool wanted = known == nullptr || known->Find(entry->ref) != nullptr;
    if (wanted && index.HasSegment(entry->sequence)) {
      const auto bytes = static_cast<uint32_t>(key.size() + value.size());
      index.Set(entry->ref, {entry->sequence, bytes, entry->place});
    } else {
      stale.push_back({entry->ref, ""});
    }
    return true;
  }));
  const uint64_t unusable_entries = unusable.Log();
  next_sequence_ = std::max<uint64_t>(next_sequence_, newest + 1);
  const std::vector<uint64_t> orphans = index.EmptySegments();
  if (known == nullptr) {  // else the caller counts what is lost, by the block
    contents.damaged =
        unusable_entries + database.dropped_segments() + LostSegments(orphans, explained);
  }
  if (!orphans.empty() || !stale.empty()) {
    LogEvent(LogLevel::kInfo, "cold_leftovers_dropped",
             {{"segments", orphans.size()}, {"entries", stale.size()}});
  }
  // Durably, before a new segment can have the number that they name.
  if (!stale.empty() && !Noted(database.Commit(stale, /*durable=*/true)).ok()) return contents;
  for (const uint64_t sequence : orphans) {
    if (database.RemoveSegment(sequence).ok()) {
      index.RemoveSegment(sequence);
    } else {
      MutexLock lock(mutex_);
      to_remove_.push_back(sequence);
    }
  }
  std::vector<EntryChange> gone;
  for (const uint64_t sequence : explained) {
    if (!index.HasSegment(sequence)) gone.push_back({LeavingRef(sequence), ""});
  }
  if (!gone.empty()) (void)Noted(database.Commit(gone, /*durable=*/false));
  return contents;
}

absl::Status LogTier::Noted(absl::Status status) {
  if (status.ok()) return status;
  MutexLock lock(mutex_);
  if (refusal_.empty()) {
    LogEvent(LogLevel::kError, "cold_tier_refuses_writes", {{"cause", status}});
  }
  refusal_ = std::string(status.message());
  return status;
}

absl::Status LogTier::GoOn() const {
  MutexLock lock(mutex_);
  if (database_ != nullptr && refusal_.empty()) return absl::OkStatus();
  return absl::UnavailableError("cold tier: given up, as writes are refused: " + refusal_);
}

absl::StatusOr<LogTier::Database> LogTier::Writable() {
  {
    MutexLock lock(mutex_);
    if (database_ != nullptr && refusal_.empty()) refusal_ = database_->Error();
    if (database_ != nullptr && refusal_.empty()) return database_;
    const auto now = std::chrono::steady_clock::now();
    if (reopening_ || now < reopen_at_) {
      return absl::UnavailableError("cold tier: writes are refused: " + refusal_);
    }
    reopening_ = true;
    reopen_at_ = now + options_.reopen_pause;
  }
  const absl::Status status = Reopen();
  MutexLock lock(mutex_);
  reopening_ = false;
  if (!status.ok()) refusal_ = std::string(status.message());
  if (!status.ok()) return status;
  LogEvent(LogLevel::kInfo, "cold_tier_accepts_writes");
  return database_;
}

// As long as the directory takes no writes the database stays open, for reads.
absl::Status LogTier::Reopen() {
  TC_RETURN_IF_ERROR(ProbeStore(options_.directory, options_.file_system));
  TC_RETURN_IF_ERROR(CloseDatabase());
  LogIndex known;
  {
    MutexLock lock(mutex_);
    known = index_;
  }
  TC_RETURN_IF_ERROR(OpenDatabase(&known));
  LookAside();
  return absl::OkStatus();
}

// RocksDB lets one have a store: whoever reads there has to be done. Reads that begin meanwhile are
// refused; they are misses.
absl::Status LogTier::CloseDatabase() {
  Database last;
  {
    MutexLock lock(mutex_);
    last = std::exchange(database_, nullptr);
  }
  const std::weak_ptr<SegmentDatabase> closing = last;
  last.reset();
  const auto patience = std::chrono::steady_clock::now() + kCloseWait;
  while (*open_count_ > 0 && std::chrono::steady_clock::now() < patience) {
    std::this_thread::sleep_for(kCloseStep);
  }
  if (*open_count_ == 0) return absl::OkStatus();
  MutexLock lock(mutex_);
  database_ = closing.lock();
  return absl::UnavailableError("cold tier: a read does not end, so it cannot be opened anew");
}

absl::Status LogTier::ForEach(const std::function<bool(const BlockRecord&)>& visit) {
  Database database;
  {
    MutexLock lock(mutex_);
    database = database_;
  }
  if (database == nullptr) return absl::UnavailableError("cold tier: it is not open");
  std::vector<EntryChange> dropped;
  UnusableEntries unusable;
  TC_RETURN_IF_ERROR(database->ForEachEntry([&](auto key, auto value) {
    const auto entry = ReadEntry(key, value);
    if (!entry.ok() || PlaceOf(entry->ref).sequence != entry->sequence) return true;
    const auto record = options_.envelope.DecodeRecord(entry->ref, entry->record);
    if (record.ok()) return visit(*record);
    unusable.Add(record.status());
    dropped.push_back({entry->ref, ""});
    return true;
  }));
  if (dropped.empty()) return absl::OkStatus();
  NoteDamage(unusable.Log());
  (void)Noted(database->Commit(dropped, /*durable=*/false));
  {
    MutexLock lock(
        mutex_);  // if they cannot be erased now, they are not here any more all the same
    for (const EntryChange& entry : dropped) index_.Erase(entry.ref);
  }
  RemoveEmptied(*database);
  return absl::OkStatus();
}

bool LogTier::RefusesWrites() const {
  MutexLock lock(mutex_);
  return database_ == nullptr || !refusal_.empty() || !database_->Error().empty();
}

std::string LogTier::State() const {
  MutexLock lock(mutex_);
  const std::string error =
      refusal_.empty() && database_ != nullptr ? database_->Error() : refusal_;
  if (database_ == nullptr) return "closed: " + error + "; it is opened again by itself";
  if (!error.empty()) {
    return "reads only: " + error + "; mend the disk or free some: it is opened anew by itself";
  }
  std::vector<std::string> told;
  if (std::chrono::steady_clock::now() < damage_told_until_) {
    told.push_back("blocks did not verify of late, and are misses; look at the disk");
  }
  const std::string& store = database_->set_aside();
  if (!store.empty() && store != aside_) {
    told.push_back("began empty: an unusable store was removed, as its room is needed");
  } else if (!aside_.empty()) {
    told.push_back((store.empty() ? "" : "began empty: ") +
                   ("an unusable store was set aside as " + aside_) +
                   "; look at it, and remove it");
  }
  if (damaged_ > 0) {
    told.push_back(
        std::to_string(damaged_) +
        " of its segments and entries were damaged or gone when it was opened; look at the disk");
  }
  return told.empty() ? "ok" : absl::StrJoin(told, "; ");
}

}  // namespace thermocline
