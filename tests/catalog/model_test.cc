// The tree against the plainest model of it, a map from whole paths to what they hold, under a long
// random walk of everything the writer offers, with pins that come and go.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

using Path = std::vector<uint64_t>;

struct Held {
  uint64_t id = 0;
  std::map<uint32_t, Word> words;
};

class Walk {
 public:
  Walk(const Geometry& geometry, uint64_t seed) : small_(geometry), random_(seed) {}

  void Step() {
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2:
        return Append();
      case 3:
        return Drop();
      case 4:
        return SetWord();
      case 5:
        return Move();
      case 6:
        return Pin();
      case 7:
        return Look();
    }
  }

  void CheckAll() {
    ASSERT_EQ(small_.writer.place_count(), model_.size());
    std::set<Path> seen;
    small_.writer.VisitSubtree(Writer::RootPlace(small_.root), [&](Place place) {
      const Path path = PathOf(place);
      ASSERT_TRUE(seen.insert(path).second);
      const auto held = model_.find(path);
      ASSERT_NE(held, model_.end());
      ASSERT_EQ(small_.writer.IdOf(place), held->second.id);
      ASSERT_EQ(small_.writer.PlaceOf(held->second.id), place);
      ASSERT_EQ(small_.writer.Depth(place), path.size());
      ASSERT_EQ(small_.writer.IsLeaf(place), IsLeaf(path));
      for (uint32_t part = 0; part < kMaxParts; ++part) {
        const auto word = held->second.words.find(part);
        ASSERT_EQ(small_.writer.word(place, part),
                  word == held->second.words.end() ? Word() : word->second);
      }
    });
    ASSERT_EQ(seen.size(), model_.size());
  }

 private:
  Path RandomPath() {
    Path path(1 + random_() % 24);
    for (uint64_t& symbol : path) symbol = random_() % 8 ? 1 : random_() % 4;
    return path;
  }
  std::vector<Name> Names(const Path& path) {
    std::vector<Name> names;
    for (uint64_t symbol : path) names.push_back(NameOf(symbol));
    return names;
  }
  Path PathOf(Place place) {
    Path path;
    for (const Name& name : small_.writer.NamesOf(place)) path.push_back(name.word[0] / 1000);
    return path;
  }
  size_t DepthInModel(const Path& path) {
    size_t depth = 0;
    while (depth < path.size() && model_.contains(Path(path.begin(), path.begin() + depth + 1))) {
      ++depth;
    }
    return depth;
  }
  static bool Covers(const Path& above, const Path& path) {
    return above.size() <= path.size() && std::equal(above.begin(), above.end(), path.begin());
  }
  bool IsLeaf(const Path& path) {
    const auto next = model_.upper_bound(path);
    return next == model_.end() || !Covers(path, next->first);
  }
  bool IsPinned(const Path& path) {
    return std::any_of(pins_.begin(), pins_.end(),
                       [&](const auto& pin) { return Covers(path, pin.second); });
  }
  std::optional<Place> RandomPlace() {
    const Path path = RandomPath();
    const auto found = small_.writer.Find(small_.root, Names(path));
    if (found.depth == 0) return std::nullopt;
    return found.place;
  }

  void Append() {
    const Path path = RandomPath();
    auto [place, depth] = small_.writer.Find(small_.root, Names(path));
    ASSERT_EQ(depth, DepthInModel(path));
    const bool all_fit = small_.writer.HasRoom(place, path.size() - depth);
    for (; depth < path.size(); ++depth) {
      const uint64_t id = small_.next_id++;
      auto next = small_.writer.Append(place, NameOf(path[depth]), id);
      ASSERT_TRUE(next.ok() ? all_fit || depth + 1 < path.size() : !all_fit);
      if (!next.ok()) {
        ASSERT_EQ(next.status().code(), absl::StatusCode::kResourceExhausted);
        return;
      }
      place = *next;
      const Path here(path.begin(), path.begin() + static_cast<ptrdiff_t>(depth) + 1);
      model_[here].id = id;
      paths_[id] = here;
    }
  }

  void Drop() {
    std::vector<Place> firsts;
    for (size_t i = 0; i < 1 + random_() % 4; ++i) {
      if (auto place = RandomPlace()) firsts.push_back(*place);
    }
    const DropResult result = small_.writer.Drop(firsts);
    for (auto dropped = result.dropped.rbegin(); dropped != result.dropped.rend(); ++dropped) {
      const Path& path = paths_.at(dropped->id);
      ASSERT_FALSE(IsPinned(path));
    }
    // Deepest first: each must be a leaf of what remains.
    std::vector<const Dropped*> order;
    for (const Dropped& dropped : result.dropped) order.push_back(&dropped);
    std::sort(order.begin(), order.end(), [&](const Dropped* a, const Dropped* b) {
      return paths_.at(a->id).size() > paths_.at(b->id).size();
    });
    for (const Dropped* dropped : order) {
      const Path& path = paths_.at(dropped->id);
      ASSERT_TRUE(IsLeaf(path));
      for (uint32_t part = 0; part < kMaxParts; ++part) {
        const auto word = model_[path].words.find(part);
        ASSERT_EQ(dropped->words[part], word == model_[path].words.end() ? Word() : word->second);
      }
      model_.erase(path);
    }
    for (Place leaf : result.leaves) ASSERT_TRUE(IsLeaf(PathOf(leaf)));
    // What may go at once does: a single unpinned leaf.
    if (auto place = RandomPlace(); place && small_.writer.IsLeaf(*place)) {
      const Path path = PathOf(*place);
      const size_t expected = IsPinned(path) ? 0 : 1;
      ASSERT_EQ(small_.writer.Drop({{*place}}).dropped.size(), expected);
      if (expected == 1) model_.erase(path);
    }
  }

  void SetWord() {
    const auto place = RandomPlace();
    if (!place) return;
    const uint32_t part = random_() % kMaxParts;
    Word word = small_.writer.word(*place, part).WithChecked(random_() % 2);
    if (word.warm_slot() == 0) word = word.WithWarmSlot(1 + random_() % 1000);
    small_.writer.SetWord(*place, part, word);
    model_[PathOf(*place)].words[part] = word;
  }

  void Move() {
    std::vector<Movement> batch;
    for (size_t i = 0; i < 1 + random_() % 6; ++i) {
      if (auto place = RandomPlace()) {
        batch.push_back({*place, static_cast<uint32_t>(random_() % kMaxParts)});
      }
    }
    small_.writer.BeginMove(batch);
    std::set<std::pair<uint64_t, uint32_t>> granted;
    for (const Movement& move : batch) {
      const Path path = PathOf(move.place);
      const uint64_t id = small_.writer.IdOf(move.place);
      const bool again = granted.contains({id, move.part});
      ASSERT_EQ(move.granted, !move.before.empty() && !IsPinned(path) && !again);
      if (move.granted) granted.insert({id, move.part});
    }
    for (const Movement& move : batch) {
      if (!move.granted) continue;
      const Word word = random_() % 3 ? Word().WithWarmSlot(1 + random_() % 1000) : Word();
      small_.writer.FinishMove(move.place, move.part, word);
      model_[PathOf(move.place)].words[move.part] = word;
    }
  }

  void Pin() {
    const uint32_t pin = 1 + random_() % 5;
    const auto place = random_() % 2 ? RandomPlace() : std::nullopt;
    small_.writer.SetPin(small_.area, pin, place.value_or(Place{}));
    pins_.erase(pin);
    if (place) pins_[pin] = PathOf(*place);
  }

  void Look() {
    const Path path = RandomPath();
    Reader reader(small_.memory.catalog(), small_.pins);
    const PartRule rules[] = {{}, {}};
    const auto match = reader.MatchAndPin(small_.root, Names(path), 10, rules);
    ASSERT_EQ(match.depth, DepthInModel(path));
    size_t usable = 0;
    while (usable < match.depth) {
      auto& words = model_[Path(path.begin(), path.begin() + usable + 1)].words;
      if (!words[0].readable_warm() || !words[1].readable_warm()) break;
      ++usable;
    }
    ASSERT_EQ(match.usable, usable);
    reader.Unpin(10);
  }

  SmallCatalog small_;
  std::mt19937_64 random_;
  std::map<Path, Held> model_;
  std::map<uint64_t, Path> paths_;  // of every id there ever was
  std::map<uint32_t, Path> pins_;
};

void WalkAndCheck(const Geometry& geometry, int steps) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  Walk walk(geometry, seed);
  for (int step = 1; step <= steps && !::testing::Test::HasFatalFailure(); ++step) {
    walk.Step();
    if (step % 500 == 0) walk.CheckAll();
  }
}

TEST(CatalogModelTest, RunsOfThree) { WalkAndCheck({.node_count = 4000, .run_places = 3}, 20000); }
TEST(CatalogModelTest, RunsOfOne) { WalkAndCheck({.node_count = 4000, .run_places = 1}, 10000); }
TEST(CatalogModelTest, FullRuns) { WalkAndCheck({.node_count = 4000}, 20000); }
TEST(CatalogModelTest, FewNodes) { WalkAndCheck({.node_count = 40, .run_places = 4}, 20000); }

}  // namespace
}  // namespace thermocline
