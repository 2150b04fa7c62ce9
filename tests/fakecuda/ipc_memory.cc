// Memory of cudaMalloc in other processes. As with CUDA, a handle stands for the whole allocation,
// and what was freed by its owner while others had it open is undefined there.
#include <unistd.h>

#include <cstring>

#include "tests/fakecuda/device_space.h"
#include "tests/fakecuda/ipc_handle.h"
#include "tests/fakecuda/memory.h"
#include "tests/fakecuda/streams.h"

using namespace thermocline;
using namespace thermocline::fakecuda;

static constexpr size_t kPageBytes = 4096;

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* pointer) {
  return Serve(__func__, [&] {
    const std::optional<Mapping> mapping = MappingAround(pointer);
    if (handle == nullptr || !mapping.has_value() || mapping->kind != Mapping::Kind::kHeap) {
      return cudaErrorInvalidValue;
    }
    const IpcHandle name = {IpcHandle::Kind::kMemory, getpid(), mapping->memory->fd(),
                            mapping->memory->offset(), mapping->bytes};
    static_assert(sizeof name <= sizeof *handle);
    std::memset(handle, 0, sizeof *handle);
    std::memcpy(handle, &name, sizeof name);
    return cudaSuccess;
  });
}

cudaError_t cudaIpcOpenMemHandle(void** pointer, cudaIpcMemHandle_t handle, unsigned flags) {
  return Serve(__func__, [&] {
    IpcHandle name;
    std::memcpy(&name, &handle, sizeof name);
    if (pointer == nullptr || flags != cudaIpcMemLazyEnablePeerAccess ||
        name.kind != IpcHandle::Kind::kMemory) {
      return cudaErrorInvalidValue;
    }
    if (name.process == getpid()) return cudaErrorDeviceUninitialized;
    UniqueFd fd = OpenOfProcess(name);
    if (!fd) return cudaErrorMapBufferObjectFailed;
    char* const begin = ReserveSpace(name.bytes, kPageBytes);
    AddMapping({.begin = begin,
                .bytes = name.bytes,
                .kind = Mapping::Kind::kIpc,
                .memory = Vram::ImportFromHeap(std::move(fd), name.offset, name.bytes)});
    *pointer = begin;
    return cudaSuccess;
  });
}

cudaError_t cudaIpcCloseMemHandle(void* pointer) {
  return Serve(__func__, [&] {
    const std::optional<Mapping> mapping = FindMapping(pointer, Mapping::Kind::kIpc);
    if (!mapping.has_value()) return cudaErrorInvalidValue;
    DrainAll();
    RemoveMapping(*mapping);
    ReleaseSpace(mapping->begin, mapping->bytes);
    return cudaSuccess;
  });
}
