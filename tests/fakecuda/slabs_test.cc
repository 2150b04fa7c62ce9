// Virtual memory management: the rules of slabs, addresses and mappings, and entry points by
// version.
#include <fcntl.h>

#include "tests/fakecuda/fake_cuda_test_util.h"

namespace thermocline::fakecuda {
namespace {

using SlabTest = FakeCudaTest;

TEST_F(SlabTest, LivesUntilItsLastHandleAndMappingHaveGone) {
  const Driver driver;
  const CUmemGenericAllocationHandle slab = driver.Create();
  EXPECT_EQ(UsedBytes(), kSlabBytes);
  const CUdeviceptr address = driver.Map(slab);
  EXPECT_EQ(cudaMemset(Pointer(address), 7, kSlabBytes), cudaSuccess);
  UniqueFd fd = driver.Export(slab);
  EXPECT_EQ(driver.release(slab), CUDA_SUCCESS);
  EXPECT_EQ(driver.release(slab), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(UsedBytes(), kSlabBytes);
  driver.Unmap(address);
  EXPECT_EQ(UsedBytes(), 0u) << "of this process; the descriptor still stands for it";
  const CUmemGenericAllocationHandle again = driver.Import(fd.get());
  fd.Reset();
  const CUdeviceptr there = driver.Map(again);
  EXPECT_EQ(Read(static_cast<char*>(Pointer(there)) + kSlabBytes - 1), 7);
  EXPECT_EQ(driver.release(again), CUDA_SUCCESS);
  driver.Unmap(there);
}

TEST_F(SlabTest, HasRules) {
  const Driver driver;
  SetDevice({.vram_bytes = 8 * kMiB});
  CUmemAllocationProp properties = Driver::Properties();
  CUmemGenericAllocationHandle slab = 0;
  EXPECT_EQ(driver.create(&slab, kMiB, &properties, 0), CUDA_ERROR_INVALID_VALUE) << "granularity";
  EXPECT_EQ(driver.create(&slab, 10 * kMiB, &properties, 0), CUDA_ERROR_OUT_OF_MEMORY);
  properties.location.id = 1;
  EXPECT_EQ(driver.create(&slab, kSlabBytes, &properties, 0), CUDA_ERROR_INVALID_DEVICE);
  properties.location.id = 0;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
  EXPECT_EQ(driver.create(&slab, kSlabBytes, &properties, 0), CUDA_SUCCESS);
  int fd = -1;
  EXPECT_EQ(driver.export_slab(&fd, slab, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_ERROR_INVALID_VALUE)
      << "not asked for when it was created";

  const CUdeviceptr address = driver.Reserve(2 * kSlabBytes);
  EXPECT_EQ(driver.map(address, kSlabBytes, 2 * kMiB, slab, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(driver.map(address, 2 * kSlabBytes, 0, slab, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(driver.map(address + 2 * kSlabBytes, kSlabBytes, 0, slab, 0), CUDA_ERROR_INVALID_VALUE)
      << "not reserved";
  EXPECT_EQ(driver.map(address, kSlabBytes, 0, slab, 0), CUDA_SUCCESS);
  EXPECT_EQ(driver.map(address, kSlabBytes, 0, slab, 0), CUDA_ERROR_INVALID_VALUE) << "taken";
  EXPECT_EQ(driver.SetAccess(address, 2 * kSlabBytes, CU_MEM_ACCESS_FLAGS_PROT_READ),
            CUDA_ERROR_INVALID_VALUE)
      << "not mapped throughout";
  EXPECT_EQ(driver.unmap(address, kSlabBytes / 2), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(driver.free_addresses(address, 2 * kSlabBytes), CUDA_ERROR_INVALID_VALUE) << "mapped";
  EXPECT_EQ(driver.map(address + kSlabBytes, kSlabBytes, 0, slab, 0), CUDA_SUCCESS) << "twice";
  EXPECT_EQ(driver.SetAccess(address, 2 * kSlabBytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE),
            CUDA_SUCCESS);
  EXPECT_EQ(cudaMemset(Pointer(address + kSlabBytes / 2), 1, kSlabBytes), cudaSuccess)
      << "mappings side by side are one range";
  EXPECT_EQ(Read(static_cast<char*>(Pointer(address))), 1) << "the same memory";
  EXPECT_EQ(driver.unmap(address, kSlabBytes), CUDA_SUCCESS);
  EXPECT_EQ(driver.unmap(address + kSlabBytes, kSlabBytes), CUDA_SUCCESS);
  EXPECT_EQ(driver.free_addresses(address, 2 * kSlabBytes), CUDA_SUCCESS);
  EXPECT_EQ(driver.release(slab), CUDA_SUCCESS);
  EXPECT_EQ(UsedBytes(), 0u);
}

TEST_F(SlabTest, IsNoOtherFile) {
  const Driver driver;
  const UniqueFd file(open("/dev/zero", O_RDWR | O_CLOEXEC));
  CUmemGenericAllocationHandle slab = 0;
  EXPECT_EQ(driver.import_slab(&slab, reinterpret_cast<void*>(intptr_t{file.get()}),
                               CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
            CUDA_ERROR_INVALID_VALUE);
}

TEST_F(SlabTest, AWriteToWhatIsMappedForReadingFaults) {
  const Driver driver;
  const CUmemGenericAllocationHandle slab = driver.Create();
  const CUdeviceptr address = driver.Map(slab, kSlabBytes, CU_MEM_ACCESS_FLAGS_PROT_READ);
  EXPECT_EQ(Read(static_cast<char*>(Pointer(address))), 0);
  const cudaStream_t stream = NewStream();
  EXPECT_EQ(cudaMemsetAsync(Pointer(address), 1, 1, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  EXPECT_EQ(driver.unmap(address, kSlabBytes), CUDA_ERROR_ILLEGAL_ADDRESS);
  Restart();
  driver.Unmap(address);
  EXPECT_EQ(driver.release(slab), CUDA_SUCCESS);
}

TEST_F(SlabTest, EntryPointsAreThoseOfTheVersionAskedForAndOfTheDriver) {
  const auto batch = [](unsigned version) {
    return EntryPoint<void*>("cuMemcpyBatchAsync", version);
  };
  EXPECT_NE(batch(13000), nullptr);
  EXPECT_NE(batch(12080), nullptr);
  EXPECT_NE(batch(12080), batch(13000)) << "with the failed index, and without";
  EXPECT_EQ(batch(12000), nullptr);
  EXPECT_EQ(EntryPoint<void*>("cuNoSuchCall"), nullptr);
  SetDevice({.driver_version = 12090});
  EXPECT_NE(batch(12080), nullptr);
  void* function = nullptr;
  EXPECT_EQ(cudaGetDriverEntryPointByVersion("cuMemcpyBatchAsync", &function, 13000,
                                             cudaEnableDefault, nullptr),
            cudaErrorInvalidValue)
      << "newer than the driver";
}

}  // namespace
}  // namespace thermocline::fakecuda
