// The plainest space, for benchmarks and trials that put bytes and get them: blocks without a
// shape.
#pragma once
#include <cstdint>
#include <string>

#include "hashing/space.h"

namespace thermocline {

/// `key_bytes`: of the keys that name its blocks; 0: token ids do.
inline SpaceSpec ByteSpace(const std::string& model, uint64_t block_bytes, uint32_t key_bytes = 0) {
  SpaceSpec spec;
  spec.model = model;
  spec.kv_dtype = "bytes";
  spec.layers = spec.kv_heads = spec.head_dim = 1;
  spec.parts = {{.name = "all", .block_bytes = block_bytes}};
  spec.layout = "opaque.v1";
  spec.opaque_names = key_bytes > 0;
  spec.key_bytes = key_bytes;
  return spec;
}

}  // namespace thermocline
