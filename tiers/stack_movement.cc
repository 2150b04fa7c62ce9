// How slots come free and blocks go down: granting slots, leaf-first eviction from warm, write-back
// to cold ahead of need, eviction from cold, dropping names.
#include <algorithm>
#include <unordered_set>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

// Of a size's slots so many are kept free: 2%; of a few slots more, 64 or 5%; but two at least, and
// a quarter at most.
constexpr uint64_t kReserveDivisor = 50;
constexpr uint64_t kSmallReserve = 64;
constexpr uint64_t kSmallReserveDivisor = 20;
constexpr uint64_t kLeastReserve = 2;
constexpr uint64_t kMostReserveDivisor = 4;
// The reserve is filled up again once so much of it was taken: one look at the pins and one walk
// over the policy for all of those blocks.
constexpr uint64_t kRefillDivisor = 4;
constexpr uint64_t kMostRefill = 64;
constexpr uint64_t kAheadShare = 2;     // of the slots that may be granted before they are needed
constexpr uint64_t kWarmSegments = 16;  // of the cold tier in the warm one
// For so long after slots were granted in advance, some are likely to come back when recalled.
constexpr std::chrono::seconds kAheadTime{10};
constexpr int kWalks = 2;  // over the policy, where pins have come since the first one looked

uint64_t OffsetOf(Word word) { return uint64_t{word.warm_slot()} * kPageBytes; }

}  // namespace

void StackCore::SchedulePump() {
  if (pump_scheduled_) return;
  pump_scheduled_ = true;
  PostStrand([](StackCore& core) {
    core.pump_scheduled_ = false;
    core.Pump();
  });
}

void StackCore::Pump() {
  NoteUses();
  WatchReads();
  WatchStateWrite();
  WatchErasures();
  WatchHealth();
  ForgetLostCopies();
  if (std::exchange(doomed_is_free_, false)) DropDoomed();
  AdvanceLoads();
  AdvancePrefetches();
  AdvancePinning();
  GiveBackWarm();
  ServeWaiters(true);
  ServeFills();
  AdvanceHot();
  KeepReserve();
  TouchAhead();
  if (cold_ != nullptr && erasures_.empty() && !job_running_ && cold_writable()) {
    const TierUsage usage = cold_->Usage();
    const uint64_t capacity = ColdCapacity(usage);
    if (usage.used_bytes > capacity) MakeColdRoom(usage.used_bytes - capacity);  // it was lowered
  }
  ServeWaiters(progressing_);
  WakeForWaiters();
  AdvanceDurable();
  AdvanceFlushes();
  WatchCheck();
  if (cold_scrub_.checked) ScrubCold();
  RunColdJob();
  GiveBackCold();
}

// A chunk's first touch takes as long as a hundred calls: it is done by the time somebody needs it.
void StackCore::TouchAhead() {
  const std::optional<uint32_t> chunk =
      touching_ || closing_ ? std::nullopt : host_->ChunkToTouch();
  if (!chunk) return;
  touching_ = true;
  options_.work([host = host_, chunk = *chunk, strand = options_.strand,
                 weak = std::weak_ptr<StackCore*>(self_)] {
    host->TouchChunk(chunk);
    strand([weak] {
      const auto self = weak.lock();
      if (!self) return;
      (*self)->touching_ = false;
      if (!(*self)->waiters_.empty()) (*self)->SchedulePump();
    });
  });
}

// ---- who waits for slots

void StackCore::AddWaiter(Waiter waiter) {
  waiters_.push_back(std::move(waiter));
  SchedulePump();
}

// In the order in which they came, by size; whoever cannot be served holds up the others of its
// size. What cannot come any more is not waited for: a promotion gives up, a Reserve takes what
// there is.
void StackCore::ServeWaiters(bool may_come) {
  std::set<uint64_t> held_up;
  std::deque<Waiter> still;
  std::deque<Waiter> waiting = std::move(waiters_);
  waiters_.clear();
  for (Waiter& waiter : waiting) {
    const uint64_t slot_bytes = SlabAllocator::SlotBytes(waiter.bytes);
    if (!closing_ && held_up.contains(slot_bytes) && options_.clock->Now() < waiter.deadline) {
      still.push_back(std::move(waiter));
    } else if (!Serve(waiter, may_come)) {
      held_up.insert(slot_bytes);
      still.push_back(std::move(waiter));
    }
  }
  for (Waiter& waiter : waiters_) still.push_back(std::move(waiter));
  waiters_ = std::move(still);
}

