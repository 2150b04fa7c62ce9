// The daemon's side of a session's control area (proto/shm_layout.h): a sealed memfd that only this
// client and the daemon map. Of what the client writes there the session's server reads the
// heartbeat, and believes it only to differ from what it was; the rest is the tenant's.
#pragma once
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "base/unique_fd.h"
#include "proto/shm_layout.h"

namespace thermocline {

/// CLOCK_BOOTTIME: the clock of lease_until.
uint64_t BootNanoseconds();

/// Thread: one at a time, except for the memory itself.
/// Owner:  the mapping and the descriptor; shared by the session and its tenant.
class SessionControlArea : public std::enable_shared_from_this<SessionControlArea> {
 public:
  /// A new area whose size can change no more. `lease_until` is `first_lease_until_ns`.
  static absl::StatusOr<std::shared_ptr<SessionControlArea>> Create(uint64_t epoch,
                                                                    uint64_t first_lease_until_ns);
  ~SessionControlArea();
  SessionControlArea(const SessionControlArea&) = delete;
  SessionControlArea& operator=(const SessionControlArea&) = delete;

  int fd() const { return fd_.get(); }
  /// The memory, for as long as somebody holds it.
  std::shared_ptr<ControlArea> memory() { return {shared_from_this(), area_}; }
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
