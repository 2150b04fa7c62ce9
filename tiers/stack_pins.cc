// Pins with a time to live, and the state file that they and the spaces are kept in.
#include <algorithm>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr size_t kPinsPromotedPerTick = 64;

}  // namespace

int64_t StackCore::UnixMs() const {
  const auto since = options_.clock->WallNow().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}

StackState StackCore::StateNow() const {
  StackState state;
  state.epoch = epoch();
  for (const auto& [number, space] : spaces_) state.spaces.push_back(space.spec);
  for (const auto& [number, pin] : pins_) {
    state.pins.push_back(
        {number, pin.id, pin.view.space, pin.view.depth, pin.view.expires_unix_ms, pin.view.tier});
  }
  return state;
}

// Spaces or pins have changed.
void StackCore::SaveState() {
  ++state_changes_;
  WriteState();
}

// What changes while one write is under way goes with the next, all of it together.
void StackCore::WriteState() {
  if (state_write_ || state_saved_ == state_changes_) return;
  state_write_ = {.change = state_changes_,
                  .deadline = options_.clock->Now() + options_.write_deadline};
  WakeForWaiters();
  options_.disk([data_dir = options_.data_dir, state = StateNow(), strand = options_.strand,
                 weak = std::weak_ptr<StackCore*>(self_)] {
    const absl::Status status = WriteStateFile(data_dir, state);
    strand([weak, status] {
      if (const auto self = weak.lock()) (*self)->FinishStateWrite(status);
    });
  });
}

// After a failure Tick tries again, or whoever waits for a later change.
void StackCore::FinishStateWrite(const absl::Status& status) {
  const uint64_t change = std::exchange(state_write_, std::nullopt)->change;
  if (status.ok()) state_saved_ = change;
  state_refusal_ = std::string(status.message());
  AnswerSaved(change, status);
  if (status.ok() || !saved_waits_.empty()) WriteState();
  SchedulePump();  // commits wait for it, too
}

void StackCore::WatchStateWrite() {
  if (!state_write_ || options_.clock->Now() < state_write_->deadline) return;
  AnswerSaved(state_changes_,
              absl::UnavailableError("the disk of " + options_.data_dir + " takes no state file"));
}

void StackCore::AnswerSaved(uint64_t change, const absl::Status& status) {
  while (!saved_waits_.empty() && saved_waits_.front().change <= change) {
    const DoneCallback done = std::move(saved_waits_.front().done);
    saved_waits_.pop_front();
    done(status);
  }
}

void StackCore::AwaitSaved(std::optional<uint32_t> space, DoneCallback done) {
  const uint64_t change = space ? spaces_.at(*space).change : state_changes_;
  if (change <= state_saved_) {
    return PostStrand([done = std::move(done)](StackCore&) { done(absl::OkStatus()); });
  }
  const auto later = std::find_if(saved_waits_.begin(), saved_waits_.end(),
                                  [&](const SavedWait& wait) { return wait.change > change; });
  saved_waits_.insert(later, {change, std::move(done)});
  WriteState();
  SchedulePump();  // to say so where the disk hangs
}

// Without a cold tier there is no other memory for what is pinned.
bool StackCore::HoldsWarm(const PlaceState& state) const {
  return (cold_ == nullptr ? state.pins : state.warm_pins) > 0;
}

// Of its whole path: where a chunk is cleared any place leaves, not leaves first. The bytes are
// counted where a place comes to be held, or is so no more: a trunk that many pins share is held
// once. A block counts with all of its parts, and in cold whatever tier the pin is of, since its
// copy there stays.
void StackCore::HoldPin(const TtlPin& pin, int by) {
  const auto end = writer_.PlaceOf(pin.id);
  if (!end) return;
  uint64_t cold_blocks = 0;
  uint64_t warm_blocks = 0;
  for (Place place = *end; !writer_.IsRoot(place); place = writer_.Parent(place)) {
    PlaceState& state = places_.at(writer_.IdOf(place));
    const bool was_held = state.pins > 0;
    const bool was_warm = HoldsWarm(state);
    state.pins += by;
    if (pin.view.tier == TierKind::kWarm) state.warm_pins += by;
    if (IsInner(place)) continue;
    if (was_held != (state.pins > 0)) ++cold_blocks;
    if (was_warm != HoldsWarm(state)) ++warm_blocks;
  }
  const Space& space = spaces_.at(places_.at(pin.id).space);
  for (uint32_t part = 0; part < space.part_count(); ++part) {
    const uint64_t slot_bytes = SlabAllocator::SlotBytes(space.spec.parts[part].block_bytes);
    pinned_.warm += static_cast<uint64_t>(by) * warm_blocks * slot_bytes;
    pinned_.cold += static_cast<uint64_t>(by) * cold_blocks * space.StoredBytes(part);
  }
}

