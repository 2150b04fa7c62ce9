#include "client/python/src/block.h"

#include <pybind11/stl.h>

#include <cstring>

#include "client/python/src/dlpack.h"

namespace thermocline::python {
namespace {

namespace py = pybind11;

constexpr ElementType kTypes[] = {
    {"u8", "B", dlpack::kUint, 1},     {"i8", "b", dlpack::kInt, 1},
    {"int8", "b", dlpack::kInt, 1},    {"u16", "H", dlpack::kUint, 2},
    {"i16", "h", dlpack::kInt, 2},     {"f16", "e", dlpack::kFloat, 2},
    {"bf16", "H", dlpack::kBfloat, 2},  // struct and numpy have none: its bits
    {"u32", "I", dlpack::kUint, 4},    {"i32", "i", dlpack::kInt, 4},
    {"f32", "f", dlpack::kFloat, 4},   {"f64", "d", dlpack::kFloat, 8},
};

/// What a capsule's consumer holds on to: with DLPack the last reference may go in any thread,
/// without the GIL.
template <typename Managed>
struct Export {
  Managed managed{};
  std::shared_ptr<void> owner;
  std::vector<int64_t> shape, strides;

  static void Delete(Managed* managed) { delete static_cast<Export*>(managed->manager_context); }
};

template <typename Managed>
void DestroyUnconsumed(PyObject* capsule, const char* name) {
  if (PyCapsule_IsValid(capsule, name) == 0) return;  // renamed: the consumer owns it
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  managed->deleter(managed);
}

constexpr char kPlainName[] = "dltensor";
constexpr char kVersionedName[] = "dltensor_versioned";

}  // namespace

const ElementType& ElementTypeOf(const std::string& name) {
  std::string known;
  for (const ElementType& type : kTypes) {
    if (name == type.name) return type;
    known += std::string(known.empty() ? "" : ", ") + type.name;
  }
  throw py::value_error("there is no element type \"" + name + "\"; there are " + known);
}

Block::Block(std::shared_ptr<void> owner, std::span<std::byte> bytes, bool readonly,
             std::shared_ptr<std::atomic<bool>> closed)
    : owner_(std::move(owner)),
      closed_(std::move(closed)),
      bytes_(bytes),
      readonly_(readonly),
      type_(&kTypes[0]),
      shape_{static_cast<py::ssize_t>(bytes.size())} {}

Block Block::Cast(const std::string& dtype, std::vector<py::ssize_t> shape) const {
  Block block = *this;
  block.type_ = &ElementTypeOf(dtype);
  const auto elements = static_cast<py::ssize_t>(bytes_.size() / block.type_->bytes);
  if (shape.empty()) shape = {elements};
  py::ssize_t count = 1;
  for (const py::ssize_t length : shape) {
    if (length <= 0 || count > elements / length) {
      count = -1;
      break;
    }
    count *= length;
  }
  if (count != elements || bytes_.size() % block.type_->bytes != 0) {
    throw py::value_error("a block of " + std::to_string(bytes_.size()) +
                          " bytes has another size than " + dtype + " in shape " +
                          std::string(py::str(py::cast(shape))));
  }
  block.shape_ = std::move(shape);
  return block;
}

void Block::CheckOpen() const {
  if (closed_ != nullptr && closed_->load()) {
    throw py::buffer_error("this slot was committed or given back; reserve another");
  }
}

std::vector<py::ssize_t> Block::Strides(py::ssize_t unit) const {
  std::vector<py::ssize_t> strides(shape_.size());
  for (size_t i = shape_.size(); i-- > 0; unit *= shape_[i]) strides[i] = unit;
  return strides;
}

py::buffer_info Block::Buffer() const {
  CheckOpen();
  return py::buffer_info(bytes_.data(), type_->bytes, type_->format,
                         static_cast<py::ssize_t>(shape_.size()), shape_, Strides(type_->bytes),
                         readonly_);
}

template <typename Managed>
static Export<Managed>* NewExport(const Block& block, std::shared_ptr<void> owner, void* data,
                                  const std::vector<py::ssize_t>& strides) {
  auto* made = new Export<Managed>();
  made->owner = std::move(owner);
  made->shape.assign(block.shape().begin(), block.shape().end());
  made->strides.assign(strides.begin(), strides.end());
  made->managed.manager_context = made;
  made->managed.deleter = &Export<Managed>::Delete;
  made->managed.tensor = {
      .data = data,
      .device = {dlpack::kDeviceCpu, 0},
      .ndim = static_cast<int32_t>(made->shape.size()),
      .dtype = {block.type().dlpack_code, static_cast<uint8_t>(block.type().bytes * 8), 1},
      .shape = made->shape.data(),
      .strides = made->strides.data(),
      .byte_offset = 0};
  return made;
}

py::capsule Block::DlPack(bool versioned, bool copy) const {
  CheckOpen();
  if (readonly_ && !versioned && !copy) {
    throw py::buffer_error(
        "this consumer asks for a DLPack older than 1.0, which cannot say that the memory is "
        "read-only; read it through the buffer protocol, or ask for a copy");
  }
  std::shared_ptr<void> owner = owner_;
  void* data = bytes_.data();
  if (copy) {
    auto bytes = std::make_shared<std::vector<std::byte>>(bytes_.begin(), bytes_.end());
    data = bytes->data();
    owner = std::move(bytes);
  }
  if (!versioned) {
    auto* made = NewExport<dlpack::ManagedTensor>(*this, std::move(owner), data, Strides(1));
    return py::capsule(&made->managed, kPlainName, [](PyObject* capsule) {
      DestroyUnconsumed<dlpack::ManagedTensor>(capsule, kPlainName);
    });
  }
  auto* made = NewExport<dlpack::ManagedTensorVersioned>(*this, std::move(owner), data, Strides(1));
  made->managed.major = dlpack::kMajorVersion;
  made->managed.minor = dlpack::kMinorVersion;
  made->managed.flags = copy ? dlpack::kFlagIsCopied : readonly_ ? dlpack::kFlagReadOnly : 0;
  return py::capsule(&made->managed, kVersionedName, [](PyObject* capsule) {
    DestroyUnconsumed<dlpack::ManagedTensorVersioned>(capsule, kVersionedName);
  });
}

void DefineBlock(py::module_& module) {
  py::class_<Block>(module, "Block", py::buffer_protocol(),
                    "A block of KV in the arena, without a copy.")
      .def_buffer(&Block::Buffer)
      .def_property_readonly("readonly", &Block::readonly)
      .def_property_readonly("nbytes", &Block::nbytes)
      .def_property_readonly("dtype", [](const Block& block) { return block.type().name; })
      .def_property_readonly("shape",
                             [](const Block& block) { return py::tuple(py::cast(block.shape())); })
      .def("__len__", [](const Block& block) { return block.shape()[0]; })
      .def("cast", &Block::Cast, py::arg("dtype"), py::arg("shape") = std::vector<py::ssize_t>())
      .def(
          "numpy",
          [](const Block& block, const std::optional<std::string>& dtype,
             std::vector<py::ssize_t> shape) {
            const Block typed = dtype || !shape.empty()
                                    ? block.Cast(dtype.value_or(block.type().name), shape)
                                    : block;
            return py::module_::import("numpy").attr("asarray")(typed);
          },
          py::arg("dtype") = py::none(), py::arg("shape") = std::vector<py::ssize_t>())
      .def(
          "__dlpack__",
          [](const Block& block, const py::object& stream,
             const std::optional<std::pair<int, int>>& max_version,
             const std::optional<std::pair<int, int>>& dl_device, std::optional<bool> copy) {
            if (!stream.is_none()) throw py::value_error("memory of the CPU takes no stream");
            if (dl_device && dl_device->first != dlpack::kDeviceCpu) {
              throw py::buffer_error("a block lies in memory of the CPU");
            }
            return block.DlPack(max_version && max_version->first >= 1, copy.value_or(false));
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const Block&) { return py::make_tuple(dlpack::kDeviceCpu, 0); });
}

}  // namespace thermocline::python
