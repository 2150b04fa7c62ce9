// Room for KV in device memory that runs out: what was had before stays whole.
#include "engine/cuda_kv.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "base/units.h"
#include "kernels/cuda/memory.h"
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
  EXPECT_EQ(fakecuda::CallCount("cuMemCreate"), 2);
  ASSERT_TRUE(Reserve(1).ok());
  EXPECT_EQ(fakecuda::CallCount("cuMemCreate"), 2);
}

TEST_F(CudaKvTest, AShorterPromptAfterOneThatFoundNoRoom) {
  fakecuda::FailCall("cuMemCreate", 2, kOutOfMemory);
  EXPECT_EQ(Reserve(2).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(fakecuda::UsedBytes(), 0u) << "what was had in vain goes back";
  ASSERT_TRUE(Reserve(1).ok());
  ExpectBlocks(1);
}

TEST_F(CudaKvTest, GrowthThatFailsLeavesWhatIsThere) {
  ASSERT_TRUE(Reserve(1).ok());
  std::byte* const pool = kv_.View(0).pool;
  fakecuda::FailCall("cuMemCreate", 2, kOutOfMemory);
  EXPECT_EQ(Reserve(3).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(kv_.table().size(), 1u);
  EXPECT_EQ(kv_.View(0).pool, pool);
  EXPECT_EQ(fakecuda::UsedBytes(), 64 * MiB);
  ASSERT_TRUE(Reserve(2).ok());
  ExpectBlocks(2);
}

TEST_F(CudaKvTest, ADeviceThatMapsNoSlabsHasRoomAllTheSame) {
  constexpr int kNotSupported = 801;
  fakecuda::FailCall("cuMemCreate", 1, kNotSupported);
  ASSERT_TRUE(Reserve(1).ok());
  ExpectBlocks(1);
  EXPECT_EQ(fakecuda::CallCount("cudaMalloc"), 1);
}

TEST_F(CudaKvTest, WhatLiesOnTheDeviceIsReadThereAndWhatDoesNotIsCopied) {
  CudaKv kv{{.layers = 1, .kv_heads = 1, .head_dim = 64, .dtype = KvDtype::kF16}};
  constexpr uint64_t kBytes = 4096, kBlocks = 3;
  const auto stream = cuda::Stream::Create();
  const auto slab = cuda::Slab::Create(0, 2 * MiB);
  ASSERT_TRUE(stream.ok() && slab.ok());
  const auto device = cuda::SlabMapping::Map(*slab, cuda::Access::kReadWrite);  // as a hot block's
  ASSERT_TRUE(device.ok()) << device.status();
  std::vector<std::byte> host(kBlocks * kBytes, std::byte{1});
  std::vector<std::byte*> blocks;
  for (uint64_t i = 0; i < kBlocks; ++i) blocks.push_back(host.data() + i * kBytes);
  blocks[1] = device->data();
  ASSERT_TRUE(kv.Reserve((kBlocks + 1) * kBlockTokens).ok());
  const auto address = [&](size_t block) {
    return kv.View(0).pool + int64_t{kv.table()[block]} * 256;
  };
  const std::byte* const own = address(1);
  const auto copies = [&](std::vector<uint8_t> on_device, size_t held) {
    const int before =
        fakecuda::CallCount("cuMemcpyBatchAsync") + fakecuda::CallCount("cudaMemcpyAsync");
    EXPECT_TRUE(kv.Fetch(blocks, on_device, held, kBlocks * kBlockTokens, *stream).ok());
    EXPECT_TRUE(stream->Synchronize().ok());
    return fakecuda::CallCount("cuMemcpyBatchAsync") + fakecuda::CallCount("cudaMemcpyAsync") -
           before;
  };
  EXPECT_EQ(copies({0, 1, 0}, 0), 1) << "one batch, of the others";
  EXPECT_EQ(address(1), device->data());
  EXPECT_EQ(address(0)[kBytes - 1], std::byte{1});
  EXPECT_EQ(copies({0, 1, 0}, kBlocks * kBlockTokens), 0) << "all is here";
  EXPECT_EQ(address(1), device->data());
  // Its lease has ended, and a host block takes its place.
  blocks[1] = host.data() + kBytes;
  EXPECT_EQ(copies({}, kBlocks * kBlockTokens), 1);
  EXPECT_EQ(address(1), own);
  EXPECT_EQ(own[0], std::byte{1});
  // What no id reaches is copied, once.
  void* const far = ::mmap(const_cast<std::byte*>(own) - 2048 * GiB, kBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(far, MAP_FAILED);
  std::memset(far, 2, kBytes);
  blocks[1] = static_cast<std::byte*>(far);
  EXPECT_EQ(copies({0, 1, 0}, 0), 1) << "one batch, of all";
  EXPECT_EQ(address(1), own);
  EXPECT_EQ(own[0], std::byte{2});
  EXPECT_EQ(copies({0, 1, 0}, kBlocks * kBlockTokens), 0);
  EXPECT_EQ(address(1), own);
  ::munmap(far, kBytes);
}

}  // namespace
}  // namespace thermocline
