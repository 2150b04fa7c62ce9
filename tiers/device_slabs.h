// Device memory that this process moves blocks in and out of: slabs mapped for reading and writing,
// host memory pinned, a stream for each direction. The mover works with it over the custodian's
// slabs; OwnDeviceMemory is the same over slabs of its own, for tests and measurements.
//
// After a sticky error nothing works any more in the process, and every call says so.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "tiers/device_memory.h"

namespace thermocline {

/// Thread: any; transfers in one direction at a time, so that batches do not crowd each other out.
class DeviceSlabs {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceSlabs>> Create(int device, uint64_t chunk_bytes);
  ~DeviceSlabs();

  /// Maps a chunk's slab, in place of another one.
  absl::Status Map(uint32_t chunk, const cuda::Slab& slab);
  /// Of a mapped chunk: all bytes are 0 then. Whoever has the memory now sees nothing of who had it
  /// before.
  absl::Status Clear(uint32_t chunk);
  /// Nothing is being moved there.
  void Unmap(uint32_t chunk);
  /// Host memory that transfers name is copied directly where it is pinned, and staged by the
  /// driver elsewhere.
  absl::Status Pin(std::span<std::byte> host);
  /// Nothing is being moved there. Absent is fine.
  void Unpin(const std::byte* host);

  /// As DeviceMemory::Copy. Whatever it answers, nothing of it is under way any more.
  absl::Status Copy(std::span<const DeviceTransfer> transfers, DeviceDirection direction);

  int device() const { return device_; }

 private:
  struct Lane {
    Mutex mutex;  // held while its transfers are under way
    cuda::Stream stream;
    cuda::Event done;
  };
  DeviceSlabs(int device, uint64_t chunk_bytes, bool kernel_reaches_pinned,
              std::array<std::unique_ptr<Lane>, 2> lanes);
  absl::StatusOr<std::byte*> AddressOf(const DeviceTransfer& transfer) TC_REQUIRES(mutex_);
  bool IsPinned(const std::byte* host, uint64_t bytes) const TC_REQUIRES(mutex_);

  struct Pinned {
    uint64_t bytes = 0;
    cuda::HostPin pin;
  };

  const int device_;
  const uint64_t chunk_bytes_;
  const bool kernel_reaches_pinned_;            // by its address here
  std::array<std::unique_ptr<Lane>, 2> lanes_;  // by direction
  mutable Mutex mutex_;                         // never held during a call of the driver
  std::map<uint32_t, cuda::SlabMapping> chunks_ TC_GUARDED_BY(mutex_);
  std::map<const std::byte*, Pinned> pinned_ TC_GUARDED_BY(mutex_);
};

/// Thread: as DeviceMemory.
class OwnDeviceMemory final : public DeviceMemory {
 public:
  static absl::StatusOr<std::unique_ptr<OwnDeviceMemory>> Create(int device, uint64_t chunk_bytes);

  std::array<uint8_t, 16> uuid() const override { return uuid_; }
  absl::StatusOr<std::vector<uint32_t>> Chunks() const override;
  absl::Status Lend(uint32_t chunk) override;
  void Return(uint32_t chunk) override;
  absl::StatusOr<UniqueFd> Export(uint32_t chunk) const override;
  absl::Status Copy(std::span<const DeviceTransfer> transfers, DeviceDirection direction) override {
    return slabs_->Copy(transfers, direction);
  }
  DeviceSlabs& slabs() { return *slabs_; }

 private:
  OwnDeviceMemory(std::unique_ptr<DeviceSlabs> slabs, uint64_t chunk_bytes);

  const std::unique_ptr<DeviceSlabs> slabs_;
  const uint64_t chunk_bytes_;
  std::array<uint8_t, 16> uuid_;
  std::map<uint32_t, cuda::Slab> chunks_;
};

}  // namespace thermocline
