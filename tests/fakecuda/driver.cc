// Entry points by name and version, the batched copy in both its forms, and what the driver says of
// the device.
#include "tests/fakecuda/driver.h"

#include <cudaTypedefs.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "tests/fakecuda/copies.h"
#include "tests/fakecuda/device.h"

namespace thermocline::fakecuda {
namespace {

/// The form of a function that came with a version; the newest that is no newer than what a caller
/// asks for is his.
struct EntryPoint {
  std::string_view name;
  int version;
  void* function;
};

/// NVIDIA's own type of the function checks ours.
template <class Function>
EntryPoint Entry(std::string_view name, int version, Function function) {
  return {name, version, reinterpret_cast<void*>(function)};
}

const std::vector<EntryPoint>& EntryPoints() {
  using namespace driver;
  static const std::vector<EntryPoint>& entries = *new std::vector<EntryPoint>{
      Entry<PFN_cuInit_v2000>("cuInit", 2000, &Init),
      Entry<PFN_cuDeviceGetCount_v2000>("cuDeviceGetCount", 2000, &DeviceGetCount),
      Entry<PFN_cuDeviceGet_v2000>("cuDeviceGet", 2000, &DeviceGet),
      Entry<PFN_cuDeviceGetAttribute_v2000>("cuDeviceGetAttribute", 2000, &DeviceGetAttribute),
      Entry<PFN_cuGetErrorName_v6000>("cuGetErrorName", 6000, &GetErrorName),
      Entry<PFN_cuGetErrorString_v6000>("cuGetErrorString", 6000, &GetErrorString),
      Entry<PFN_cuMemHostRegister_v6050>("cuMemHostRegister", 6050, &MemHostRegister),
      Entry<PFN_cuMemHostUnregister_v4000>("cuMemHostUnregister", 4000, &MemHostUnregister),
      Entry<PFN_cuMemGetAllocationGranularity_v10020>("cuMemGetAllocationGranularity", 10020,
                                                      &MemGetAllocationGranularity),
      Entry<PFN_cuMemCreate_v10020>("cuMemCreate", 10020, &MemCreate),
      Entry<PFN_cuMemRelease_v10020>("cuMemRelease", 10020, &MemRelease),
      Entry<PFN_cuMemExportToShareableHandle_v10020>("cuMemExportToShareableHandle", 10020,
                                                     &MemExportToShareableHandle),
      Entry<PFN_cuMemImportFromShareableHandle_v10020>("cuMemImportFromShareableHandle", 10020,
                                                       &MemImportFromShareableHandle),
      Entry<PFN_cuMemAddressReserve_v10020>("cuMemAddressReserve", 10020, &MemAddressReserve),
      Entry<PFN_cuMemAddressFree_v10020>("cuMemAddressFree", 10020, &MemAddressFree),
      Entry<PFN_cuMemMap_v10020>("cuMemMap", 10020, &MemMap),
      Entry<PFN_cuMemUnmap_v10020>("cuMemUnmap", 10020, &MemUnmap),
      Entry<PFN_cuMemSetAccess_v10020>("cuMemSetAccess", 10020, &MemSetAccess),
      Entry<PFN_cuMemcpyBatchAsync_v12080>("cuMemcpyBatchAsync", 12080,
                                           &MemcpyBatchAsyncWithFailIndex),
      Entry("cuMemcpyBatchAsync", 13000, &MemcpyBatchAsync),  // 12's headers do not know it
  };
  return entries;
}

SourceOrder OrderOf(CUmemcpySrcAccessOrder order) {
  switch (order) {
    case CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL:
      return SourceOrder::kDuringCall;
    case CU_MEMCPY_SRC_ACCESS_ORDER_ANY:
      return SourceOrder::kAny;
    default:
      return SourceOrder::kStream;
  }
}

/// Of each copy, from the attributes that begin at some. Empty if those are not as documented.
std::vector<SourceOrder> OrdersOf(size_t count, const CUmemcpyAttributes* attributes,
                                  const size_t* indices, size_t attribute_count) {
  std::vector<SourceOrder> orders(count);
  if (attributes == nullptr || indices == nullptr || attribute_count == 0 ||
      attribute_count > count || indices[0] != 0) {
    return {};
  }
  for (size_t i = 0; i < attribute_count; ++i) {
    const size_t end = i + 1 < attribute_count ? indices[i + 1] : count;
    if (end <= indices[i] || end > count ||
        attributes[i].srcAccessOrder < CU_MEMCPY_SRC_ACCESS_ORDER_STREAM ||
        attributes[i].srcAccessOrder > CU_MEMCPY_SRC_ACCESS_ORDER_ANY) {
      return {};
    }
    std::fill(orders.begin() + static_cast<ptrdiff_t>(indices[i]),
              orders.begin() + static_cast<ptrdiff_t>(end), OrderOf(attributes[i].srcAccessOrder));
  }
  return orders;
}

int EnterBatch(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes, size_t count,
               CUmemcpyAttributes* attributes, size_t* indices, size_t attribute_count,
               CUstream handle) {
  int poison = 0;
  if (const int error = EnterCall("cuMemcpyBatchAsync", &poison)) return error;
  if (!IsContextCurrent()) return CUDA_ERROR_INVALID_CONTEXT;
  const std::vector<SourceOrder> orders = OrdersOf(count, attributes, indices, attribute_count);
  if (to == nullptr || from == nullptr || bytes == nullptr || orders.empty() || handle == nullptr ||
      handle == CU_STREAM_LEGACY) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::vector<Piece> pieces;
  for (size_t i = 0; i < count; ++i) {
    pieces.push_back(
        {reinterpret_cast<void*>(to[i]), reinterpret_cast<const void*>(from[i]), bytes[i]});
  }
  return GiveWork(handle, poison, [&](const std::shared_ptr<Stream>& stream, int later) {
    return CopyBatch(stream, later, std::move(pieces), orders);
  });
}

}  // namespace

namespace driver {

CUresult MemcpyBatchAsync(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes, size_t count,
                          CUmemcpyAttributes* attributes, size_t* attribute_indices,
                          size_t attribute_count, CUstream stream) {
  return static_cast<CUresult>(
      EnterBatch(to, from, bytes, count, attributes, attribute_indices, attribute_count, stream));
}

CUresult MemcpyBatchAsyncWithFailIndex(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes,
                                       size_t count, CUmemcpyAttributes* attributes,
                                       size_t* attribute_indices, size_t attribute_count,
                                       size_t* fail_index, CUstream stream) {
  const CUresult result = MemcpyBatchAsync(to, from, bytes, count, attributes, attribute_indices,
                                           attribute_count, stream);
  // SIZE_MAX: the error is no single copy's.
  if (result != CUDA_SUCCESS && fail_index != nullptr) *fail_index = SIZE_MAX;
  return result;
}

CUresult Init(unsigned flags) {
  return ServeDriver("cuInit",
                     [&] { return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; });
}

CUresult DeviceGetCount(int* count) {
  return ServeDriver("cuDeviceGetCount", [&] {
    *count = 1;
    return CUDA_SUCCESS;
  });
}

CUresult DeviceGet(CUdevice* device, int ordinal) {
  return ServeDriver("cuDeviceGet", [&] {
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
  });
}

CUresult DeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return ServeDriver("cuDeviceGetAttribute", [&] {
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    return AttributeOf(static_cast<int>(attribute), value) ? CUDA_SUCCESS
                                                           : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult GetErrorName(CUresult error, const char** name) {
  *name = ErrorName(error, true);
  return *name != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult GetErrorString(CUresult error, const char** text) {
  *text = ErrorText(error);
  return *text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace driver
}  // namespace thermocline::fakecuda

using namespace thermocline::fakecuda;

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* status) {
  return ServeWithoutContext(__func__, [&] {
    if (symbol == nullptr || function == nullptr ||
        (flags != cudaEnableDefault && flags != cudaEnableLegacyStream)) {
      return cudaErrorInvalidValue;
    }
    // As cuGetProcAddress documents it.
    if (version > static_cast<unsigned>(TheDevice().driver_version)) return cudaErrorInvalidValue;
    *function = nullptr;
    auto result = cudaDriverEntryPointSymbolNotFound;
    for (const EntryPoint& entry : EntryPoints()) {
      if (entry.name != symbol) continue;
      if (static_cast<unsigned>(entry.version) > version) {
        if (*function == nullptr) result = cudaDriverEntryPointVersionNotSufficent;
        continue;
      }
      *function = entry.function;
      result = cudaDriverEntryPointSuccess;
    }
    if (status != nullptr) *status = result;
    return cudaSuccess;
  });
}
