// What goes to the cold tier and leaves it. One job, of erasures or of writes, is under way at
// most, so that writes find the room that was counted for them, and calls about one block keep
// their order. Small segments are made large ones beside the jobs (stack_fold.cc).
//
// In a tier of segments room is made by giving up the oldest one whole. Of its blocks those that
// are warm too lose their copy, and tails leave with their names; what is left (pinned, leased, or
// before others) is written anew. Recency needs no second chance there: what is used is promoted,
// and written with the young when it sinks again. Nothing goes before the tier has given the
// segment up: a disk that refuses costs no block.
#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

// Of the oldest segments one goes that gives back half of its bytes, else the best of so many. One
// that gives back less than a sixteenth, so that all but that is written again for it, goes only if
// no other of those with so many blocks gives more.
constexpr int kSegmentsLookedAt = 8;
constexpr uint64_t kLeastGain = 16;  // a share of a segment's bytes
constexpr size_t kBlocksLookedAt = size_t{1} << 18;
constexpr uint64_t kMostJobBytes = 32 * MiB;  // while somebody waits
constexpr int kFailuresUntilStuck = 2;
constexpr std::chrono::minutes kLeastStuckTime{1};  // doubled with each further failure
constexpr std::chrono::hours kMostStuckTime{1};
constexpr uint64_t kLeastSegmentBytes = 1 * MiB;
constexpr uint64_t kMostSegmentBytes = 256 * MiB;
constexpr uint64_t kTierSegments = 16;      // of the warm tier and of the cold one,
constexpr uint64_t kLeastTierSegments = 4;  // or so many of a small one

uint64_t ColdBytes(const BlockHeader& header) {
  return MostUsedBytes(StoredBytes(header), RecordBytes(header));
}

}  // namespace

bool StackCore::ColdJobIsLate() const {
  return job_running_ && options_.clock->Now() >= job_began_ + options_.write_deadline;
}

bool StackCore::cold_writable() const {
  return cold_ != nullptr && !ColdJobIsLate() && (job_running_ || cold_writes_.Allows());
}

// One that does not come back says nothing itself.
void StackCore::LookAtColdJob() {
  if (!ColdJobIsLate() || std::exchange(late_job_, cold_jobs_) == cold_jobs_) return;
  LogEvent(LogLevel::kWarning, "cold_write_late",
           {{"after_ms", options_.write_deadline.count()}, {"data_dir", options_.data_dir}});
}

// What is flushed or drained is written whatever it costs.
bool StackCore::MayEnterCold(uint64_t id, const PlaceState& state) const {
  if (!write_budget_.is_limited()) return true;
  const bool is_flushed = std::any_of(flushes_.begin(), flushes_.end(), [](const auto& flush) {
    return flush.tier == TierKind::kWarm && !flush.drop;
  });
  if (is_flushed) return true;
  const double left = write_budget_.Left();
  return left > 0 && warm_policy_->Admits(id, state.reused, left);
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
  std::vector<uint64_t> tails;
  for (const uint64_t id : victims) {
    const Place place = *writer_.PlaceOf(id);
    if (!IsWarm(place)) {
      tails.push_back(id);
      continue;
    }
    for (uint32_t part = 0; part < places_.at(id).parts.size(); ++part) {
      blocks += LoseColdCopy({id, static_cast<uint16_t>(part)}) ? 1 : 0;
    }
  }
  return blocks + DropColdTails(tails);
}

// Answers how many blocks have gone; what has been leased meanwhile stays.
uint64_t StackCore::DropColdTails(const std::vector<uint64_t>& ids) {
  std::vector<Place> places;
  std::vector<uint64_t> copies;
  for (const uint64_t id : ids) {
    places.push_back(*writer_.PlaceOf(id));
    copies.push_back(ColdParts(places.back()));
  }
  DropTails(std::move(places));
  uint64_t blocks = 0;
  for (size_t i = 0; i < ids.size(); ++i) blocks += places_.contains(ids[i]) ? 0 : copies[i];
  cold_counters_.evictions += blocks;
  return blocks;
}

// Room for so many bytes, in the tier's way. Whether any comes, by the next job.
bool StackCore::MakeColdRoom(uint64_t bytes) {
  if (dropping_) return true;
  if (!folding_.empty() && fold_room_ == 0) return false;  // one may exceed the capacity at a time
  return cold_->SegmentFrom(0) ? EvictSegment() : EvictCold(bytes) > 0;
}

