// Unordered keys of an opaque space: each is a place right below the root. Nothing is leased for
// them; on the strand nothing changes while they are looked up, and who reads them holds them.
#include "catalog/key_reader.h"
#include "tiers/stack_core.h"

namespace thermocline {

absl::StatusOr<std::vector<BlockView>> StackCore::LookUp(uint32_t number,
                                                         std::span<const Name> keys,
                                                         std::optional<uint16_t> read) {
  TC_ASSIGN_OR_RETURN(Space * space, SpaceOf(number));
  if (!space->spec.opaque_names || space->block_places != 1 || keys.size() > kMaxNamesPerCall) {
    return absl::InvalidArgumentError(
        "keys are looked up in a space that has them, one a block, and at most " +
        std::to_string(kMaxNamesPerCall) + " at once");
  }
  if (read && *read >= space->part_count()) {
    return absl::InvalidArgumentError("part " + std::to_string(*read) + " of a space with " +
                                      std::to_string(space->part_count()));
  }
  std::vector<FoundKey> found(keys.size());
  KeyReader(memory_.catalog()).LookUp(space->root, keys, found);
  std::vector<BlockView> blocks;
  blocks.reserve(keys.size() * space->part_count());
  uint64_t absent = 0;
  for (uint32_t i = 0; i < keys.size(); ++i) {
    const Place place{found[i].node, 1};
    const bool there = place.node != 0 && !places_.at(writer_.IdOf(place)).doomed;
    for (uint16_t part = 0; part < space->part_count(); ++part) {
      BlockView view{.part = part};
      if (there && !writer_.word(place, part).moving()) view = ViewOf(place, part);
      view.depth = i;
      if (part == read) {
        if (view.tier == TierKind::kNone) ++absent;
        if (view.tier == TierKind::kWarm) ++warm_counters_.hits;
      }
      blocks.push_back(view);
    }
    if (!read || !there) continue;
    const uint64_t id = writer_.IdOf(place);
    TouchPath({&id, 1});
    NoteReuse({&id, 1});
  }
  if (read) {
    ++stats_.lookups;
    stats_.misses_by_reason[static_cast<size_t>(MissReason::kAbsent)] += absent;
  }
  return blocks;
}

}  // namespace thermocline
