// The emulator itself: what CUDA promises holds, and what CUDA forbids is noticed.
#include <gmock/gmock.h>

#include <cmath>

#include "kernels/simt/numbers.h"
#include "tests/kernels/simt/device_memory.h"
#include "tests/kernels/simt/probes.h"

namespace thermocline {
namespace {

using simt::AccessSite;

std::vector<float> Counting(int count) {
  std::vector<float> values(count);
  for (int i = 0; i < count; ++i) values[i] = static_cast<float>(i + 1);
  return values;
}

LaunchShape OneWarp() { return {.block = {32}}; }

void RunRight(Probe probe, const ProbeArgs& args, const LaunchShape& shape) {
  ASSERT_EQ(RunProbe(probe, args, shape), CudaError::kSuccess);
}

TEST(EmulatorTest, ThreadsKnowWhoTheyAre) {
  ForEachSchedule([] {
    DeviceArray<uint32_t> counts(2 * 3 * 2 * 4 * 3 * 2);
    RunRight(Probe::kIndices, {.counts = counts.data()}, {.grid = {2, 3, 2}, .block = {4, 3, 2}});
    size_t i = 0;
    for (uint32_t block = 0; block < 12; ++block) {
      for (uint32_t thread = 0; thread < 24; ++thread, ++i) {
        const uint32_t in_block = thread % 4 + 10 * (thread / 4 % 3) + 100 * (thread / 12);
        const uint32_t in_grid = block % 2 + 10 * (block / 2 % 3) + 100 * (block / 6);
        ASSERT_EQ(counts[i], in_block + 1000 * in_grid) << i;
      }
    }
  });
}

TEST(EmulatorTest, BarrierOrdersSharedMemory) {
  ForEachSchedule([] {
    const DeviceArray<float> in(Counting(192 * 2)), out(192 * 2);
    RunRight(Probe::kReverseByShared, {.out = out.data(), .in = in.data()},
             {.grid = {2}, .block = {192}});
    for (int i = 0; i < 384; ++i) ASSERT_EQ(out[i], i / 192 * 192 + 192 - i % 192) << i;
  });
}

TEST(EmulatorTest, ShufflesReadTheLanesThatCudaSays) {
  ForEachSchedule([] {
    const DeviceArray<float> in(Counting(32)), out(128);
    RunRight(Probe::kShuffles, {.out = out.data(), .in = in.data()}, OneWarp());
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(out[i], i / 8 * 8 + 3 + 1) << i;
      EXPECT_EQ(out[32 + i], (i ^ 5) + 1) << i;
      EXPECT_EQ(out[64 + i], (i < 2 ? i : i - 2) + 1) << i;
      EXPECT_EQ(out[96 + i], (i % 16 + 2 > 15 ? i : i + 2) + 1) << i;
    }
  });
}

TEST(EmulatorTest, DisjointMasksVoteApart) {
  ForEachSchedule([] {
    const DeviceArray<uint32_t> counts(64);
    RunRight(Probe::kVotes, {.counts = counts.data()}, OneWarp());
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(counts[i], i % 2 == 0 ? 0x55u : 0xaau) << i;
      EXPECT_EQ(counts[32 + i], 1u) << i;
    }
  });
}

TEST(EmulatorTest, WarpBarrierOrdersWithinTheWarp) {
  ForEachSchedule([] {
    const DeviceArray<float> in(Counting(32)), out(32);
    RunRight(Probe::kWarpPrefixSum, {.out = out.data(), .in = in.data()}, OneWarp());
    for (int i = 0; i < 32; ++i) ASSERT_EQ(out[i], (i + 1) * (i + 2) / 2) << i;
  });
}

TEST(EmulatorTest, AtomicsOfAllBlocksCount) {
  ForEachSchedule([] {
    DeviceArray<uint32_t> counts(2);
    DeviceArray<float> out(1);
    counts.Fill(0);
    out.Fill(0);
    RunRight(Probe::kAtomics, {.out = out.data(), .counts = counts.data()},
             {.grid = {3}, .block = {70}});
    EXPECT_EQ(counts[0], 210u);
    EXPECT_EQ(counts[1], 209u);
    EXPECT_EQ(out[0], 105.0f);
  });
}

TEST(EmulatorTest, PipelineOfCopiesWraps) {
  for (const int length : {4, 128, 132, 1000}) {
    ForEachSchedule([length] {
      const DeviceArray<float> in(Counting(length)), out(length);
      RunRight(Probe::kPipeline, {.out = out.data(), .in = in.data(), .length = length},
               {.block = {32}, .shared_bytes = 3 * 512});
      EXPECT_EQ(out.ToHost(), in.ToHost());
    });
  }
}

TEST(EmulatorTest, MatrixFragmentsLieAsInPtx) {
  RandomInputs random(1);
  std::vector<uint16_t> a(256), b(128);
  for (uint16_t& x : a) x = FromFloat<Half>(random.Float()).bits;
  for (uint16_t& x : b) x = FromFloat<Half>(random.Float()).bits;
  const DeviceArray<uint16_t> device_a(a), device_b(b);
  const DeviceArray<float> out(128);
  RunRight(Probe::kMatrixProduct, {.out = out.data(), .a = device_a.data(), .b = device_b.data()},
           OneWarp());
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      double sum = 0;
      for (int k = 0; k < 16; ++k) {
        sum += double{ToFloat(Half{a[m * 16 + k]})} * double{ToFloat(Half{b[k * 8 + n]})};
      }
      EXPECT_NEAR(out[m * 8 + n], sum, 1e-5) << m << ' ' << n;
    }
  }
}

