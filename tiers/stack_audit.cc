// The books of a stack, checked against each other: the online fsck, and the judge of its tests.
#include <string>
#include <unordered_set>

#include "tiers/stack_core.h"

namespace thermocline {

const char* MissReasonName(MissReason reason) {
  switch (reason) {
    case MissReason::kAbsent:
      return "absent";
    case MissReason::kIncomplete:
      return "incomplete";
    case MissReason::kCorrupt:
      return "corrupt";
    case MissReason::kIoError:
      return "io_error";
    case MissReason::kNoSlot:
      return "no_slot";
    case MissReason::kLate:
      return "late";
  }
  return "unknown";
}

const char* TierKindName(TierKind tier) {
  switch (tier) {
    case TierKind::kNone:
      return "none";
    case TierKind::kHot:
      return "hot";
    case TierKind::kWarm:
      return "warm";
    case TierKind::kCold:
      return "cold";
    case TierKind::kRemote:
      return "remote";
  }
  return "unknown";
}

absl::Status StackCore::Audit() const {
  uint64_t hot_blocks = 0;
  uint64_t hot_bytes = 0;
  uint64_t warm_blocks = 0;
  uint64_t slot_bytes = 0;
  TC_RETURN_IF_ERROR(AuditWords(&hot_blocks, &hot_bytes, &warm_blocks, &slot_bytes));
  uint64_t fill_bytes = 0;
  uint64_t on_device = 0;
  InHand in_hand;
  for (const auto& [offset, slot] : reservations_) {
    const uint64_t bytes = SlabAllocator::SlotBytes(slot.bytes);
    on_device += IsDeviceSlot(offset) ? 1 : 0;
    (IsDeviceSlot(offset) ? fill_bytes : slot_bytes) += bytes;
    if (!IsDeviceSlot(offset)) in_hand.Add(slot.client, bytes);
  }
  if (!(in_hand == in_hand_)) {
    return absl::InternalError("audit: what clients have in hand is not what they have reserved");
  }
  for (const auto& [ref, read] : cold_reads_under_way_) {
    const PlaceState& state = places_.at(ref.id);
    slot_bytes +=
        SlabAllocator::SlotBytes(spaces_.at(state.space).spec.parts[ref.part].block_bytes);
  }
  for (const auto& [offset, slot] : quarantine_) {
    IsDeviceSlot(offset) ? fill_bytes += FillBytes(offset)
                         : slot_bytes += host_->SlotBytesAt(offset);
  }
  for (const auto& [number, waiter] : fills_.waiters) {
    for (const uint64_t offset : waiter.slots) fill_bytes += FillBytes(offset);
  }
  for (const auto& [offset, is_to_be_freed] : fills_.summing) {
    if (is_to_be_freed) fill_bytes += FillBytes(offset);
  }
  if (on_device != fills_.reserved) {
    return absl::InternalError("audit: " + std::to_string(on_device) +
                               " slots of the device are reserved, and not " +
                               std::to_string(fills_.reserved));
  }
  if (fill_bytes != fills_.bytes) {
    return absl::InternalError("audit: clients fill " + std::to_string(fill_bytes) +
                               " bytes of the device, and not " + std::to_string(fills_.bytes));
  }
  for (const uint64_t offset : forgotten_) slot_bytes += host_->SlotBytesAt(offset);
  TC_RETURN_IF_ERROR(AuditPins());
  const TierUsage warm = host_->Usage();
  if (warm.block_count != warm_blocks) {
    return absl::InternalError("audit: " + std::to_string(warm_blocks) + " warm words, " +
                               std::to_string(warm.block_count) + " committed slots");
  }
  if (warm.used_bytes != slot_bytes) {
    return absl::InternalError("audit: " + std::to_string(slot_bytes) +
                               " bytes of slots have an owner, " + std::to_string(warm.used_bytes) +
                               " are in use");
  }
  if (warm.used_bytes > warm.capacity_bytes) return absl::InternalError("audit: warm over budget");
  if (hot_ != nullptr && !hot_job_running_ && hot_->Usage().block_count != hot_blocks) {
    return absl::InternalError("audit: " + std::to_string(hot_blocks) + " hot words, " +
                               std::to_string(hot_->Usage().block_count) + " committed hot slots");
  }
  for (const uint32_t page : forgotten_hot_) hot_bytes += hot_->SlotBytesAt(page);
  hot_bytes += fill_bytes;
  if (hot_ != nullptr && !hot_job_running_ && fills_.reserving == 0 &&
      hot_->Usage().used_bytes != hot_bytes) {
    return absl::InternalError("audit: " + std::to_string(hot_bytes) +
                               " bytes of hot slots have an owner, " +
                               std::to_string(hot_->Usage().used_bytes) + " are in use");
  }
  if (cold_ == nullptr) return absl::OkStatus();
  const TierUsage cold = cold_->Usage();
  // What is kept when a segment goes is written before.
  const uint64_t most = cold.capacity_bytes + SegmentBytes() + cold.capacity_bytes / 16;
  if (cold.used_bytes > most) return absl::InternalError("audit: cold over budget");
  return absl::OkStatus();
}

absl::Status StackCore::AuditPins() const {
  std::map<uint64_t, std::pair<uint32_t, uint32_t>> held;  // by place: of any tier, of warm
  PinnedBytes bytes;
  for (const auto& [number, pin] : pins_) {
    const auto end = writer_.PlaceOf(pin.id);
    if (!end)
      return absl::InternalError("audit: pin " + std::to_string(number) + " lost its place");
    for (Place place : PathTo(*end)) {
      auto& [any, warm] = held[writer_.IdOf(place)];
      ++any;
      if (pin.view.tier == TierKind::kWarm) ++warm;
    }
  }
  for (const uint64_t id : places_.Ids()) {
    if (held[id] != std::pair(places_.at(id).pins, places_.at(id).warm_pins)) {
      return absl::InternalError("audit: the pins of place " + std::to_string(id) + " are wrong");
    }
    if (held[id].first == 0 || IsInner(*writer_.PlaceOf(id))) continue;
    const Space& space = spaces_.at(places_.at(id).space);
    for (uint32_t part = 0; part < space.part_count(); ++part) {
      bytes.cold += space.StoredBytes(part);
      if (cold_ != nullptr && held[id].second == 0) continue;
      bytes.warm += SlabAllocator::SlotBytes(space.spec.parts[part].block_bytes);
    }
  }
  if (bytes.warm != pinned_.warm || bytes.cold != pinned_.cold) {
    return absl::InternalError("audit: the bytes of pins are wrong");
  }
  return absl::OkStatus();
}

absl::Status StackCore::AuditWords(uint64_t* hot_blocks, uint64_t* hot_bytes, uint64_t* warm_blocks,
                                   uint64_t* slot_bytes) const {
  std::map<uint32_t, std::array<uint64_t, 3>> sums;  // by space: places, warm bytes, cold bytes
  std::unordered_set<uint32_t> slots;
  for (const uint64_t id : places_.Ids()) {
    const PlaceState& state = places_.at(id);
    const std::string where = "audit: place " + std::to_string(id) + ": ";
    const auto place = writer_.PlaceOf(id);
    if (!place) return absl::InternalError(where + "is not in the catalog");
    const Space& space = spaces_.at(state.space);
    auto& sum = sums[state.space];
    ++sum[0];
    bool hot = false;
    bool warm = false;
    bool cold = false;
    for (uint32_t part = 0; part < space.part_count(); ++part) {
      const Word word = writer_.word(*place, part);
      const uint64_t bytes = space.spec.parts[part].block_bytes;
      if (word.moving()) return absl::InternalError(where + "was left moving");
      cold = cold || word.cold_copy();
      if (word.cold_copy()) sum[2] += bytes;
      if (word.hot_slot() != 0) {
        hot = true;
        if (hot_->PageOf({id, static_cast<uint16_t>(part)}) != word.hot_slot()) {
          return absl::InternalError(where + "its hot slot holds another block");
        }
        ++*hot_blocks;
        *hot_bytes += SlabAllocator::SlotBytes(bytes);
      }
      if (word.warm_slot() == 0) continue;
      warm = true;
      sum[1] += bytes;
      ++*warm_blocks;
      *slot_bytes += SlabAllocator::SlotBytes(bytes);
      if (!slots.insert(word.warm_slot()).second)
        return absl::InternalError(where + "shares a slot");
      const BlockHeader header = host_->HeaderAt(uint64_t{word.warm_slot()} * kPageBytes);
      if (header.id != id || header.part != part) {
        return absl::InternalError(where + "its slot holds another block");
      }
    }
    if (hot != hot_policy_->Contains(id) || warm != warm_policy_->Contains(id) ||
        cold != cold_policy_->Contains(id)) {
      return absl::InternalError(where + "a policy is mistaken about it");
    }
  }
  if (writer_.place_count() != places_.size()) return absl::InternalError("audit: stray places");
  for (const auto& [number, space] : spaces_) {
    const auto& sum = sums[number];
    if (space.places != sum[0] || space.warm_bytes != sum[1] || space.cold_bytes != sum[2]) {
      return absl::InternalError("audit: the counts of space " + std::to_string(number) +
                                 " are wrong");
    }
  }
  return absl::OkStatus();
}

}  // namespace thermocline
