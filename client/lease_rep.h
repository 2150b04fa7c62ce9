// The inside of a lease: where its path ends, which blocks lie on it, and which of them are known
// to be whole. The daemon's cursor may lie behind ours after a truncation; it is moved when that
// matters, by matching the shorter path anew before the old lease is let go.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/connection.h"
#include "client/core.h"
#include "hashing/name.h"

namespace thermocline {
inline namespace client_v1 {

/// Thread: one at a time.
struct Lease::Rep {
  struct Source {
    uint64_t offset = 0;
    uint64_t checksum = 0;
    bool verified = false;
  };

  std::shared_ptr<Connection> connection;
  std::shared_ptr<SpaceState> space;
  uint64_t lease = 0;
  bool held = false;
  uint64_t generation = 0;    // of the control area, before the match
  uint32_t depth = 0;         // places that the owner may use
  uint32_t leased_depth = 0;  // where the daemon's cursor stands
  // The names of [0, leased_depth), in one of two forms.
  std::vector<int32_t> tokens;
  std::vector<std::string> keys;
  // Sorted by depth, then part; below `depth` only. `sources` is parallel.
  std::vector<BlockInfo> blocks;
  std::vector<Source> sources;

  ~Rep();
  uint32_t part_count() const { return static_cast<uint32_t>(space->spec.parts.size()); }
  uint32_t block_places() const { return space->spec.block_tokens / kPlaceTokens; }
  bool windowed() const;

  /// FailedPrecondition when this lease cannot be used any more.
  absl::Status Usable() const;
  void AppendNames(NamesView names, uint32_t places);
  /// Matches the first `places` of `names` and takes over what the daemon answers.
  absl::Status Acquire(NamesView names, uint32_t places, Deadline deadline);
  /// Moves the daemon's cursor to `depth`. Aborted when the path is not all there any more.
  absl::Status Rematch(Deadline deadline);
  /// Checks a block against the arena and the space, and makes it one of the path.
  absl::Status Put(const v1::Block& block, bool matched);
  size_t IndexOf(uint32_t block_depth, uint32_t part) const;  // blocks.size(): none
  /// Readable in place, after being summed where that is due. A damaged block ends the path.
  bool Readable(size_t index);
  /// Drops everything at and below the block that ends behind `new_depth`.
  void Cut(uint32_t new_depth);
  /// Places readable from the root, looking from block `next` on; moves `next` to the first that
  /// is not.
  uint32_t Advance(size_t& next);
  /// One Load call and what it brings. A passed deadline is no error.
  absl::Status Promote(size_t& next, const std::function<void(uint32_t)>& on_ready,
                       Deadline deadline);
};

}  // namespace client_v1
}  // namespace thermocline
