// The driver's entry points, looked up once: for this folder alone, it needs CUDA's headers.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "base/status.h"

namespace thermocline::cuda {

/// As cuMemcpyBatchAsync was before CUDA 13, which took `fail_index` out.
using MemcpyBatchWithFailIndex = CUresult (*)(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes,
                                              size_t count, CUmemcpyAttributes* attributes,
                                              size_t* attribute_indices, size_t attribute_count,
                                              size_t* fail_index, CUstream stream);
using MemcpyBatch = CUresult (*)(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes, size_t count,
                                 CUmemcpyAttributes* attributes, size_t* attribute_indices,
                                 size_t attribute_count, CUstream stream);

struct Driver {
  decltype(&::cuMemGetAllocationGranularity) mem_get_allocation_granularity = nullptr;
  decltype(&::cuMemCreate) mem_create = nullptr;
  decltype(&::cuMemRelease) mem_release = nullptr;
  decltype(&::cuMemExportToShareableHandle) mem_export = nullptr;
  decltype(&::cuMemImportFromShareableHandle) mem_import = nullptr;
  decltype(&::cuMemAddressReserve) mem_address_reserve = nullptr;
  decltype(&::cuMemAddressFree) mem_address_free = nullptr;
  decltype(&::cuMemMap) mem_map = nullptr;
  decltype(&::cuMemUnmap) mem_unmap = nullptr;
  decltype(&::cuMemSetAccess) mem_set_access = nullptr;
  decltype(&::cuMemHostRegister) mem_host_register = nullptr;
  decltype(&::cuMemHostUnregister) mem_host_unregister = nullptr;
  decltype(&::cuGetErrorName) get_error_name = nullptr;
  decltype(&::cuGetErrorString) get_error_string = nullptr;
  // Either, or none in a driver before 12.8.
  MemcpyBatch memcpy_batch = nullptr;
  MemcpyBatchWithFailIndex memcpy_batch_with_fail_index = nullptr;
};

/// The same at every call. Errors: Unavailable without a driver, or for one that lacks a call.
/// Thread: any.
absl::StatusOr<const Driver*> GetDriver();

}  // namespace thermocline::cuda
