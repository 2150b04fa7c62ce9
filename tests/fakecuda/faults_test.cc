// Faults on demand, and what CUDA's own faults do to a process.
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fakecuda/fake_cuda_test_util.h"

namespace thermocline::fakecuda {
namespace {

using FaultTest = FakeCudaTest;

TEST_F(FaultTest, TheNthCallFails) {
  void* pointer = nullptr;
  FailCall("cudaMalloc", 2, cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&pointer, 1), cudaSuccess);
  EXPECT_EQ(cudaFree(pointer), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&pointer, 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&pointer, 1), cudaSuccess);
  EXPECT_EQ(cudaFree(pointer), cudaSuccess);
  EXPECT_EQ(CallCount("cudaMalloc"), 3);
  FailCall("cuMemCreate", 1, CUDA_ERROR_OUT_OF_MEMORY, true);
  const Driver driver;
  const CUmemAllocationProp properties = Driver::Properties();
  CUmemGenericAllocationHandle slab = 0;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(driver.create(&slab, kSlabBytes, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(FaultTest, AStickyErrorComesWithTheWorkAndStays) {
  int* const device = NewDeviceArray<int>(1);
  int* const pinned = NewPinnedArray<int>(1);
  *pinned = 5;
  const cudaStream_t stream = NewStream();
  const cudaEvent_t event = NewEvent();
  SetDelay(stream, 20'000);
  FailCall("cudaMemcpyAsync", 1, cudaErrorIllegalAddress);
  EXPECT_EQ(cudaMemcpyAsync(device, pinned, 4, cudaMemcpyDefault, stream), cudaSuccess)
      << "the call is fine, the work is not";
  EXPECT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(event), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  void* pointer = nullptr;
  EXPECT_EQ(cudaMalloc(&pointer, 1), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress) << "nothing takes it back";
  EXPECT_STREQ(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress");
}

TEST_F(FaultTest, WithoutADriverEveryCallSaysSo) {
  SetDevice({.driver_version = 0});
  int count = 77;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
  EXPECT_EQ(count, 77) << "left as it was";
  void* pointer = nullptr;
  EXPECT_EQ(cudaMalloc(&pointer, 1), cudaErrorInsufficientDriver);
  EXPECT_EQ(cudaHostAlloc(&pointer, 1, 0), cudaErrorInsufficientDriver);
  EXPECT_EQ(cudaSetDevice(0), cudaErrorInsufficientDriver);
  EXPECT_EQ(
      cudaGetDriverEntryPointByVersion("cuMemCreate", &pointer, 12000, cudaEnableDefault, nullptr),
      cudaErrorInsufficientDriver);
  int version = 77;
  EXPECT_EQ(cudaDriverGetVersion(&version), cudaSuccess);
  EXPECT_EQ(version, 0);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInsufficientDriver);
}

TEST_F(FaultTest, AForkedChildHasNoCuda) {
  const pid_t child = fork();
  if (child == 0) {
    int count = 0;
    _exit(cudaGetDeviceCount(&count));
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), cudaErrorInitializationError);
}

}  // namespace
}  // namespace thermocline::fakecuda
