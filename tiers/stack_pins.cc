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

absl::Status StackCore::SaveState() {
  StackState state;
  state.epoch = epoch();
  for (const auto& [number, space] : spaces_) state.spaces.push_back(space.spec);
  for (const auto& [number, pin] : pins_) {
    state.pins.push_back(
        {number, pin.id, pin.view.space, pin.view.depth, pin.view.expires_unix_ms, pin.view.tier});
  }
  const absl::Status saved = WriteStateFile(options_.data_dir, state);
  state_saved_ = saved.ok();
  return saved;
}

// Of its whole path: where a chunk is cleared any place leaves, not leaves first.
void StackCore::HoldPin(const TtlPin& pin, int by) {
  const auto end = writer_.PlaceOf(pin.id);
  if (!end) return;
  for (Place place = *end; !writer_.IsRoot(place); place = writer_.Parent(place)) {
    PlaceState& state = places_.at(writer_.IdOf(place));
    state.pins += by;
    if (pin.view.tier == TierKind::kWarm) state.warm_pins += by;
  }
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
    return absl::ResourceExhaustedError("there are " + std::to_string(pins_.size()) +
                                        " pins already; remove some");
  }
  std::vector<Place> path = PathTo(writer_.Find(space->root, names).place);
  const uint32_t blocks = UsableBlocks(*space, path);
  path.resize(size_t{blocks} * space->block_places);
  if (path.empty()) return absl::NotFoundError("nothing of this path is here; there is no pin");
  const std::vector<uint64_t> ids = IdsOf(path);
  TtlPin pin{{++last_pin_, space->fingerprint, static_cast<uint32_t>(path.size()),
              UnixMs() + ttl.count(), tier},
             ids.back()};
  HoldPin(pin, +1);
  pins_.emplace(pin.view.pin, pin);
  const absl::Status saved = SaveState();
  if (!saved.ok()) {
    HoldPin(pin, -1);
    pins_.erase(pin.view.pin);
    return Annotate(saved, "the pin was not stored");
  }
  TouchPath(ids);
  if (tier == TierKind::kWarm) QueuePrefetch(*space, path, blocks);
  return pin.view;
}

absl::Status StackCore::Unpin(uint64_t number) {
  const auto found = pins_.find(number);
  if (found == pins_.end()) {
    return absl::NotFoundError("pin " + std::to_string(number) + " is not there or has expired");
  }
  HoldPin(found->second, -1);
  pins_.erase(found);
  SchedulePump();
  return Annotate(SaveState(), "the pin is gone, but may be back after a restart");
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
    QueuePrefetch(space, path, static_cast<uint32_t>(path.size()) / space.block_places);
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
  if (expired == 0 && state_saved_) return;
  const absl::Status saved = SaveState();
  if (!saved.ok()) {
    LogEvent(LogLevel::kWarning, "state_not_saved", {{"cause", std::string(saved.message())}});
  }
}

}  // namespace thermocline
