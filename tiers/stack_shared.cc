// What clients do without a message, in their control areas. They may write anything there: every
// word is read once, range-checked, and believed no further than to protect a place, to touch it in
// the policy, or to add to a counter.
#include <algorithm>

#include "tiers/stack_core.h"

namespace thermocline {
namespace {

// A counter that has grown by more since it was looked at was not counted.
constexpr uint64_t kMostCounted = uint64_t{1} << 32;
// Of a client's budget, for the depth of a place that it does not reach for; in places.
constexpr size_t kMeasuringCost = 64;

uint64_t Grown(const std::atomic<uint64_t>& shared, uint64_t& seen) {
  const uint64_t now = shared.load(std::memory_order_relaxed);
  const uint64_t grown = now - seen;
  seen = now;
  return grown > kMostCounted ? 0 : grown;
}

}  // namespace

void StackCore::NoteUses() {
  for (auto& [number, client] : clients_) {
    if (client.shared != nullptr) NoteUses(client);
  }
}

void StackCore::NoteUses(Client& client) {
  ControlArea& area = *client.shared;
  stats_.lookups += Grown(area.lookups, client.lookups_seen);
  warm_counters_.hits += Grown(area.warm_hits, client.warm_hits_seen);
  stats_.misses_by_reason[static_cast<size_t>(MissReason::kAbsent)] +=
      Grown(area.absent, client.absent_seen);
  stats_.shared_requested_tokens += Grown(area.requested_tokens, client.requested_seen);
  stats_.shared_hit_tokens += Grown(area.hit_tokens, client.hit_tokens_seen);
  stats_.shared_hit_bytes += Grown(area.hit_bytes, client.hit_bytes_seen);
  const uint64_t written = area.uses_written.load(std::memory_order_acquire);
  const uint64_t fresh = std::min<uint64_t>(written - client.uses_seen, kUseRecords);
  uint64_t last = 0;
  for (uint64_t use = written - fresh; use != written; ++use) {
    // Taken out, so that one that is not written yet is not counted for what was there before.
    const uint64_t bits = area.uses[use % kUseRecords].exchange(0, std::memory_order_relaxed);
    if (bits != last) TouchShared(client, bits, true);
    last = bits;
  }
  client.uses_seen = written;
}

void StackCore::TouchShared(Client& client, uint64_t place_bits, bool is_match) {
  const Place place = PlaceFromBits(place_bits);
  if (place_bits >> 48 != 0 || !writer_.Contains(place) || writer_.IsRoot(place)) return;
  if (client.touch_budget == 0) return;
  const size_t depth = writer_.Depth(place);
  if (depth > client.touch_budget) {
    client.touch_budget -= std::min(client.touch_budget, kMeasuringCost);
    return;
  }
  client.touch_budget -= depth;
  const std::vector<uint64_t> path = IdsOf(PathTo(place));
  TouchPath(path);
  if (is_match) NoteReuse(path);
}

// Made-up places do no harm. But whoever writes such is broken, or worse, and so is what it
// commits.
void StackCore::CheckShared() {
  for (auto& [number, client] : clients_) {
    if (client.shared == nullptr || client.misbehaved) continue;
    const char* const what = WhatIsWrong(*client.shared);
    if (what == nullptr) continue;
    client.misbehaved = true;
    misbehaved_.push_back({ClientNumber{number}, what});
  }
}

const char* StackCore::WhatIsWrong(const ControlArea& area) const {
  const Geometry& geometry = writer_.catalog().geometry();
  const auto is_place = [&](const std::atomic<uint64_t>& word) {
    const uint64_t bits = word.load(std::memory_order_relaxed);
    const Place place = PlaceFromBits(bits);
    return bits == 0 || (bits >> 48 == 0 && place.node != 0 && place.node < geometry.node_count &&
                         place.count <= geometry.run_places);
  };
  if (!std::all_of(std::begin(area.pins), std::end(area.pins), is_place)) {
    return "a pin in its control area names a place that no catalog has";
  }
  if (!std::all_of(std::begin(area.uses), std::end(area.uses), is_place)) {
    return "a record of use in its control area names a place that no catalog has";
  }
  return nullptr;
}

// A lease is a use for as long as it lasts, one by message too.
void StackCore::TouchPinned() {
  for (auto& [number, client] : clients_) {
    client.touch_budget = kTouchBudget;
    if (client.shared == nullptr) continue;
    for (const std::atomic<uint64_t>& pin : client.shared->pins) {
      TouchShared(client, pin.load(std::memory_order_relaxed), false);
    }
  }
  for (const auto& [number, lease] : leases_) {
    Client& client = clients_.at(lease.client);
    if (lease.path.size() > client.touch_budget) continue;
    client.touch_budget -= lease.path.size();
    TouchPath(lease.path);
  }
}

// Its own pins protect nothing any more.
void StackCore::ForgetShared(Client& client) {
  if (client.shared == nullptr) return;
  NoteUses(client);
  writer_.ForgetPins(client.shared_area);
  client.shared.reset();
}

void StackCore::RecallSlots() {
  for (auto& [number, client] : clients_) {
    if (client.shared == nullptr) continue;
    client.shared->slots_recalled.fetch_add(1, std::memory_order_relaxed);
  }
}

// A lease in name only, at what a client holds by its own pin.
absl::StatusOr<StackCore::Lease> StackCore::LeaseAt(ClientNumber number, const PinnedEnd& end) {
  TC_ASSIGN_OR_RETURN(Client * client, ClientOf(number));
  TC_ASSIGN_OR_RETURN(const Space* space, SpaceOf(end.space));
  if (client->shared == nullptr || end.pin >= kControlPins) {
    return absl::InvalidArgumentError("pin " + std::to_string(end.pin) +
                                      " is none of this session; commit behind a lease");
  }
  if (client->shared->pins[end.pin].load(std::memory_order_acquire) != PlaceBits(end.place)) {
    return absl::FailedPreconditionError(
        "the pin does not hold the place that the commit shall stand behind; match again");
  }
  if (!writer_.Contains(end.place) || writer_.RootOf(end.place) != space->root ||
      writer_.Depth(end.place) % space->block_places != 0) {
    return absl::FailedPreconditionError(
        "the place that the commit shall stand behind ends no block of this space; match again");
  }
  return Lease{.client = number.value,
               .space = end.space,
               .pin = 0,
               .place = end.place,
               .path = IdsOf(PathTo(end.place))};
}

absl::Status StackCore::CheckCommit(ClientNumber number, const PinnedEnd& end,
                                    std::span<const Name> names,
                                    std::span<const CommitItem> items) {
  TC_ASSIGN_OR_RETURN(const Lease lease, LeaseAt(number, end));
  return CheckCommit(lease, names, items);
}

absl::StatusOr<LeaseView> StackCore::Commit(ClientNumber number, const PinnedEnd& end,
                                            std::span<const Name> names,
                                            std::span<const CommitItem> items) {
  TC_ASSIGN_OR_RETURN(Lease lease, LeaseAt(number, end));
  Client& client = clients_.at(number.value);
  // Held by the client's scratch pin on our side while this lasts: its own is its to change.
  SetLeasePlace(lease, end.place);
  absl::StatusOr<LeaseView> view = CommitBehind(lease, names, items);
  if (view.ok()) {
    uint64_t expected = PlaceBits(end.place);
    client.shared->pins[end.pin].compare_exchange_strong(expected, PlaceBits(lease.place),
                                                         std::memory_order_acq_rel);
  }
  writer_.SetPin(client.area, lease.pin, Place{});
  return view;
}

}  // namespace thermocline