bool StackCore::Serve(Waiter& waiter, bool may_come) {
  const bool late = closing_ || options_.clock->Now() >= waiter.deadline;
  const uint64_t free = host_->FreeSlots(waiter.bytes);
  const bool is_promotion = !waiter.done;
  if (free < waiter.count && !late && (may_come || (free == 0 && !is_promotion))) return false;
  const auto owner = is_promotion ? self_process_ : clients_.at(waiter.client).process;
  std::vector<uint64_t> offsets;
  absl::Status status = absl::ResourceExhaustedError(
      "no slot for " + std::to_string(waiter.bytes) +
      " bytes came free in time: the arena is full of blocks in use; go on uncached");
  if (closing_) status = absl::UnavailableError("the daemon is shutting down");
  // Of a full arena the reserve is all that there is: half of it is for those who do not ask ahead.
  // What clients have in hand counts: else they had more with each reserve that is made anew.
  const uint64_t slot_bytes = SlabAllocator::SlotBytes(waiter.bytes);
  const uint64_t kept = waiter.count + ReserveTarget(slot_bytes) / 2;
  const uint64_t in_hand = in_hand_.OfAll(slot_bytes);
  const uint64_t share = free + in_hand > kept ? (free + in_hand - kept) / kAheadShare : 0;
  const uint64_t spare = share > in_hand ? share - in_hand : 0;
  const uint64_t count = waiter.count + std::min<uint64_t>(waiter.ahead, spare);
  bool none_left = false;
  while (!closing_ && !none_left && offsets.size() < count) {
    const auto offset = host_->Reserve(waiter.bytes, owner, spaces_.at(waiter.space).inner_count());
    if (!offset.ok()) {
      status = offset.status();
      break;
    }
    none_left = !offset->has_value();
    if (!none_left) offsets.push_back(**offset);
  }
  // The arena could not grow: there are fewer slots than it seemed, which is known from now on.
  if (none_left && offsets.size() < waiter.count && !late && may_come) {
    for (uint64_t offset : offsets) host_->Free(offset);
    return false;
  }
  if (offsets.size() > waiter.count) ahead_until_ = options_.clock->Now() + kAheadTime;
  if (is_promotion) {
    if (offsets.empty()) {
      ++stats_.misses_by_reason[static_cast<size_t>(MissReason::kNoSlot)];
      if (waiter.probes) cold_reads_.GiveBack();
      EndPromotion(waiter.promotion);
    } else {
      ReadBlock(waiter.promotion, offsets[0], waiter.bytes);
    }
    return true;
  }
  for (uint64_t offset : offsets) {
    reservations_[offset] = {waiter.client, waiter.space, waiter.part, waiter.bytes, waiter.grant};
    in_hand_.Add(waiter.client, slot_bytes);
  }
  if (offsets.empty()) {
    ++stats_.refused_reserves;
    waiter.done(status);
  } else {
    waiter.done(std::move(offsets));
  }
  return true;
}

uint64_t StackCore::ReserveTarget(uint64_t slot_bytes) const {
  const uint64_t slots = host_->ReachableBytes() / slot_bytes;
  const uint64_t of_few = std::min(kSmallReserve, slots / kSmallReserveDivisor);
  return std::min(std::max({kLeastReserve, of_few, slots / kReserveDivisor}),
                  slots / kMostReserveDivisor);
}

/// Of those that will be needed, how many are written to cold beyond.
uint64_t StackCore::SlotsAhead(uint64_t slot_bytes) const {
  return std::min(SegmentBytes(), options_.warm_capacity_bytes / kWarmSegments) / slot_bytes;
}

uint64_t StackCore::SlotsWanted(uint64_t slot_bytes) const {
  uint64_t wanted = 0;
  for (const Waiter& waiter : waiters_) {
    if (SlabAllocator::SlotBytes(waiter.bytes) == slot_bytes) wanted += waiter.count;
  }
  return wanted;
}

// ---- warm

