#include "client/python/src/handles.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <exception>

namespace thermocline::python {
namespace {

namespace py = pybind11;

[[noreturn]] void Fail(absl::Status status) { throw StatusError{std::move(status)}; }

void CheckProcess(pid_t pid) {
  if (pid == ::getpid()) return;
  Fail(absl::FailedPreconditionError(
      "this process was forked after its client connected, and the session is its parent's; "
      "connect again"));
}

}  // namespace

template <typename Use>
auto LeaseBox::WithLease(const Use& use) {
  CheckProcess(pid);
  return WithoutGil([&] {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    return use(lease);
  });
}

ReservationBox& ReservationHandle::Box() const {
  if (box_ == nullptr) Fail(absl::FailedPreconditionError("this slot was given back"));
  CheckProcess(box_->pid);
  if (box_->closed->load()) Fail(absl::FailedPreconditionError("this slot was committed"));
  return *box_;
}

Block ReservationHandle::Array() const {
  const ReservationBox& box = Box();
  return Block(box_, box.bytes, /*readonly=*/false, box.closed);
}

void ReservationHandle::Write(const py::buffer& data) const {
  const std::span<std::byte> bytes = Box().bytes;
  const py::buffer_info info = data.request();
  py::ssize_t unit = info.itemsize;
  for (size_t i = info.shape.size(); i-- > 0; unit *= info.shape[i]) {
    if (info.shape[i] > 1 && info.strides[i] != unit) {
      throw py::value_error("the data is not contiguous; pass a contiguous copy of it");
    }
  }
  const auto size = static_cast<size_t>(info.size * info.itemsize);
  if (size != bytes.size()) {
    throw py::value_error("a slot of " + std::to_string(bytes.size()) +
                          " bytes takes all of them; " + std::to_string(size) + " were given");
  }
  const std::shared_ptr<ReservationBox> held = box_;
  WithoutGil([&] { StreamingCopy(bytes, {static_cast<const std::byte*>(info.ptr), size}); });
}

std::shared_ptr<LeaseBox> LeaseHandle::Box() const {
  if (box_ == nullptr) {
    Fail(absl::FailedPreconditionError("this lease was released; match again"));
  }
  return box_;
}

uint32_t LeaseHandle::Depth() const {
  return Box()->WithLease([](Lease& lease) { return lease.depth(); });
}

py::list LeaseHandle::Blocks() const {
  const auto blocks = Box()->WithLease([](Lease& lease) {
    return std::vector<BlockInfo>(lease.blocks().begin(), lease.blocks().end());
  });
  py::list list;
  for (const BlockInfo& block : blocks) {
    list.append(py::make_tuple(block.depth, block.part, block.id, BlockTierName(block.matched_tier),
                               BlockTierName(block.tier), block.bytes));
  }
  return list;
}

py::object LeaseHandle::View(uint32_t depth, uint32_t part) const {
  const std::shared_ptr<LeaseBox> box = Box();
  const auto view = box->WithLease([&](Lease& lease) { return lease.View(depth, part); });
  if (view.empty()) return py::none();
  // Its type is that of what may be written; nobody does, being told that it is read-only.
  const std::span<std::byte> bytes(const_cast<std::byte*>(view.data()), view.size());
  return py::cast(Block(box, bytes, /*readonly=*/true, nullptr));
}

uint32_t LeaseHandle::Load(const py::object& on_ready, Seconds timeout) const {
  // What the callback raises waits until the call has ended: nothing unwinds through gRPC.
  std::exception_ptr raised;
  std::function<void(uint32_t)> tell;
  if (!on_ready.is_none()) {
    tell = [&](uint32_t places) {
      if (raised != nullptr) return;
      const py::gil_scoped_acquire gil;
      try {
        on_ready(places);
      } catch (const py::error_already_set&) {
        raised = std::current_exception();
      }
    };
  }
  const Timeout limit = TimeoutOf(timeout);
  const auto depth = Box()->WithLease([&](Lease& lease) { return lease.Load(tell, limit); });
  if (raised != nullptr) std::rethrow_exception(raised);
  return Check(depth);
}

void LeaseHandle::Truncate(uint32_t depth, Seconds timeout) const {
  const Timeout limit = TimeoutOf(timeout);
  Check(Box()->WithLease([&](Lease& lease) -> absl::Status {
    if (depth > lease.depth()) {
      return absl::InvalidArgumentError("a lease of depth " + std::to_string(lease.depth()) +
                                        " cannot be cut to " + std::to_string(depth));
    }
    return lease.Truncate(depth, limit);
  }));
}

void LeaseHandle::Commit(const py::object& names, const std::vector<ReservationHandle*>& slots,
                         Seconds timeout, bool wait) const {
  const std::shared_ptr<LeaseBox> box = Box();
  const Names own(names, box->opaque);
  const Timeout limit = TimeoutOf(timeout);
  std::vector<const ReservationHandle*> once(slots.begin(), slots.end());
  std::sort(once.begin(), once.end());
  if (std::adjacent_find(once.begin(), once.end()) != once.end()) {
    throw py::value_error("a slot is given twice");
  }
  for (const ReservationHandle* slot : slots) slot->Box();
  std::vector<Reservation> filled;
  filled.reserve(slots.size());
  for (const ReservationHandle* slot : slots) {
    ReservationBox& reserved = slot->Box();
    reserved.closed->store(true);
    reserved.into = box;
    filled.push_back(std::move(reserved.reservation));
  }
  Check(box->WithLease([&](Lease& lease) {
    return wait ? lease.Commit(own.view(), std::move(filled), limit)
                : lease.CommitAsync(own.view(), std::move(filled), limit);
  }));
}

void LeaseHandle::Settle(Seconds timeout) const {
  const Timeout limit = TimeoutOf(timeout);
  Check(Box()->WithLease([&](Lease& lease) { return lease.Settle(limit); }));
}

py::bytes LeaseHandle::Export() const {
  return Check(Box()->WithLease([](Lease& lease) { return lease.Export(); }));
}

bool LeaseHandle::Settled() const {
  return Box()->WithLease([](Lease& lease) { return lease.Settled(); });
}

bool LeaseHandle::StillValid() const {
  const std::shared_ptr<LeaseBox> box = watched_.lock();
  if (box == nullptr || box->pid != ::getpid()) return false;
  return box->WithLease([](Lease& lease) { return lease.StillValid(); });
}

void DefineHandles(py::module_& module) {
  py::class_<ReservationHandle>(module, "Reservation")
      .def_property_readonly("array", &ReservationHandle::Array)
      .def_property_readonly("part", &ReservationHandle::part)
      .def_property_readonly("nbytes", &ReservationHandle::nbytes)
      .def("write", &ReservationHandle::Write, py::arg("data"))
      .def("release", &ReservationHandle::Release);
  py::class_<LeaseHandle>(module, "Lease")
      .def("depth", &LeaseHandle::Depth)
      .def("blocks", &LeaseHandle::Blocks)
      .def("view", &LeaseHandle::View, py::arg("depth"), py::arg("part"))
      .def("load", &LeaseHandle::Load, py::arg("on_ready"), py::arg("timeout"))
      .def("truncate", &LeaseHandle::Truncate, py::arg("depth"), py::arg("timeout"))
      .def("commit", &LeaseHandle::Commit, py::arg("names"), py::arg("slots"), py::arg("timeout"),
           py::arg("wait"))
      .def("settle", &LeaseHandle::Settle, py::arg("timeout"))
      .def("settled", &LeaseHandle::Settled)
      .def("export", &LeaseHandle::Export)
      .def("still_valid", &LeaseHandle::StillValid)
      .def("release", &LeaseHandle::Release);
}

}  // namespace thermocline::python
