// What Python sees of memory in the arena: an array that offers the buffer protocol and DLPack,
// both without a copy, and that keeps alive what its bytes belong to.
#pragma once
#include <pybind11/pybind11.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace thermocline::python {

/// The element types that a block may be read as; by the names of SpaceSpec::kv_dtype.
struct ElementType {
  const char* name;
  const char* format;  // of the struct module
  uint8_t dlpack_code;
  uint8_t bytes;
};
/// Raises ValueError, naming those that there are.
const ElementType& ElementTypeOf(const std::string& name);

/// Thread: with the GIL.
/// Owner:  `owner` holds a lease or a reservation, and with it the mapping.
class Block {
 public:
  /// A block of bytes. `closed`: whether no further access may be given out (a slot that was
  /// committed); a null pointer stands for never.
  Block(std::shared_ptr<void> owner, std::span<std::byte> bytes, bool readonly,
        std::shared_ptr<std::atomic<bool>> closed);

  /// The same memory as elements of another type. Raises ValueError when the sizes differ.
  Block Cast(const std::string& dtype, std::vector<pybind11::ssize_t> shape) const;

  pybind11::buffer_info Buffer() const;
  /// `max_version`: the (major, minor) that the consumer understands, or nothing.
  pybind11::capsule DlPack(bool versioned, bool copy) const;

  bool readonly() const { return readonly_; }
  size_t nbytes() const { return bytes_.size(); }
  const ElementType& type() const { return *type_; }
  const std::vector<pybind11::ssize_t>& shape() const { return shape_; }

 private:
  void CheckOpen() const;
  std::vector<pybind11::ssize_t> Strides(pybind11::ssize_t unit) const;

  std::shared_ptr<void> owner_;                // shared with every view of the same memory
  std::shared_ptr<std::atomic<bool>> closed_;  // shared with the reservation
  std::span<std::byte> bytes_;
  bool readonly_;
  const ElementType* type_;
  std::vector<pybind11::ssize_t> shape_;
};

void DefineBlock(pybind11::module_& module);

}  // namespace thermocline::python
