// What lies in the catalog's memory, byte for byte. Everything is addressed by offset from the base
// of the mapping, so that the same bytes may be mapped anywhere, by the daemon and by its clients.
//
//   page 0            CatalogHeader
//   nodes             node_count x { NodeHeader, run_places x SharedName }
//   ids               node_count x run_places: of the place of each name
//   words             kMaxParts regions of node_count x run_places words, one region a part: in
//                     sparse memory a part that nobody uses costs nothing
//   checksums         as the words: of the payload that a word stands for
//   child tables      one region for every size the table may grow to, so that an address never
//                     means two things
//
// Only the writer writes here; its clients map it read-only. Pins, the one thing that a reader
// writes, lie in memory of its own that the writer reads (its control area, proto/shm_layout.h).
//
// All fields that change are atomics, read and written relaxed where a fence orders them: there is
// no data race, for the compiler as for ThreadSanitizer.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "hashing/name.h"
#include "hashing/space.h"  // kMaxParts

namespace thermocline {

inline constexpr uint64_t kCatalogMagic = 0x31474c5441434354;  // "TCCATLG1"
inline constexpr uint32_t kCatalogLayoutVersion = 2;
inline constexpr uint32_t kMaxRunPlaces = 32;

using NodeId = uint32_t;  // 0 is no node

/// A position in the tree of names: the path from the root of a space up to and including the first
/// `count` names of run node `node`. The root's own place has count 0.
struct Place {
  NodeId node = 0;
  uint32_t count = 0;
  constexpr bool operator==(const Place&) const = default;
};

inline constexpr uint64_t PlaceBits(Place place) {
  return uint64_t{place.node} << 16 | (place.count & 0xffff);
}
inline constexpr Place PlaceFromBits(uint64_t bits) {
  return {static_cast<NodeId>(bits >> 16), static_cast<uint32_t>(bits & 0xffff)};
}

/// The pins of one reader: each PlaceBits of the place that it protects with all above it, or 0.
using Pins = std::span<std::atomic<uint64_t>>;

/// A node's version and length in one atomic word. Appending raises the length; dropping a tail
/// lowers it under a new version; a version never comes back (48 bits).
struct NodeState {
  uint64_t bits = 0;
  constexpr uint64_t version() const { return bits >> 16; }
  constexpr uint32_t length() const { return bits & 0xffff; }
  static constexpr NodeState Of(uint64_t version, uint32_t length) {
    return {version << 16 | length};
  }
};

/// How big a catalog is. Fixed when it is formatted.
struct Geometry {
  uint32_t node_count = 0;              // run nodes; number 0 is not used
  uint32_t run_places = kMaxRunPlaces;  // names a node
  uint32_t table_log2 = 6;              // buckets of 8 children: at first
  uint32_t table_log2_max = 0;          // and at most; 0: enough for all nodes
};

struct alignas(64) CatalogHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t reserved;
  uint64_t epoch;  // of the daemon that formatted it
  Geometry geometry;
  std::atomic<uint32_t> table_log2;
};

struct alignas(64) NodeHeader {
  std::atomic<uint64_t> state;   // NodeState
  std::atomic<uint64_t> parent;  // PlaceBits of the place that the run hangs at
  std::atomic<NodeId> next;      // hint: a child that hangs at the end of this run
  std::atomic<uint32_t> root;    // nonzero: the root of a space, its tag
};

/// A name that readers may read while the writer overwrites it: what was read counts only once the
/// node's version is seen unchanged.
struct alignas(64) SharedName {
  std::atomic<uint64_t> word[8];

  bool Equals(const Name& name) const {
    uint64_t difference = 0;
    for (int i = 0; i < 8; ++i) {
      difference |= word[i].load(std::memory_order_relaxed) ^ name.word[i];
    }
    return difference == 0;
  }
  Name Load() const {
    Name name;
    for (int i = 0; i < 8; ++i) name.word[i] = word[i].load(std::memory_order_relaxed);
    return name;
  }
  void Store(const Name& name) {
    for (int i = 0; i < 8; ++i) word[i].store(name.word[i], std::memory_order_relaxed);
  }
};

struct alignas(64) ChildBucket {
  std::atomic<uint64_t> entry[8];  // hash << 32 | child; 0 empty, kTombstone removed
};
inline constexpr uint64_t kTombstone = uint64_t{1} << 32;

static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(sizeof(Geometry) == 16);
static_assert(sizeof(CatalogHeader) == 64 && offsetof(CatalogHeader, epoch) == 16 &&
              offsetof(CatalogHeader, geometry) == 24 && offsetof(CatalogHeader, table_log2) == 40);
static_assert(sizeof(NodeHeader) == 64 && offsetof(NodeHeader, parent) == 8 &&
              offsetof(NodeHeader, next) == 16 && offsetof(NodeHeader, root) == 20);
static_assert(sizeof(SharedName) == 64 && sizeof(Name) == 64 && sizeof(ChildBucket) == 64);

}  // namespace thermocline
