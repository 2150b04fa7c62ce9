// Names: what the tree compares. A name is 16 token ids, or the opaque key of an engine that brings
// its own; either way 64 bytes that are compared whole and never trusted to a hash.
#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/status.h"
#include "hashing/sha256.h"

namespace thermocline {

inline constexpr uint32_t kPlaceTokens = 16;
inline constexpr uint32_t kNameBytes = 64;

/// Trivial, so that it can lie in shared memory: `Name name = {};` is all zeros.
struct alignas(64) Name {
  uint64_t word[8];
  friend bool operator==(const Name& a, const Name& b) {
    return std::memcmp(a.word, b.word, sizeof a.word) == 0;
  }
};
static_assert(sizeof(Name) == kNameBytes && std::is_trivial_v<Name>);

/// The name of 16 consecutive tokens: their ids, little-endian, in order.
Name NameOfTokens(std::span<const int32_t, kPlaceTokens> tokens);

/// The name of an opaque key: its bytes, padded with zeros to 64.
/// Units:  `key_bytes`, the one key length of the space (SpaceSpec::key_bytes, 1 to 64): with a
///         single length the padding cannot make two different keys equal.
/// Errors: InvalidArgument when `key` has another length.
absl::StatusOr<Name> NameOfKey(std::string_view key, uint32_t key_bytes);

/// Of the names as they lie in memory: who can tell it knows the path, or had it from one who does.
Sha256 Sha256OfPath(std::span<const Name> path);

}  // namespace thermocline
