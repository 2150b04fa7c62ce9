// The half of the writer that takes things from under readers: dropping tails, moving bytes, pins.
#include <algorithm>
#include <string>

#include "catalog/fences.h"
#include "catalog/writer.h"

namespace thermocline {

DropResult Writer::Drop(std::span<const Place> firsts) {
  DropResult result;
  std::vector<Tail> tails = TailsOf(firsts);
  if (tails.empty()) return result;
  for (const Tail& tail : tails) {
    const uint64_t version = catalog_.state(tail.node).version() + (kDropsRaiseVersion ? 1 : 0);
    catalog_.node(tail.node).state.store(NodeState::Of(version, tail.to).bits,
                                         std::memory_order_relaxed);
  }
  DropFence();  // the lengths before the pins below, and before any name or slot is overwritten
  MarkPins();
  // What a pin saves comes back before anything is cut, so that what is told of leaves holds.
  for (Tail& tail : tails) {
    const uint32_t kept = std::clamp(Marked(tail.node), tail.to, tail.old);
    if (kept != tail.to) {
      const uint64_t version = catalog_.state(tail.node).version();
      catalog_.node(tail.node).state.store(NodeState::Of(version, kept).bits,
                                           std::memory_order_release);
      tail.to = kept;
    }
    if (kept > 0 && kept < tail.old && children({tail.node, kept}) == 0) {
      result.leaves.push_back({tail.node, kept});
    }
  }
  for (const Tail& tail : tails) CutTail(tail, result);
  return result;
}

// One tail a node, the longest that was asked for and may go. Sorted by node.
std::vector<Writer::Tail> Writer::TailsOf(std::span<const Place> firsts) {
  std::vector<Tail> tails;
  for (Place first : firsts) {
    TC_CHECK(Contains(first));
    TC_CHECK(!IsRoot(first));
    tails.push_back({first.node, first.count - 1, catalog_.state(first.node).length()});
  }
  std::sort(tails.begin(), tails.end(), [](const Tail& a, const Tail& b) {
    return a.node != b.node ? a.node < b.node : a.to < b.to;
  });
  const auto same_node = [](const Tail& a, const Tail& b) { return a.node == b.node; };
  tails.erase(std::unique(tails.begin(), tails.end(), same_node), tails.end());
  for (Tail& tail : tails) {
    uint32_t fixed = tail.old;
    while (fixed > tail.to && children({tail.node, fixed}) == 0 &&
           !HasMovingWord({tail.node, fixed})) {
      --fixed;
    }
    tail.to = fixed;
  }
  std::erase_if(tails, [](const Tail& tail) { return tail.to == tail.old; });
  return tails;
}

bool Writer::HasMovingWord(Place place) const {
  const uint8_t parts = nodes_[place.node].parts;
  for (uint32_t part = 0; part < kMaxParts; ++part) {
    if ((parts >> part & 1) != 0 && word(place, part).moving()) return true;
  }
  return false;
}

// Lets a tail's places go for good, and their run with the first of them.
void Writer::CutTail(const Tail& tail, DropResult& result) {
  const uint8_t parts = nodes_[tail.node].parts;
  for (uint32_t count = tail.to + 1; count <= tail.old; ++count) {
    const Place place{tail.node, count};
    Dropped dropped{.id = SharedId(place).exchange(0, std::memory_order_relaxed)};
    for (uint32_t part = 0; part < kMaxParts; ++part) {
      if ((parts >> part & 1) == 0) continue;
      // 0 before a slot is reused: nobody may find it under the name that comes here next.
      std::atomic<uint64_t>& word = SharedWord(place, part);
      dropped.words[part] =
          Word::FromBits(kDropsZeroWords ? word.exchange(0, std::memory_order_relaxed)
                                         : word.load(std::memory_order_relaxed));
    }
    places_.Erase(dropped.id);
    result.dropped.push_back(dropped);
  }
  if (tail.to == 0) Release(tail.node, result);
}

size_t Writer::BeginMove(std::span<Movement> batch) {
  for (Movement& move : batch) {
    move.before = word(move.place, move.part);
    move.granted = !move.before.empty() && !move.before.moving();
    if (!move.granted) continue;
    SharedWord(move.place, move.part)
        .store(move.before.WithMoving(true).bits(), std::memory_order_relaxed);
  }
  MoveFence();  // the flags before the pins below
  MarkPins();
  size_t granted = 0;
  for (Movement& move : batch) {
    if (!move.granted) {
      move.before = move.before.WithMoving(false);
      continue;
    }
    if (Marked(move.place.node) >= move.place.count) {
      move.granted = false;
      SharedWord(move.place, move.part).store(move.before.bits(), std::memory_order_release);
    } else {
      ++granted;
    }
  }
  return granted;
}

void Writer::FinishMove(Place place, uint32_t part, Word word) {
  TC_CHECK(this->word(place, part).moving());
  TC_CHECK(!word.moving());
  SharedWord(place, part).store(word.bits(), std::memory_order_release);
}

// Clients write what they like into their areas, so every pin is read once and range-checked. A
// stale or made-up one marks too much at most.
void Writer::MarkPins() {
  ++mark_round_;
  for (const Pins& pins : areas_) {
    for (size_t i = 0; i < pins.size(); ++i) {  // ascending, see reader.h
      const uint64_t bits =
          pins[kPinsAscending ? i : pins.size() - 1 - i].load(std::memory_order_acquire);
      const Place place = PlaceFromBits(bits);
      if (bits >> 48 != 0 || place.node >= used_) continue;
      if (place.count == 0 || place.count > run_) continue;
      MarkUpwards(place);
    }
  }
}

// Climbs until a node that was marked in this round: what is above it is marked, too.
void Writer::MarkUpwards(Place place) {
  while (place.node != 0 && place.count > 0) {
    Node& node = nodes_[place.node];
    const bool seen = node.mark_round == mark_round_;
    node.marked =
        static_cast<uint16_t>(seen ? std::max<uint32_t>(node.marked, place.count) : place.count);
    node.mark_round = mark_round_;
    if (seen || !kPinsProtectAncestors) return;
    place = PlaceFromBits(catalog_.node(place.node).parent.load(std::memory_order_relaxed));
  }
}

uint32_t Writer::LendPins(Pins pins) {
  TC_CHECK(!pins.empty());
  auto area = std::find_if(areas_.begin(), areas_.end(), [](Pins p) { return p.empty(); });
  if (area == areas_.end()) area = areas_.emplace(area);
  *area = pins;
  return static_cast<uint32_t>(area - areas_.begin());
}

void Writer::ForgetPins(uint32_t area) {
  TC_CHECK(area < areas_.size());
  areas_[area] = {};
}

void Writer::SetPin(uint32_t area, uint32_t pin, Place place) {
  TC_CHECK(area < areas_.size());
  TC_CHECK(pin < areas_[area].size());
  TC_CHECK(place == Place{} || Contains(place));
  areas_[area][pin].store(PlaceBits(place), std::memory_order_release);
}

}  // namespace thermocline
