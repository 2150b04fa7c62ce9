// The driver's virtual memory management: slabs, addresses, and the mappings that join them.
#include <fcntl.h>

#include <algorithm>

#include <map>
#include <memory>

#include "base/mutex.h"
#include "tests/fakecuda/device_space.h"
#include "tests/fakecuda/driver.h"
#include "tests/fakecuda/memory.h"
#include "tests/fakecuda/streams.h"

namespace thermocline::fakecuda::driver {
namespace {

struct Slabs {
  Mutex mutex;
  CUmemGenericAllocationHandle next TC_GUARDED_BY(mutex) = 1;
  std::map<CUmemGenericAllocationHandle, std::shared_ptr<Vram>> by_handle TC_GUARDED_BY(mutex);
  std::map<char*, size_t> reserved TC_GUARDED_BY(mutex);

  CUmemGenericAllocationHandle Add(std::shared_ptr<Vram> slab) TC_EXCLUDES(mutex) {
    MutexLock lock(mutex);
    by_handle[next] = std::move(slab);
    return next++;
  }

  /// Null if there is none.
  std::shared_ptr<Vram> Find(CUmemGenericAllocationHandle handle) TC_EXCLUDES(mutex) {
    MutexLock lock(mutex);
    const auto found = by_handle.find(handle);
    return found == by_handle.end() ? nullptr : found->second;
  }

