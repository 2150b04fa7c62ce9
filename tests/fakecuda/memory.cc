// Which addresses are device memory, which are pinned, and what was allocated. One map each, by
// address; physical memory is shared by handles and mappings, and goes with the last of them.
#include "tests/fakecuda/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/mutex.h"
#include "tests/fakecuda/device_space.h"
#include "tests/fakecuda/streams.h"

namespace thermocline::fakecuda {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr const char* kSlabName = "fakecuda slab";

struct Memory {
  Mutex mutex;
  std::map<const char*, Mapping> mappings TC_GUARDED_BY(mutex);
  std::map<const char*, size_t> pinned TC_GUARDED_BY(mutex);
  std::map<const char*, size_t> host_allocations TC_GUARDED_BY(mutex);
  size_t used_bytes TC_GUARDED_BY(mutex) = 0;

  /// The last mapping that begins at or before `at`, if that lies in it.
  const Mapping* Around(const char* at) TC_REQUIRES(mutex) {
    auto after = mappings.upper_bound(at);
    if (after == mappings.begin()) return nullptr;
    const Mapping& mapping = std::prev(after)->second;
    return at < mapping.begin + mapping.bytes ? &mapping : nullptr;
  }
};

Memory& TheMemory() {
  static Memory& memory = *new Memory;
  return memory;
}

size_t WholePages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

bool Charge(size_t bytes) {
  const size_t total_bytes = TheDevice().vram_bytes;
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  if (bytes > total_bytes || memory.used_bytes > total_bytes - bytes) return false;
  memory.used_bytes += bytes;
  return true;
}

std::shared_ptr<UniqueFd> CreateFile(const char* name) {
  auto fd = std::make_shared<UniqueFd>(memfd_create(name, MFD_CLOEXEC));
  TC_CHECK(fd->get() >= 0);
  return fd;
}

int Protection(bool readable, bool writable) {
  return (readable ? PROT_READ : PROT_NONE) | (writable ? PROT_WRITE : PROT_NONE);
}

/// Whether every page of the range is mapped here, writably if that is wanted.
bool IsHostMemory(const char* begin, size_t bytes, bool write) {
  std::FILE* const maps = std::fopen("/proc/self/maps", "re");
  TC_CHECK(maps != nullptr);
  auto at = reinterpret_cast<unsigned long>(begin);
  const unsigned long end = at + bytes;
  char line[512];
  while (at < end && std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long first = 0, last = 0;
    char permissions[8] = {};
    if (std::sscanf(line, "%lx-%lx %7s", &first, &last, permissions) != 3) continue;
    if (first > at || at >= last) continue;
    if (permissions[0] != 'r' || (write && permissions[1] != 'w')) break;
    at = last;
  }
  std::fclose(maps);
  return at >= end;
}

/// Reserves addresses for memory of the runtime's own allocations, and maps it.
char* MapAllocation(std::shared_ptr<Vram> memory, size_t bytes, Mapping::Kind kind) {
  char* const begin = ReserveSpace(WholePages(bytes), kPageBytes);
  AddMapping({.begin = begin, .bytes = bytes, .kind = kind, .memory = std::move(memory)});
  return begin;
}

int FreeAllocation(const Mapping& mapping) {
  DrainAll();
  RemoveMapping(mapping);
  ReleaseSpace(mapping.begin, WholePages(mapping.bytes));
  return PoisonError();
}

}  // namespace

std::shared_ptr<Vram> Vram::CreateSlab(size_t bytes, bool exportable) {
  if (!Charge(bytes)) return nullptr;
  const std::shared_ptr<UniqueFd> fd = CreateFile(kSlabName);
  TC_CHECK(ftruncate(fd->get(), static_cast<off_t>(bytes)) == 0);
  return std::make_shared<Vram>(
      Part{.fd = fd, .bytes = bytes, .charged_bytes = bytes, .exportable = exportable});
}

std::shared_ptr<Vram> Vram::CreateInHeap(size_t bytes) {
  static const std::shared_ptr<UniqueFd>& file =
      *new std::shared_ptr<UniqueFd>(CreateFile("fakecuda heap"));
  static std::atomic<uint64_t> end = 0;
  const size_t whole = WholePages(bytes);
  if (!Charge(whole)) return nullptr;
  const uint64_t offset = end.fetch_add(whole);
  TC_CHECK(fallocate(file->get(), 0, static_cast<off_t>(offset), static_cast<off_t>(whole)) == 0);
  return std::make_shared<Vram>(
      Part{.fd = file, .offset = offset, .bytes = whole, .charged_bytes = whole, .heap = true});
}

