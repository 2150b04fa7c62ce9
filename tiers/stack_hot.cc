// The hot tier: device memory above the warm tier. A block that was used again goes there when it
// would leave memory next: its payload is summed and copied, and once the copy is complete its warm
// slot is free. A client without the device has it back as it has a cold one, by a Load, and then
// the hot slot goes. So a block is in one of the two, but for the time of a move and of the leases
// that hold it up.
//
// A client that has the device leases it there: while it does, the slot stays, as a warm one would.
//
// What goes there has a cold copy: a hot slot is taken back without a write, and a device that
// fails costs time. The one whose copy has gone since rises to warm before its slot is taken.
#include <algorithm>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr uint64_t kVictimsLookedAt = 1024;  // for one job, of which one is under way at most
constexpr uint64_t kLooksForOne = 4;         // for a slot of the device's
constexpr size_t kMaxHotCopies = 64;         // of one job
constexpr uint64_t kMaxHotBytes = 32 * MiB;  // likewise
constexpr uint32_t kMaxLateReads = 8;        // with so many out nothing more is asked of it
constexpr std::chrono::milliseconds kFullPause{5000};  // unless something gave way
constexpr std::chrono::minutes kPinPause{1};           // after a chunk that could not be pinned
constexpr uint64_t kScarceReserves = 2;  // while so much is free, nothing leaves memory

}  // namespace

void StackCore::OpenHot() {
  if (!options_.open_hot) return;
  auto hot = options_.open_hot(host_->arena());
  if (cold_ == nullptr) hot = absl::FailedPreconditionError("it needs a cold tier below");
  if (hot.ok()) {
    hot_ = *std::move(hot);
  } else {
    hot_refusal_ = "there is none: " + std::string(hot.status().message());
  }
}

void StackCore::ForgetHotSlot(uint32_t page) {
  hot_->Disown(page);
  forgotten_hot_.push_back(page);
}

// What was there before this epoch may still be read by leases of the last one.
void StackCore::FreeHot(uint32_t page) { grace_ ? ForgetHotSlot(page) : hot_->Free(page); }

std::string StackCore::HotState() const {
  if (hot_ == nullptr) return hot_refusal_;
  std::string state = hot_->State();
  const bool is_late = late_hot_reads_ > 0 || !hot_moves_.Allows();
  return state == "ok" && is_late ? "copies take too long" : state;
}

/// Whether it can be read there.
bool StackCore::IsHot(BlockRef ref) const {
  if (hot_ == nullptr || !hot_moves_.Allows() || late_hot_reads_ >= kMaxLateReads) return false;
  const auto place = writer_.PlaceOf(ref.id);
  return place && IsOnDevice(writer_.word(*place, ref.part), places_.at(ref.id).parts[ref.part]);
}

/// Whether a lease may read it there. The device is not asked: whoever has its memory mapped needs
/// nobody to move anything.
bool StackCore::IsInPlace(Place place, uint16_t part) const {
  const Word word = writer_.word(place, part);
  return options_.clients_fill && !word.moving() &&
         IsOnDevice(word, places_.at(writer_.IdOf(place)).parts[part]);
}

void StackCore::ExportSlab(uint64_t slab, SlabCallback done) {
  absl::Status status;
  if (hot_ == nullptr) status = absl::NotFoundError("there is no hot tier");
  if (!options_.clients_fill) {
    status = absl::PermissionDeniedError(
        "this tenant's clients may not write where its blocks lie, and no driver hands out memory "
        "of a device for reading alone; Load brings hot blocks to memory");
  }
  if (!status.ok()) return done(status);
  options_.hot([hot = hot_, slab, done = std::move(done)] { done(hot->ExportSlab(slab)); });
}

// ---- up

