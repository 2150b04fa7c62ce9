// What goes to the cold tier and leaves it. One job, of erasures or of writes, is under way at
// most, so that writes find the room that was counted for them, and calls about one block keep
// their order.
#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr std::chrono::seconds kColdBackoff{5};

}  // namespace

bool StackCore::cold_writable() const {
  return cold_ != nullptr &&
         (!cold_refused_until_ || options_.clock->Now() >= *cold_refused_until_);
}

void StackCore::QueueErasure(uint64_t id, uint32_t part) {
  places_.at(id).parts[part].erasing = true;
  erasures_.push_back({id, static_cast<uint16_t>(part)});
}

// Leaf first: what is warm too loses its copy only; what is nowhere else leaves with its name, if
// nothing stands behind it. Answers how many blocks go; their erasures are queued.
uint64_t StackCore::EvictCold(uint64_t bytes, uint64_t newest) {
  std::vector<uint64_t> victims;
  std::unordered_set<uint64_t> taken;
  uint64_t found = 0;
  writer_.LookAtPins();
  cold_policy_->Victims([&](uint64_t id) {
    if (found >= bytes) return Policy::Answer::kStop;
    const PlaceState& state = places_.at(id);
    const Place place = *writer_.PlaceOf(id);
    if (IsNewer(state, newest)) return Policy::Answer::kTake;
    if (!MayLeaveCold(state, place, taken)) return Policy::Answer::kSkip;
    for (uint32_t part = 0; part < state.parts.size(); ++part) {
      if (!writer_.word(place, part).cold_copy()) continue;
      found += spaces_.at(state.space).StoredBytes(part);
    }
    if (!IsWarm(place)) taken.insert(id);
    victims.push_back(id);
    return Policy::Answer::kTake;
  });
  uint64_t blocks = 0;
  std::vector<Place> drops;
  std::vector<std::pair<uint64_t, uint64_t>> dropped;  // their ids and how many blocks they have
  for (const uint64_t id : victims) {
    const Place place = *writer_.PlaceOf(id);
    const uint64_t copies = ColdParts(place, static_cast<uint32_t>(places_.at(id).parts.size()));
    if (IsWarm(place)) {
      blocks += copies;
      LoseColdCopies(id, place);
    } else {
      drops.push_back(place);
      dropped.push_back({id, copies});
    }
  }
  DropTails(std::move(drops));
  for (const auto& [id, copies] : dropped) {
    if (places_.contains(id)) continue;
    blocks += copies;
    cold_counters_.evictions += copies;
  }
  return blocks;
}

// Whether all of its cold parts are in warm, too.
bool StackCore::IsWarm(Place place) const {
  const uint32_t parts = spaces_.at(places_.at(writer_.IdOf(place)).space).part_count();
  for (uint32_t part = 0; part < parts; ++part) {
    const Word word = writer_.word(place, part);
    if (word.cold_copy() && word.warm_slot() == 0) return false;
  }
  return true;
}

bool StackCore::MayLeaveCold(const PlaceState& state, Place place,
                             const std::unordered_set<uint64_t>& taken) const {
  if (state.busy()) return false;
  if (IsWarm(place)) return true;
  if (state.pins > 0 || !StandsOnly(place, taken)) return false;
  return MayLeaveWarm(state) && !writer_.LookedPinned(place);
}

uint64_t StackCore::ColdParts(Place place, uint32_t part_count) const {
  uint64_t count = 0;
  for (uint32_t part = 0; part < part_count; ++part) {
    count += writer_.word(place, part).cold_copy() ? 1 : 0;
  }
  return count;
}

// Of a place whose blocks are warm, too.
void StackCore::LoseColdCopies(uint64_t id, Place place) {
  for (uint32_t part = 0; part < places_.at(id).parts.size(); ++part) {
    const Word word = writer_.word(place, part);
    if (!word.cold_copy()) continue;
    ChangeWord(id, place, part, word.WithColdCopy(false));
    QueueErasure(id, part);
  }
}