TEST(EmulatorTest, ShapesBeyondTheDeviceAreRefused) {
  for (const LaunchShape& shape :
       {LaunchShape{.block = {1025}}, LaunchShape{.grid = {0}}, LaunchShape{.block = {0}},
        LaunchShape{.grid = {1, 65536}}, LaunchShape{.shared_bytes = 228 * 1024}}) {
    EXPECT_EQ(RunProbe(Probe::kIndices, {}, shape), CudaError::kInvalidValue);
  }
}

class BreachTest : public testing::Test {
 protected:
  BreachTest() { testing::FLAGS_gtest_death_test_style = "fast"; }

  ProbeArgs Args() const {
    return {.out = out_.data(), .in = in_.data(), .counts = counts_.data(), .length = 1000};
  }
  void ExpectDeath(Probe probe, const LaunchShape& shape, const char* message) {
    EXPECT_DEATH(static_cast<void>(RunProbe(probe, Args(), shape)), message);
  }

  DeviceArray<float> in_{Counting(1000)}, out_{1000};
  DeviceArray<uint32_t> counts_{64};
};

TEST_F(BreachTest, BarriersAndWarpOperations) {
  ExpectDeath(Probe::kDivergentBarrier, OneWarp(),
              "simt: deadlock: of 32 threads alive, 16 wait at the block's barrier");
  ExpectDeath(Probe::kTwoBarriers, {.block = {64}}, "others wait at another barrier");
  ExpectDeath(Probe::kEarlyReturn, OneWarp(), "threads end while|threads of the block have ended");
  ExpectDeath(Probe::kShuffleFromOutside, OneWarp(), "reads lane 9, which does not take part");
  ExpectDeath(Probe::kShuffleDiverged, OneWarp(), "names lanes that have ended|deadlock");
  ExpectDeath(Probe::kPendingCopies, OneWarp(), "ends with cp.async under way");
}

TEST_F(BreachTest, WhatWasNeverWrittenIsNan) {
  RunRight(Probe::kUnwrittenShared, Args(), OneWarp());
  EXPECT_TRUE(std::isnan(out_[7]));
}

TEST_F(BreachTest, CopiesLandAtTheWait) {
  const LaunchShape shape{.block = {32}, .shared_bytes = 3 * 512};
  if (simt::IsChecked()) {
    ExpectDeath(Probe::kReadBeforeWait, shape, "data race on shared memory");
  } else {
    RunRight(Probe::kReadBeforeWait, Args(), shape);
    EXPECT_TRUE(std::isnan(out_[0]));
  }
}

TEST_F(BreachTest, Races) {
  if (!simt::IsChecked()) GTEST_SKIP() << "the checker's part";
  ExpectDeath(Probe::kMissingBarrier, {.block = {64}}, "data race on shared memory");
  ExpectDeath(Probe::kMissingWarpBarrier, OneWarp(), "data race on shared memory");
  ExpectDeath(Probe::kBlocksShareOutput, {.grid = {2}, .block = {32}},
              "data race on global memory: write .* by thread 0 of block 1 after write by thread 0 "
              "of another block");
  RunRight(Probe::kBlocksShareOutput, Args(), OneWarp());
  RunRight(Probe::kBlocksShareOutput, Args(), OneWarp());  // launches follow each other
  ExpectDeath(Probe::kAtomicAndPlain, {.grid = {2}, .block = {32}}, "data race on global memory");
}

TEST_F(BreachTest, Bounds) {
  if (!simt::IsChecked()) GTEST_SKIP() << "the checker's part";
  ExpectDeath(Probe::kSharedOutOfBounds, OneWarp(), "shared memory out of bounds");
  ExpectDeath(Probe::kGlobalOutOfBounds, OneWarp(),
              "global memory out of bounds, 4000 bytes into an allocation of 4000");
  ExpectDeath(Probe::kMisalignedVector, OneWarp(), "misaligned");
  const std::vector<float> on_host(1001);
  ProbeArgs args = Args();
  args.in = on_host.data();
  EXPECT_DEATH(static_cast<void>(RunProbe(Probe::kHostPointer, args, OneWarp())),
               "neither device memory nor shared");
}

const AccessSite* Find(const std::vector<AccessSite>& sites, bool shared, bool write) {
  for (const AccessSite& site : sites) {
    if (site.shared == shared && site.write == write) return &site;
  }
  return nullptr;
}

TEST_F(BreachTest, StatisticsSeeStridesAndBanks) {
  if (!simt::IsChecked()) GTEST_SKIP() << "the checker's part";
  simt::CollectAccesses(true);
  for (const int stride : {1, 8}) {
    ProbeArgs args = Args();
    args.length = stride;
    RunRight(Probe::kStridedLoad, args, OneWarp());
    const std::vector<AccessSite> sites = simt::TakeAccessSites();
    const AccessSite* const load = Find(sites, false, false);
    ASSERT_NE(load, nullptr);
    EXPECT_EQ(load->warp_accesses, 1u);
    EXPECT_EQ(load->bytes, 128u);
    EXPECT_EQ(load->sectors, stride == 1 ? 4u : 32u);
  }
  for (const int divisor : {1, 8, 32}) {
    ProbeArgs args = Args();
    args.length = divisor;
    RunRight(Probe::kBankConflict, args, OneWarp());
    const std::vector<AccessSite> sites = simt::TakeAccessSites();
    const AccessSite* const load = Find(sites, true, false);
    ASSERT_NE(load, nullptr);
    EXPECT_EQ(load->conflict_factor(), 32.0 / divisor);
  }
  simt::CollectAccesses(false);
}

}  // namespace
}  // namespace thermocline