// False when none would give anything back. What was promised to be on disk stays there, unless
// nothing else can go.
bool StackCore::EvictSegment() {
  writer_.LookAtPins();
  bool keep_warm = options_.durability == Durability::kAck;
  std::optional<SegmentPlan> best = BestSegment(keep_warm);
  if (!best) return false;
  std::vector<BlockRef>& warm = keep_warm ? best->kept : best->going;
  warm.insert(warm.end(), best->warm.begin(), best->warm.end());
  for (const BlockRef ref : best->going) PartOf(ref)->leaving = true;
  dropping_ = best->segment.sequence;
  segment_drop_ = SegmentDrop{
      .sequence = *dropping_, .keep = std::move(best->kept), .going = std::move(best->going)};
  return true;
}

// From the oldest one on. If there is none that keeps what is warm, one that does not, which it
// then says. The strand waits for so many blocks at most: where it ends in vain the next search
// goes on.
std::optional<SegmentPlan> StackCore::BestSegment(bool& keep_warm) {
  std::optional<SegmentPlan> best, losing;
  const auto prefer = [](std::optional<SegmentPlan>& best, SegmentPlan& plan, bool keep_warm) {
    if (!plan.GivesWay(keep_warm)) return false;
    if (best && plan.Gain(keep_warm) <= best->Gain(keep_warm)) return false;
    best = std::move(plan);
    return true;
  };
  const auto is_worth_it = [](const std::optional<SegmentPlan>& plan, bool keep_warm) {
    return plan && plan->Gain(keep_warm) >= plan->segment.bytes / kLeastGain;
  };
  size_t blocks = 0;
  auto segment = cold_->SegmentFrom(std::exchange(room_from_, 0));
  for (int looked = 0; segment; ++looked) {
    if (looked >= kSegmentsLookedAt && is_worth_it(best, keep_warm)) break;
    const uint64_t next = segment->sequence + 1;
    if (blocks >= kBlocksLookedAt) {
      if (!best && !losing) room_from_ = segment->sequence;
      break;
    }
    blocks += segment->blocks.size();
    if (!IsStuck(segment->sequence) && !IsFolding(segment->sequence)) {
      SegmentPlan plan = PlanOf(*std::move(segment));
      const bool is_good = plan.Gain(keep_warm) >= plan.segment.bytes / 2;
      if (!prefer(best, plan, keep_warm) && keep_warm) prefer(losing, plan, false);
      if (is_good) break;
    }
    segment = cold_->SegmentFrom(next);
  }
  if (!best && losing) keep_warm = false;
  return best ? std::move(best) : std::move(losing);
}

SegmentPlan StackCore::PlanOf(TierSegment segment) const {
  SegmentPlan plan{.segment = std::move(segment)};
  // What stands behind a place has a higher id.
  std::vector<BlockRef> blocks = std::exchange(plan.segment.blocks, {});
  std::sort(blocks.begin(), blocks.end(),
            [](const BlockRef& a, const BlockRef& b) { return a.id > b.id; });
  std::unordered_set<uint64_t> taken;
  for (const BlockRef ref : blocks) {
    if (!HasColdCopy(ref)) continue;
    const Place place = *writer_.PlaceOf(ref.id);
    const PlaceState& state = places_.at(ref.id);
    const Space& space = spaces_.at(state.space);
    const uint64_t bytes = MostUsedBytes(space.StoredBytes(ref.part), space.record_bytes());
    const bool is_warm = IsInMemory(writer_.word(place, ref.part), state.parts[ref.part]);
    if (taken.contains(ref.id)) {
      plan.going.push_back(ref);
    } else if (is_warm && !state.busy() && state.pins == 0) {
      plan.warm.push_back(ref);
      plan.warm_bytes += bytes;
    } else if (!is_warm && state.pins == 0 && MayLeaveCold(state, place, taken)) {
      taken.insert(ref.id);
      plan.going.push_back(ref);
    } else {
      plan.kept.push_back(ref);
      plan.kept_bytes += bytes;
    }
  }
  if (!plan.kept.empty()) plan.kept_bytes += kMostExtraBytes;
  return plan;
}

// Whether it could not be given up, a while ago.
bool StackCore::IsStuck(uint64_t sequence) const {
  const auto stuck = stuck_.find(sequence);
  return stuck != stuck_.end() && options_.clock->Now() < stuck->second.until;
}

