// thermocline._native: what the annotated Python of the package is written over. Everything here
// that may wait does so without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "client/client.h"
#include "client/python/src/block.h"
#include "client/python/src/convert.h"
#include "client/python/src/handles.h"

namespace thermocline::python {
namespace {

namespace py = pybind11;

std::vector<std::string> NamesOfTiers(const std::vector<BlockTier>& tiers) {
  std::vector<std::string> names;
  for (const BlockTier tier : tiers) names.emplace_back(BlockTierName(tier));
  return names;
}

class SpaceHandle {
 public:
  explicit SpaceHandle(Space space) : space_(Share(std::make_unique<Space>(std::move(space)))) {}

  py::bytes Fingerprint() const { return BytesOf(space_->fingerprint()); }

  std::unique_ptr<LeaseHandle> Match(const py::object& names, Seconds timeout) const {
    const Names own(names, opaque());
    const Timeout limit = TimeoutOf(timeout);
    Lease lease = Check(WithoutGil([&] { return space_->Match(own.view(), limit); }));
    return std::make_unique<LeaseHandle>(std::move(lease), opaque());
  }

  std::unique_ptr<LeaseHandle> Import(const std::string& exported, Seconds timeout) const {
    const Timeout limit = TimeoutOf(timeout);
    Lease lease = Check(WithoutGil([&] { return space_->Import(exported, limit); }));
    return std::make_unique<LeaseHandle>(std::move(lease), opaque());
  }

  std::vector<std::string> LookUp(const py::object& keys, Seconds timeout) const {
    const Names own(keys, opaque());
    const Timeout limit = TimeoutOf(timeout);
    return NamesOfTiers(Check(WithoutGil([&] { return space_->LookUp(own.view(), limit); })));
  }

  std::vector<std::string> ReadInto(const py::object& keys, const py::sequence& buffers,
                                    uint32_t part, Seconds timeout) const {
    const Names own(keys, opaque());
    const Timeout limit = TimeoutOf(timeout);
    std::vector<py::buffer_info> held;  // while their memory is written to
    std::vector<std::span<std::byte>> into;
    for (const py::handle& item : buffers) {
      held.push_back(py::cast<py::buffer>(item).request(true));
      const py::buffer_info& buffer = held.back();
      if (PyBuffer_IsContiguous(buffer.view(), 'C') == 0) {
        throw py::value_error("a buffer to read into must lie in one piece");
      }
      into.emplace_back(static_cast<std::byte*>(buffer.ptr),
                        static_cast<size_t>(buffer.size * buffer.itemsize));
    }
    return NamesOfTiers(
        Check(WithoutGil([&] { return space_->Read(own.view(), into, part, limit); })));
  }

  py::list Reserve(uint32_t count, uint32_t part, double wait, Seconds timeout) const {
    const std::chrono::milliseconds wait_ms = Milliseconds(wait, "a wait");
    const Timeout limit = TimeoutOf(timeout);
    auto slots = Check(WithoutGil([&] { return space_->Reserve(count, part, wait_ms, limit); }));
    py::list list;
    for (Reservation& slot : slots) {
      list.append(std::make_unique<ReservationHandle>(std::move(slot)));
    }
    return list;
  }

  py::dict Pin(const py::object& names, double ttl, const std::string& tier,
               Seconds timeout) const {
    const Names own(names, opaque());
    const std::chrono::milliseconds ttl_ms = Milliseconds(ttl, "a pin's time to live");
    const BlockTier kept = TierOf(tier);
    const Timeout limit = TimeoutOf(timeout);
    return DictOf(Check(WithoutGil([&] { return space_->Pin(own.view(), ttl_ms, kept, limit); })));
  }

  py::tuple Prefetch(const py::object& names, Seconds timeout) const {
    const Names own(names, opaque());
    const Timeout limit = TimeoutOf(timeout);
    const PrefetchInfo info =
        Check(WithoutGil([&] { return space_->Prefetch(own.view(), limit); }));
    return py::make_tuple(info.matched_depth, info.promoting_blocks);
  }

