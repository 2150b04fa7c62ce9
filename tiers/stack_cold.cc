// What goes to the cold tier and leaves it. One job, of erasures or of writes, is under way at
// most, so that writes find the room that was counted for them, and calls about one block keep
// their order.
//
// In a tier of segments room is made by giving up the oldest one whole. Of its blocks those that
// are warm too lose their copy, and tails leave with their names; what is left (pinned, leased, or
// before others) is written anew. Recency needs no second chance there: what is used is promoted,
// and written with the young when it sinks again.
#include <algorithm>
#include <iterator>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

// Of the oldest segments one goes that gives back half of its bytes, else the best of so many.
constexpr int kSegmentsLookedAt = 8;
constexpr int kSegmentsToFold = 16;
constexpr uint64_t kSameSize =
    4;  // of segments to fold: a factor, lest large ones go again and again
constexpr std::chrono::hours kStuckTime{1};
constexpr uint64_t kLeastSegmentBytes = 1 * MiB;
constexpr uint64_t kMostSegmentBytes = 256 * MiB;
// What a medium adds, at most: to each block its entry in an index, and to a segment.
constexpr uint64_t kBlockExtraBytes = 256;
constexpr uint64_t kSegmentExtraBytes = 2 * KiB;
constexpr uint64_t kTierSegments = 16;      // of the warm tier and of the cold one,
constexpr uint64_t kLeastTierSegments = 4;  // or so many of a small one

uint64_t ColdBytes(const BlockHeader& header) { return StoredBytes(header) + kBlockExtraBytes; }

/// Segments in a row that are to become one.
struct SegmentRun {
  SegmentDrop fold;
  int segments = 0;
  uint64_t bytes = 0, least = UINT64_MAX, most = 0;

  bool Fits(uint64_t more, uint64_t limit) const {
    if (segments == 0) return true;
    return bytes + more <= limit && more <= least * kSameSize && more >= most / kSameSize;
  }
  void Add(uint64_t sequence, uint64_t more) {
    if (segments++ == 0) fold.sequence = sequence;
    bytes += more;
    least = std::min(least, more);
    most = std::max(most, more);
  }
};

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
bool StackCore::MayEnterCold(const PlaceState& state) const {
  return !flushes_.empty() || write_budget_.Admits(state.reused);
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
  if (segment_drop_) return true;
  auto segment = cold_->SegmentFrom(0);
  return segment ? EvictSegment(*std::move(segment)) : EvictCold(bytes) > 0;
}

// False when none would give anything back. What was promised to be on disk stays there, unless
// nothing else can go.
bool StackCore::EvictSegment(TierSegment oldest) {
  writer_.LookAtPins();
  const bool keep_warm = options_.durability == Durability::kAck;
  std::optional<SegmentPlan> best = BestSegment(oldest, keep_warm);
  if (!best && keep_warm) best = BestSegment(std::move(oldest), false);
  if (!best) return false;
  for (const BlockRef ref : best->lost) LoseColdCopy(ref);
  DropColdTails(best->dropped);
  segment_drop_ = SegmentDrop{.sequence = best->segment.sequence};
  for (const BlockRef ref : best->segment.blocks) {
    if (HasColdCopy(ref)) segment_drop_->keep.push_back(ref);
  }
  return true;
}

// From the oldest one on.
std::optional<SegmentPlan> StackCore::BestSegment(TierSegment oldest, bool keep_warm) const {
  std::optional<SegmentPlan> best;
  std::optional<TierSegment> segment = std::move(oldest);
  for (int looked = 0; segment && (looked < kSegmentsLookedAt || !best); ++looked) {
    const uint64_t next = segment->sequence + 1;
    if (IsStuck(segment->sequence)) {
      segment = cold_->SegmentFrom(next);
      continue;
    }
    SegmentPlan plan = PlanOf(*std::move(segment), keep_warm);
    const bool is_good = plan.gain() >= plan.segment.bytes / 2;
    const bool gives_back = plan.gives_way() || plan.gain() >= plan.segment.bytes / 8;
    if (gives_back && (!best || plan.gain() > best->gain())) best = std::move(plan);
    if (is_good) break;
    segment = cold_->SegmentFrom(next);
  }
  return best;
}

