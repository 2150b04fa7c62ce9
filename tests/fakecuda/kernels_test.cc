// Kernels on the fake's streams: in order, on all of its device memory, with the checker looking
// where the program has it.
#include "kernels/simt/emulator.h"
#include "tests/fakecuda/fake_cuda_test_util.h"
#include "tests/fakecuda/probe_kernels.h"

namespace thermocline::fakecuda {
namespace {

constexpr int kCount = 1000;

class KernelTest : public FakeCudaTest {
 protected:
  void SetUp() override {
    FakeCudaTest::SetUp();
    numbers_ = NewDeviceArray<int>(kCount);
    stream_ = NewStream();
    ASSERT_EQ(cudaMemset(numbers_, 0, kCount * sizeof(int)), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  int Launch(int* numbers, int value, cudaStream_t stream, int count = kCount) {
    return static_cast<int>(
        LaunchAdd({.numbers = numbers, .count = count, .value = value}, stream));
  }

  int* numbers_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

TEST_F(KernelTest, TakesItsTurnBetweenCopies) {
  int* const pinned = NewPinnedArray<int>(2);
  *pinned = 40;
  Gate gate(stream_);
  int* const last = numbers_ + kCount - 1;
  EXPECT_EQ(cudaMemcpyAsync(last, pinned, sizeof(int), cudaMemcpyDefault, stream_), cudaSuccess);
  EXPECT_EQ(Launch(numbers_, 2, stream_), 0);
  EXPECT_EQ(cudaMemcpyAsync(pinned + 1, last, sizeof(int), cudaMemcpyDefault, stream_),
            cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);
  gate.Open();
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(pinned[1], 42);
  EXPECT_EQ(Read(numbers_), 2);
  EXPECT_EQ(CallCount("cudaLaunchKernel"), 1);
}

TEST_F(KernelTest, WritesASlab) {
  const Driver driver;
  const CUmemGenericAllocationHandle slab = driver.Create();
  const CUdeviceptr address = driver.Map(slab);
  int* const numbers = static_cast<int*>(Pointer(address));
  EXPECT_EQ(Launch(numbers, 3, stream_), 0);
  EXPECT_EQ(Launch(numbers + kSlabBytes / sizeof(int) - kCount, 4, stream_), 0);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(Read(numbers), 3);
  EXPECT_EQ(Read(numbers + kSlabBytes / sizeof(int) - 1), 4);
  driver.Unmap(address);
  EXPECT_EQ(driver.release(slab), CUDA_SUCCESS);
}

TEST_F(KernelTest, RunsOnTheDefaultStreamAndOnSeveralAtOnce) {
  EXPECT_EQ(Launch(numbers_, 1, nullptr), 0);
  const cudaStream_t other = NewStream();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Launch(numbers_, 1, stream_, kCount / 2), 0);
    EXPECT_EQ(Launch(numbers_ + kCount / 2, 2, other, kCount / 2), 0);
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(Read(numbers_), 21);
  EXPECT_EQ(Read(numbers_ + kCount - 1), 41);
}

TEST_F(KernelTest, FaultsWhenToldTo) {
  FailCall("cudaLaunchKernel", 1, cudaErrorInvalidConfiguration);
  EXPECT_EQ(Launch(numbers_, 1, stream_), cudaErrorInvalidConfiguration);
  FailCall("cudaLaunchKernel", 1, cudaErrorIllegalAddress);
  EXPECT_EQ(Launch(numbers_, 1, stream_), 0);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorIllegalAddress);
  EXPECT_EQ(Launch(numbers_, 1, stream_), cudaErrorIllegalAddress);
}

using KernelDeathTest = KernelTest;

TEST_F(KernelDeathTest, TheCheckerSeesTheBoundsOfAllocations) {
  if (!simt::IsChecked()) GTEST_SKIP() << "a checked program finds this";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Launch(numbers_, 1, stream_, kCount + 1);
        cudaStreamSynchronize(stream_);
      },
      "global memory out of bounds");
}

TEST_F(KernelDeathTest, TheCheckerSeesStreamsThatMeet) {
  if (!simt::IsChecked()) GTEST_SKIP() << "a checked program finds this";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        const cudaStream_t other = NewStream();
        int* const many = NewDeviceArray<int>(200 * kCount);
        for (int i = 0; i < 50; ++i) {
          Launch(many, 1, stream_, 200 * kCount);
          Launch(many, 1, other, 200 * kCount);
        }
        cudaDeviceSynchronize();
      },
      "data race on global memory");
}

}  // namespace
}  // namespace thermocline::fakecuda
