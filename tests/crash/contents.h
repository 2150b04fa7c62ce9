// What every block of the crash test must hold. The payload of a block is a function of its space,
// of the whole path of names to it, and of its part, so that a checker needs no memory of what was
// written when: it knows the only legal content of every name, and any other byte, of an older
// block, of another place, of a filling that was never committed, is wrong.
//
// A world is a set of spaces with a tree of paths over each: whose prefixes are shared, and which
// is larger than the daemon's memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/client.h"
#include "hashing/space.h"

namespace thermocline::crash {

using Rng = std::mt19937_64;

/// Inclusive.
uint64_t Uniform(Rng& rng, uint64_t least, uint64_t most);
bool Chance(Rng& rng, double probability);

/// The choice taken at each place, from the root on.
using Path = std::vector<uint32_t>;

/// The names of a path or of a stretch of it. Owner: of what view() borrows.
struct PathNames {
  std::vector<int32_t> tokens;
  std::vector<std::string> keys;
  NamesView view() const { return keys.empty() ? NamesView(tokens) : NamesView(keys); }
};

class World {
 public:
  /// "tight": four spaces whose blocks fit slots of one size; "wide": the same with more paths;
  /// "sizes": blocks of two slot sizes; "demo": blocks as large as those of the demo's model.
  static std::optional<World> Named(std::string_view name);

  const std::vector<SpaceSpec>& spaces() const { return spaces_; }
  /// Places of a full path.
  uint32_t depth() const { return depth_; }
  Path RandomPath(Rng& rng) const;
  /// Every path there is, of any length, in prefix order.
  std::vector<Path> AllPaths() const;
  /// Of the few paths that are pinned.
  Path PinnedPath(Rng& rng) const;
  PathNames Names(size_t space, const Path& path, size_t first, size_t end) const;
  /// Of the block of `part` at place number `depth` of the path.
  uint64_t Seed(size_t space, const Path& path, uint32_t depth, uint32_t part) const;

 private:
  uint32_t ChoicesAt(size_t place) const;

  std::vector<SpaceSpec> spaces_;
  uint32_t depth_ = 24;
  uint32_t roots_ = 0;     // choices at the first place
  uint32_t branches_ = 3;  // choices at every fourth place after it
};

void FillLegal(std::span<std::byte> bytes, uint64_t seed);
/// Every byte wrong, and no other seed's content.
void FillWrong(std::span<std::byte> bytes, uint64_t seed);
/// Offset of the first byte that is not the seed's.
std::optional<size_t> FirstWrongByte(std::span<const std::byte> bytes, uint64_t seed);

/// "space 1, path 0.0.0.0.2, place 4, part 0".
std::string Describe(size_t space, const Path& path, uint32_t depth, uint32_t part);

}  // namespace thermocline::crash
