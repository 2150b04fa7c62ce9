// Leases and reservations as Python holds them: a handle, which `release` empties, on a box, which
// every view of its memory holds too. So what is viewed stays leased, and a slot that is still
// being written is nobody else's, whatever becomes of the handle.
//
// A lease is used by one thread at a time, and Python promises no such thing (a cancelled task's
// call runs on in its thread), so every use takes the box's mutex; and never waits for it with the
// GIL held, which the owner of the mutex may need.
#pragma once
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "client/client.h"
#include "client/python/src/block.h"
#include "client/python/src/convert.h"

namespace thermocline::python {

/// Thread: any, through Use().
struct LeaseBox {
  LeaseBox(Lease own, bool opaque_names) : lease(std::move(own)), opaque(opaque_names) {}
  /// Calls `use(lease)` under the mutex, without the GIL. Raises in the child of a fork.
  template <typename Use>
  auto WithLease(const Use& use);

  std::recursive_mutex mutex;  // recursive: a callback of load() views what is ready
  Lease lease;
  const bool opaque;
  const pid_t pid = ::getpid();
};

struct ReservationBox {
  explicit ReservationBox(Reservation own)
      : reservation(std::move(own)), bytes(reservation.bytes()) {}

  Reservation reservation;
  const std::span<std::byte> bytes;
  std::shared_ptr<void> into;  // the lease that it was committed to: keeps the memory mapped
  const std::shared_ptr<std::atomic<bool>> closed = std::make_shared<std::atomic<bool>>(false);
  const pid_t pid = ::getpid();
};

class ReservationHandle {
 public:
  explicit ReservationHandle(Reservation reservation)
      : part_(reservation.part()),
        box_(Share(std::make_unique<ReservationBox>(std::move(reservation)))) {}

  Block Array() const;
  void Write(const pybind11::buffer& data) const;
  void Release() { box_.reset(); }
  uint32_t part() const { return part_; }
  size_t nbytes() const { return Box().bytes.size(); }
  /// Raises when it is released, committed, or of the parent process.
  ReservationBox& Box() const;

 private:
  friend class LeaseHandle;
  uint32_t part_;
  std::shared_ptr<ReservationBox> box_;  // shared with the arrays
};

class LeaseHandle {
 public:
  LeaseHandle(Lease lease, bool opaque)
      : box_(Share(std::make_unique<LeaseBox>(std::move(lease), opaque))), watched_(box_) {}

  uint32_t Depth() const;
  pybind11::list Blocks() const;
  pybind11::object View(uint32_t depth, uint32_t part) const;  // a Block or None
  uint32_t Load(const pybind11::object& on_ready, Seconds timeout) const;
  void Truncate(uint32_t depth, Seconds timeout) const;
  void Commit(const pybind11::object& names, const std::vector<ReservationHandle*>& slots,
              Seconds timeout, bool wait) const;
  void Settle(Seconds timeout) const;
  pybind11::bytes Export() const;
  bool Settled() const;
  bool StillValid() const;
  void Release() { box_.reset(); }

 private:
  std::shared_ptr<LeaseBox> Box() const;  // raises when it is released
  std::shared_ptr<LeaseBox> box_;         // shared with the views
  std::weak_ptr<LeaseBox> watched_;
};

void DefineHandles(pybind11::module_& module);

}  // namespace thermocline::python
