// Least recently used, leaf first. One list by last use; a use touches its path from the leaf to
// the root, so that a place is always younger than what stands behind it and the old end of the
// list is a leaf. Where a parent came to the tier after its children, the order alone does not
// tell: every place also counts its members behind, and a walk names none whose children were not
// all taken.
#pragma once
#include <vector>

#include "base/id_table.h"
#include "base/large_array.h"
#include "tiers/policy.h"

namespace thermocline {

/// Cost: O(1) a place; a walk also passes over what it may not name.
class LruPolicy : public Policy {
 public:
  LruPolicy();
  void Reserve(size_t members) override;
  void Prefetch(uint64_t id) const override { index_of_.Prefetch(id); }
  void Insert(uint64_t id, uint64_t parent) override;
  void Remove(uint64_t id) override;
  bool Contains(uint64_t id) const override;
  void Touch(std::span<const uint64_t> path) override;
  void Victims(const std::function<Answer(uint64_t id)>& visit) override;
  size_t size() const override { return member_count_; }

 private:
  using Index = uint32_t;  // of an entry; 0 is the list's head
  struct Entry {
    uint64_t id = 0;
    uint64_t walk = 0;  // the last walk that came by; `taken` and `passed` are of that one
    Index parent = 0;   // 0: a root
    Index older = 0;
    Index younger = 0;
    uint32_t children = 0;  // members right behind it
    uint32_t taken = 0;     // of its children
    bool passed = false;    // the walk has come to its place in the list
    bool member = false;    // else only remembered, for its children
  };

  Index EntryOf(uint64_t id);
  void Release(Index index);
  Entry& InThisWalk(Index index);
  void Link(Index index, Index older_than);
  void Unlink(Index index);

  IdTable<Index> index_of_;
  LargeVector<Entry> entries_;
  std::vector<Index> free_;
  size_t member_count_ = 0;
  uint64_t walk_ = 0;
};

}  // namespace thermocline