void StackCore::AdvanceHot() {
  if (hot_ == nullptr || hot_job_running_ || !hot_moves_.Allows()) return;
  if (closing_ || grace_ || !flushes_.empty()) return;
  std::vector<HotCopy> copies = ChooseHot();
  if (copies.empty()) return;
  std::vector<BlockRef> rising;
  if (hot_full_until_ && EvictHot(copies.size(), rising) == 0 &&
      options_.clock->Now() < *hot_full_until_) {
    return;
  }
  hot_job_running_ = true;
  hot_moves_.Try();
  for (const HotCopy& copy : copies) PartOf(copy.ref)->heating = true;
  options_.hot([hot = hot_, host = host_,
                asks_again = std::exchange(hot_full_until_, {}).has_value(),
                strand = options_.strand, weak = std::weak_ptr<StackCore*>(self_),
                copies = std::move(copies)]() mutable {
    if (asks_again) hot->ReturnEmptyChunks();
    std::vector<TierPut> puts;
    for (const HotCopy& copy : copies) {
      puts.push_back({.record = &copy.record,
                      .payload = host->Payload(copy.offset, copy.record.payload_bytes)});
    }
    hot->PutAll(puts);
    for (size_t i = 0; i < copies.size(); ++i) copies[i].status = puts[i].status;
    strand([weak, copies = std::move(copies)] {
      if (const auto self = weak.lock()) (*self)->FinishHeating(copies);
    });
  });
}

// Without blocks to move nobody would learn that a device that had failed works again.
void StackCore::ProbeHot() {
  if (hot_ == nullptr || hot_->IsMoving() || hot_job_running_ || !hot_moves_.Allows()) return;
  if (closing_ || grace_ || !flushes_.empty()) return;
  hot_job_running_ = true;
  hot_moves_.Try();
  options_.hot([hot = hot_, strand = options_.strand, weak = std::weak_ptr<StackCore*>(self_)] {
    strand([weak, status = hot->Probe()] {
      const auto self = weak.lock();
      if (!self) return;
      (*self)->hot_job_running_ = false;
      status.ok() ? (*self)->hot_moves_.Succeeded() : (*self)->FailHot(status);
      (*self)->SchedulePump();
    });
  });
}

// Of the blocks that would leave memory next.
std::vector<HotCopy> StackCore::ChooseHot() {
  std::set<uint64_t> scarce;  // slot sizes
  uint64_t next = 0;          // so many slots will be needed
  for (const uint64_t slot_bytes : host_->SlotSizes()) {
    const uint64_t wanted = kScarceReserves * ReserveTarget(slot_bytes);
    if (host_->FreeSlots(slot_bytes) >= wanted) continue;
    scarce.insert(slot_bytes);
    next += wanted + SlotsAhead(slot_bytes);
  }
  std::vector<HotCopy> copies;
  if (scarce.empty()) return copies;
  uint64_t looked = 0;
  uint64_t bytes = 0;
  writer_.LookAtPins();
  warm_policy_->Victims([&](uint64_t id) {
    if (looked++ >= std::min(next, kVictimsLookedAt) || copies.size() >= kMaxHotCopies ||
        bytes >= kMaxHotBytes) {
      return Policy::Answer::kStop;
    }
    const PlaceState& state = places_.at(id);
    const Place place = *writer_.PlaceOf(id);
    if (!MayLeaveWarm(state) || writer_.LookedPinned(place)) return Policy::Answer::kSkip;
    if (!state.reused || state.doomed) return Policy::Answer::kTake;
    for (uint32_t part = 0; part < state.parts.size(); ++part) {
      const Word word = writer_.word(place, part);
      const uint64_t part_bytes = BytesOf({id, static_cast<uint16_t>(part)});
      if (word.warm_slot() == 0 || word.hot_slot() != 0 || !word.cold_copy()) continue;
      if (!scarce.contains(SlabAllocator::SlotBytes(part_bytes))) continue;
      const uint64_t offset = uint64_t{word.warm_slot()} * kPageBytes;
      copies.push_back({.ref = {id, static_cast<uint16_t>(part)},
                        .offset = offset,
                        .record = host_->RecordAt(offset)});
      bytes += part_bytes;
    }
    return Policy::Answer::kTake;
  });
  return copies;
}

