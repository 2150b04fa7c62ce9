// What the benches of look-ups ask for: a space of small blocks named by tokens, and prompts by
// number.
#pragma once
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/byte_space.h"

namespace thermocline::bench {

inline constexpr uint32_t kTokensPerBlock = 16;

/// Of blocks of 1 KiB.
inline SpaceSpec SmallBlockSpec() { return ByteSpace("bench", 1024); }

/// The tokens of the first `blocks` blocks of path number `path`.
inline std::vector<int32_t> Prompt(uint32_t path, uint32_t blocks) {
  std::vector<int32_t> tokens(size_t{blocks} * kTokensPerBlock);
  std::mt19937 random(path);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() >> 1);
  return tokens;
}

}  // namespace thermocline::bench
