#include "engine/paged_kv.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

namespace thermocline {
namespace {

constexpr KvGeometry kSmolLm2 = {
    .layers = 30, .kv_heads = 3, .head_dim = 64, .dtype = KvDtype::kF16};

TEST(KvGeometryTest, BytesOfKnownModels) {  // measured/models.md section 1
  EXPECT_EQ(kSmolLm2.token_bytes(), 23'040u);
  EXPECT_EQ(kSmolLm2.block_bytes(), 16 * 23'040u);
  const KvGeometry stories = {.layers = 5, .kv_heads = 4, .head_dim = 8, .dtype = KvDtype::kF32};
  EXPECT_EQ(stories.token_bytes(), 2 * 640u);
}

TEST(KvGeometryTest, HeadsFollowEachOtherByLayerHalfAndHead) {
  EXPECT_EQ(kSmolLm2.head_offset(0, KvHalf::kKeys, 0), 0u);
  EXPECT_EQ(kSmolLm2.head_offset(0, KvHalf::kKeys, 1), 16 * 64 * 2u);
  EXPECT_EQ(kSmolLm2.head_offset(0, KvHalf::kValues, 0), 3 * 16 * 64 * 2u);
  EXPECT_EQ(kSmolLm2.head_offset(1, KvHalf::kKeys, 0), 2 * 3 * 16 * 64 * 2u);
  EXPECT_EQ(kSmolLm2.head_offset(29, KvHalf::kValues, 2) + kSmolLm2.head_bytes(),
            kSmolLm2.block_bytes());
}

TEST(PrivateBlocksTest, BlocksAreDistinctAlignedAndReused) {
  PrivateBlocks pool(kSmolLm2, 30);
  std::set<std::byte*> blocks;
  for (int i = 0; i < 30; ++i) {
    auto block = pool.Allocate();
    ASSERT_TRUE(block.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(*block) % 64, 0u);
    std::memset(*block, i, kSmolLm2.block_bytes());
    EXPECT_TRUE(blocks.insert(*block).second);
  }
  std::byte* last = nullptr;
  for (std::byte* block : blocks) {
    if (last != nullptr) {
      EXPECT_GE(block - last, static_cast<long>(kSmolLm2.block_bytes()));
    }
    last = block;
  }
  EXPECT_EQ(pool.used_blocks(), 30u);
  const auto refused = pool.Allocate();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  pool.Free(last);
  EXPECT_EQ(*pool.Allocate(), last);
}

}  // namespace
}  // namespace thermocline