void StackCore::FinishHeating(const std::vector<HotCopy>& copies) {
  hot_job_running_ = false;
  std::vector<Movement> moves;
  std::vector<BlockRef> spoiled;
  absl::Status failure;
  for (const HotCopy& copy : copies) {
    PartOf(copy.ref)->heating = false;  // busy places are not dropped
    const Place place = *writer_.PlaceOf(copy.ref.id);
    if (absl::IsResourceExhausted(copy.status)) {
      hot_full_until_ = options_.clock->Now() + kFullPause;
    } else if (absl::IsDataLoss(copy.status)) {
      spoiled.push_back(copy.ref);
    } else if (!copy.status.ok()) {
      failure = copy.status;
    } else {
      const Word word = writer_.word(place, copy.ref.part);
      ChangeWord(copy.ref.id, place, copy.ref.part, word.WithHotSlot(*hot_->PageOf(copy.ref)));
      ++hot_counters_.promotions;
      if (places_.at(copy.ref.id).warm_pins == 0) {
        moves.push_back({.place = place, .part = copy.ref.part});
      } else {  // it was pinned meanwhile
        hot_going_.insert(copy.ref);
      }
      hot_counters_.bytes_in += copy.record.payload_bytes;
      warm_counters_.bytes_out += copy.record.payload_bytes;
    }
  }
  failure.ok() ? hot_moves_.Succeeded() : FailHot(failure);
  writer_.BeginMove(moves);
  for (const Movement& move : moves) {
    const uint64_t id = writer_.IdOf(move.place);
    if (!move.granted) {  // it is used again
      hot_going_.insert({id, static_cast<uint16_t>(move.part)});
      continue;
    }
    host_->Free(uint64_t{move.before.warm_slot()} * kPageBytes);
    ChangeWord(id, move.place, move.part, move.before.WithWarmSlot(0).WithChecked(false));
    places_.at(id).parts[move.part].adopted = false;
  }
  for (const BlockRef ref : spoiled) NoteSpoiled(ref, *writer_.PlaceOf(ref.id));
  if (!spoiled.empty()) DropWhatIsSpoiled();
  doomed_is_free_ = true;
  SchedulePump();
}

void StackCore::FailHot(const absl::Status& why) {
  if (!hot_moves_.Failed()) return;
  LogEvent(LogLevel::kWarning, "hot_moves_paused",
           {{"cause", why}, {"retry_ms", hot_moves_.pause().count()}});
}

// A block that did not come back whole from there, or not in time.
void StackCore::NoteHotRead(BlockRef ref, const absl::Status& status) {
  if (status.ok()) return hot_moves_.Succeeded();
  if (!absl::IsDataLoss(status)) return FailHot(status);
  ++stats_.corrupt_blocks;
  PartOf(ref)->hot_spoiled = true;
  hot_going_.insert(ref);
}

// ---- down

/// Room for so many blocks: those used longest ago go, of some that are looked at. Answers how many
/// went; `rising`: those that are copied to warm first, as they are nowhere else.
uint64_t StackCore::EvictHot(uint64_t count, std::vector<BlockRef>& rising) {
  std::vector<Movement> moves;
  uint64_t looked = 0;
  writer_.LookAtPins();
  hot_policy_->Victims([&](uint64_t id) {
    if (moves.size() >= count || looked++ / kLooksForOne >= count) return Policy::Answer::kStop;
    const PlaceState& state = places_.at(id);
    const Place place = *writer_.PlaceOf(id);
    if (state.busy() || writer_.LookedPinned(place)) return Policy::Answer::kSkip;
    for (uint32_t part = 0; part < state.parts.size(); ++part) {
      const Word word = writer_.word(place, part);
      if (word.hot_slot() == 0) continue;
      if (word.warm_slot() != 0 || word.cold_copy() || state.parts[part].hot_spoiled) {
        moves.push_back({.place = place, .part = part});
      } else if (rising.size() + reads_ < kMaxReads && hot_moves_.Allows() &&
                 host_->FreeSlots(BytesOf({id, static_cast<uint16_t>(part)})) > 0) {
        rising.push_back({id, static_cast<uint16_t>(part)});
      }
    }
    return Policy::Answer::kTake;
  });
  for (const BlockRef ref : rising) {
    StartPromotion(ref.id, ref.part);
  }
  return LeaveHot(std::move(moves));
}

/// Takes back all that nobody holds. True when nothing is on its way any more.
bool StackCore::FlushHot() {
  if (hot_ == nullptr) return true;
  if (hot_job_running_) return false;
  std::vector<BlockRef> rising;
  EvictHot(UINT64_MAX, rising);
  return rising.empty() && std::none_of(cold_reads_under_way_.begin(), cold_reads_under_way_.end(),
                                        [](const auto& read) { return read.second.is_hot; });
}

/// Gives up all that nobody holds, whether it is elsewhere or not.
void StackCore::DropHot() {
  if (hot_ == nullptr) return;
  std::vector<Movement> moves;
  hot_policy_->Victims([&](uint64_t id) {
    const PlaceState& state = places_.at(id);
    if (state.busy()) return Policy::Answer::kSkip;
    const Place place = *writer_.PlaceOf(id);
    for (uint32_t part = 0; part < state.parts.size(); ++part) {
      const Word word = writer_.word(place, part);
      if (word.hot_slot() != 0) moves.push_back({.place = place, .part = part});
    }
    return Policy::Answer::kTake;
  });
  LeaveHot(std::move(moves));
}

