// Durability "ack": what is committed is written to cold within kGroupTime or kGroupBytes, whatever
// comes first, in the order of the commits, so that nothing becomes durable before what it stands
// behind. Whoever waits is answered once all of it is there for good, or cannot be.
#include <algorithm>

#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr std::chrono::milliseconds kGroupTime{20};
constexpr uint64_t kGroupBytes = 8 * MiB;

}  // namespace

void StackCore::AwaitDurable(const LeaseView& view, DoneCallback done) {
  const SteadyTime now = options_.clock->Now();
  DurableWait wait{.end = writer_.IdOf(view.end),
                   .blocks = NotInCold(view.end),
                   .state_change = spaces_.at(writer_.RootOf(view.end).tag).change,
                   .done = std::move(done),
                   .deadline = now + options_.write_deadline};
  if (to_write_.empty()) group_since_ = now;
  to_write_.insert(to_write_.end(), wait.blocks.begin(), wait.blocks.end());
  durable_waits_.push_back(std::move(wait));
  SetGroupTimer();
}

// A block is found again only behind all that it stands behind, which may have come before commits
// waited for the disk, or while that was refused; or it was lost, for good or for a while.
std::vector<BlockRef> StackCore::NotInCold(Place end) const {
  std::vector<BlockRef> blocks;
  for (const Place place : PathTo(end)) {
    const uint64_t id = writer_.IdOf(place);
    const PlaceState& state = places_.at(id);
    for (uint32_t part = 0; part < state.parts.size(); ++part) {
      const Word word = writer_.word(place, part);
      const bool had_bytes = state.parts[part].sequence != 0;
      const bool is_lost =
          word.empty() && had_bytes && spaces_.at(state.space).window_blocks[part] == 0;
      const bool in_cold = word.cold_copy() && !state.parts[part].leaving;
      if ((IsInMemory(word, state.parts[part]) && !in_cold) || is_lost ||
          state.parts[part].leaving) {
        blocks.push_back({id, static_cast<uint16_t>(part)});
      }
    }
  }
  return blocks;
}

void StackCore::SetGroupTimer() {
  if (GroupIsDue()) return SchedulePump();
  if (group_timer_) return;
  group_timer_ = options_.strand_at(kGroupTime, [weak = std::weak_ptr<StackCore*>(self_)] {
    const auto self = weak.lock();
    if (!self) return;
    (*self)->group_timer_ = false;
    (*self)->SetGroupTimer();
  });
}

bool StackCore::GroupIsDue() const {
  if (to_write_.empty() || closing_) return true;
  if (options_.clock->Now() >= group_since_ + kGroupTime) return true;
  uint64_t bytes = 0;
  for (const BlockRef ref : to_write_) {
    const PlaceState* const state = places_.Find(ref.id);
    if (state != nullptr) bytes += spaces_.at(state->space).StoredBytes(ref.part);
  }
  return bytes >= kGroupBytes;
}

// What is being read or erased at the moment is tried again by a later pump; what is on the device
// alone rises first.
void StackCore::AdvanceDurable() {
  if (durable_waits_.empty()) return;
  if (GroupIsDue() && cold_writable()) {
    for (const BlockRef ref : std::exchange(to_write_, {})) {
      const auto place = writer_.PlaceOf(ref.id);
      if (!place || HasLastingCopy(ref)) continue;
      PlanWrite(ref.id, *place);
      const PartState& part = places_.at(ref.id).parts[ref.part];
      if (part.writing) continue;
      to_write_.push_back(ref);
      const bool is_warm = writer_.word(*place, ref.part).warm_slot() != 0;
      if (!is_warm && !part.reading && IsHot(ref) && reads_ < kMaxReads) {
        StartPromotion(ref.id, ref.part);
      }
    }
  }
  std::deque<DurableWait> waits = std::move(durable_waits_);
  durable_waits_.clear();
  for (DurableWait& wait : waits) {
    const bool all_there = places_.contains(wait.end) &&
                           std::all_of(wait.blocks.begin(), wait.blocks.end(), [&](BlockRef ref) {
                             const auto place = writer_.PlaceOf(ref.id);
                             return place && !writer_.word(*place, ref.part).empty();
                           });
    std::erase_if(wait.blocks, [&](BlockRef ref) { return HasLastingCopy(ref); });
    const bool is_late = options_.clock->Now() >= wait.deadline;
    const bool is_noted = state_saved_ >= wait.state_change;
    if (wait.blocks.empty() && all_there && is_noted) {
      wait.blocks = NotInCold(*writer_.PlaceOf(wait.end));  // copies may have left meanwhile
      to_write_.insert(to_write_.end(), wait.blocks.begin(), wait.blocks.end());
      if (!wait.blocks.empty()) SchedulePump();
    }
    if (wait.blocks.empty() && is_noted) {
      wait.done(absl::OkStatus());
    } else if (!cold_writable() || cold_full_ || !all_there || is_late) {
      wait.done(absl::AbortedError("what was committed is in memory, but not on disk: " +
                                   WhyNotDurable(all_there, is_noted)));
    } else {
      durable_waits_.push_back(std::move(wait));
    }
  }
  if (durable_waits_.empty()) to_write_.clear();
}

std::string StackCore::WhyNotDurable(bool all_there, bool is_noted) const {
  if (cold_ == nullptr) return "there is no cold tier";
  if (!is_noted) return "its space cannot be noted in " + options_.data_dir;
  if (!all_there) return "it, or what it stands behind, is not there any more";
  if (cold_full_) return "the cold tier is full of blocks in use; raise cold_capacity";
  return "the cold tier takes no writes (" + ColdState() + ")";
}

}  // namespace thermocline
