// The stress's writer: it grows, moves and drops, and fills slots with what their paths say.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "tests/catalog/stress_plan.h"

namespace thermocline {

class StressWriter {
 public:
  StressWriter(const Plan& plan, Writer& writer, Root root, std::atomic<uint64_t>& passing,
               Payload* slots, Tally& tally)
      : plan_(plan),
        writer_(writer),
        root_(root),
        shared_passing_(passing),
        slots_(slots),
        tally_(tally),
        random_(plan.seed),
        noise_(plan.seed) {
    // Slots for all places and all moves on the way.
    slot_count_ = (plan.places + plan.depth) * kParts;
    for (uint32_t slot = slot_count_; slot > 0; --slot) free_.push_back(slot);
    paths_.resize(slot_count_ + 1);
    AddPassingRoot(root.tag + 1);
  }
  static uint32_t SlotCount(const Plan& plan) { return (plan.places + plan.depth) * kParts + 1; }

  void Turn() {
    const bool passing = random_() % 100 < plan_.roots_percent;
    if (passing && random_() % 2) RenewPassingRoot();
    const Root root = passing ? passing_ : root_;
    MakePrompt(plan_, random_, root, prompt_);
    const Place end = Grow(root);
    if (random_() % 100 < plan_.moves_percent) Move(end);
    if (writer_.place_count() + plan_.depth >= plan_.places ||
        random_() % 100 < plan_.drops_percent) {
      Drop(end);
    }
    TC_CHECK(used_ + free_.size() == slot_count_);
  }

 private:
  uint32_t Fill(uint64_t path, uint32_t part) {
    const uint32_t slot = free_.back();
    free_.pop_back();
    ++used_;
    for (auto& word : slots_[slot].word) {
      word.store(ContentOf(path, part), std::memory_order_relaxed);
    }
    paths_[slot] = path;
    return slot;
  }
  void Poison(uint32_t slot) {
    for (auto& word : slots_[slot].word) word.store(kPoison, std::memory_order_relaxed);
    free_.push_back(slot);
    --used_;
  }

  // Adds what is missing of the prompt and fills the holes that moves left on its way.
  Place Grow(Root root) {
    auto [place, depth] = writer_.Find(root, prompt_.names);
    const size_t found = depth;
    Place at = place;
    for (size_t i = found; i > 0; --i, at = writer_.Parent(at)) FillHoles(at, prompt_.paths[i - 1]);
    for (; depth < prompt_.names.size() && writer_.place_count() < plan_.places; ++depth) {
      auto next = writer_.Append(place, prompt_.names[depth], ++last_id_);
      if (!next.ok()) break;
      place = *next;
      FillHoles(place, prompt_.paths[depth]);
    }
    return place;
  }
  void FillHoles(Place place, uint64_t path) {
    for (uint32_t part = 0; part < kParts; ++part) {
      if (!writer_.word(place, part).empty() || free_.size() < plan_.depth) continue;
      writer_.SetWord(place, part, Word().WithWarmSlot(Fill(path, part)));
    }
  }

  // Some of the way that we just came, which readers walk the most.
  void Move(Place end) {
    batch_.clear();
    for (Place place = end; !writer_.IsRoot(place); place = writer_.Parent(place)) {
      if (random_() % 2) batch_.push_back({place, static_cast<uint32_t>(random_() % kParts)});
      if (batch_.size() == 8) break;
    }
    if (random_() % 100 < plan_.noise_percent) noise_.Make();
    const size_t granted = writer_.BeginMove(batch_);
    for (const Movement& move : batch_) {
      if (!move.granted) continue;
      const uint32_t old = move.before.warm_slot();
      const uint64_t path = paths_[old];
      Poison(old);
      const bool leaves_a_hole = random_() % 8 == 0 || free_.empty();
      writer_.FinishMove(
          move.place, move.part,
          leaves_a_hole ? Word().WithColdCopy(true) : Word().WithWarmSlot(Fill(path, move.part)));
      if (leaves_a_hole) writer_.SetWord(move.place, move.part, Word());
    }
    tally_.moved.fetch_add(granted, std::memory_order_relaxed);
    tally_.moves_refused.fetch_add(batch_.size() - granted, std::memory_order_relaxed);
  }

  // The tail we just came to, often whole; and, when it is crowded, whatever else has an id.
  void Drop(Place end) {
    firsts_.clear();
    if (!writer_.IsRoot(end) && writer_.IsLeaf(end) && random_() % 100 < plan_.drops_percent) {
      firsts_.push_back(end);
    }
    const size_t crowd = writer_.place_count() + plan_.depth;
    const size_t wanted = crowd > plan_.places ? std::min<size_t>(crowd - plan_.places, 16) : 0;
    for (size_t tries = 0; tries < 4 * wanted && firsts_.size() < wanted; ++tries) {
      const auto place = writer_.PlaceOf(1 + random_() % last_id_);
      // Ids grow without bound, most are gone: walk a random way instead.
      firsts_.push_back(place ? *place : RandomLeaf());
      if (writer_.IsRoot(firsts_.back())) firsts_.pop_back();
    }
    const size_t asked = firsts_.size();
    if (random_() % 100 < plan_.noise_percent) noise_.Make();
    if (!DropFirsts() && asked > 0) tally_.drops_refused.fetch_add(1, std::memory_order_relaxed);
  }
  /// Whether anything went.
  bool DropFirsts() {
    const DropResult result = writer_.Drop(firsts_);
    for (const Dropped& dropped : result.dropped) {
      for (Word word : dropped.words) {
        if (word.warm_slot() != 0) Poison(word.warm_slot());
      }
    }
    tally_.dropped.fetch_add(result.dropped.size(), std::memory_order_relaxed);
    return !result.dropped.empty();
  }
  /// Lets all go that is below the passing root, and the root, whose node the next one takes;
  /// unless a reader is in the way.
  void RenewPassingRoot() {
    do {
      firsts_.clear();
      writer_.VisitSubtree({passing_.node, 0}, [&](Place place) { firsts_.push_back(place); });
    } while (DropFirsts());
    if (!writer_.RemoveRoot(passing_).ok()) return;
    AddPassingRoot(passing_.tag + 1);
    tally_.roots.fetch_add(1, std::memory_order_relaxed);
  }
  void AddPassingRoot(uint32_t tag) {
    passing_ = writer_.AddRoot(tag).value();
    shared_passing_.store(BitsOf(passing_), std::memory_order_release);
  }
  Place RandomLeaf() {
    Prompt prompt;
    MakePrompt(plan_, random_, root_, prompt);
    Place place = writer_.Find(root_, prompt.names).place;
    while (true) {
      std::optional<Place> next;
      writer_.VisitChildren(place, [&](Place child) {
        if (!next || random_() % 2) next = child;
      });
      if (!next) return place;
      place = *next;
    }
  }

  const Plan& plan_;
  Writer& writer_;
  Root root_;
  Root passing_;
  std::atomic<uint64_t>& shared_passing_;
  Payload* slots_;
  Tally& tally_;
  std::mt19937_64 random_;
  Noise noise_;
  Prompt prompt_;
  uint32_t slot_count_;
  std::vector<uint32_t> free_;
  size_t used_ = 0;
  std::vector<uint64_t> paths_;  // by slot
  uint64_t last_id_ = 0;
  std::vector<Movement> batch_;
  std::vector<Place> firsts_;
};

}  // namespace thermocline
