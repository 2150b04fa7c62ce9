// A space: everything that must be equal for KV bytes to be interchangeable. Its fingerprint is
// SHA-256 over all of it, length-prefixed, with the tenant and its salt; any difference makes
// another space, and another space is a miss.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "hashing/sha256.h"

namespace thermocline {

inline constexpr uint32_t kMaxParts = 8;
inline constexpr uint64_t kMaxPartBytes = uint64_t{64} << 20;
inline constexpr uint32_t kMaxBlockTokens = 4096;
inline constexpr uint32_t kPayloadAlignment = 16;

/// What a place is named by: 16 token ids, or an opaque key of the engine's own.
enum class SpaceKind : uint8_t { kTokens = 0, kOpaque = 1 };

/// One (layer group, tensor-parallel rank) of every place.
struct PartSpec {
  std::string name;            // "kv", "full", "window": the layer group
  uint32_t tensor_rank = 0;    // tensor-parallel rank
  uint64_t block_bytes = 0;    // bytes of one block, a multiple of 16, at most 64 MiB
  uint32_t window_tokens = 0;  // sliding window; 0 = full attention
};

struct RopeSpec {
  std::string layout;  // which elements turn together: "adjacent" or "halves"; "" = no RoPE
  double base = 0;     // frequency base, e.g. 10000
  uint32_t dimension_count = 0;  // leading elements of a head that turn
  std::string scaling;           // canonical text of a scaling rule, e.g. "linear:4"; "" = none
};

struct SpaceSpec {
  SpaceKind kind = SpaceKind::kTokens;
  uint32_t key_bytes = 0;  // the one key length of an opaque space, 1 to 64; 0 in a token space
  std::string model;       // id, revision and quantisation, as people call it
  Sha256 weights_sha256{};
  std::string kv_type;  // "f32", "f16", "bf16", "fp8_e4m3", ...
  uint32_t layer_count = 0;
  uint32_t kv_head_count = 0;
  uint32_t head_dim = 0;
  uint32_t block_tokens = 16;  // a multiple of 16
  std::vector<PartSpec> parts;
  std::string layout;  // memory layout of a block, e.g. "layer.kv.head.token.dim"
  uint32_t layout_version = 1;
  RopeSpec rope;
  std::string lora;    // adapter id and content hash; "" = none
  std::string tenant;  // set by the daemon from the authenticated identity
  std::string salt;    // the tenant's secret; equal prefixes of two tenants have nothing in common

  /// Errors: InvalidArgument that names the field, its value and the limit.
  absl::Status Validate() const;
};

/// Identity of a space. Comparable, hashable by any 8 of its bytes.
struct Fingerprint {
  Sha256 bytes{};
  friend bool operator==(const Fingerprint& a, const Fingerprint& b) { return a.bytes == b.bytes; }
  friend bool operator<(const Fingerprint& a, const Fingerprint& b) { return a.bytes < b.bytes; }
  std::string Hex() const { return ToHex(bytes); }
};

struct FingerprintHash {
  size_t operator()(const Fingerprint& fingerprint) const;
};

/// REQUIRES: spec.Validate() is OK.
Fingerprint FingerprintOf(const SpaceSpec& spec);

}  // namespace thermocline