// Pins hold what is the tenant's own: what it borrows has to come back when others want it. One
// that holds nothing more than others did `before` takes nothing.
absl::Status StackCore::CheckPinQuotas(const PinnedBytes& before) const {
  const auto check = [&](const std::string& tier, uint64_t held, uint64_t held_before,
                         const BudgetAccount& account, uint64_t capacity_bytes) {
    const uint64_t own = account ? account.share() * options_.chunk_bytes : capacity_bytes;
    const uint64_t quota = own * options_.pin_quota_percent / 100;
    if (held <= std::max(held_before, quota)) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        "with this pin " + FormatBytes(held) + " of the " + tier + " tier would be held, of " +
        FormatBytes(quota) + " that pins may hold; remove others, pin less of the path, or raise " +
        "pin_quota or the tenant's " + tier + "_share (or " + tier + "_capacity)");
  };
  TC_RETURN_IF_ERROR(check("warm", pinned_.warm, before.warm, options_.warm_account,
                           options_.warm_capacity_bytes));
  if (cold_ == nullptr) return absl::OkStatus();
  return check("cold", pinned_.cold, before.cold, options_.cold_account,
               options_.cold_capacity_bytes);
}

absl::Status StackCore::RefusePin(const Space& space, TierKind tier, absl::Status why) {
  if (const auto left_out = refused_pins_.Admit()) {
    LogEvent(LogLevel::kWarning, "pin_refused",
             {{"tenant", options_.name},
              {"space", space.fingerprint.Hex()},
              {"tier", TierKindName(tier)},
              {"cause", why},
              {"left_out", *left_out}});
  }
  return why;
}

absl::StatusOr<StackCore::PinView> StackCore::Pin(uint32_t space_number,
                                                  std::span<const Name> names,
                                                  std::chrono::milliseconds ttl, TierKind tier) {
  TC_ASSIGN_OR_RETURN(const Space* space, SpaceOf(space_number));
  if (ttl.count() <= 0) {
    return absl::InvalidArgumentError("a pin needs a time to live above 0");
  }
  if (tier != TierKind::kNone && tier != TierKind::kWarm) {
    return absl::InvalidArgumentError("a pin is of any tier or of the warm one");
  }
  if (pins_.size() >= kMaxPins) {
    return RefusePin(*space, tier,
                     absl::ResourceExhaustedError("there are " + std::to_string(pins_.size()) +
                                                  " pins already; remove some"));
  }
  std::vector<Place> path = PathTo(writer_.Find(space->root, names).place);
  const uint32_t blocks = UsableBlocks(*space, path);
  path.resize(size_t{blocks} * space->block_places);
  if (path.empty()) return absl::NotFoundError("nothing of this path is here; there is no pin");
  const std::vector<uint64_t> ids = IdsOf(path);
  TtlPin pin{{++last_pin_, space->fingerprint, static_cast<uint32_t>(path.size()),
              UnixMs() + ttl.count(), tier},
             ids.back()};
  const PinnedBytes before = pinned_;
  HoldPin(pin, +1);
  if (const absl::Status status = CheckPinQuotas(before); !status.ok()) {
    HoldPin(pin, -1);
    return RefusePin(*space, tier, status);
  }
  pins_.emplace(pin.view.pin, pin);
  SaveState();
  TouchPath(ids);
  if (tier == TierKind::kWarm) QueuePrefetch(0, *space, path, blocks);
  return pin.view;
}

absl::Status StackCore::Unpin(uint64_t number) {
  const auto found = pins_.find(number);
  if (found == pins_.end()) {
    return absl::NotFoundError("pin " + std::to_string(number) + " is not there or has expired");
  }
  HoldPin(found->second, -1);
  pins_.erase(found);
  SaveState();
  SchedulePump();
  return absl::OkStatus();
}

std::vector<StackCore::PinView> StackCore::Pins() const {
  std::vector<PinView> views;
  for (const auto& [number, pin] : pins_) views.push_back(pin.view);
  return views;
}

// What lies under pins of the warm tier is to be warm again after a restart, or when no slot was
// free the last time. A few pins a tick, in turn.
void StackCore::PromotePinned() {
  if (cold_ == nullptr || !prefetches_.empty()) return;
  auto pin = pins_.upper_bound(last_promoted_pin_);
  for (size_t left = std::min(pins_.size(), kPinsPromotedPerTick); left > 0; --left, ++pin) {
    if (pin == pins_.end()) pin = pins_.begin();
    last_promoted_pin_ = pin->first;
    const auto place = writer_.PlaceOf(pin->second.id);
    if (!place || pin->second.view.tier != TierKind::kWarm) continue;
    const Space& space = spaces_.at(places_.at(pin->second.id).space);
    const std::vector<Place> path = PathTo(*place);
    QueuePrefetch(0, space, path, static_cast<uint32_t>(path.size()) / space.block_places);
  }
}

void StackCore::ExpirePins() {
  const int64_t now = UnixMs();
  const size_t expired = std::erase_if(pins_, [&](const auto& entry) {
    const TtlPin& pin = entry.second;
    if (pin.view.expires_unix_ms > now) return false;
    LogEvent(LogLevel::kInfo, "pin_expired",
             {{"pin", entry.first}, {"space", pin.view.space.Hex()}, {"depth", pin.view.depth}});
    HoldPin(pin, -1);
    return true;
  });
  if (expired > 0) SaveState();
  WriteState();  // once more, if it could not be
}

}  // namespace thermocline
