// The writer's hand on the table of children: a hash table of one-cache-line buckets in the
// catalog's memory that readers search while it changes. An entry is one atomic word and never
// moves. A search goes on while it meets full buckets, and a removed entry counts as full as long
// as some entry had to go past its bucket: passed_ counts those.
#pragma once
#include <cstdint>
#include <vector>

#include "catalog/catalog.h"

namespace thermocline {

/// Thread: the writer's. Owner: borrows the catalog's memory.
class ChildTable {
 public:
  explicit ChildTable(const Catalog& catalog);

  /// Makes sure that one more entry finds room, growing the table where it gets crowded.
  /// False when it is full and may not grow.
  bool MakeRoom();
  /// Whether so many more entries find room.
  bool HasRoom(size_t count) const {
    return entries_ + count <= size_t{7} << catalog_.geometry().table_log2_max;
  }
  /// Adds or removes a node under its parent and first name, which must be in place.
  /// REQUIRES: MakeRoom returned true since the last Insert.
  void Insert(NodeId node);
  void Remove(NodeId node);

 private:
  uint64_t HashOf(NodeId node) const;
  void Grow();

  Catalog catalog_;
  uint32_t log2_;
  size_t entries_ = 0;
  std::vector<uint32_t> passed_;  // by bucket
};

}  // namespace thermocline
