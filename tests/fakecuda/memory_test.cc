// Device memory, pinned memory, copies.
#include <sys/mman.h>

#include <cstring>
#include <numeric>

#include "tests/fakecuda/fake_cuda_test_util.h"

namespace thermocline::fakecuda {
namespace {

using MemoryTest = FakeCudaTest;

TEST_F(MemoryTest, IsExhaustedAtTheDevicesSize) {
  SetDevice({.vram_bytes = 8 * kMiB});
  void *first = nullptr, *second = nullptr;
  EXPECT_EQ(cudaMalloc(&first, 6 * kMiB), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 4 * kMiB), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  size_t free_bytes = 0, total_bytes = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  EXPECT_EQ(free_bytes, 2 * kMiB);
  EXPECT_EQ(total_bytes, 8 * kMiB);
  EXPECT_EQ(cudaFree(first), cudaSuccess);
  EXPECT_EQ(cudaFree(first), cudaErrorInvalidValue) << "freed already";
  EXPECT_EQ(cudaMalloc(&second, 4 * kMiB), cudaSuccess);
  EXPECT_EQ(cudaFree(second), cudaSuccess);
  EXPECT_EQ(UsedBytes(), 0u);
}

TEST_F(MemoryTest, BeginsAsNotANumber) {
  float* const array = NewDeviceArray<float>(10);
  const float value = Read(array + 9);
  EXPECT_NE(value, value);
  EXPECT_EQ(cudaFree(array), cudaSuccess);
}

TEST_F(MemoryTest, CopiesKnowWhereTheirEndsAre) {
  char* const device = NewDeviceArray<char>(100);
  char host[100] = {};
  const cudaStream_t stream = NewStream();
  EXPECT_EQ(cudaMemcpyAsync(device, host, 100, cudaMemcpyHostToDevice, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(device, host, 100, cudaMemcpyDefault, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(device, host, 100, cudaMemcpyDeviceToHost, stream),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(device + 1, host, 100, cudaMemcpyHostToDevice, stream),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(device, 0, 101, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(host, 0, 100, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(device, host, 0, cudaMemcpyDefault, stream), cudaSuccess);
}

TEST_F(MemoryTest, PageableSourcesAreReadByTheCallAndPinnedOnesByTheStream) {
  int* const device = NewDeviceArray<int>(2);
  int* const pinned = NewPinnedArray<int>(1);
  int pageable = 1;
  *pinned = 1;
  const cudaStream_t stream = NewStream();
  Gate gate(stream);
  EXPECT_EQ(cudaMemcpyAsync(device, &pageable, 4, cudaMemcpyDefault, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(device + 1, pinned, 4, cudaMemcpyDefault, stream), cudaSuccess);
  pageable = 2;
  *pinned = 2;
  gate.Open();
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(Read(device), 1);
  EXPECT_EQ(Read(device + 1), 2);
}

TEST_F(MemoryTest, PageableDestinationsAreWrittenOnReturnAndPinnedOnesAreNot) {
  int* const device = NewDeviceArray<int>(1);
  int* const pinned = NewPinnedArray<int>(1);
  *pinned = 0;
  int pageable = 0;
  const cudaStream_t stream = NewStream();
  EXPECT_EQ(cudaMemsetAsync(device, 1, 4, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(&pageable, device, 4, cudaMemcpyDefault, stream), cudaSuccess);
  EXPECT_EQ(pageable, 0x01010101);
  Gate gate(stream);
  EXPECT_EQ(cudaMemcpyAsync(pinned, device, 4, cudaMemcpyDefault, stream), cudaSuccess);
  EXPECT_EQ(*static_cast<volatile int*>(pinned), 0);
  gate.Open();
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(*pinned, 0x01010101);
}

TEST_F(MemoryTest, CopiesRows) {
  std::vector<char> host(4 * 16);
  std::iota(host.begin(), host.end(), 0);
  char* const device = NewDeviceArray<char>(4 * 10);
  EXPECT_EQ(
      cudaMemcpy2DAsync(device, 10, host.data() + 2, 16, 8, 4, cudaMemcpyHostToDevice, nullptr),
      cudaSuccess);
  EXPECT_EQ(Read(device + 3 * 10 + 7), 3 * 16 + 2 + 7);
  EXPECT_EQ(Read(device + 3 * 10 + 8), '\xff');
  EXPECT_EQ(cudaMemcpy2DAsync(device, 7, host.data(), 16, 8, 4, cudaMemcpyHostToDevice, nullptr),
            cudaErrorInvalidPitchValue);
  EXPECT_EQ(cudaMemcpy2DAsync(device, 10, host.data(), 16, 8, 5, cudaMemcpyHostToDevice, nullptr),
            cudaErrorInvalidValue);
}

TEST_F(MemoryTest, ABatchCopiesAllOfItsPieces) {
  const Driver driver;
  constexpr size_t kCount = 100;
  int* const pinned = NewPinnedArray<int>(kCount);
  int* const device = NewDeviceArray<int>(kCount);
  std::vector<CUdeviceptr> to, from;
  std::vector<size_t> bytes(kCount, sizeof(int));
  for (size_t i = 0; i < kCount; ++i) {
    pinned[i] = static_cast<int>(i);
    to.push_back(reinterpret_cast<CUdeviceptr>(device + i));
    from.push_back(reinterpret_cast<CUdeviceptr>(pinned + i));
  }
  const cudaStream_t stream = NewStream();
  Gate gate(stream);
  CUmemcpyAttributes attributes[2] = {};
  attributes[0].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
  attributes[1].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  size_t indices[2] = {0, kCount / 2};
  const auto copy = [&](size_t attribute_count, CUstream where) {
    return driver.copy_batch(to.data(), from.data(), bytes.data(), kCount, attributes, indices,
                             attribute_count, where);
  };
  EXPECT_EQ(copy(2, nullptr), CUDA_ERROR_INVALID_VALUE) << "not on the default stream";
  EXPECT_EQ(copy(0, stream), CUDA_ERROR_INVALID_VALUE);
  indices[0] = 1;
  EXPECT_EQ(copy(2, stream), CUDA_ERROR_INVALID_VALUE) << "copies without attributes";
  indices[0] = 0;
  EXPECT_EQ(copy(2, stream), CUDA_SUCCESS);
  std::memset(pinned, 0, kCount * sizeof(int));
  gate.Open();
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(Read(device + kCount / 2 - 1), static_cast<int>(kCount / 2 - 1));
  EXPECT_EQ(Read(device + kCount / 2), 0) << "read in the stream's order, after it was changed";
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the driver leaves the runtime's error alone";
}

TEST_F(MemoryTest, RegistrationsMustNotOverlapNorBeCrossed) {
  constexpr size_t kBytes = 4 * kMiB;
  SetDevice({.max_registration_bytes = 2 * kMiB});
  char* const memory = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const Driver driver;
  EXPECT_EQ(driver.host_register(memory, kBytes, 0), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(driver.host_register(memory, 2 * kMiB, 0), CUDA_SUCCESS);
  EXPECT_EQ(driver.host_register(memory + kMiB, 2 * kMiB, 0),
            CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_EQ(driver.host_register(memory + 2 * kMiB, 2 * kMiB, 0), CUDA_SUCCESS);
  char* const device = NewDeviceArray<char>(kMiB);
  const cudaStream_t stream = NewStream();
  EXPECT_EQ(cudaMemcpyAsync(device, memory + kMiB, kMiB, cudaMemcpyDefault, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(device, memory + kMiB + 1, kMiB, cudaMemcpyDefault, stream),
            cudaErrorInvalidValue);
  EXPECT_EQ(driver.host_unregister(memory), CUDA_SUCCESS);
  EXPECT_EQ(driver.host_unregister(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  EXPECT_EQ(driver.host_unregister(memory + 2 * kMiB), CUDA_SUCCESS);

  ASSERT_EQ(mprotect(memory, kMiB, PROT_READ), 0);
  EXPECT_EQ(driver.host_register(memory, kMiB, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(driver.host_register(memory, kMiB, CU_MEMHOSTREGISTER_READ_ONLY), CUDA_SUCCESS);
  EXPECT_EQ(driver.host_unregister(memory), CUDA_SUCCESS);
  munmap(memory, kBytes);
}

TEST_F(MemoryTest, TheDriverNeedsAContextOfTheThread) {
  const Driver driver;
  char* const memory = static_cast<char*>(
      mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::thread([&] {
    EXPECT_EQ(driver.host_register(memory, kMiB, 0), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    EXPECT_EQ(driver.host_register(memory, kMiB, 0), CUDA_SUCCESS);
  }).join();
  EXPECT_EQ(driver.host_unregister(memory), CUDA_SUCCESS);
  munmap(memory, kMiB);
}

}  // namespace
}  // namespace thermocline::fakecuda
