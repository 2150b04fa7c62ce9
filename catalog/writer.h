// The one writer of a catalog: it alone changes names, words and shape. What only it needs (ids,
// counts and lists of children, depths) lies in its own memory.
//
// Two things take bytes or names from under readers, and both look at the pins behind a fence:
//   Drop       shortens runs at their tails; what a pin covers comes back. Only tails without
//              children lose their name.
//   BeginMove  flags words as moving; what lies at or above a pin gets its word back. Everything
//              that reuses a slot while its place stays goes through it: demotion, promotion to
//              another slot, chunk reclaim, holes behind a window.
// Readers read words behind their own fence, so either they see the flag, or we see their pin.
#pragma once
#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/id_table.h"
#include "base/status.h"
#include "catalog/catalog.h"
#include "catalog/child_table.h"
#include "catalog/reader.h"

namespace thermocline {

/// A zeroed array that costs memory only where it was written.
template <class T>
class SparseArray {
 public:
  explicit SparseArray(size_t size) : data_(static_cast<T*>(std::calloc(size, sizeof(T)))) {
    TC_CHECK(data_ != nullptr);
  }
  T& operator[](size_t index) { return data_.get()[index]; }
  const T& operator[](size_t index) const { return data_.get()[index]; }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
};

/// One part of one place whose bytes shall move, and what became of the wish.
struct Movement {
  Place place;
  uint32_t part = 0;
  Word before{};         // out: its word, without the flag
  bool granted = false;  // out: flagged; the slots of `before` are the caller's until FinishMove
};

/// A place that left the tree.
struct Dropped {
  uint64_t id = 0;
  std::array<Word, kMaxParts> words;  // their slots may be reused at once
};

struct DropResult {
  std::vector<Dropped> dropped;  // of one run in order of depth
  std::vector<Place> leaves;     // places that nothing stands behind any more
};

/// Places that callers hand in must be in the tree; parts are below kMaxParts. Both are checked.
/// Thread: one. Owner: borrows the catalog's memory, which was just formatted.
class Writer {
 public:
  explicit Writer(const Catalog& catalog);

  /// A new space. Tags are not 0 and never used again in this epoch.
  /// Errors: InvalidArgument, AlreadyExists; ResourceExhausted when all nodes are in use.
  absl::StatusOr<Root> AddRoot(uint32_t tag);
  std::optional<Root> FindRoot(uint32_t tag) const;
  /// Errors: FailedPrecondition while the space holds places.
  absl::Status RemoveRoot(Root root);
  static constexpr Place RootPlace(Root root) { return {root.node, 0}; }

  struct Found {
    Place place;
    size_t depth = 0;
  };
  /// The longest resident prefix; the root's place when nothing matches.
  Found Find(Root root, std::span<const Name> names) const;
  /// The place behind `at` called `name`.
  std::optional<Place> FindNext(Place at, const Name& name) const;

  /// Adds a place behind `at`, with no bytes yet. `id` is not 0 and not in the tree.
  /// Errors: AlreadyExists when the name is there; ResourceExhausted when nodes or table are full
  ///         (drop something, then again).
  absl::StatusOr<Place> Append(Place at, const Name& name, uint64_t id);
  /// Whether so many places can be added, the first behind `at`, each of the others behind the one
  /// before it.
  bool HasRoom(Place at, size_t count) const;

  Word word(Place place, uint32_t part) const;
  /// Publishes a word; the bytes in its slots are in place. It may add a slot or change flags; a
  /// slot that is set already, readers may hold: changing it takes BeginMove.
  void SetWord(Place place, uint32_t part, Word word);
  /// What the bytes sum to for which the next word will stand. REQUIRES: nobody reads any there.
  void SetChecksum(Place place, uint32_t part, uint64_t checksum);

  bool Contains(Place place) const;
  bool IsRoot(Place place) const { return place.count == 0; }
  /// The place before; the root's own place is its own parent.
  Place Parent(Place place) const;
  Root RootOf(Place place) const;
  uint32_t Depth(Place place) const { return nodes_[place.node].depth_before + place.count; }
  /// Whether nothing stands behind `place`.
  bool IsLeaf(Place place) const;
  void VisitChildren(Place place, const std::function<void(Place)>& visit) const;
  /// Every place below the root, parents before children.
  void VisitSubtree(Place place, const std::function<void(Place)>& visit) const;
  Name NameOf(Place place) const;
  std::vector<Name> NamesOf(Place place) const;  // from the root down
  uint64_t IdOf(Place place) const;              // 0 for a root's place
  std::optional<Place> PlaceOf(uint64_t id) const;

