// The device memory under the hot tier, as the tier sees it: chunks that can be lent, and payloads
// that are moved by whoever has a CUDA context. The tier itself has none; see device_slabs.h (in
// this process) and device_mover.h (in the mover's).
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// One payload on its way.
struct DeviceTransfer {
  uint64_t offset = 0;  // of the device's side; a transfer stays within a chunk
  std::byte* host = nullptr;
  uint64_t bytes = 0;
};

/// Where the transfers' bytes go.
enum class DeviceDirection : uint8_t { kIn, kOut };

/// A chunk's memory, for another process.
struct ExportedSlab {
  UniqueFd fd;
  uint64_t bytes = 0;
};

/// Thread: any, but for Lend and Return.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  /// Of this memory: with another one nothing is there that was before.
  virtual std::array<uint8_t, 16> uuid() const = 0;
  /// The chunks that it has, of an earlier daemon too, ascending.
  virtual absl::StatusOr<std::vector<uint32_t>> Chunks() const = 0;
  /// Errors: ResourceExhausted when the device has no more, Unavailable when nobody can say.
  [[nodiscard]] virtual absl::Status Lend(uint32_t chunk) = 0;
  /// Nobody reads or writes there any more, or those who do keep it until they stop.
  virtual void Return(uint32_t chunk) = 0;
  /// Its memory, for another process; it lives on there when it was returned here.
  /// Errors: NotFound, Unavailable.
  virtual absl::StatusOr<UniqueFd> Export(uint32_t chunk) const = 0;

  /// All of them, as one batch; complete when it returns, so that what was moved may be published.
  /// Errors: Unavailable while nobody can move anything; after any, what was to be written holds
  ///         anything.
  [[nodiscard]] virtual absl::Status Copy(std::span<const DeviceTransfer> transfers,
                                          DeviceDirection direction) = 0;

  // ---- pinning, for copies without staging by the driver
  /// Whose pins there are: what another one pinned is so no more. 0: nobody can pin anything.
  virtual uint64_t pinner() const { return 0; }
  /// This one pins a piece of the arena, from `offset` on, that keeps its memory until Unpin.
  /// Errors: Unavailable when it is another one now; those of the driver. It is not pinned then.
  [[nodiscard]] virtual absl::Status Pin(uint64_t /*pinner*/, uint64_t /*offset*/,
                                         uint64_t /*bytes*/) {
    return absl::UnavailableError("nobody pins memory");
  }
  /// What was pinned at this offset is so no more. Nothing is being moved there. Absent is fine.
  virtual void Unpin(uint64_t /*offset*/) {}
};

}  // namespace thermocline