// A sector that cannot be read, perhaps. A disk that is full, or takes no writes at all, is not the
// segment's fault.
void StackCore::NoteStuck(uint64_t sequence, const absl::Status& why) {
  if (absl::IsResourceExhausted(why) || cold_->RefusesWrites()) return;
  const SteadyTime now = options_.clock->Now();
  std::erase_if(stuck_, [&](const auto& stuck) {
    return now > stuck.second.until + kMostStuckTime;  // it has gone otherwise, perhaps
  });
  StuckSegment& stuck = stuck_.try_emplace(sequence, StuckSegment{.until = now}).first->second;
  if (++stuck.failures < kFailuresUntilStuck) return;
  const int doublings = std::min(stuck.failures - kFailuresUntilStuck, 16);
  stuck.until =
      now + std::min<std::chrono::seconds>(kLeastStuckTime * (1 << doublings), kMostStuckTime);
  LogEvent(LogLevel::kWarning, "cold_segment_stuck", {{"sequence", sequence}, {"cause", why}});
}

// What the tier has dropped by itself: what is warm is written again, the rest is lost.
void StackCore::ForgetLostCopies() {
  if (cold_ == nullptr) return;
  std::vector<LostBlock> lost = cold_->TakeLost();
  std::erase_if(lost, [&](const LostBlock& block) { return !HasColdCopy(block.ref); });
  if (lost.empty()) return;
  const auto tell = [&](Loss why, LogLevel level, const char* event) {
    const auto blocks = std::count_if(lost.begin(), lost.end(),
                                      [&](const LostBlock& block) { return block.why == why; });
    if (blocks > 0) LogEvent(level, event, {{"blocks", blocks}, {"data_dir", options_.data_dir}});
  };
  tell(Loss::kDamaged, LogLevel::kWarning, "cold_copies_lost");
  tell(Loss::kErased, LogLevel::kInfo, "cold_copies_erased");
  tell(Loss::kSealed, LogLevel::kInfo, "cold_blocks_without_key");
  std::vector<Place> tails;
  for (const auto& [ref, why] : lost) {
    const Place place = *writer_.PlaceOf(ref.id);
    ChangeWord(ref.id, place, ref.part, writer_.word(place, ref.part).WithColdCopy(false));
    if (!writer_.word(place, ref.part).empty()) continue;
    NoteIncomplete(ref.id);
    if (!HasBytes(place) && writer_.IsLeaf(place)) tails.push_back(place);
  }
  DropTails(std::move(tails));
}

// nullptr: it is not here, or never was.
StackCore::PartState* StackCore::PartOf(BlockRef ref) {
  PlaceState* const state = places_.Find(ref.id);
  return state != nullptr && ref.part < state->parts.size() ? &state->parts[ref.part] : nullptr;
}

// Not of one that is about to be erased.
bool StackCore::HasColdCopy(BlockRef ref) const {
  const auto place = writer_.PlaceOf(ref.id);
  return place && ref.part < places_.at(ref.id).parts.size() &&
         writer_.word(*place, ref.part).cold_copy();
}

bool StackCore::HasLastingCopy(BlockRef ref) const {
  return HasColdCopy(ref) && !places_.at(ref.id).parts[ref.part].leaving;
}

uint64_t StackCore::BytesOf(BlockRef ref) const {
  return spaces_.at(places_.at(ref.id).space).spec.parts[ref.part].block_bytes;
}

/// Of one segment; as long as a pause for writing it is worth.
uint64_t StackCore::SegmentBytes() const {
  const uint64_t share =
      std::min(options_.warm_capacity_bytes, options_.cold_capacity_bytes) / kTierSegments;
  return std::min(std::clamp(share, kLeastSegmentBytes, kMostSegmentBytes),
                  options_.cold_capacity_bytes / kLeastTierSegments);
}

// Whether all of its cold parts are in memory, too, if it be a device's.
bool StackCore::IsWarm(Place place) const {
  const PlaceState& state = places_.at(writer_.IdOf(place));
  for (uint32_t part = 0; part < spaces_.at(state.space).part_count(); ++part) {
    const Word word = writer_.word(place, part);
    if (word.cold_copy() && !IsInMemory(word, state.parts[part])) return false;
  }
  return true;
}

bool StackCore::MayLeaveCold(const PlaceState& state, Place place,
                             const std::unordered_set<uint64_t>& taken) const {
  if (state.busy() || state.pins > 0) return false;
  if (IsWarm(place)) return true;
  if (!StandsOnly(place, taken)) return false;
  return MayLeaveWarm(state) && !writer_.LookedPinned(place);
}