SegmentPlan StackCore::PlanOf(TierSegment segment, bool keep_warm) const {
  SegmentPlan plan{.segment = std::move(segment)};
  // What stands behind a place has a higher id.
  std::vector<BlockRef> blocks = plan.segment.blocks;
  std::sort(blocks.begin(), blocks.end(),
            [](const BlockRef& a, const BlockRef& b) { return a.id > b.id; });
  std::unordered_set<uint64_t> taken;
  for (const BlockRef ref : blocks) {
    if (!HasColdCopy(ref) || taken.contains(ref.id)) continue;
    const Place place = *writer_.PlaceOf(ref.id);
    const PlaceState& state = places_.at(ref.id);
    const bool is_warm = writer_.word(place, ref.part).warm_slot() != 0;
    if (is_warm && !keep_warm && !state.busy() && state.pins == 0) {
      plan.lost.push_back(ref);
    } else if (!is_warm && state.pins == 0 && MayLeaveCold(state, place, taken)) {
      taken.insert(ref.id);
      plan.dropped.push_back(ref.id);
    } else {
      plan.kept_bytes += spaces_.at(state.space).StoredBytes(ref.part) + kBlockExtraBytes;
    }
  }
  if (plan.kept_bytes > 0) plan.kept_bytes += kSegmentExtraBytes;
  return plan;
}

// What commits wait for is written in small segments: of many in a row, of about one size, there
// will be one.
void StackCore::FoldSegments() {
  if (cold_ == nullptr || job_running_ || segment_drop_ || !cold_writable()) return;
  SegmentRun run;
  for (auto segment = cold_->SegmentFrom(fold_from_); segment;
       segment = cold_->SegmentFrom(segment->sequence + 1)) {
    const bool is_small = segment->bytes < SegmentBytes() / kSegmentsToFold;
    const bool may_fold = is_small && !IsStuck(segment->sequence);
    if (!may_fold || !run.Fits(segment->bytes, SegmentBytes())) {
      if (run.segments >= kSegmentsToFold) break;
      run = {};
      if (!is_small) fold_from_ = segment->sequence + 1;
    }
    if (!may_fold) continue;
    run.Add(segment->sequence, segment->bytes);
    std::copy_if(segment->blocks.begin(), segment->blocks.end(), std::back_inserter(run.fold.keep),
                 [&](BlockRef ref) { return HasColdCopy(ref); });
  }
  if (run.segments < kSegmentsToFold) return;
  segment_drop_ = std::move(run.fold);
  SchedulePump();
}

// Whether it could not be given up, a while ago.
bool StackCore::IsStuck(uint64_t sequence) const {
  const auto stuck = stuck_.find(sequence);
  return stuck != stuck_.end() && options_.clock->Now() < stuck->second;
}

// Not of one that is about to be erased.
bool StackCore::HasColdCopy(BlockRef ref) const {
  const auto place = writer_.PlaceOf(ref.id);
  return place && ref.part < places_.at(ref.id).parts.size() &&
         writer_.word(*place, ref.part).cold_copy();
}

