#include "tiers/stack_holds.h"

#include <utility>

#include "base/units.h"

namespace thermocline {

TierStack::Held StackHolds::Hold(std::span<const BlockView> blocks) {
  TierStack::Held result{++last_, std::vector<bool>(blocks.size())};
  if (blocks.empty()) return result;
  Pinned& pinned = holds_[result.number];
  pinned.pins = std::vector<std::atomic<uint64_t>>(blocks.size());
  pinned.area = writer_.LendPins(pinned.pins);
  for (uint32_t i = 0; i < blocks.size(); ++i) {
    const auto place = writer_.PlaceOf(blocks[i].id);
    if (blocks[i].tier != TierKind::kWarm || !place) continue;
    const Word word = writer_.word(*place, blocks[i].part);
    if (word.moving() || uint64_t{word.warm_slot()} * kPageBytes != blocks[i].offset) continue;
    writer_.SetPin(pinned.area, i, *place);
    result.held[i] = true;
  }
  return result;
}

void StackHolds::LetGo(uint64_t number) {
  const auto found = holds_.find(number);
  if (found == holds_.end()) return;
  writer_.ForgetPins(found->second.area);
  holds_.erase(found);
}

}  // namespace thermocline