std::shared_ptr<Vram> Vram::ImportSlab(int fd) {
  char path[64], name[64] = {};
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (readlink(path, name, sizeof name - 1) < 0 ||
      !std::string_view(name).starts_with(std::string("/memfd:") + kSlabName)) {
    return nullptr;
  }
  auto own = std::make_shared<UniqueFd>(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  struct stat status;
  TC_CHECK(own->get() >= 0);
  TC_CHECK(fstat(own->get(), &status) == 0);
  return std::make_shared<Vram>(
      Part{.fd = own, .bytes = static_cast<size_t>(status.st_size), .exportable = true});
}

std::shared_ptr<Vram> Vram::ImportFromHeap(UniqueFd fd, uint64_t offset, size_t bytes) {
  return std::make_shared<Vram>(
      Part{.fd = std::make_shared<UniqueFd>(std::move(fd)), .offset = offset, .bytes = bytes});
}

Vram::~Vram() {
  if (part_.heap) {
    TC_CHECK(fallocate(part_.fd->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(part_.offset), static_cast<off_t>(part_.bytes)) == 0);
  }
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  memory.used_bytes -= part_.charged_bytes;
}

void AddMapping(const Mapping& mapping) {
  const size_t whole = WholePages(mapping.bytes);
  TC_CHECK(mmap(mapping.begin, whole, Protection(mapping.readable, mapping.writable),
                MAP_SHARED | MAP_FIXED, mapping.memory->fd(),
                static_cast<off_t>(mapping.memory->offset())) == mapping.begin);
  AddRange(mapping.begin, mapping.bytes);
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  memory.mappings[mapping.begin] = mapping;
}

std::optional<Mapping> FindMapping(const void* begin, Mapping::Kind kind) {
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  const auto found = memory.mappings.find(static_cast<const char*>(begin));
  if (found == memory.mappings.end() || found->second.kind != kind) return std::nullopt;
  return found->second;
}

std::optional<Mapping> MappingAround(const void* pointer) {
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  const Mapping* const mapping = memory.Around(static_cast<const char*>(pointer));
  return mapping != nullptr ? std::optional(*mapping) : std::nullopt;
}

void RemoveMapping(const Mapping& mapping) {
  Memory& memory = TheMemory();
  {
    MutexLock lock(memory.mutex);
    TC_CHECK(memory.mappings.erase(mapping.begin) == 1);
  }
  RemoveRange(mapping.begin);
  TC_CHECK(mmap(mapping.begin, WholePages(mapping.bytes), PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == mapping.begin);
}

bool SetAccess(char* begin, size_t bytes, bool readable, bool writable) {
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  const auto first = memory.mappings.find(begin);
  auto last = first;
  for (char* at = begin; at != begin + bytes; ++last) {
    if (last == memory.mappings.end() || last->second.begin != at ||
        last->second.kind != Mapping::Kind::kSlab || at + last->second.bytes > begin + bytes) {
      return false;
    }
    at += last->second.bytes;
  }
  for (auto it = first; it != last; ++it) {
    it->second.readable = readable;
    it->second.writable = writable;
  }
  TC_CHECK(mprotect(begin, bytes, Protection(readable, writable)) == 0);
  return true;
}

bool IsMapped(const char* begin, size_t bytes) {
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  const auto next = memory.mappings.lower_bound(begin);
  return memory.Around(begin) != nullptr ||
         (next != memory.mappings.end() && next->first < begin + bytes);
}

Place PlaceOf(const void* pointer, size_t bytes, bool write) {
  const char* at = static_cast<const char*>(pointer);
  const char* const end = at + bytes;
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  if (IsDeviceSpace(at)) {
    do {  // slabs side by side are one range to a copy
      const Mapping* const mapping = memory.Around(at);
      if (mapping == nullptr) return Place::kOutside;
      if (write ? !mapping->writable : !mapping->readable) return Place::kForbidden;
      at = mapping->begin + mapping->bytes;
    } while (at < end);
    return Place::kDevice;
  }
  const auto after = memory.pinned.upper_bound(at);
  if (after != memory.pinned.begin()) {
    const auto& [begin, pinned_bytes] = *std::prev(after);
    // What runs over the end of a registration is refused, also where another one begins there.
    if (at < begin + pinned_bytes) {
      return end <= begin + pinned_bytes ? Place::kPinned : Place::kOutside;
    }
  }
  return after != memory.pinned.end() && after->first < end ? Place::kOutside : Place::kPageable;
}

int RegisterHost(const void* begin, size_t bytes, bool read_only) {
  const char* const at = static_cast<const char*>(begin);
  if (at == nullptr || bytes == 0) return cudaErrorInvalidValue;
  if (bytes > TheDevice().max_registration_bytes) return cudaErrorMemoryAllocation;
  if (!IsHostMemory(at, bytes, !read_only)) return cudaErrorInvalidValue;
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  const auto next = memory.pinned.lower_bound(at);
  if (next != memory.pinned.end() && next->first < at + bytes) {
    return cudaErrorHostMemoryAlreadyRegistered;
  }
  if (next != memory.pinned.begin() && std::prev(next)->first + std::prev(next)->second > at) {
    return cudaErrorHostMemoryAlreadyRegistered;
  }
  memory.pinned[at] = bytes;
  return cudaSuccess;
}

int UnregisterHost(const void* begin) {
  DrainAll();
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  const char* const at = static_cast<const char*>(begin);
  if (memory.host_allocations.contains(at) || memory.pinned.erase(at) == 0) {
    return cudaErrorHostMemoryNotRegistered;
  }
  return PoisonError();
}

size_t UsedBytes() {
  Memory& memory = TheMemory();
  MutexLock lock(memory.mutex);
  return memory.used_bytes;
}

}  // namespace thermocline::fakecuda

using namespace thermocline;
using namespace thermocline::fakecuda;

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return Serve(__func__, [&] {
    if (pointer == nullptr) return cudaErrorInvalidValue;
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    std::shared_ptr<Vram> memory = Vram::CreateInHeap(bytes);
    if (memory == nullptr) return cudaErrorMemoryAllocation;
    *pointer = MapAllocation(std::move(memory), bytes, Mapping::Kind::kHeap);
    std::memset(*pointer, 0xff, bytes);  // NaN, to whoever reads before he writes
    return cudaSuccess;
  });
}

