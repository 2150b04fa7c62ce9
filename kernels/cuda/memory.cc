#include "kernels/cuda/memory.h"

#include <cuda_runtime_api.h>

#include <string>

#include "base/log.h"
#include "base/units.h"
#include "kernels/cuda/driver.h"
#include "kernels/cuda/errors.h"

namespace thermocline::cuda {
namespace {

CUmemAllocationProp PropertiesOf(int device) {
  CUmemAllocationProp properties = {};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

CUdeviceptr AddressOf(const std::byte* data) { return reinterpret_cast<CUdeviceptr>(data); }

}  // namespace

absl::StatusOr<DeviceBuffer> DeviceBuffer::Allocate(uint64_t bytes) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  void* data = nullptr;
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaMalloc(&data, bytes), "cudaMalloc of " + FormatBytes(bytes)));
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) cudaFree(data_);
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(uint64_t bytes) {
  PinnedBuffer buffer;
  if (bytes == 0) return buffer;
  void* data = nullptr;
  TC_RETURN_IF_ERROR(RuntimeStatus(cudaHostAlloc(&data, bytes, cudaHostAllocPortable),
                                   "cudaHostAlloc of " + FormatBytes(bytes)));
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

absl::StatusOr<HostPin> HostPin::Register(std::byte* data, uint64_t bytes) {
  TC_ASSIGN_OR_RETURN(const Driver* driver, GetDriver());
  TC_RETURN_IF_ERROR(
      DriverStatus(driver->mem_host_register(
                       data, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP),
                   "cuMemHostRegister of " + FormatBytes(bytes)));
  HostPin pin;
  pin.data_ = data;
  return pin;
}

HostPin::~HostPin() {
  if (data_ == nullptr) return;
  const auto driver = GetDriver();
  if (!driver.ok()) return;
  const absl::Status status =
      DriverStatus((*driver)->mem_host_unregister(data_), "cuMemHostUnregister");
  if (!status.ok()) LogEvent(LogLevel::kWarning, "memory_not_unpinned", {{"cause", status}});
}

absl::StatusOr<Slab> Slab::Create(int device, uint64_t bytes) {
  TC_ASSIGN_OR_RETURN(const Driver* driver, GetDriver());
  const CUmemAllocationProp properties = PropertiesOf(device);
  size_t granularity = 0;
  TC_RETURN_IF_ERROR(
      DriverStatus(driver->mem_get_allocation_granularity(&granularity, &properties,
                                                          CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                   "cuMemGetAllocationGranularity"));
  Slab slab;
  slab.device_ = device;
  slab.bytes_ = RoundUp(bytes, granularity);
  CUmemGenericAllocationHandle handle = 0;
  TC_RETURN_IF_ERROR(DriverStatus(driver->mem_create(&handle, slab.bytes_, &properties, 0),
                                  "cuMemCreate of " + FormatBytes(slab.bytes_)));
  slab.handle_ = handle;
  return slab;
}

absl::StatusOr<Slab> Slab::Import(int device, int fd, uint64_t bytes) {
  TC_ASSIGN_OR_RETURN(const Driver* driver, GetDriver());
  CUmemGenericAllocationHandle handle = 0;
  TC_RETURN_IF_ERROR(
      DriverStatus(driver->mem_import(&handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                   "cuMemImportFromShareableHandle"));
  Slab slab;
  slab.handle_ = handle;
  slab.bytes_ = bytes;
  slab.device_ = device;
  return slab;
}

Slab::~Slab() {
  if (handle_ == 0) return;
  if (const auto driver = GetDriver(); driver.ok()) (*driver)->mem_release(handle_);
}

absl::StatusOr<UniqueFd> Slab::Export() const {
  TC_ASSIGN_OR_RETURN(const Driver* driver, GetDriver());
  int fd = -1;
  TC_RETURN_IF_ERROR(
      DriverStatus(driver->mem_export(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                   "cuMemExportToShareableHandle"));
  return UniqueFd(fd);
}

absl::StatusOr<SlabMapping> SlabMapping::Map(const Slab& slab, Access access) {
  TC_ASSIGN_OR_RETURN(const Driver* driver, GetDriver());
  CUdeviceptr address = 0;
  TC_RETURN_IF_ERROR(DriverStatus(driver->mem_address_reserve(&address, slab.bytes(), 0, 0, 0),
                                  "cuMemAddressReserve of " + FormatBytes(slab.bytes())));
  absl::Status status =
      DriverStatus(driver->mem_map(address, slab.bytes(), 0, slab.handle_, 0), "cuMemMap");
  if (!status.ok()) {
    driver->mem_address_free(address, slab.bytes());
    return status;
  }
  SlabMapping mapping;  // from here on it undoes both
  mapping.data_ = reinterpret_cast<std::byte*>(address);
  mapping.bytes_ = slab.bytes();
  CUmemAccessDesc description = {};
  description.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  description.location.id = slab.device();
  description.flags =
      access == Access::kRead ? CU_MEM_ACCESS_FLAGS_PROT_READ : CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  TC_RETURN_IF_ERROR(DriverStatus(driver->mem_set_access(address, slab.bytes(), &description, 1),
                                  "cuMemSetAccess"));
  return mapping;
}

SlabMapping::~SlabMapping() {
  if (data_ == nullptr) return;
  const auto driver = GetDriver();
  if (!driver.ok()) return;
  (*driver)->mem_unmap(AddressOf(data_), bytes_);
  (*driver)->mem_address_free(AddressOf(data_), bytes_);
}

}  // namespace thermocline::cuda