// Erasures first, and writes only into room that is there: what a queued erasure will free is not
// known before it is done, as the block may be lost or dropped already.
void StackCore::RunColdJob() {
  if (cold_ == nullptr || job_running_) return;
  cold_full_ = false;
  if (!cold_writable()) return CancelWrites();
  ColdJob job;
  if (erasures_.empty() && !planned_writes_.empty()) TakeWrites(job);
  if (job.writes.empty()) job.erasures = std::exchange(erasures_, {});
  if (job.writes.empty() && job.erasures.empty()) return;
  job_running_ = true;
  options_.disk([cold = cold_, host = host_, strand = options_.strand,
                 weak = std::weak_ptr<StackCore*>(self_), job = std::move(job)]() mutable {
    for (const BlockRef ref : job.erasures) {
      if (!cold->Erase(ref).ok()) job.failed_erasures.push_back(ref);
    }
    for (ColdWrite& write : job.writes) {
      write.status =
          cold->Put(write.record, host->Payload(write.offset, write.record.payload_bytes));
    }
    strand([weak, job = std::move(job)]() mutable {
      if (const auto self = weak.lock()) (*self)->FinishColdJob(std::move(job));
    });
  });
}

// As many planned writes as fit a job and the room. If not even one does, room is made for all.
void StackCore::TakeWrites(ColdJob& job) {
  uint64_t wanted = 0;
  for (const ColdWrite& write : planned_writes_) wanted += StoredBytes(write.record);
  const bool more_comes = GrowCold(wanted);
  const TierUsage usage = cold_->Usage();
  const uint64_t capacity = ColdCapacity(usage);
  const uint64_t room = capacity - std::min(usage.used_bytes, capacity);
  uint64_t bytes = 0;
  std::vector<ColdWrite> later;
  for (ColdWrite& write : planned_writes_) {
    const uint64_t stored = StoredBytes(write.record);
    const bool full = !job.writes.empty() &&
                      (job.writes.size() >= kMaxBatchBlocks || bytes + stored > kMaxBatchBytes);
    if (full || bytes + stored > room) {
      later.push_back(std::move(write));
    } else {
      bytes += stored;
      job.writes.push_back(std::move(write));
    }
  }
  planned_writes_ = std::move(later);
  if (!job.writes.empty() || more_comes || EvictCold(wanted - room) > 0) return;
  cold_full_ = true;
  CancelWrites();
  SchedulePump();  // who needs a slot now must see what can be dropped
}

void StackCore::CancelWrites() {
  for (const ColdWrite& write : planned_writes_) {
    places_.at(write.ref.id).parts[write.ref.part].writing = false;
  }
  planned_writes_.clear();
}

void StackCore::FinishColdJob(ColdJob job) {
  job_running_ = false;
  bool refused = !job.failed_erasures.empty();
  for (const BlockRef ref : job.erasures) {
    PlaceState* const state = places_.Find(ref.id);
    if (state != nullptr) state->parts[ref.part].erasing = false;
  }
  for (const BlockRef ref : job.failed_erasures) {
    PlaceState* const state = places_.Find(ref.id);
    if (state != nullptr) state->parts[ref.part].erasing = true;
    erasures_.push_back(ref);
  }
  absl::Status cause;
  for (const ColdWrite& write : job.writes) {
    const auto place = writer_.PlaceOf(write.ref.id);
    TC_CHECK(place.has_value());  // busy places are not dropped
    PartState& part = places_.at(write.ref.id).parts[write.ref.part];
    part.writing = false;
    const Word word = writer_.word(*place, write.ref.part);
    if (write.status.ok()) {
      ChangeWord(write.ref.id, *place, write.ref.part, word.WithColdCopy(true));
      cold_counters_.bytes_in += write.record.payload_bytes;
      warm_counters_.bytes_out += write.record.payload_bytes;
    } else if (absl::IsDataLoss(write.status)) {
      DropSpoiled(write.ref, *place);
    } else {
      refused = true;
      cause = write.status;
    }
  }
  if (refused) {
    if (cold_writable()) {
      LogEvent(LogLevel::kWarning, "cold_tier_refused",
               {{"cause", std::string(cause.message())}, {"retry_s", kColdBackoff.count()}});
    }
    cold_refused_until_ = options_.clock->Now() + kColdBackoff;
  }
  SchedulePump();
}

// A warm block whose payload does not fit its header: a client spoiled it, or memory failed.
void StackCore::DropSpoiled(BlockRef ref, Place place) {
  Movement move{.place = place, .part = ref.part};
  if (writer_.BeginMove({&move, 1}) == 0) return;  // leased; it is met again
  ++stats_.corrupt_blocks;
  LogEvent(LogLevel::kWarning, "warm_block_dropped", {{"id", ref.id}, {"part", ref.part}});
  host_->Free(uint64_t{move.before.warm_slot()} * kPageBytes);
  ChangeWord(ref.id, place, ref.part, move.before.WithWarmSlot(0).WithChecked(false));
  if (!writer_.word(place, ref.part).empty()) return;
  NoteIncomplete(ref.id);
  if (!HasBytes(place)) DropLeaf(place);
}

}  // namespace thermocline