  bool IsReserved(char* begin, size_t bytes) TC_EXCLUDES(mutex) {
    MutexLock lock(mutex);
    auto after = reserved.upper_bound(begin);
    if (after == reserved.begin()) return false;
    const auto& [first, reserved_bytes] = *std::prev(after);
    return begin + bytes <= first + reserved_bytes;
  }
};

Slabs& TheSlabs() {
  static Slabs& slabs = *new Slabs;
  return slabs;
}

char* PointerOf(CUdeviceptr address) { return reinterpret_cast<char*>(address); }

bool IsGranular(uint64_t number) { return number % kSlabGranularity == 0; }

CUresult CheckProperties(const CUmemAllocationProp* properties) {
  if (properties == nullptr || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
      properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (properties->location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
  const auto types = properties->requestedHandleTypes;
  if (types != CU_MEM_HANDLE_TYPE_NONE && types != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult MemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* properties,
                                     CUmemAllocationGranularity_flags) {
  return ServeDriver("cuMemGetAllocationGranularity", [&] {
    if (granularity == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *granularity = kSlabGranularity;
    return CheckProperties(properties);
  });
}

CUresult MemCreate(CUmemGenericAllocationHandle* handle, size_t bytes,
                   const CUmemAllocationProp* properties, unsigned long long flags) {
  return ServeDriver("cuMemCreate", [&] {
    if (const CUresult error = CheckProperties(properties)) return error;
    if (handle == nullptr || bytes == 0 || !IsGranular(bytes) || flags != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const bool exportable =
        properties->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    std::shared_ptr<Vram> slab = Vram::CreateSlab(bytes, exportable);
    if (slab == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = TheSlabs().Add(std::move(slab));
    return CUDA_SUCCESS;
  });
}

CUresult MemRelease(CUmemGenericAllocationHandle handle) {
  return ServeDriver("cuMemRelease", [&] {
    Slabs& slabs = TheSlabs();
    MutexLock lock(slabs.mutex);
    return slabs.by_handle.erase(handle) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult MemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle,
                                    CUmemAllocationHandleType type, unsigned long long flags) {
  return ServeDriver("cuMemExportToShareableHandle", [&] {
    const std::shared_ptr<Vram> slab = TheSlabs().Find(handle);
    if (shareable == nullptr || slab == nullptr || !slab->exportable() || flags != 0 ||
        type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const int fd = fcntl(slab->fd(), F_DUPFD_CLOEXEC, 3);
    if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    *static_cast<int*>(shareable) = fd;
    return CUDA_SUCCESS;
  });
}

CUresult MemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* shareable,
                                      CUmemAllocationHandleType type) {
  return ServeDriver("cuMemImportFromShareableHandle", [&] {
    if (handle == nullptr || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const auto fd = static_cast<int>(reinterpret_cast<intptr_t>(shareable));
    std::shared_ptr<Vram> slab = Vram::ImportSlab(fd);
    if (slab == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *handle = TheSlabs().Add(std::move(slab));
    return CUDA_SUCCESS;
  });
}

CUresult MemAddressReserve(CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr,
                           unsigned long long flags) {
  return ServeDriver("cuMemAddressReserve", [&] {
    if (address == nullptr || bytes == 0 || !IsGranular(bytes) ||
        (alignment & (alignment - 1)) != 0 || flags != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    char* const begin = ReserveSpace(bytes, std::max(alignment, kSlabGranularity));
    Slabs& slabs = TheSlabs();
    MutexLock lock(slabs.mutex);
    slabs.reserved[begin] = bytes;
    *address = reinterpret_cast<CUdeviceptr>(begin);
    return CUDA_SUCCESS;
  });
}

CUresult MemAddressFree(CUdeviceptr address, size_t bytes) {
  return ServeDriver("cuMemAddressFree", [&] {
    char* const begin = PointerOf(address);
    if (IsMapped(begin, bytes)) return CUDA_ERROR_INVALID_VALUE;
    Slabs& slabs = TheSlabs();
    MutexLock lock(slabs.mutex);
    const auto found = slabs.reserved.find(begin);
    if (found == slabs.reserved.end() || found->second != bytes) return CUDA_ERROR_INVALID_VALUE;
    slabs.reserved.erase(found);
    ReleaseSpace(begin, bytes);
    return CUDA_SUCCESS;
  });
}

CUresult MemMap(CUdeviceptr address, size_t bytes, size_t offset,
                CUmemGenericAllocationHandle handle, unsigned long long flags) {
  return ServeDriver("cuMemMap", [&] {
    const std::shared_ptr<Vram> slab = TheSlabs().Find(handle);
    char* const begin = PointerOf(address);
    if (slab == nullptr || offset != 0 || flags != 0 || bytes == 0 || bytes > slab->bytes() ||
        !IsGranular(bytes) || !IsGranular(address) || !TheSlabs().IsReserved(begin, bytes) ||
        IsMapped(begin, bytes)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    AddMapping({.begin = begin,
                .bytes = bytes,
                .kind = Mapping::Kind::kSlab,
                .readable = false,
                .writable = false,
                .memory = slab});
    return CUDA_SUCCESS;
  });
}

CUresult MemUnmap(CUdeviceptr address, size_t bytes) {
  return ServeDriver("cuMemUnmap", [&] {
    const auto mapping = FindMapping(PointerOf(address), Mapping::Kind::kSlab);
    if (!mapping.has_value() || mapping->bytes != bytes) {
      return static_cast<int>(CUDA_ERROR_INVALID_VALUE);
    }
    DrainAll();
    RemoveMapping(*mapping);
    return PoisonError();
  });
}

CUresult MemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* accesses,
                      size_t count) {
  return ServeDriver("cuMemSetAccess", [&] {
    if (accesses == nullptr || count != 1 || bytes == 0 ||
        accesses->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (accesses->location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
    DrainAll();
    const bool writable = accesses->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    const bool readable = writable || accesses->flags == CU_MEM_ACCESS_FLAGS_PROT_READ;
    return SetAccess(PointerOf(address), bytes, readable, writable) ? CUDA_SUCCESS
                                                                    : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult MemHostRegister(void* pointer, size_t bytes, unsigned flags) {
  return ServeDriverInContext("cuMemHostRegister", [&] {
    constexpr unsigned kKnown =
        CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY;
    if ((flags & ~kKnown) != 0) return static_cast<int>(CUDA_ERROR_INVALID_VALUE);
    return RegisterHost(pointer, bytes, (flags & CU_MEMHOSTREGISTER_READ_ONLY) != 0);
  });
}

CUresult MemHostUnregister(void* pointer) {
  return ServeDriverInContext("cuMemHostUnregister", [&] { return UnregisterHost(pointer); });
}

}  // namespace thermocline::fakecuda::driver