// For the slot sizes in use and those that somebody waits for. Clean victims leave at once; dirty
// ones are written first and leave with a later pump.
void StackCore::KeepReserve() {
  progressing_ = false;
  const std::vector<uint64_t> lent = host_->SlotSizes();
  std::set<uint64_t> sizes(lent.begin(), lent.end());
  for (const Waiter& waiter : waiters_) sizes.insert(SlabAllocator::SlotBytes(waiter.bytes));
  bool short_of_slots = false;
  bool chunk_comes = false;
  for (const uint64_t slot_bytes : sizes) {
    const uint64_t wanted = SlotsWanted(slot_bytes);
    const uint64_t reserve = ReserveTarget(slot_bytes);
    const uint64_t target = wanted + reserve + SlotsToMove(slot_bytes);
    const uint64_t free = host_->FreeSlots(slot_bytes);
    short_of_slots = short_of_slots || free < wanted;
    if (free + std::min(reserve / kRefillDivisor, kMostRefill) >= target) continue;
    if (AwaitsChunk(free < wanted)) {
      chunk_comes = true;
      continue;
    }
    const bool drop = cold_ == nullptr || !cold_writable() || cold_full_;
    const uint64_t freed = FreeClean({slot_bytes, target - free, drop});
    if (freed > 0) progressing_ = true;
    if (free + freed >= target) continue;
    // A whole segment while we are at it: copies that are there already cost nobody's waiting.
    if (!drop) PlanWrites({slot_bytes, target - free - freed + SlotsAhead(slot_bytes), false});
    if (free + freed < wanted && planned_writes_.empty() && !job_running_ && freed == 0) {
      ClearChunkFor(slot_bytes);
    }
  }
  if (!std::exchange(wants_chunk_, false)) options_.warm_account.Unwant();
  const bool more_to_do = !waiters_.empty() || host_->closed_chunk().has_value();
  if (progressing_ && more_to_do) SchedulePump();  // to see whether that was all
  if (chunk_comes) progressing_ = true;
  if (!planned_writes_.empty() || job_running_ || scrub_running_ || hot_job_running_) {
    progressing_ = true;
  }
  // What clients hold in advance comes back with their next heartbeats.
  if (short_of_slots) RecallSlots();
  if (short_of_slots && options_.clock->Now() < ahead_until_) progressing_ = true;
}

bool StackCore::MayLeaveWarm(const PlaceState& state) const {
  if (state.busy() || (state.warm_pins > 0 && !draining_)) return false;
  return !grace_ || std::none_of(state.parts.begin(), state.parts.end(),
                                 [](const PartState& part) { return part.adopted; });
}

bool StackCore::IsNewer(const PlaceState& state, uint64_t sequence) {
  return std::any_of(state.parts.begin(), state.parts.end(),
                     [&](const PartState& part) { return part.sequence > sequence; });
}

// Walks leaf first and lets go of places of which all warm parts have a cold copy; with drop_dirty
// also of those that would be lost, if nothing stands behind them. Answers how many slots of the
// wanted size came free. What a pin has saved since the walk looked, the next walk passes over.
uint64_t StackCore::FreeClean(const FreeGoal& goal) {
  uint64_t freed = 0;
  for (int walk = 0; walk < kWalks && freed < goal.count; ++walk) {
    FreeGoal rest = goal;
    rest.count -= freed;
    const std::vector<Victim> victims = ChooseVictims(rest);
    uint64_t chosen = 0;
    for (const Victim& victim : victims) chosen += victim.slots;
    const uint64_t went = LetGo(victims);
    freed += went;
    if (went == chosen) break;
  }
  return freed;
}

std::vector<Victim> StackCore::ChooseVictims(const FreeGoal& goal) {
  std::vector<Victim> victims;
  std::unordered_set<uint64_t> dropped;
  uint64_t slots = 0;
  writer_.LookAtPins();
  warm_policy_->Victims([&](uint64_t id) {
    if (slots >= goal.count) return Policy::Answer::kStop;
    if (IsNewer(places_.at(id), goal.newest)) return Policy::Answer::kTake;
    const auto victim = VictimOf(id, goal, dropped);
    if (!victim) return Policy::Answer::kSkip;
    if (victim->drop) dropped.insert(id);
    slots += victim->slots;
    victims.push_back(*victim);
    return Policy::Answer::kTake;
  });
  return victims;
}

