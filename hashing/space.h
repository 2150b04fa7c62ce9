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

/// One (layer group, tensor-parallel rank) of every place.
struct PartSpec {
  std::string name;            // the layer group, for people: "layers 0-29"
  uint32_t rank = 0;           // tensor-parallel rank
  uint64_t block_bytes = 0;    // payload of one block, a multiple of 16, at most 64 MiB
  uint32_t window_tokens = 0;  // sliding window; 0 = full attention
};

/// Field by field what thermocline.v1.SpaceSpec carries, and the tenant, which no request names.
struct SpaceSpec {
  std::string model;        // id, revision and quantisation, as people call it
  Sha256 weights_sha256{};  // of the weights' content; zeros from adapters that cannot hash them
  std::string kv_dtype;     // "f32", "f16", "bf16", "int8", ...
  uint32_t layers = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t block_tokens = 16;   // a multiple of 16
  std::vector<PartSpec> parts;  // 1 to 8
  std::string layout;           // memory layout of a block with its version: "lkht.v1"
  std::string rope;             // canonical text of the RoPE parameters
  std::string lora;             // adapter id and content hash; "" = none
  std::string salt;             // a secret: spaces of different salts have nothing in common
  bool opaque_names = false;    // names are the engine's own keys, not token ids
  uint32_t key_bytes = 0;       // the one length of those keys, 1 to 64; 0 in a token space
  std::string tenant;           // set by the daemon from the authenticated identity

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
