// Tables by block id. Ids are given by the daemon alone, one after the other, so that no hash of
// them has to withstand malice: Fibonacci hashing spreads neighbours evenly, and a search is mostly
// one cache line. Whoever goes through many ids in a known order prefetches; that is what lets a
// restart put a million of them into several such tables within a fraction of a second.
//
//   IdTable<Value>  open addressing with linear probing, small values; growing moves them
//   IdMap<Value>    a value stays where it is until it is erased
#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/large_array.h"

namespace thermocline {

/// Thread: one; any number may read meanwhile that nobody changes.
template <class Value>
class IdTable {
 public:
  IdTable() : entries_(size_t{1} << kLeastLog2) {}

  /// Makes room for `count` ids in all.
  void Reserve(size_t count) {
    uint32_t log2 = 64 - shift_;
    while (count > Limit(log2)) ++log2;
    if (log2 > 64 - shift_) Resize(log2);
  }
  void Prefetch(uint64_t id) const { __builtin_prefetch(&entries_[Home(id)], 1); }

  /// nullptr when it is absent. Valid until the next insertion or erasure.
  Value* Find(uint64_t id) { return const_cast<Value*>(std::as_const(*this).Find(id)); }
  const Value* Find(uint64_t id) const {
    for (size_t at = Home(id); entries_[at].id != 0; at = Next(at)) {
      if (entries_[at].id == id) return &entries_[at].value;
    }
    return nullptr;
  }
  bool contains(uint64_t id) const { return Find(id) != nullptr; }

  /// The value of `id`, and whether it was inserted now. REQUIRES: `id` is not 0.
  std::pair<Value*, bool> Insert(uint64_t id, Value value) {
    TC_CHECK(id != 0);
    if (size_ == Limit(64 - shift_)) Resize(64 - shift_ + 1);
    size_t at = Home(id);
    for (; entries_[at].id != 0; at = Next(at)) {
      if (entries_[at].id == id) return {&entries_[at].value, false};
    }
    entries_[at] = {id, value};
    ++size_;
    return {&entries_[at].value, true};
  }

  /// False when it was absent. What a search for others would miss behind the gap moves up.
  bool Erase(uint64_t id) {
    if (id == 0) return false;
    size_t gap = Home(id);
    for (; entries_[gap].id != id; gap = Next(gap)) {
      if (entries_[gap].id == 0) return false;
    }
    for (size_t at = Next(gap); entries_[at].id != 0; at = Next(at)) {
      const size_t way = (at - Home(entries_[at].id)) & Mask();
      if (way < ((at - gap) & Mask())) continue;  // it is found without passing the gap
      entries_[gap] = entries_[at];
      gap = at;
    }
    entries_[gap] = {};
    --size_;
    return true;
  }

  /// In no order; `visit(id, value)` changes nothing here.
  template <class Visit>
  void ForEach(Visit&& visit) const {
    for (const Entry& entry : entries_) {
      if (entry.id != 0) visit(entry.id, entry.value);
    }
  }
  size_t size() const { return size_; }

 private:
  static constexpr uint32_t kLeastLog2 = 8;
  struct Entry {
    uint64_t id;  // 0: empty
    Value value;
  };
  static constexpr size_t Limit(uint32_t log2) { return (size_t{1} << log2) / 4 * 3; }
  size_t Mask() const { return entries_.size() - 1; }
  size_t Next(size_t at) const { return (at + 1) & Mask(); }
  size_t Home(uint64_t id) const { return (id * 0x9e3779b97f4a7c15u) >> shift_; }

  void Resize(uint32_t log2) {
    const LargeArray<Entry> old = std::exchange(entries_, LargeArray<Entry>(size_t{1} << log2));
    shift_ = 64 - log2;
    for (const Entry& entry : old) {
      if (entry.id == 0) continue;
      size_t at = Home(entry.id);
      while (entries_[at].id != 0) at = Next(at);
      entries_[at] = entry;
    }
  }

  LargeArray<Entry> entries_;
  uint32_t shift_ = 64 - kLeastLog2;
  size_t size_ = 0;
};

/// Values that stay where they are, in blocks that are filled one after the other. Memory is given
/// back by the destructor only.
/// Thread: as IdTable.
template <class Value>
class IdMap {
 public:
  IdMap() = default;
  IdMap(const IdMap&) = delete;
  IdMap& operator=(const IdMap&) = delete;
  ~IdMap() {
    std::sort(free_.begin(), free_.end());
    auto gone = free_.begin();
    for (uint32_t at = 0; at < used_; ++at) {
      if (gone != free_.end() && *gone == at) {
        ++gone;
      } else {
        std::destroy_at(ValueAt(at));
      }
    }
  }

  void Reserve(size_t count) { index_.Reserve(count); }
  void Prefetch(uint64_t id) const { index_.Prefetch(id); }

  Value* Find(uint64_t id) { return const_cast<Value*>(std::as_const(*this).Find(id)); }
  const Value* Find(uint64_t id) const {
    const uint32_t* const at = index_.Find(id);
    return at == nullptr ? nullptr : ValueAt(*at);
  }
  bool contains(uint64_t id) const { return index_.contains(id); }
  /// REQUIRES: it is there.
  Value& at(uint64_t id) { return const_cast<Value&>(std::as_const(*this).at(id)); }
  const Value& at(uint64_t id) const {
    const Value* const found = Find(id);
    TC_CHECK(found != nullptr);
    return *found;
  }

  /// A new value. REQUIRES: `id` is absent and not 0.
  Value& Add(uint64_t id) {
    uint32_t at = used_;
    if (!free_.empty()) {
      at = free_.back();
      free_.pop_back();
    } else {
      if (BlockOf(at) == blocks_.size()) blocks_.emplace_back(std::max(at, kFirst));
      ++used_;
    }
    const bool fresh = index_.Insert(id, at).second;
    TC_CHECK(fresh);
    return *std::construct_at(ValueAt(at));
  }

  /// Absent is fine.
  void Erase(uint64_t id) {
    const uint32_t* const at = index_.Find(id);
    if (at == nullptr) return;
    std::destroy_at(ValueAt(*at));
    free_.push_back(*at);
    index_.Erase(id);
  }

  /// All of them, in no order.
  std::vector<uint64_t> Ids() const {
    std::vector<uint64_t> ids;
    ids.reserve(size());
    index_.ForEach([&](uint64_t id, uint32_t) { ids.push_back(id); });
    return ids;
  }
  size_t size() const { return index_.size(); }

 private:
  struct Room {
    alignas(Value) std::byte bytes[sizeof(Value)];
  };
  static constexpr uint32_t kFirstLog2 = 12;
  static constexpr uint32_t kFirst = 1u << kFirstLog2;  // values of block 0
  // Each other block has room for as many as all before it.
  static size_t BlockOf(uint32_t at) { return std::bit_width(at >> kFirstLog2); }
  Value* ValueAt(uint32_t at) const {
    const size_t block = BlockOf(at);
    const uint32_t before = block == 0 ? 0 : kFirst << (block - 1);
    return reinterpret_cast<Value*>(blocks_[block].begin()[at - before].bytes);
  }

  IdTable<uint32_t> index_;
  std::vector<LargeArray<Room>> blocks_;
  std::vector<uint32_t> free_;
  uint32_t used_ = 0;
};

}  // namespace thermocline
