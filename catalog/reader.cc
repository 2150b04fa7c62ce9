#include "catalog/reader.h"

#include <algorithm>

#include "base/check.h"
#include "catalog/fences.h"

namespace thermocline {

Reader::Reader(const Catalog& catalog, Pins pins) : catalog_(catalog), pins_(pins) {
  TC_CHECK(pins.size() >= 2);
  path_.reserve(64);
}

Reader::Match Reader::MatchAndPin(Root root, std::span<const Name> names, uint32_t pin,
                                  std::span<const PartRule> rules, uint32_t block_places) {
  TC_CHECK(catalog_.IsNode(root.node));
  TC_CHECK(pin < pins_.size());
  TC_CHECK(rules.size() <= kMaxParts);
  TC_CHECK(block_places > 0);
  const auto parts = static_cast<uint32_t>(rules.size());
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const size_t depth = Walk(root, names);
    if (depth == 0) return {.sure = IsRoot(root)};
    if (!kWordsBehindFence) ReadWords(depth, parts);
    const Place end{path_.back().node, path_.back().count};
    pins_[pin].store(PlaceBits(end), std::memory_order_release);
    ReaderFence();  // the pin before the loads below, and the loads of the walk before them too
    if (!kReaderRevalidates || Untouched(root) || Frozen(root, names)) {
      if (kWordsBehindFence) ReadWords(depth, parts);
      return {depth, Usable(rules, block_places)};
    }
    Unpin(pin);
    ++retries_;
  }
  return {.sure = false};
}

Reader::Match Reader::Extend(Root root, std::span<const Name> names, size_t held_depth,
                             uint32_t pin, std::span<const PartRule> rules, uint32_t block_places) {
  TC_CHECK(pin > 0);
  constexpr uint32_t kScratch = 0;
  const Match match = MatchAndPin(root, names, kScratch, rules, block_places);
  const bool grows = match.depth >= held_depth && match.depth > 0;
  if (grows) {
    const Place end{path_.back().node, path_.back().count};
    pins_[pin].store(PlaceBits(end), std::memory_order_release);
  }
  Unpin(kScratch);
  return grows ? match : Match{};
}

// Behind the fence either the writer sees our pin, or we see that it has shortened the run. It does
// so in vain, too, while the other reader holds the place; hence the attempts.
Reader::Match Reader::Adopt(Root root, Place place, uint64_t id, uint32_t pin,
                            std::span<const PartRule> rules, uint32_t block_places,
                            std::vector<Name>& names) {
  TC_CHECK(pin < pins_.size());
  names.clear();
  if (!catalog_.IsNode(place.node) || place.count == 0 ||
      place.count > catalog_.geometry().run_places) {
    return {};
  }
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    pins_[pin].store(PlaceBits(place), std::memory_order_release);
    AdopterFence();
    const bool stands =
        !kAdopterLooks ||
        (catalog_.state(place.node).length() >= place.count &&
         catalog_.id(place.node, place.count - 1).load(std::memory_order_relaxed) == id);
    if (stands && Climb(root, place)) {  // all of it is pinned: nothing changes any more
      for (const Step& step : path_) {
        for (uint32_t k = 0; k < step.count; ++k)
          names.push_back(catalog_.name(step.node, k).Load());
      }
      ReadWords(depth_, static_cast<uint32_t>(rules.size()));
      return {depth_, Usable(rules, block_places)};
    }
    Unpin(pin);
    ++retries_;
  }
  return {};
}

// The path to a place, from its end up to the root.
bool Reader::Climb(Root root, Place place) {
  path_.clear();
  depth_ = 0;
  while (place.count > 0) {
    if (!catalog_.IsNode(place.node) || place.count > catalog_.geometry().run_places) return false;
    path_.push_back({place.node, place.count, catalog_.state(place.node)});
    depth_ += place.count;
    if (depth_ > kMaxDepth) return false;
    place = PlaceFromBits(catalog_.node(place.node).parent.load(std::memory_order_relaxed));
  }
  std::reverse(path_.begin(), path_.end());
  return !kAdopterChecksRoot || (place.node == root.node && IsRoot(root));
}

Place Reader::PlaceAt(size_t depth) const {
  TC_CHECK(depth > 0 && depth <= depth_);
  for (const Step& step : path_) {
    if (depth <= step.count) return {step.node, static_cast<uint32_t>(depth)};
    depth -= step.count;
  }
  return {};
}

void Reader::Shorten(uint32_t pin, Place place) {
  pins_[pin].store(PlaceBits(place), std::memory_order_release);
}

