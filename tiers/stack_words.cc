// What the catalog's words say, and the books that follow from them: every change of a word goes
// through here, and so does every place that goes.
#include <unordered_set>

#include "tiers/stack_core.h"

namespace thermocline {
namespace {

uint64_t OffsetOf(Word word) { return uint64_t{word.warm_slot()} * kPageBytes; }

}  // namespace

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
  // Of its order behind the block before it the policy is told.
  const uint64_t parent = writer_.IdOf(BlockBefore(space, place));
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

// Not the inner places between the two, which hold no bytes.
Place StackCore::BlockBefore(const Space& space, Place place) const {
  Place before = writer_.Parent(place);
  while (writer_.Depth(before) % space.block_places != 0) before = writer_.Parent(before);
  return before;
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
    if (word.hot_slot() != 0) hot_->Free(word.hot_slot());
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