uint64_t StackCore::ColdParts(Place place) const {
  uint64_t count = 0;
  const uint32_t parts = spaces_.at(places_.at(writer_.IdOf(place)).space).part_count();
  for (uint32_t part = 0; part < parts; ++part) {
    count += writer_.word(place, part).cold_copy() ? 1 : 0;
  }
  return count;
}

// False when there is none.
bool StackCore::LoseColdCopy(BlockRef ref) {
  const Place place = *writer_.PlaceOf(ref.id);
  const Word word = writer_.word(place, ref.part);
  if (!word.cold_copy()) return false;
  ChangeWord(ref.id, place, ref.part, word.WithColdCopy(false));
  QueueErasure(ref.id, ref.part);
  return true;
}

// Erasures first, in turn with writes, and writes only into room that is there: what a queued
// erasure will free is not known before it is done, as the block may be lost or dropped already.
void StackCore::RunColdJob() {
  if (cold_ == nullptr) return;
  if (!cold_writable()) CancelWrites();
  if (job_running_) return;
  cold_full_ = false;
  if (!cold_writable()) return;
  ColdJob job;
  const bool is_writes_turn = erasures_.empty() || writes_are_next_;
  if (is_writes_turn && !segment_drop_ && !planned_writes_.empty()) TakeWrites(job);
  if (job.writes.empty()) {
    const size_t count = std::min<size_t>(erasures_.size(), kMaxBatchBlocks);
    job.erasures.assign(erasures_.end() - static_cast<ptrdiff_t>(count), erasures_.end());
    erasures_.resize(erasures_.size() - count);
    job.drop = std::exchange(segment_drop_, {});
  }
  if (job.drop) {
    for (const BlockRef ref : job.drop->keep) {
      if (HasColdCopy(ref)) write_budget_.Spend(BytesOf(ref));
    }
  }
  if (job.writes.empty() && job.erasures.empty() && !job.drop) {
    if (!cold_->RefusesWrites() || closing_) return;
    job.probe = true;  // reads, too, may wait for it
  }
  writes_are_next_ = job.writes.empty();
  job_running_ = true;
  job_began_ = options_.clock->Now();
  ++cold_jobs_;
  cold_writes_.Try();
  options_.disk([cold = cold_, host = host_, strand = options_.strand,
                 weak = std::weak_ptr<StackCore*>(self_), job = std::move(job)]() mutable {
    if (job.probe) job.probe_status = cold->Sync();
    if (!job.erasures.empty()) job.erase_status = cold->EraseAll(job.erasures);
    if (job.drop) job.drop_status = cold->DropSegment(job.drop->sequence, job.drop->keep);
    // The last of its blocks may have been erased just now.
    if (absl::IsNotFound(job.drop_status)) job.drop_status = absl::OkStatus();
    std::vector<TierPut> puts;
    for (const ColdWrite& write : job.writes) {
      puts.push_back({&write.record, host->Payload(write.offset, write.record.payload_bytes)});
    }
    cold->PutAll(puts);
    for (size_t i = 0; i < puts.size(); ++i) job.writes[i].status = std::move(puts[i].status);
    strand([weak, job = std::move(job)]() mutable {
      if (const auto self = weak.lock()) (*self)->FinishColdJob(std::move(job));
    });
  });
}

// As many planned writes as fit a segment, once there is room for them beside that of a fold. If
// none can be made, as many as have some, of that too.
void StackCore::TakeWrites(ColdJob& job) {
  uint64_t wanted = 0;
  for (const ColdWrite& write : planned_writes_) wanted += ColdBytes(write.record);
  const uint64_t most =
      durable_waits_.empty() ? SegmentBytes() : std::min(SegmentBytes(), kMostJobBytes);
  wanted = std::max(std::min(wanted, most), ColdBytes(planned_writes_[0].record));
  wanted += kMostExtraBytes;
  const bool more_comes = GrowCold(wanted + fold_room_);
  const TierUsage usage = cold_->Usage();
  const uint64_t capacity = ColdCapacity(usage);
  uint64_t room = capacity - std::min(usage.used_bytes + fold_room_, capacity);
  if (wanted > room && !erasures_.empty()) return;
  // Not a little segment whenever a little room is left.
  if (wanted > room && !more_comes) {
    if (MakeColdRoom(wanted - room)) return;
    fold_room_ = 0;
    room = capacity - std::min(usage.used_bytes, capacity);
  }
  uint64_t bytes = kMostExtraBytes;
  std::vector<ColdWrite> later;
  for (ColdWrite& write : planned_writes_) {
    const uint64_t stored = ColdBytes(write.record);
    const bool full =
        !job.writes.empty() && (job.writes.size() >= kMaxBatchBlocks || bytes + stored > most);
    if (full || bytes + stored > room) {
      later.push_back(std::move(write));
    } else {
      bytes += stored;
      write_budget_.Spend(StoredBytes(write.record));
      job.writes.push_back(std::move(write));
    }
  }
  planned_writes_ = std::move(later);
  if (!job.writes.empty() || more_comes) return;
  cold_full_ = true;
  CancelWrites();
}