/// Of one segment; as long as a pause for writing it is worth.
uint64_t StackCore::SegmentBytes() const {
  const uint64_t share =
      std::min(options_.warm_capacity_bytes, options_.cold_capacity_bytes) / kTierSegments;
  return std::min(std::clamp(share, kLeastSegmentBytes, kMostSegmentBytes),
                  options_.cold_capacity_bytes / kLeastTierSegments);
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

// Erasures first, and writes only into room that is there: what a queued erasure will free is not
// known before it is done, as the block may be lost or dropped already.
void StackCore::RunColdJob() {
  if (cold_ == nullptr || job_running_) return;
  cold_full_ = false;
  if (!cold_writable()) return CancelWrites();
  ColdJob job;
  const bool makes_room = !erasures_.empty() || segment_drop_;
  if (!makes_room && !planned_writes_.empty()) TakeWrites(job);
  if (job.writes.empty()) {
    job.erasures = std::exchange(erasures_, {});
    job.drop = std::exchange(segment_drop_, {});
  }
  if (job.drop) {
    for (const BlockRef ref : job.drop->keep) {
      if (HasColdCopy(ref)) write_budget_.Spend(BytesOf(ref));
    }
  }
  if (job.writes.empty() && job.erasures.empty() && !job.drop) return;
  job_running_ = true;
  job_began_ = options_.clock->Now();
  ++cold_jobs_;
  cold_writes_.Try();
  options_.disk([cold = cold_, host = host_, strand = options_.strand,
                 weak = std::weak_ptr<StackCore*>(self_), job = std::move(job)]() mutable {
    for (const BlockRef ref : job.erasures) {
      const absl::Status erased = cold->Erase(ref);
      if (!erased.ok()) job.failed_erasures.push_back(ref);
      job.erase_status.Update(erased);
    }
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

// As many planned writes as fit a segment, once there is room for them. If none can be made, as
// many as have some.
void StackCore::TakeWrites(ColdJob& job) {
  uint64_t wanted = 0;
  for (const ColdWrite& write : planned_writes_) wanted += ColdBytes(write.record);
  wanted = std::max(std::min(wanted, SegmentBytes()), ColdBytes(planned_writes_[0].record));
  wanted += kSegmentExtraBytes;
  const bool more_comes = GrowCold(wanted);
  const TierUsage usage = cold_->Usage();
  const uint64_t capacity = ColdCapacity(usage);
  const uint64_t room = capacity - std::min(usage.used_bytes, capacity);
  // Not a little segment whenever a little room is left.
  if (wanted > room && !more_comes && MakeColdRoom(wanted - room)) return;
  uint64_t bytes = kSegmentExtraBytes;
  std::vector<ColdWrite> later;
  for (ColdWrite& write : planned_writes_) {
    const uint64_t stored = ColdBytes(write.record);
    const bool full = !job.writes.empty() &&
                      (job.writes.size() >= kMaxBatchBlocks || bytes + stored > SegmentBytes());
    if (full || bytes + stored > room) {
      later.push_back(std::move(write));
    } else {
      bytes += stored;
      write_budget_.Spend(stored);
      job.writes.push_back(std::move(write));
    }
  }
  planned_writes_ = std::move(later);
  if (!job.writes.empty() || more_comes) return;
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
  absl::Status cause = job.erase_status;
  if (job.drop && !job.drop_status.ok()) {  // a sector that cannot be read, perhaps
    stuck_[job.drop->sequence] = options_.clock->Now() + kStuckTime;
    LogEvent(LogLevel::kWarning, "cold_segment_stuck",
             {{"sequence", job.drop->sequence}, {"cause", std::string(job.drop_status.message())}});
  }
  doomed_is_free_ = true;
  for (const BlockRef ref : job.erasures) {
    PlaceState* const state = places_.Find(ref.id);
    if (state != nullptr) state->parts[ref.part].erasing = false;
  }
  for (const BlockRef ref : job.failed_erasures) {
    PlaceState* const state = places_.Find(ref.id);
    if (state != nullptr) state->parts[ref.part].erasing = true;
    erasures_.push_back(ref);
  }
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
  if (refused) write_refusal_ = std::string(cause.message());
  if (!refused) {
    cold_writes_.Succeeded();
  } else if (cold_writes_.Failed()) {
    LogEvent(LogLevel::kWarning, "cold_tier_refused",
             {{"cause", write_refusal_}, {"retry_ms", kColdPause.count()}});
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