std::optional<Victim> StackCore::VictimOf(uint64_t id, const FreeGoal& goal,
                                          const std::unordered_set<uint64_t>& dropped) const {
  const PlaceState& state = places_.at(id);
  if (!MayLeaveWarm(state)) return std::nullopt;
  Victim victim{.id = id, .place = *writer_.PlaceOf(id)};
  if (writer_.LookedPinned(victim.place)) return std::nullopt;
  const Space& space = spaces_.at(state.space);
  for (uint32_t part = 0; part < space.part_count(); ++part) {
    const Word word = writer_.word(victim.place, part);
    if (word.warm_slot() == 0) continue;
    if (!word.cold_copy() && !IsOnDevice(word, state.parts[part])) victim.drop = true;
    const uint64_t slot_bytes = SlabAllocator::SlotBytes(space.spec.parts[part].block_bytes);
    if (goal.slot_bytes == 0 || goal.slot_bytes == slot_bytes) ++victim.slots;
  }
  if (victim.slots == 0) return std::nullopt;
  const bool is_lost = goal.drop_dirty || !MayEnterCold(id, state);
  if (victim.drop && (!is_lost || state.pins > 0)) return std::nullopt;
  if (victim.drop && !StandsOnly(victim.place, dropped)) return std::nullopt;
  return victim;
}

// Whether nothing stands behind the place but what is about to go, or goes with it: inner places,
// which hold no bytes.
bool StackCore::StandsOnly(Place place, const std::unordered_set<uint64_t>& taken) const {
  bool only = true;
  writer_.VisitChildren(place, [&](Place child) {
    only = only &&
           (taken.contains(writer_.IdOf(child)) || (IsInner(child) && StandsOnly(child, taken)));
  });
  return only;
}

// All with one fence and one look at the pins, those to be dropped with a few more. Answers how
// many slots of the size wanted came free.
uint64_t StackCore::LetGo(std::span<const Victim> victims) {
  std::vector<Movement> moves;
  std::vector<Place> drops;
  for (const Victim& victim : victims) {
    if (victim.drop) {
      drops.push_back(victim.place);
      continue;
    }
    for (uint32_t part = 0; part < places_.at(victim.id).parts.size(); ++part) {
      if (writer_.word(victim.place, part).warm_slot() == 0) continue;
      moves.push_back({.place = victim.place, .part = part});
    }
  }
  if (!moves.empty()) writer_.BeginMove(moves);
  FreeMoving(moves);
  const uint64_t blocks = host_->Usage().block_count;
  DropTails(std::move(drops));
  warm_counters_.evictions += blocks - host_->Usage().block_count;
  uint64_t slots = 0;
  for (const Victim& victim : victims) {
    const bool went =
        victim.drop ? !places_.contains(victim.id) : !warm_policy_->Contains(victim.id);
    if (went) slots += victim.slots;
  }
  return slots;
}

// The slots of the moves that were granted; each of the blocks has a cold copy.
void StackCore::FreeMoving(std::span<const Movement> moves) {
  for (const Movement& move : moves) {
    if (!move.granted) continue;
    const uint64_t id = writer_.IdOf(move.place);
    host_->Free(OffsetOf(move.before));
    ChangeWord(id, move.place, move.part, move.before.WithWarmSlot(0).WithChecked(false));
    places_.at(id).parts[move.part].adopted = false;
    ++warm_counters_.demotions;
  }
}

// Copies that will be needed: of the victims to come, in their order.
void StackCore::PlanWrites(const FreeGoal& goal) {
  uint64_t slots = 0;
  writer_.LookAtPins();
  warm_policy_->Victims([&](uint64_t id) {
    if (slots >= goal.count || planned_writes_.size() >= kMaxBatchBlocks) {
      return Policy::Answer::kStop;
    }
    const PlaceState& state = places_.at(id);
    const bool reading = std::any_of(state.parts.begin(), state.parts.end(),
                                     [](const PartState& part) { return part.reading; });
    if (reading || state.doomed || !MayEnterCold(id, state)) return Policy::Answer::kSkip;
    if (state.warm_pins > 0 && !draining_) return Policy::Answer::kSkip;
    if (IsNewer(state, goal.newest)) return Policy::Answer::kTake;
    const Place place = *writer_.PlaceOf(id);
    if (!state.busy() && (!MayLeaveWarm(state) || writer_.LookedPinned(place))) {
      return Policy::Answer::kSkip;
    }
    const Space& space = spaces_.at(state.space);
    const uint64_t slots_before = slots;
    for (uint32_t part = 0; part < space.part_count(); ++part) {
      const uint64_t slot_bytes = SlabAllocator::SlotBytes(space.spec.parts[part].block_bytes);
      if (writer_.word(place, part).warm_slot() == 0) continue;
      if (goal.slot_bytes == 0 || goal.slot_bytes == slot_bytes) ++slots;
    }
    if (slots > slots_before) PlanWrite(id, place);
    return Policy::Answer::kTake;
  });
}

