// A reader of the catalog: finds the longest resident prefix, pins it whole by publishing the one
// place where it ends, and reads the words of its places from behind its own fence. It waits for
// nothing and writes nothing but its pins.
//
// A reader's pins are numbered; pin 0 is scratch for Extend. The writer reads them in ascending
// order, so a pin may be copied to a higher number and then cleared without a moment in which the
// writer could see neither.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "catalog/catalog.h"

namespace thermocline {

/// The root of a space. Tags are never given to another space within an epoch.
struct Root {
  NodeId node = 0;
  uint32_t tag = 0;
  bool operator==(const Root&) const = default;
};

/// Where a match needs the bytes of one part.
struct PartRule {
  uint32_t window_places = 0;  // 0: at every place; else at the last so many places only
};

/// Thread: one at a time. Owner: borrows the memory of the catalog and of its pins, at least two,
/// which the writer was told of (Writer::LendPins).
class Reader {
 public:
  Reader(const Catalog& catalog, Pins pins);

  struct Match {
    size_t depth = 0;   // places found and pinned; 0: nothing is pinned
    size_t usable = 0;  // of these, how many the rules let the caller use in place (warm)
    bool sure = true;  // false: nothing is said of what is there (lost races, or the root has gone)
  };

  /// Finds the longest resident prefix of `names` below `root` and pins it under number `pin`,
  /// which must hold nothing. Reads the words of parts [0, rules.size()). `block_places` says how
  /// many places share one block: only every block_places-th place has words, and `usable` is a
  /// multiple of it. The bytes of usable places stand until Unpin. After kAttempts lost races it
  /// gives up with a miss.
  Match MatchAndPin(Root root, std::span<const Name> names, uint32_t pin,
                    std::span<const PartRule> rules, uint32_t block_places = 1);

  /// Grows the lease under `pin`, which holds the first `held_depth` of `names`, as far as they are
  /// resident now. When that fails (depth 0 comes back) the old pin stands as it was.
  Match Extend(Root root, std::span<const Name> names, size_t held_depth, uint32_t pin,
               std::span<const PartRule> rules, uint32_t block_places = 1);

  /// Pins, under `pin`, which must hold nothing, a place that another reader told of: with `id`,
  /// which the catalog gives it. `names`: of its path. Depth 0 when it is not there any more; while
  /// the other holds it, it is. Neither `place` nor `id` needs to be trusted.
  Match Adopt(Root root, Place place, uint64_t id, uint32_t pin, std::span<const PartRule> rules,
              uint32_t block_places, std::vector<Name>& names);

  /// Of the last match: the word of a part at the place number `index`, from 0.
  Word word(uint32_t part, size_t index) const { return words_[part * depth_ + index]; }
  /// A piece of the path of the last match: the first `count` names of a node's run.
  struct Step {
    NodeId node;
    uint32_t count;
    NodeState state;
  };
  std::span<const Step> path() const { return path_; }
  /// Of the last match: the place at `depth`, from 1.
  Place PlaceAt(size_t depth) const;

  /// Lets go of what lies deeper than `place`, an ancestor of what the pin holds.
  void Shorten(uint32_t pin, Place place);
  void Unpin(uint32_t pin);

  uint64_t retries() const { return retries_; }
  uint64_t rechecks() const { return rechecks_; }

 private:
  static constexpr int kAttempts = 4;
  static constexpr size_t kMaxDepth = size_t{1} << 20;  // of a path that somebody tells of

  bool IsRoot(Root root) const;
  size_t Walk(Root root, std::span<const Name> names);
  bool Climb(Root root, Place place);
  bool Untouched(Root root) const;
  bool Frozen(Root root, std::span<const Name> names);
  void ReadWords(size_t depth, uint32_t parts);
  size_t Usable(std::span<const PartRule> rules, uint32_t block_places) const;

  Catalog catalog_;
  Pins pins_;
  std::vector<Step> path_;
  size_t depth_ = 0;
  std::vector<Word> words_;  // [part][depth_]
  uint64_t retries_ = 0;
  uint64_t rechecks_ = 0;
};

}  // namespace thermocline
