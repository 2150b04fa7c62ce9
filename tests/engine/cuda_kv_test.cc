// Room for KV in device memory that runs out: what was had before stays whole.
#include "engine/cuda_kv.h"

#include <gtest/gtest.h>

#include <set>

#include "base/units.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline {
namespace {

constexpr int kOutOfMemory = 2;

class CudaKvTest : public testing::Test {
 protected:
  void SetUp() override {
    fakecuda::Restart();
    fakecuda::SetDevice({});
  }
  void TearDown() override { fakecuda::Restart(); }

  absl::Status Reserve(size_t blocks) { return kv_.Reserve(blocks * kBlockTokens); }

  /// Every block has a place of its own in what the pool is.
  void ExpectBlocks(size_t blocks) {
    ASSERT_GE(kv_.table().size(), blocks);
    ASSERT_NE(kv_.View(0).pool, nullptr);
    const std::set<int32_t> ids(kv_.table().begin(), kv_.table().end());
    EXPECT_EQ(ids.size(), kv_.table().size());
    EXPECT_EQ(*ids.begin(), 0);
  }

  // A slab of 64 MiB has room for one block.
  const KvGeometry geometry_{.layers = 64, .kv_heads = 64, .head_dim = 256, .dtype = KvDtype::kF16};
  CudaKv kv_{geometry_};
};

TEST_F(CudaKvTest, ABlockFillsASlab) {
  ASSERT_EQ(geometry_.block_bytes(), 64 * MiB);
  ASSERT_TRUE(Reserve(2).ok());
  ExpectBlocks(2);
  EXPECT_EQ(fakecuda::CallCount("cudaMalloc"), 2);
  ASSERT_TRUE(Reserve(1).ok());
  EXPECT_EQ(fakecuda::CallCount("cudaMalloc"), 2);
}

TEST_F(CudaKvTest, AShorterPromptAfterOneThatFoundNoRoom) {
  fakecuda::FailCall("cudaMalloc", 2, kOutOfMemory);
  EXPECT_EQ(Reserve(2).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(fakecuda::UsedBytes(), 0u) << "what was had in vain goes back";
  ASSERT_TRUE(Reserve(1).ok());
  ExpectBlocks(1);
}

TEST_F(CudaKvTest, GrowthThatFailsLeavesWhatIsThere) {
  ASSERT_TRUE(Reserve(1).ok());
  std::byte* const pool = kv_.View(0).pool;
  fakecuda::FailCall("cudaMalloc", 2, kOutOfMemory);
  EXPECT_EQ(Reserve(3).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(kv_.table().size(), 1u);
  EXPECT_EQ(kv_.View(0).pool, pool);
  EXPECT_EQ(fakecuda::UsedBytes(), 64 * MiB);
  ASSERT_TRUE(Reserve(2).ok());
  ExpectBlocks(2);
}

}  // namespace
}  // namespace thermocline