void StackCore::PlanWrite(uint64_t id, Place place) {
  PlaceState& state = places_.at(id);
  for (uint32_t part = 0; part < state.parts.size(); ++part) {
    const Word word = writer_.word(place, part);
    if (word.warm_slot() == 0 || word.cold_copy()) continue;
    if (state.parts[part].busy() || state.parts[part].erasing) continue;
    state.parts[part].writing = true;
    planned_writes_.push_back({.ref = {id, static_cast<uint16_t>(part)},
                               .offset = OffsetOf(word),
                               .record = host_->RecordAt(OffsetOf(word)),
                               .status = {}});
  }
}

// Other slot sizes have all the chunks: of those that can be emptied the easiest one is. Without a
// cold tier the oldest blocks of any size go until a chunk comes free.
void StackCore::ClearChunkFor(uint64_t bytes) {
  const std::vector<uint32_t> chunks = host_->ChunksToClearFor(bytes);
  if (chunks.empty()) return;
  if (cold_ == nullptr || !cold_writable()) {
    const uint64_t slots = host_->UsedOffsets(chunks[0]).size();
    if (FreeClean({0, std::max<uint64_t>(slots, 1), true}) > 0) progressing_ = true;
    return;
  }
  for (uint32_t chunk : chunks) {
    if (ClearChunk(host_->UsedOffsets(chunk))) return;
  }
}

// Of what lies in these slots, what has a cold copy leaves, what has none is written. False, and
// nothing is changed, when a slot holds what may not leave: leased, pinned to warm, being filled.
bool StackCore::ClearChunk(const std::vector<uint64_t>& offsets) {
  std::vector<Movement> moves;
  for (uint64_t offset : offsets) {
    const BlockHeader header = host_->HeaderAt(offset);
    const auto place = writer_.PlaceOf(header.id);
    if (!place || !MayLeaveWarm(places_.at(header.id))) return false;
    const Word word = writer_.word(*place, header.part);
    if (word.warm_slot() == 0 || OffsetOf(word) != offset) return false;
    moves.push_back({.place = *place, .part = header.part});
  }
  const bool may_leave = !moves.empty() && writer_.BeginMove(moves) == moves.size();
  for (const Movement& move : moves) {
    if (may_leave && move.before.cold_copy()) {
      FreeMoving({&move, 1});
      progressing_ = true;
      continue;
    }
    if (move.granted) writer_.FinishMove(move.place, move.part, move.before);
    if (may_leave && planned_writes_.size() < kMaxBatchBlocks) {
      PlanWrite(writer_.IdOf(move.place), move.place);
    }
  }
  return may_leave;
}

// ---- words and names

void StackCore::ChangeWord(uint64_t id, Place place, uint32_t part, Word word) {
  const PlaceState& state = places_.at(id);
  Space& space = spaces_.at(state.space);
  word = word.WithDeleted(state.doomed && !word.empty());
  PublishWord(space, place, part, word, state.parts[part].checksum);
  bool hot = false;
  bool warm = false;
  bool cold = false;
  for (uint32_t other = 0; other < space.part_count(); ++other) {
    const Word now = writer_.word(place, other);
    hot = hot || now.hot_slot() != 0;
    warm = warm || now.warm_slot() != 0;
    cold = cold || now.cold_copy();
  }
  // Of its order behind the block before it the policy is told, not of the inner places between
  // the two, which hold no bytes.
  Place before = writer_.Parent(place);
  while (writer_.Depth(before) % space.block_places != 0) before = writer_.Parent(before);
  const uint64_t parent = writer_.IdOf(before);
  if (hot != hot_policy_->Contains(id)) {
    hot ? hot_policy_->Insert(id, parent) : hot_policy_->Remove(id);
  }
  if (warm != warm_policy_->Contains(id)) {
    warm ? warm_policy_->Insert(id, parent) : warm_policy_->Remove(id);
  }
  if (cold != cold_policy_->Contains(id)) {
    cold ? cold_policy_->Insert(id, parent) : cold_policy_->Remove(id);
  }
}

