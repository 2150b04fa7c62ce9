// The driver's functions that cudaGetDriverEntryPointByVersion hands out. They have no external
// names: libcuda is never linked, in the product neither. Internal.
#pragma once
#include <cuda.h>

#include <cstddef>

namespace thermocline::fakecuda::driver {

CUresult MemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* properties,
                                     CUmemAllocationGranularity_flags option);
CUresult MemCreate(CUmemGenericAllocationHandle* handle, size_t bytes,
                   const CUmemAllocationProp* properties, unsigned long long flags);
CUresult MemRelease(CUmemGenericAllocationHandle handle);
CUresult MemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle,
                                    CUmemAllocationHandleType type, unsigned long long flags);
CUresult MemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* shareable,
                                      CUmemAllocationHandleType type);
CUresult MemAddressReserve(CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr hint,
                           unsigned long long flags);
CUresult MemAddressFree(CUdeviceptr address, size_t bytes);
CUresult MemMap(CUdeviceptr address, size_t bytes, size_t offset,
                CUmemGenericAllocationHandle handle, unsigned long long flags);
CUresult MemUnmap(CUdeviceptr address, size_t bytes);
CUresult MemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* accesses,
                      size_t count);

CUresult MemHostRegister(void* pointer, size_t bytes, unsigned flags);
CUresult MemHostUnregister(void* pointer);
CUresult MemcpyBatchAsync(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes, size_t count,
                          CUmemcpyAttributes* attributes, size_t* attribute_indices,
                          size_t attribute_count, CUstream stream);
/// As it was in CUDA 12.8 and 12.9.
CUresult MemcpyBatchAsyncWithFailIndex(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes,
                                       size_t count, CUmemcpyAttributes* attributes,
                                       size_t* attribute_indices, size_t attribute_count,
                                       size_t* fail_index, CUstream stream);

CUresult Init(unsigned flags);
CUresult DeviceGetCount(int* count);
CUresult DeviceGet(CUdevice* device, int ordinal);
CUresult DeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device);
CUresult GetErrorName(CUresult error, const char** name);
CUresult GetErrorString(CUresult error, const char** text);

}  // namespace thermocline::fakecuda::driver