/// What is warm as well, or spoiled, goes as soon as nobody holds it.
void StackCore::SettleHot() {
  if (hot_going_.empty()) return;
  std::vector<Movement> moves;
  writer_.LookAtPins();
  std::erase_if(hot_going_, [&](BlockRef ref) {
    const auto place = writer_.PlaceOf(ref.id);
    if (!place) return true;
    const PartState& part = places_.at(ref.id).parts[ref.part];
    const Word word = writer_.word(*place, ref.part);
    if (word.hot_slot() == 0 || (word.warm_slot() == 0 && !part.hot_spoiled)) return true;
    if (part.busy() || writer_.LookedPinned(*place)) return false;
    moves.push_back({.place = *place, .part = ref.part});
    return false;
  });
  LeaveHot(std::move(moves));
}

uint64_t StackCore::LeaveHot(std::vector<Movement> moves) {
  std::vector<Place> tails;
  const size_t granted = writer_.BeginMove(moves);
  for (const Movement& move : moves) {
    if (!move.granted) continue;
    const uint64_t id = writer_.IdOf(move.place);
    FreeHot(move.before.hot_slot());
    ChangeWord(id, move.place, move.part, move.before.WithHotSlot(0));
    places_.at(id).parts[move.part].hot_spoiled = false;
    if (!writer_.word(move.place, move.part).empty()) {
      if (move.before.warm_slot() == 0) ++hot_counters_.demotions;
      continue;
    }
    ++hot_counters_.evictions;
    NoteIncomplete(id);
    tails.push_back(move.place);
  }
  std::erase_if(tails, [&](Place place) { return HasBytes(place) || !writer_.IsLeaf(place); });
  DropTails(std::move(tails));
  return granted;
}

// ---- pinning

// The arena's chunks are pinned one after the other, between two jobs of copies, so that nobody
// waits for more than one; for a mover that runs, and anew for the next. A pinned chunk is held:
// where it is given back, its memory goes when it has been unpinned.
void StackCore::AdvancePinning() {
  if (hot_ == nullptr || pinning_) return;
  if (const uint64_t pinner = hot_->memory().pinner(); pinner != pinner_) {
    host_->LetGoOfAllChunks();
    pinner_ = pinner;
  }
  if (pinner_ == 0) return;
  if (const auto leaving = host_->ChunkToLetGo()) return UnpinChunk(*leaving);
  if (closing_ || options_.clock->Now() < pins_from_) return;
  if (const auto chunk = host_->ChunkToHold()) PinChunk(*chunk);
}

void StackCore::PinChunk(uint32_t chunk) {
  pinning_ = true;
  host_->HoldChunk(chunk);
  options_.hot([hot = hot_, host = host_, by = pinner_, chunk, strand = options_.strand,
                weak = std::weak_ptr<StackCore*>(self_)] {
    const Arena& arena = host->arena();
    const absl::Status status =
        hot->memory().Pin(by, arena.OffsetOfChunk(chunk), arena.BytesOfChunk(chunk));
    strand([weak, chunk, status] {
      if (const auto self = weak.lock()) (*self)->FinishPinning(chunk, status);
    });
  });
}

void StackCore::FinishPinning(uint32_t chunk, const absl::Status& status) {
  pinning_ = false;
  if (!status.ok()) {
    host_->LetGoOfChunk(chunk);
    pins_from_ = options_.clock->Now() + kPinPause;
    if (!pins_refused_) LogEvent(LogLevel::kWarning, "arena_not_pinned", {{"cause", status}});
  }
  pins_refused_ = !status.ok();
  SchedulePump();
}

void StackCore::UnpinChunk(uint32_t chunk) {
  pinning_ = true;
  options_.hot([hot = hot_, host = host_, chunk, strand = options_.strand,
                weak = std::weak_ptr<StackCore*>(self_)] {
    hot->memory().Unpin(host->arena().OffsetOfChunk(chunk));
    strand([weak, chunk] {
      const auto self = weak.lock();
      if (!self) return;
      (*self)->pinning_ = false;
      (*self)->host_->LetGoOfChunk(chunk);
      (*self)->SchedulePump();
    });
  });
}

}  // namespace thermocline