void StackCore::PublishWord(Space& space, Place place, uint32_t part, Word word,
                            uint64_t checksum) {
  const Word old = writer_.word(place, part);
  // Of a slot that is there already the sum stands, and readers may be looking at it.
  if (old.warm_slot() != word.warm_slot()) writer_.SetChecksum(place, part, checksum);
  if (old.moving()) {
    writer_.FinishMove(place, part, word);
  } else {
    writer_.SetWord(place, part, word);
  }
  const uint64_t bytes = space.spec.parts[part].block_bytes;
  if (old.warm_slot() != 0) space.warm_bytes -= bytes;
  if (word.warm_slot() != 0) space.warm_bytes += bytes;
  if (old.cold_copy()) space.cold_bytes -= bytes;
  if (word.cold_copy()) space.cold_bytes += bytes;
}

bool StackCore::IsInner(Place place) const {
  const PlaceState& state = places_.at(writer_.IdOf(place));
  return writer_.Depth(place) % spaces_.at(state.space).block_places != 0;
}

bool StackCore::HasBytes(Place place) const {
  const uint32_t parts = spaces_.at(places_.at(writer_.IdOf(place)).space).part_count();
  for (uint32_t part = 0; part < parts; ++part) {
    if (!writer_.word(place, part).empty()) return true;
  }
  return false;
}

bool StackCore::IsComplete(const Space& space, const PlaceState& state, Place place) const {
  if (IsInner(place)) return HasBytes(place) || !writer_.IsLeaf(place);
  for (uint32_t part = 0; part < state.parts.size(); ++part) {
    if (space.window_blocks[part] == 0 && writer_.word(place, part).empty()) return false;
  }
  return HasBytes(place);
}

void StackCore::NoteIncomplete(uint64_t id) { incomplete_.try_emplace(id, options_.clock->Now()); }

// Drops a place that nothing stands behind, and then what it leaves without bytes above it. False
// when it may not go: leased, busy, pinned, or no leaf.
bool StackCore::DropLeaf(Place place) {
  if (writer_.IsRoot(place) || !writer_.IsLeaf(place)) return false;
  const uint64_t id = writer_.IdOf(place);
  DropTails({place});
  return !places_.contains(id);
}

// Drops places that nothing stands behind but one another, and inner places, and then what they
// leave without bytes above them; but none that is leased, busy or pinned, nor before such a one.
// One look at the pins for all that ends a run at the time: of a path of many runs one each, so
// each round asks for as much of a run as may go.
void StackCore::DropTails(std::vector<Place> firsts) {
  std::unordered_set<uint64_t> wanted;
  for (Place place : firsts) wanted.insert(writer_.IdOf(place));
  const auto stays = [&](Place place) {
    const uint64_t id = writer_.IdOf(place);
    const PlaceState& state = places_.at(id);
    return state.busy() || state.pins > 0 || (!wanted.contains(id) && HasBytes(place));
  };
  while (true) {
    // What stands behind a first in its run would go with it.
    for (Place& first : firsts) {
      for (Place at = first; writer_.Contains(at); ++at.count) {
        if (stays(at)) first.count = at.count + 1;
      }
    }
    std::erase_if(firsts, [&](Place first) { return !writer_.Contains(first); });
    if (firsts.empty()) return;
    DropResult result = writer_.Drop(firsts);
    for (const Dropped& dropped : result.dropped) Forget(dropped);
    for (Place place : firsts) {
      if (writer_.Contains(place) && !HasBytes(place)) NoteIncomplete(writer_.IdOf(place));
    }
    firsts.clear();
    for (Place leaf : result.leaves) {
      if (stays(leaf)) continue;
      while (leaf.count > 1 && !stays({leaf.node, leaf.count - 1})) --leaf.count;
      firsts.push_back(leaf);
    }
  }
}

void StackCore::Forget(const Dropped& dropped) {
  Space& space = spaces_.at(places_.at(dropped.id).space);
  for (uint32_t part = 0; part < space.part_count(); ++part) {
    const Word word = dropped.words[part];
    const uint64_t bytes = space.spec.parts[part].block_bytes;
    if (word.warm_slot() != 0) {
      host_->Free(OffsetOf(word));
      space.warm_bytes -= bytes;
    }
    if (word.hot_slot() != 0) FreeHot(word.hot_slot());
    if (word.cold_copy()) {
      erasures_.push_back({dropped.id, static_cast<uint16_t>(part)});
      space.cold_bytes -= bytes;
    }
  }
  --space.places;
  hot_policy_->Remove(dropped.id);
  warm_policy_->Remove(dropped.id);
  cold_policy_->Remove(dropped.id);
  places_.Erase(dropped.id);
  incomplete_.erase(dropped.id);
  doomed_.erase(dropped.id);
}

}  // namespace thermocline