 private:
  bool opaque() const { return space_->spec().opaque_names; }
  const std::shared_ptr<Space> space_;  // shared for its deleter, which waits without the GIL
};

/// A client of either kind, until it is closed.
template <typename Kind>
class Session {
 public:
  explicit Session(ClientOptions options)
      : client_(Share(Check(WithoutGil([&] { return Kind::Connect(std::move(options)); })))) {}

  std::shared_ptr<Kind> Open() const {
    if (client_ != nullptr) return client_;
    throw StatusError{absl::FailedPreconditionError("this client was closed; connect again")};
  }
  /// What `use(client, limit)` returns, called without the GIL; raises its error.
  template <typename Use>
  auto Call(Seconds timeout, const Use& use) const {
    const Timeout limit = TimeoutOf(timeout);
    const auto client = Open();
    return Check(WithoutGil([&] { return use(*client, limit); }));
  }
  bool closed() const { return client_ == nullptr; }
  void Close() { client_.reset(); }

 private:
  std::shared_ptr<Kind> client_;  // shared with the calls in progress in other threads
};

class ClientHandle : public Session<Client> {
 public:
  ClientHandle(std::string socket_path, std::string client_name, double timeout, bool verify_always,
               bool auto_reconnect, const py::object& remote)
      : Session({.socket_path = std::move(socket_path),
                 .remote = RemoteOf(remote),
                 .client_name = std::move(client_name),
                 .timeout = Milliseconds(timeout, "a timeout"),
                 .verify_always = verify_always,
                 .auto_reconnect = auto_reconnect}) {}

  std::unique_ptr<SpaceHandle> OpenSpace(const py::object& spec, Seconds timeout) const {
    return std::make_unique<SpaceHandle>(
        Call(timeout, [own = SpecOf(spec)](Client& client, Timeout limit) {
          return client.OpenSpace(own, limit);
        }));
  }
  py::list Spaces(Seconds timeout) const {
    py::list list;
    for (const SpaceInfo& info :
         Call(timeout, [](Client&client, Timeout limit) { return client.Spaces(limit); })) {
      list.append(py::make_tuple(BytesOf(info.fingerprint), DictOf(info.spec), info.places,
                                 info.warm_bytes, info.cold_bytes));
    }
    return list;
  }
  py::list Pins(Seconds timeout) const {
    py::list list;
    for (const PinInfo& pin :
         Call(timeout, [](Client&client, Timeout limit) { return client.Pins(limit); })) {
      list.append(DictOf(pin));
    }
    return list;
  }
  py::dict Stats(Seconds timeout) const {
    return DictOf(Call(timeout, [](Client& client, Timeout limit) { return client.Stats(limit); }));
  }
  void Unpin(uint64_t pin, Seconds timeout) const {
    const Timeout limit = TimeoutOf(timeout);
    const auto client = Open();
    Check(WithoutGil([&] { return client->Unpin(pin, limit); }));
  }
  void Reconnect() const {
    const auto client = Open();
    Check(WithoutGil([&] { return client->Reconnect(); }));
  }
  bool Connected() const {
    if (closed()) return false;
    const auto client = Open();
    return WithoutGil([&] { return client->Connected(); });
  }
  std::string SocketPath() const { return Open()->socket_path(); }
};

class AdminHandle : public Session<AdminClient> {
 public:
  AdminHandle(std::string socket_path, double timeout)
      : Session({.socket_path = std::move(socket_path),
                 .client_name = "python",
                 .timeout = Milliseconds(timeout, "a timeout")}) {}

