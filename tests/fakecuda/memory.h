// Device memory and pinned host memory of this process. Internal.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "base/unique_fd.h"
#include "tests/fakecuda/context.h"

namespace thermocline::fakecuda {

inline constexpr size_t kSlabGranularity = size_t{2} << 20;

/// Physical device memory: a memfd of its own, or a part of the one of all that cudaMalloc gives.
/// Charged to this process's account while the object lives.
class Vram {
 public:
  /// Null when device memory is exhausted. `exportable`: has a descriptor that may leave.
  static std::shared_ptr<Vram> CreateSlab(size_t bytes, bool exportable);
  static std::shared_ptr<Vram> CreateInHeap(size_t bytes);
  /// Another process's, which has it on its account. Null if `fd` is no slab.
  static std::shared_ptr<Vram> ImportSlab(int fd);
  static std::shared_ptr<Vram> ImportFromHeap(UniqueFd fd, uint64_t offset, size_t bytes);

  struct Part {
    std::shared_ptr<UniqueFd> fd;
    uint64_t offset = 0;
    size_t bytes = 0;
    size_t charged_bytes = 0;
    bool exportable = false;
    bool heap = false;  ///< of this process: its pages are given back
  };
  explicit Vram(Part part) : part_(std::move(part)) {}
  Vram(const Vram&) = delete;
  Vram& operator=(const Vram&) = delete;
  ~Vram();

  int fd() const { return part_.fd->get(); }
  uint64_t offset() const { return part_.offset; }
  size_t bytes() const { return part_.bytes; }
  bool exportable() const { return part_.exportable; }

 private:
  Part part_;
};

/// Addresses of device memory with something behind them.
struct Mapping {
  enum class Kind : uint8_t { kHeap, kSlab, kIpc };
  char* begin = nullptr;
  size_t bytes = 0;  ///< as asked for
  Kind kind = Kind::kHeap;
  bool readable = true;
  bool writable = true;
  std::shared_ptr<Vram> memory;
};

/// Maps the memory at mapping.begin, in reserved space.
void AddMapping(const Mapping& mapping);
/// What is mapped at exactly `begin`, if it is of that kind.
std::optional<Mapping> FindMapping(const void* begin, Mapping::Kind kind);
/// The mapping that `pointer` lies in.
std::optional<Mapping> MappingAround(const void* pointer);
/// The addresses stay reserved.
void RemoveMapping(const Mapping& mapping);
/// Of all slabs in the range, which they must fill. False if they do not.
bool SetAccess(char* begin, size_t bytes, bool readable, bool writable);
/// Whether anything is mapped in the range.
bool IsMapped(const char* begin, size_t bytes);

/// What a copy meets at an address.
enum class Place : uint8_t {
  kDevice,
  kPinned,
  kPageable,
  kOutside,    ///< beyond the end of what is mapped
  kForbidden,  ///< device memory without that access
};
Place PlaceOf(const void* pointer, size_t bytes, bool write);

int RegisterHost(const void* begin, size_t bytes, bool read_only);
int UnregisterHost(const void* begin);

}  // namespace thermocline::fakecuda
