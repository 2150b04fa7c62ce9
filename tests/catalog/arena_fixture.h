// For tests of an arena of four chunks, in a file of its own.
#pragma once
#include <gtest/gtest.h>

#include "base/units.h"
#include "catalog/arena.h"
#include "tests/catalog/arena_testing.h"

namespace thermocline {

inline constexpr uint64_t kTestChunkBytes = MiB;
inline constexpr uint32_t kFirstPage = kArenaDataOffset / kPageBytes;

class ArenaFixture : public ::testing::Test {
 protected:
  ArenaOptions Options(uint64_t capacity_bytes = 4 * kTestChunkBytes) const {
    return {.path = directory_.path() + "/arena",
            .capacity_bytes = capacity_bytes,
            .chunk_bytes = kTestChunkBytes,
            .capacity_option = "warm.capacity"};
  }

  ShmDirectory directory_;
};

}  // namespace thermocline
