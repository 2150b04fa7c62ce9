// Look-ups of unordered keys: places right below the root of a space, each a run of its own, of
// which a batch is found at once. What hundreds of keys cost is cache misses; so they go in stages,
// each of which asks the memory for what the next one reads.
//
// A look-up pins nothing: what it read counts once the versions are seen unchanged. Who wants the
// bytes of a batch copies them out, and needs one pin for all of it, as it is on one key at a time.
// (A copy without a pin, judged by a second look, would do but for memory that was given back in
// between: to read there is SIGBUS once a tmpfs is full.)
#pragma once
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>

#include "catalog/reader.h"

namespace thermocline {

/// Where a key was found.
struct FoundKey {
  NodeId node = 0;  // 0: it is not there
  NodeState state;
};

/// One part of a key, as its word stood a moment ago.
struct KeyBlock {
  Word word;
  uint64_t id = 0;
  uint64_t checksum = 0;
};

/// Thread: any. Owner: borrows the memory of the catalog.
class KeyReader {
 public:
  explicit KeyReader(const Catalog& catalog) : catalog_(catalog) {}

  /// Finds each of `keys` below `root`, in their order; some may be equal. False when the root has
  /// gone: then nothing is said of what is there. REQUIRES: equal sizes.
  bool LookUp(Root root, std::span<const Name> keys, std::span<FoundKey> found) const;

  /// One part of a key that is there; empty when it has changed since it was found.
  KeyBlock Block(Root root, const FoundKey& found, uint32_t part) const;

  /// Pins a key that is there, and says where its bytes are warm: they stay until the pin is
  /// cleared. Nothing, and no pin, when they are not, or when the key has changed since it was
  /// found. `pin`: one that the writer was told of (Writer::LendPins), and that holds nothing.
  std::optional<KeyBlock> Pin(Root root, const FoundKey& found, uint32_t part,
                              std::atomic<uint64_t>& pin) const;

 private:
  bool Stands(Root root, const FoundKey& found) const;

  Catalog catalog_;
};

}  // namespace thermocline
