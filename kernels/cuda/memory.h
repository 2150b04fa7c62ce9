// Memory for CUDA: arrays of this process, slabs of device memory that processes share, and host
// memory that the device reaches.
//
// A slab is physical memory of a device (cuMemCreate), known to other processes by a descriptor. It
// lives until nobody has its handle or a mapping of it, whoever created it. Creating and exporting
// one needs no mapping and no context, so its custodian can suffer no sticky error.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"
#include "kernels/simt/launch.h"

namespace thermocline::cuda {

/// Device memory of this process, of the thread's device.
/// Thread: any. Owner: frees it, which waits for the device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Aligned to 256 bytes; contents undefined. 0 bytes are none.
  /// Errors: ResourceExhausted.
  static absl::StatusOr<DeviceBuffer> Allocate(uint64_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Host memory that the device reads and writes by the same address, and copies without staging.
/// Thread: any. Owner: frees it; what uses it must be done.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  static absl::StatusOr<PinnedBuffer> Allocate(uint64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PinnedBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

/// Host memory of somebody else's (a mapped file's, too), pinned for the thread's device.
/// Thread: any that uses the device. Owner: unpins it; the memory itself is the caller's, and must
/// outlive it.
class HostPin {
 public:
  HostPin() = default;
  /// Pages that are there already: what is not, is populated first, at a gigabyte a second.
  /// Units: `data` and `bytes` multiples of 4096. One call locks out the driver's other callers, on
  ///        all processes, for about a second a GiB: pin by chunks.
  /// Errors: ResourceExhausted, InvalidArgument (some of it is pinned already).
  static absl::StatusOr<HostPin> Register(std::byte* data, uint64_t bytes);
  HostPin(HostPin&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  HostPin& operator=(HostPin&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~HostPin();

 private:
  std::byte* data_ = nullptr;
};

/// Thread: any. Owner: lets go of the handle; mappings and other processes' handles stay good.
class Slab {
 public:
  Slab() = default;
  /// `bytes` is rounded up to what the device can map (2 MiB). Needs no context.
  /// Errors: ResourceExhausted, Unimplemented where the device cannot share memory in this way.
  static absl::StatusOr<Slab> Create(int device, uint64_t bytes);
  /// What another process exported; the descriptor may be closed afterwards. `bytes`: its size, as
  /// that process tells.
  static absl::StatusOr<Slab> Import(int device, int fd, uint64_t bytes);
  Slab(Slab&& other) noexcept
      : handle_(std::exchange(other.handle_, 0)), bytes_(other.bytes_), device_(other.device_) {}
  Slab& operator=(Slab&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~Slab();

  /// A descriptor that stands for it in any process that gets it (SCM_RIGHTS).
  absl::StatusOr<UniqueFd> Export() const;
  uint64_t bytes() const { return bytes_; }
  int device() const { return device_; }

 private:
  friend class SlabMapping;
  uint64_t handle_ = 0;
  uint64_t bytes_ = 0;
  int device_ = 0;
};

enum class Access { kRead, kReadWrite };

/// A slab at an address of this process.
/// Thread: any. Owner: unmaps it; what the device does there must be done. The slab's handle may go
/// before.
class SlabMapping {
 public:
  SlabMapping() = default;
  /// kRead guards against mistakes: the device faults on a write, with a sticky error. It keeps out
  /// nobody who means to write, for whoever imports a slab may map it as he likes.
  static absl::StatusOr<SlabMapping> Map(const Slab& slab, Access access);
  SlabMapping(SlabMapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  SlabMapping& operator=(SlabMapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~SlabMapping();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace thermocline::cuda
