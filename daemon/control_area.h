// The daemon's side of a session's control area (proto/shm_layout.h): a sealed memfd that only this
// client and the daemon map. What the client writes there is read as one atomic word and believed
// only to differ from what it was.
#pragma once
#include <cstdint>

#include "base/status.h"
#include "base/unique_fd.h"
#include "proto/shm_layout.h"

namespace thermocline {

/// CLOCK_BOOTTIME: the clock of lease_until.
uint64_t BootNanoseconds();

/// Thread: one at a time.
/// Owner:  the mapping and the descriptor.
class SessionControlArea {
 public:
  /// A new area whose size can change no more. `lease_until` is `first_lease_until_ns`.
  static absl::StatusOr<SessionControlArea> Create(uint64_t epoch, uint64_t first_lease_until_ns);
  SessionControlArea(SessionControlArea&& other) noexcept;
  SessionControlArea& operator=(SessionControlArea&&) = delete;
  ~SessionControlArea();

  int fd() const { return fd_.get(); }
  /// The client's heartbeat; any value whatever.
  uint64_t Heartbeat() const;
  uint64_t LeaseUntil() const { return lease_until_ns_; }
  void SetLeaseUntil(uint64_t boot_ns);
  /// No lease granted before is good any more, whatever lease_until will say.
  void EndLeases();

 private:
  SessionControlArea(UniqueFd fd, ControlArea* area) : fd_(std::move(fd)), area_(area) {}

  UniqueFd fd_;
  ControlArea* area_;
  // Our own copies: the client can write the shared ones.
  uint64_t lease_until_ns_ = 0;
  uint64_t lease_generation_ = 0;
};

}  // namespace thermocline