  /// `names`: None for the whole space.
  uint64_t Delete(const std::string& space, const py::object& names, bool opaque,
                  Seconds timeout) const {
    thermocline::Fingerprint fingerprint;
    if (space.size() != fingerprint.bytes.size()) {
      throw py::value_error("a fingerprint has 32 bytes");
    }
    std::memcpy(fingerprint.bytes.data(), space.data(), space.size());
    std::optional<Names> path;
    if (!names.is_none()) {
      path.emplace(names, opaque);
      if (path->view().places() == 0) {
        throw py::value_error("a path of no place; None stands for the whole space");
      }
    }
    const NamesView view = path ? path->view() : NamesView();
    return Call(timeout, [&](AdminClient& client, Timeout limit) {
      return client.Delete(fingerprint, view, limit);
    });
  }
  py::tuple Flush(const std::string& tier, Seconds timeout) const {
    const FlushResult flushed =
        Call(timeout, [kind = TierOf(tier)](AdminClient& client, Timeout limit) {
          return client.Flush(kind, limit);
        });
    return py::make_tuple(flushed.blocks, flushed.kept);
  }
  py::list Tenants(Seconds timeout) const {
    py::list list;
    for (const TenantInfo& tenant :
         Call(timeout, [](AdminClient&client, Timeout limit) { return client.Tenants(limit); })) {
      list.append(py::make_tuple(tenant.name, DictOf(tenant.stats)));
    }
    return list;
  }
  uint64_t DropArena(Seconds timeout) const {
    return Call(timeout,
                [](AdminClient& client, Timeout limit) { return client.DropArena(limit); });
  }
};

void Raise(const absl::Status& status) {
  const py::object error =
      py::module_::import("thermocline._errors")
          .attr("error_of")(static_cast<int>(status.code()), std::string(status.message()));
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const StatusError& error) {
      Raise(error.status);
    }
  });
  DefineBlock(module);
  DefineHandles(module);
  py::class_<SpaceHandle>(module, "Space")
      .def("fingerprint", &SpaceHandle::Fingerprint)
      .def("match", &SpaceHandle::Match, py::arg("names"), py::arg("timeout"))
      .def("import_lease", &SpaceHandle::Import, py::arg("exported"), py::arg("timeout"))
      .def("look_up", &SpaceHandle::LookUp, py::arg("keys"), py::arg("timeout"))
      .def("read_into", &SpaceHandle::ReadInto, py::arg("keys"), py::arg("buffers"),
           py::arg("part"), py::arg("timeout"))
      .def("reserve", &SpaceHandle::Reserve, py::arg("count"), py::arg("part"), py::arg("wait"),
           py::arg("timeout"))
      .def("pin", &SpaceHandle::Pin, py::arg("names"), py::arg("ttl"), py::arg("tier"),
           py::arg("timeout"))
      .def("prefetch", &SpaceHandle::Prefetch, py::arg("names"), py::arg("timeout"));
  py::class_<ClientHandle>(module, "Client")
      .def(py::init<std::string, std::string, double, bool, bool, py::object>(),
           py::arg("socket_path"), py::arg("client_name"), py::arg("timeout"),
           py::arg("verify_always"), py::arg("auto_reconnect"), py::arg("remote"))
      .def("open_space", &ClientHandle::OpenSpace, py::arg("spec"), py::arg("timeout"))
      .def("spaces", &ClientHandle::Spaces, py::arg("timeout"))
      .def("pins", &ClientHandle::Pins, py::arg("timeout"))
      .def("unpin", &ClientHandle::Unpin, py::arg("pin"), py::arg("timeout"))
      .def("stats", &ClientHandle::Stats, py::arg("timeout"))
      .def("reconnect", &ClientHandle::Reconnect)
      .def("connected", &ClientHandle::Connected)
      .def("socket_path", &ClientHandle::SocketPath)
      .def("close", &ClientHandle::Close);
  py::class_<AdminHandle>(module, "AdminClient")
      .def(py::init<std::string, double>(), py::arg("socket_path"), py::arg("timeout"))
      .def("delete", &AdminHandle::Delete, py::arg("space"), py::arg("names"), py::arg("opaque"),
           py::arg("timeout"))
      .def("flush", &AdminHandle::Flush, py::arg("tier"), py::arg("timeout"))
      .def("tenants", &AdminHandle::Tenants, py::arg("timeout"))
      .def("drop_arena", &AdminHandle::DropArena, py::arg("timeout"))
      .def("close", &AdminHandle::Close);
}

}  // namespace thermocline::python