// While the tier takes no writes nothing is held for them: who needs a slot now must see what can
// be dropped.
void StackCore::CancelWrites() {
  if (segment_drop_) {
    for (const BlockRef ref : segment_drop_->going) PartOf(ref)->leaving = false;
    segment_drop_.reset();
    dropping_.reset();
    SchedulePump();
  }
  if (planned_writes_.empty()) return;
  for (const ColdWrite& write : planned_writes_) PartOf(write.ref)->writing = false;
  planned_writes_.clear();
  doomed_is_free_ = true;
  SchedulePump();
}

void StackCore::FinishColdJob(ColdJob job) {
  job_running_ = false;
  doomed_is_free_ = true;
  FinishErasures(job);
  if (job.drop) FinishDrop(*job.drop, job.drop_status);
  ForgetLostCopies();
  absl::Status refused = job.probe_status;
  refused.Update(job.erase_status);
  const bool was_read_in_vain = absl::IsAborted(job.drop_status);
  if (!was_read_in_vain) refused.Update(job.drop_status);
  for (const ColdWrite& write : job.writes) {
    FinishWrite(write);
    if (!absl::IsDataLoss(write.status)) refused.Update(write.status);
  }
  if (!was_read_in_vain || !refused.ok()) NoteWrites(refused);
  SchedulePump();
}

void StackCore::NoteWrites(const absl::Status& status) {
  if (status.ok()) return cold_writes_.Succeeded();
  write_refusal_ = std::string(status.message());
  if (!cold_writes_.Failed()) return;
  LogEvent(LogLevel::kWarning, "cold_tier_refused",
           {{"cause", status}, {"retry_ms", kColdPause.count()}});
}

// Those that failed, and perhaps some that did not, are tried again.
void StackCore::FinishErasures(const ColdJob& job) {
  const bool done = job.erase_status.ok();
  for (const BlockRef ref : job.erasures) {
    PartState* const part = PartOf(ref);
    if (part != nullptr) part->erasing = !done;
  }
  if (!done) erasures_.insert(erasures_.end(), job.erasures.begin(), job.erasures.end());
}

// What is not warm leaves with its name, unless it is held by now.
void StackCore::FinishDrop(const SegmentDrop& drop, const absl::Status& status) {
  dropping_.reset();
  for (const BlockRef ref : drop.going) PartOf(ref)->leaving = false;
  if (!status.ok()) return NoteStuck(drop.sequence, status);
  stuck_.erase(drop.sequence);
  std::vector<Place> tails;
  std::unordered_set<uint64_t> gone;
  for (const BlockRef ref : drop.going) {
    const Place place = *writer_.PlaceOf(ref.id);  // busy places are not dropped
    const Word word = writer_.word(place, ref.part);
    if (!word.cold_copy()) continue;
    ChangeWord(ref.id, place, ref.part, word.WithColdCopy(false));
    if (!writer_.word(place, ref.part).empty()) continue;
    ++cold_counters_.evictions;
    NoteIncomplete(ref.id);
    if (gone.insert(ref.id).second) tails.push_back(place);
  }
  DropTails(std::move(tails));
}

void StackCore::FinishWrite(const ColdWrite& write) {
  const auto place = writer_.PlaceOf(write.ref.id);
  TC_CHECK(place.has_value());  // busy places are not dropped
  PartOf(write.ref)->writing = false;
  if (write.status.ok()) {
    const Word word = writer_.word(*place, write.ref.part);
    ChangeWord(write.ref.id, *place, write.ref.part, word.WithColdCopy(true));
    cold_counters_.bytes_in += write.record.payload_bytes;
    warm_counters_.bytes_out += write.record.payload_bytes;
  } else if (absl::IsDataLoss(write.status)) {
    NoteSpoiled(write.ref, *place);
    DropWhatIsSpoiled();
  }
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