cudaError_t cudaFree(void* pointer) {
  return Serve(__func__, [&] {
    if (pointer == nullptr) return static_cast<int>(cudaSuccess);
    const std::optional<Mapping> mapping = FindMapping(pointer, Mapping::Kind::kHeap);
    return mapping.has_value() ? FreeAllocation(*mapping) : cudaErrorInvalidValue;
  });
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return Serve(__func__, [&] {
    if (free_bytes == nullptr || total_bytes == nullptr) return cudaErrorInvalidValue;
    *total_bytes = TheDevice().vram_bytes;
    *free_bytes = *total_bytes - std::min(*total_bytes, UsedBytes());
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  return Serve(__func__, [&] {
    constexpr unsigned kKnown =
        cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
    if (pointer == nullptr || (flags & ~kKnown) != 0)
      return static_cast<int>(cudaErrorInvalidValue);
    *pointer = nullptr;
    if (bytes == 0) return static_cast<int>(cudaSuccess);
    void* const begin = mmap(nullptr, WholePages(bytes), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) return static_cast<int>(cudaErrorMemoryAllocation);
    Memory& memory = TheMemory();
    MutexLock lock(memory.mutex);
    memory.pinned[static_cast<char*>(begin)] = bytes;
    memory.host_allocations[static_cast<char*>(begin)] = bytes;
    *pointer = begin;
    return static_cast<int>(cudaSuccess);
  });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  return Serve(__func__, [&] {
    if (pointer == nullptr) return static_cast<int>(cudaSuccess);
    DrainAll();
    Memory& memory = TheMemory();
    MutexLock lock(memory.mutex);
    const auto found = memory.host_allocations.find(static_cast<char*>(pointer));
    if (found == memory.host_allocations.end()) return static_cast<int>(cudaErrorInvalidValue);
    TC_CHECK(munmap(pointer, WholePages(found->second)) == 0);
    memory.pinned.erase(found->first);
    memory.host_allocations.erase(found);
    return PoisonError();
  });
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
  return Serve(__func__, [&] {
    constexpr unsigned kKnown =
        cudaHostRegisterPortable | cudaHostRegisterMapped | cudaHostRegisterReadOnly;
    if ((flags & ~kKnown) != 0) return static_cast<int>(cudaErrorInvalidValue);
    return RegisterHost(pointer, bytes, (flags & cudaHostRegisterReadOnly) != 0);
  });
}

cudaError_t cudaHostUnregister(void* pointer) {
  return Serve(__func__, [&] { return UnregisterHost(pointer); });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  return Serve(__func__, [&] {
    if (device == nullptr || flags != 0 || PlaceOf(host, 1, true) != Place::kPinned) {
      return cudaErrorInvalidValue;
    }
    *device = host;
    return cudaSuccess;
  });
}