  /// Drops the places of `firsts` and all behind them in their runs, down to the last fork, the
  /// last pinned place or the last place with a moving word: one fence and one look at the pins for
  /// the whole batch.
  DropResult Drop(std::span<const Place> firsts);

  /// Flags words as moving, all with one fence; not those that are empty, moving already, or at or
  /// above a pin. Returns how many were granted. Each granted one must be given to FinishMove.
  size_t BeginMove(std::span<Movement> batch);
  /// Reads the pins for whoever chooses what to ask for: with that answer Drop and BeginMove refuse
  /// less. It proves nothing, for want of a fence and of anything announced before it.
  void LookAtPins() { MarkPins(); }
  /// Whether a pin held `place` at the last look, of whatever kind it was.
  bool LookedPinned(Place place) const { return Marked(place.node) >= place.count; }
  /// Publishes what became of a moving word: its new whereabouts, or `before` to call it off.
  void FinishMove(Place place, uint32_t part, Word word);

  /// From now on what these pins say is respected. Whoever else writes them may write anything.
  /// Owner: borrows the memory until ForgetPins.
  /// Returns the number of the area that they are.
  uint32_t LendPins(Pins pins);
  /// Respects them no more. Only once the reads of their owner are over for certain.
  void ForgetPins(uint32_t area);
  /// Sets a pin on behalf of the area's owner: to a place that is in the tree, or that another pin
  /// of it covers. Place{} unpins. The caller sees to it that its owner does not pin there, too.
  void SetPin(uint32_t area, uint32_t pin, Place place);

  /// Room for so many places in all, and one that will be asked for or appended soon.
  void Reserve(size_t places) { places_.Reserve(places); }
  /// Gives the catalog the memory that so many places in a new tree take at least: sooner than page
  /// by page, and beside the writer's own work.
  /// Thread: any.
  void Populate(size_t places) const { catalog_.Populate(places / run_); }
  void Prefetch(uint64_t id) const { places_.Prefetch(id); }

  size_t place_count() const { return places_.size(); }
  size_t node_count() const { return used_ - 1 - free_.size(); }
  const Catalog& catalog() const { return catalog_; }

 private:
  struct Node {
    uint64_t mark_round = 0;  // `marked` counts in this round only; 64 bits never wrap
    NodeId root = 0;
    uint32_t depth_before = 0;  // places above the run
    NodeId first_child = 0;     // hanging anywhere on the run
    NodeId next_sibling = 0;
    NodeId previous_sibling = 0;
    uint16_t marked = 0;  // places of the run at or above a pin
    uint8_t parts = 0;    // a bit for each part that ever had a word here
  };
  struct Tail {
    NodeId node;
    uint32_t to;   // the length that shall remain
    uint32_t old;  // the length that was
  };

  NodeId TakeNode();
  void Adopt(Place at, NodeId child);
  void Release(NodeId node, DropResult& result);
  uint32_t& children(Place place) {
    return children_[size_t{place.node} * (run_ + 1) + place.count];
  }
  uint32_t children(Place place) const {
    return children_[size_t{place.node} * (run_ + 1) + place.count];
  }
  std::atomic<uint64_t>& SharedId(Place place) const {
    return catalog_.id(place.node, place.count - 1);
  }
  std::atomic<uint64_t>& SharedWord(Place place, uint32_t part) const {
    return catalog_.word(part, place.node, place.count - 1);
  }
  bool HasMovingWord(Place place) const;
  std::vector<Tail> TailsOf(std::span<const Place> firsts);
  void CutTail(const Tail& tail, DropResult& result);
  void MarkPins();
  void MarkUpwards(Place place);
  uint32_t Marked(NodeId node) const {
    return nodes_[node].mark_round == mark_round_ ? nodes_[node].marked : 0;
  }

  Catalog catalog_;
  ChildTable table_;
  uint32_t run_;
  NodeId used_ = 1;  // nodes from here on were never used
  std::vector<NodeId> free_;
  SparseArray<Node> nodes_;
  SparseArray<uint32_t> children_;                     // nodes that hang at each place
  IdTable<uint64_t> places_;                           // id to PlaceBits
  boost::unordered_flat_map<uint32_t, NodeId> roots_;  // by tag
  std::vector<Pins> areas_;                            // an empty one is free
  uint64_t mark_round_ = 0;
};

}  // namespace thermocline
