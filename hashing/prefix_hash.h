// Prefix keys: k_i = XXH3_128(k_{i-1} || name_i), keyed by a secret of the space, and the hash of
// the catalog's child table. Both only find things: a wrong or colliding one costs a hit, never a
// wrong byte, because names are compared. To show that, a build with TC_KEY_BITS=8 (the _k8 twins
// of the libraries) leaves 256 different values of each, repeated over all bytes so that a table
// may index by whichever bits it likes.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "hashing/name.h"

namespace thermocline {

struct Key {
  uint64_t lo = 0;
  uint64_t hi = 0;
  friend bool operator==(const Key& a, const Key& b) { return a.lo == b.lo && a.hi == b.hi; }
};

/// The keys of one space. Crafting collisions takes knowledge of the secret; without it a client
/// cannot make another's prefix hard to find. The key of the root is Key{}.
/// Thread: any; immutable.
/// Cost:   about 15 ns a name.
class KeyChain {
 public:
  /// Expands `secret` (any length; 16 random bytes suffice) with SHA-256 in counter mode.
  explicit KeyChain(std::span<const std::byte> secret);

  Key NextKey(const Key& parent, const Name& name) const;

 private:
  std::array<uint8_t, 192> secret_;
};

/// Hash of a child in the catalog's table of children: XXH3_64 of the name, seeded with the parent.
/// Cost:   about 8 ns.
uint64_t ChildHash(uint64_t parent_place, const Name& name);

}  // namespace thermocline
