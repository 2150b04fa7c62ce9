#include "catalog/child_table.h"

#include "base/check.h"
#include "catalog/fences.h"
#include "hashing/prefix_hash.h"

namespace thermocline {

ChildTable::ChildTable(const Catalog& catalog)
    : catalog_(catalog), log2_(catalog.geometry().table_log2), passed_(size_t{1} << log2_) {}

bool ChildTable::MakeRoom() {
  if (entries_ >= size_t{6} << log2_ && log2_ < catalog_.geometry().table_log2_max) Grow();
  return entries_ < size_t{7} << log2_;  // fuller, and every miss searches half the table
}

void ChildTable::Insert(NodeId node) {
  const uint64_t hash = HashOf(node);
  const size_t mask = (size_t{1} << log2_) - 1;
  ChildBucket* buckets = catalog_.table(log2_);
  size_t bucket = Catalog::Home(hash, log2_);
  for (size_t left = mask + 1; left > 0; --left, bucket = (bucket + 1) & mask) {
    for (auto& slot : buckets[bucket].entry) {
      const uint64_t old = slot.load(std::memory_order_relaxed);
      if (old != 0 && old != kTombstone) continue;
      slot.store(hash << 32 | node, std::memory_order_release);
      ++entries_;
      return;
    }
    ++passed_[bucket];
  }
  TC_CHECK(!"MakeRoom came first");
}

void ChildTable::Remove(NodeId node) {
  const uint64_t hash = HashOf(node);
  const size_t mask = (size_t{1} << log2_) - 1;
  ChildBucket* buckets = catalog_.table(log2_);
  size_t bucket = Catalog::Home(hash, log2_);
  for (size_t left = mask + 1; left > 0; --left, bucket = (bucket + 1) & mask) {
    for (auto& slot : buckets[bucket].entry) {
      if (slot.load(std::memory_order_relaxed) != (hash << 32 | node)) continue;
      slot.store(passed_[bucket] > 0 ? kTombstone : 0, std::memory_order_release);
      --entries_;
      return;
    }
    if (--passed_[bucket] > 0) continue;
    for (auto& slot : buckets[bucket].entry) {
      if (slot.load(std::memory_order_relaxed) == kTombstone) {
        slot.store(0, std::memory_order_release);
      }
    }
  }
  TC_CHECK(!"every live child is in the table");
}

uint64_t ChildTable::HashOf(NodeId node) const {
  return ChildHash(catalog_.node(node).parent.load(std::memory_order_relaxed),
                   catalog_.name(node, 0).Load());
}

// Doubles the table beside the readers, in a region that was never used. The old one stays as it
// is, so that who has begun in it finds what was there. (All that were replaced are smaller than
// the one in use; and no page of memory that is sealed against other writers can be given back.)
void ChildTable::Grow() {
  const uint32_t old_log2 = log2_++;
  ChildBucket* old = catalog_.table(old_log2);
  passed_.assign(size_t{1} << log2_, 0);
  entries_ = 0;
  for (size_t bucket = 0; bucket < size_t{1} << old_log2; ++bucket) {
    for (const auto& slot : old[bucket].entry) {
      if (const auto node = static_cast<NodeId>(slot.load(std::memory_order_relaxed)); node != 0) {
        Insert(node);
      }
    }
  }
  catalog_.table_log2().store(log2_, std::memory_order_release);
  for (size_t bucket = 0; !kOldTableStays && bucket < size_t{1} << old_log2; ++bucket) {
    for (auto& slot : old[bucket].entry) slot.store(0, std::memory_order_release);
  }
}

}  // namespace thermocline
