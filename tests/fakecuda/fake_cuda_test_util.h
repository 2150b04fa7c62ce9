// What the fake's own tests share: the driver's calls, slabs, and another process.
#pragma once
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "tests/fakecuda/driver.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline::fakecuda {

inline constexpr size_t kMiB = size_t{1} << 20;
inline constexpr size_t kSlabBytes = 4 * kMiB;

/// Null if the driver has no such call in that version.
template <class Function>
Function EntryPoint(const char* name, unsigned version = 13000) {
  void* function = nullptr;
  auto status = cudaDriverEntryPointSymbolNotFound;
  EXPECT_EQ(cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &status),
            cudaSuccess);
  EXPECT_EQ(function != nullptr, status == cudaDriverEntryPointSuccess);
  return reinterpret_cast<Function>(function);
}

struct Driver {
  PFN_cuMemCreate_v10020 create = EntryPoint<PFN_cuMemCreate_v10020>("cuMemCreate");
  PFN_cuMemRelease_v10020 release = EntryPoint<PFN_cuMemRelease_v10020>("cuMemRelease");
  PFN_cuMemExportToShareableHandle_v10020 export_slab =
      EntryPoint<PFN_cuMemExportToShareableHandle_v10020>("cuMemExportToShareableHandle");
  PFN_cuMemImportFromShareableHandle_v10020 import_slab =
      EntryPoint<PFN_cuMemImportFromShareableHandle_v10020>("cuMemImportFromShareableHandle");
  PFN_cuMemAddressReserve_v10020 reserve =
      EntryPoint<PFN_cuMemAddressReserve_v10020>("cuMemAddressReserve");
  PFN_cuMemAddressFree_v10020 free_addresses =
      EntryPoint<PFN_cuMemAddressFree_v10020>("cuMemAddressFree");
  PFN_cuMemMap_v10020 map = EntryPoint<PFN_cuMemMap_v10020>("cuMemMap");
  PFN_cuMemUnmap_v10020 unmap = EntryPoint<PFN_cuMemUnmap_v10020>("cuMemUnmap");
  PFN_cuMemSetAccess_v10020 set_access = EntryPoint<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");
  PFN_cuMemHostRegister_v6050 host_register =
      EntryPoint<PFN_cuMemHostRegister_v6050>("cuMemHostRegister");
  PFN_cuMemHostUnregister_v4000 host_unregister =
      EntryPoint<PFN_cuMemHostUnregister_v4000>("cuMemHostUnregister");
  decltype(&driver::MemcpyBatchAsync) copy_batch =
      EntryPoint<decltype(&driver::MemcpyBatchAsync)>("cuMemcpyBatchAsync");

  static CUmemAllocationProp Properties() {
    CUmemAllocationProp properties = {};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    return properties;
  }

  CUmemGenericAllocationHandle Create(size_t bytes = kSlabBytes) const {
    const CUmemAllocationProp properties = Properties();
    CUmemGenericAllocationHandle slab = 0;
    EXPECT_EQ(create(&slab, bytes, &properties, 0), CUDA_SUCCESS);
    return slab;
  }

  UniqueFd Export(CUmemGenericAllocationHandle slab) const {
    int fd = -1;
    EXPECT_EQ(export_slab(&fd, slab, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0), CUDA_SUCCESS);
    return UniqueFd(fd);
  }

  CUmemGenericAllocationHandle Import(int fd) const {
    CUmemGenericAllocationHandle slab = 0;
    EXPECT_EQ(import_slab(&slab, reinterpret_cast<void*>(intptr_t{fd}),
                          CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
              CUDA_SUCCESS);
    return slab;
  }

  CUdeviceptr Reserve(size_t bytes = kSlabBytes) const {
    CUdeviceptr address = 0;
    EXPECT_EQ(reserve(&address, bytes, 0, 0, 0), CUDA_SUCCESS);
    return address;
  }

  CUresult SetAccess(CUdeviceptr address, size_t bytes, CUmemAccess_flags flags) const {
    CUmemAccessDesc access = {};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.flags = flags;
    return set_access(address, bytes, &access, 1);
  }

  /// At new addresses.
  CUdeviceptr Map(CUmemGenericAllocationHandle slab, size_t bytes = kSlabBytes,
                  CUmemAccess_flags flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE) const {
    const CUdeviceptr address = Reserve(bytes);
    EXPECT_EQ(map(address, bytes, 0, slab, 0), CUDA_SUCCESS);
    EXPECT_EQ(SetAccess(address, bytes, flags), CUDA_SUCCESS);
    return address;
  }

  void Unmap(CUdeviceptr address, size_t bytes = kSlabBytes) const {
    EXPECT_EQ(unmap(address, bytes), CUDA_SUCCESS);
    EXPECT_EQ(free_addresses(address, bytes), CUDA_SUCCESS);
  }
};

inline void* Pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

/// Holds a stream up, until it is opened or ends.
class Gate {
 public:
  explicit Gate(cudaStream_t stream) {
    auto* const opened = new std::shared_future<void>(open_.get_future());
    EXPECT_EQ(cudaLaunchHostFunc(
                  stream,
                  [](void* argument) {
                    auto* const wanted = static_cast<std::shared_future<void>*>(argument);
                    wanted->wait();
                    delete wanted;
                  },
                  opened),
              cudaSuccess);
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() {
    if (!is_open_) Open();
  }

  void Open() {
    is_open_ = true;
    open_.set_value();
  }

 private:
  std::promise<void> open_;
  bool is_open_ = false;
};

/// What NewDeviceArray gave: freed at the end of each test, if the test has not.
inline std::vector<void*> device_arrays;

template <class T>
T* NewDeviceArray(size_t count) {
  void* pointer = nullptr;
  EXPECT_EQ(cudaMalloc(&pointer, count * sizeof(T)), cudaSuccess);
  device_arrays.push_back(pointer);
  return static_cast<T*>(pointer);
}

/// A new device for each test; the thread has a context.
class FakeCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    SetDevice({});
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  }
  void TearDown() override {
    SetDevice({});
    Restart();
    for (void* const pointer : device_arrays) cudaFree(pointer);
    device_arrays.clear();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  static cudaStream_t NewStream(unsigned flags = cudaStreamNonBlocking) {
    cudaStream_t stream = nullptr;
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, flags), cudaSuccess);
    return stream;
  }
  static cudaEvent_t NewEvent(unsigned flags = cudaEventDisableTiming) {
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&event, flags), cudaSuccess);
    return event;
  }
};

template <class T>
T* NewPinnedArray(size_t count) {
  void* pointer = nullptr;
  EXPECT_EQ(cudaHostAlloc(&pointer, count * sizeof(T), cudaHostAllocPortable), cudaSuccess);
  return static_cast<T*>(pointer);
}

template <class T>
T Read(const T* device) {
  T value{};
  EXPECT_EQ(cudaMemcpy(&value, device, sizeof value, cudaMemcpyDeviceToHost), cudaSuccess);
  return value;
}

}  // namespace thermocline::fakecuda
