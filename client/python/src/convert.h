// Arguments and results between Python and C++, and errors as exceptions.
#pragma once
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"

namespace thermocline::python {

/// Becomes the exception class of its code (thermocline/_errors.py) where it leaves the module.
struct StatusError {
  absl::Status status;
};

inline void Check(const absl::Status& status) {
  if (!status.ok()) throw StatusError{status};
}
template <typename T>
T Check(absl::StatusOr<T> result) {
  Check(result.status());
  return *std::move(result);
}

/// Runs `call` without the GIL, which it may therefore wait in.
template <typename Call>
auto WithoutGil(const Call& call) {
  pybind11::gil_scoped_release released;
  return call();
}

/// What the last owner may have to wait for, it waits for without the GIL.
template <typename T>
std::shared_ptr<T> Share(std::unique_ptr<T> value) {
  return std::shared_ptr<T>(value.release(), [](T* last) {
    if (PyGILState_Check() == 0) {
      delete last;
    } else {
      WithoutGil([&] { delete last; });
    }
  });
}

/// Seconds, or nothing for the client's own. Raises ValueError for negative ones.
using Seconds = std::optional<double>;
Timeout TimeoutOf(Seconds seconds);
std::chrono::milliseconds Milliseconds(double seconds, const char* what);

/// The names of a call: token ids from an array of 32-bit integers in place, from any other array
/// or sequence of integers by a copy; keys from a sequence of bytes.
/// Thread: made and destroyed with the GIL; view() needs none.
/// Owner:  keeps the array from being changed in size.
class Names {
 public:
  /// Raises TypeError and ValueError, naming the element.
  Names(const pybind11::object& names, bool opaque);
  NamesView view() const { return keys_.empty() ? NamesView(tokens_) : NamesView(keys_); }

 private:
  bool BorrowArray(const pybind11::object& names);
  void CopyTokens(const pybind11::object& names);
  void CopyKeys(const pybind11::object& names);

  std::optional<pybind11::buffer_info> array_;
  std::vector<int32_t> copy_;
  std::vector<std::string> keys_;
  std::span<const int32_t> tokens_;
};

/// From and to the attributes of thermocline.SpaceSpec.
SpaceSpec SpecOf(const pybind11::object& spec);
pybind11::dict DictOf(const SpaceSpec& spec);
pybind11::dict DictOf(const DaemonStats& stats);
pybind11::dict DictOf(const PinInfo& pin);

/// From the attributes of thermocline.RemoteOptions; none for None.
RemoteOptions RemoteOf(const pybind11::object& remote);

pybind11::bytes BytesOf(const Fingerprint& fingerprint);
BlockTier TierOf(const std::string& name);

}  // namespace thermocline::python