void Reader::Unpin(uint32_t pin) { pins_[pin].store(0, std::memory_order_release); }

bool Reader::IsRoot(Root root) const {
  return !kReaderChecksRoot ||
         catalog_.node(root.node).root.load(std::memory_order_relaxed) == root.tag;
}

// Compares names downwards, under the states read before.
size_t Reader::Walk(Root root, std::span<const Name> names) {
  path_.clear();
  const uint32_t run = catalog_.geometry().run_places;
  size_t depth = 0;
  Place at{root.node, 0};
  while (depth < names.size()) {
    const auto [node, state] = catalog_.FindChild(at, names[depth]);
    if (node == 0) break;
    const auto limit =
        static_cast<uint32_t>(std::min<size_t>({state.length(), run, names.size() - depth}));
    for (uint32_t k = 0; k < limit; ++k) __builtin_prefetch(&catalog_.name(node, k));
    const NodeId next = catalog_.node(node).next.load(std::memory_order_relaxed);
    if (limit == run && catalog_.IsNode(next)) {  // likely the way on
      __builtin_prefetch(&catalog_.node(next));
      const size_t more = std::min<size_t>(run, names.size() - depth - limit);
      for (uint32_t k = 0; k < more; ++k) __builtin_prefetch(&catalog_.name(next, k));
    }
    uint32_t count = 1;  // FindChild compared the first
    while (count < limit && catalog_.name(node, count).Equals(names[depth + count])) ++count;
    path_.push_back({node, count, state});
    depth += count;
    at = {node, count};
  }
  depth_ = depth;
  return depth;
}

// No node of the path lost a name since before we compared it: all is as compared, and pinned.
bool Reader::Untouched(Root root) const {
  const auto steps = std::span(path_).last(
      kReaderChecksAncestors ? path_.size() : std::min<size_t>(1, path_.size()));
  for (const Step& step : steps) {
    if (catalog_.state(step.node).version() != step.state.version()) return false;
  }
  return IsRoot(root);
}

// Some node was shortened, perhaps beyond our path or in vain. If the end of the path is still
// there, now that the pin is visible, it and its ancestors stay: compare everything once more,
// upwards, this time without a race.
bool Reader::Frozen(Root root, std::span<const Name> names) {
  ++rechecks_;
  if (catalog_.state(path_.back().node).length() < path_.back().count) return false;
  if (!kReaderComparesAgain) return IsRoot(root);
  size_t depth = depth_;
  for (size_t i = path_.size(); i-- > 0;) {
    const Step& step = path_[i];
    const Place parent = i > 0 ? Place{path_[i - 1].node, path_[i - 1].count} : Place{root.node, 0};
    if (catalog_.state(step.node).length() < step.count) return false;
    const uint64_t now = catalog_.node(step.node).parent.load(std::memory_order_relaxed);
    if (kReaderComparesParents && now != PlaceBits(parent)) return false;
    depth -= step.count;
    for (uint32_t k = 0; k < step.count; ++k) {
      if (!catalog_.name(step.node, k).Equals(names[depth + k])) return false;
    }
  }
  return IsRoot(root);
}

// Every word once: what is judged usable is what the caller gets.
void Reader::ReadWords(size_t depth, uint32_t parts) {
  words_.resize(depth * parts);
  auto out = words_.begin();
  for (uint32_t part = 0; part < parts; ++part) {
    for (const Step& step : path_) {
      for (uint32_t k = 0; k < step.count; ++k) {
        *out++ = Word::FromBits(catalog_.word(part, step.node, k).load(std::memory_order_acquire));
      }
    }
  }
}

// The deepest end of a block at which every part is readable where it is needed: without a window
// everywhere before, else in the blocks that reach into the window.
size_t Reader::Usable(std::span<const PartRule> rules, uint32_t block_places) const {
  if (rules.empty()) return depth_ / block_places * block_places;
  size_t readable[kMaxParts] = {};  // blocks in a row, up to here
  size_t best = 0;
  for (size_t end = block_places, blocks = 1; end <= depth_; end += block_places, ++blocks) {
    bool usable = true;
    for (uint32_t part = 0; part < rules.size(); ++part) {
      readable[part] = word(part, end - 1).readable_warm() ? readable[part] + 1 : 0;
      const size_t window = rules[part].window_places;
      if (window == 0 && readable[part] < blocks) return best;
      const size_t needed =
          window == 0 ? blocks : std::min(blocks, (window + block_places - 1) / block_places);
      usable = usable && readable[part] >= needed;
    }
    if (usable) best = end;
  }
  return best;
}

}  // namespace thermocline
