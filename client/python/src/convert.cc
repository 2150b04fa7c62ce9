#include "client/python/src/convert.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <limits>

namespace thermocline::python {
namespace {

namespace py = pybind11;

constexpr double kMaxSeconds = 365.0 * 24 * 3600;  // keeps clocks from wrapping

int32_t TokenOf(long long value, size_t index) {
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
    throw py::value_error("token " + std::to_string(index) + " is " + std::to_string(value) +
                          ", which has more than 32 bits");
  }
  return static_cast<int32_t>(value);
}

}  // namespace

std::chrono::milliseconds Milliseconds(double seconds, const char* what) {
  if (!(seconds >= 0)) throw py::value_error(std::string(what) + " must not be negative");
  return std::chrono::milliseconds(static_cast<int64_t>(std::min(seconds, kMaxSeconds) * 1000));
}

Timeout TimeoutOf(Seconds seconds) {
  if (!seconds) return std::nullopt;
  return Milliseconds(*seconds, "a timeout");
}

Names::Names(const py::object& names, bool opaque) {
  if (opaque) {
    CopyKeys(names);
  } else if (!BorrowArray(names)) {
    CopyTokens(names);
  }
}

bool Names::BorrowArray(const py::object& names) {
  if (PyBytes_Check(names.ptr()) || PyByteArray_Check(names.ptr())) {
    throw py::type_error("this space names its places by token ids, not by bytes");
  }
  if (PyObject_CheckBuffer(names.ptr()) == 0) return false;
  py::buffer_info array = py::reinterpret_borrow<py::buffer>(names).request();
  const bool is_signed = array.format == "i" || array.format == "l" || array.format == "q";
  if (array.ndim != 1 || !is_signed) return false;
  const auto* at = static_cast<const char*>(array.ptr);
  const auto count = static_cast<size_t>(array.size);
  if (array.itemsize == sizeof(int32_t) &&
      (count < 2 || array.strides[0] == py::ssize_t{sizeof(int32_t)})) {
    tokens_ = {reinterpret_cast<const int32_t*>(at), count};
    array_ = std::move(array);
    return true;
  }
  if (array.itemsize != sizeof(int64_t)) return false;
  copy_.reserve(count);
  for (size_t i = 0; i < count; ++i, at += array.strides[0]) {
    int64_t value = 0;
    std::memcpy(&value, at, sizeof value);
    copy_.push_back(TokenOf(value, i));
  }
  tokens_ = copy_;
  return true;
}

void Names::CopyTokens(const py::object& names) {
  const auto sequence = py::reinterpret_steal<py::object>(
      PySequence_Fast(names.ptr(), "tokens are a sequence or an array of integers"));
  if (!sequence) throw py::error_already_set();
  const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(sequence.ptr()));
  copy_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(sequence.ptr(), static_cast<py::ssize_t>(i));
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(item));
    if (!number) throw py::error_already_set();
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    copy_.push_back(TokenOf(overflow != 0 ? std::numeric_limits<long long>::max() : value, i));
  }
  tokens_ = copy_;
}

void Names::CopyKeys(const py::object& names) {
  if (PyBytes_Check(names.ptr())) {
    throw py::type_error("names are a sequence of keys, not one key; pass [key]");
  }
  const auto sequence = py::reinterpret_steal<py::object>(
      PySequence_Fast(names.ptr(), "this space names its places by a sequence of bytes"));
  if (!sequence) throw py::error_already_set();
  const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(sequence.ptr()));
  for (size_t i = 0; i < count; ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(sequence.ptr(), static_cast<py::ssize_t>(i));
    char* text = nullptr;
    py::ssize_t length = 0;
    if (PyBytes_AsStringAndSize(item, &text, &length) != 0) throw py::error_already_set();
    keys_.emplace_back(text, static_cast<size_t>(length));
  }
}

SpaceSpec SpecOf(const py::object& object) {
  const auto text = [&](const char* name) { return object.attr(name).cast<std::string>(); };
  const auto number = [&](const char* name) { return object.attr(name).cast<uint32_t>(); };
  SpaceSpec spec;
  spec.model = text("model");
  const auto weights = text("weights_sha256");
  if (!weights.empty() && weights.size() != spec.weights_sha256.size()) {
    throw py::value_error("weights_sha256 has " + std::to_string(weights.size()) +
                          " bytes instead of 32");
  }
  std::copy(weights.begin(), weights.end(), spec.weights_sha256.begin());
  spec.kv_dtype = text("kv_dtype");
  spec.layers = number("layers");
  spec.kv_heads = number("kv_heads");
  spec.head_dim = number("head_dim");
  spec.block_tokens = number("block_tokens");
  for (const py::handle part : object.attr("parts")) {
    spec.parts.push_back({.name = part.attr("name").cast<std::string>(),
                          .rank = part.attr("rank").cast<uint32_t>(),
                          .block_bytes = part.attr("block_bytes").cast<uint64_t>(),
                          .window_tokens = part.attr("window_tokens").cast<uint32_t>()});
  }
  spec.layout = text("layout");
  spec.rope = text("rope");
  spec.lora = text("lora");
  spec.salt = text("salt");
  spec.key_bytes = number("key_bytes");
  spec.opaque_names = spec.key_bytes != 0;
  return spec;
}

RemoteOptions RemoteOf(const py::object& remote) {
  if (remote.is_none()) return {};
  const auto text = [&](const char* name) { return remote.attr(name).cast<std::string>(); };
  return {.address = text("address"),
          .ca_file = text("ca_file"),
          .certificate_file = text("certificate_file"),
          .key_file = text("key_file"),
          .token_file = text("token_file")};
}

py::dict DictOf(const SpaceSpec& spec) {
  const auto* weights = reinterpret_cast<const char*>(spec.weights_sha256.data());
  const bool known = spec.weights_sha256 != Sha256{};
  py::list parts;
  for (const PartSpec& part : spec.parts) {
    parts.append(py::dict(py::arg("name") = part.name, py::arg("rank") = part.rank,
                          py::arg("block_bytes") = part.block_bytes,
                          py::arg("window_tokens") = part.window_tokens));
  }
  return py::dict(
      py::arg("model") = spec.model,
      py::arg("weights_sha256") = py::bytes(weights, known ? spec.weights_sha256.size() : 0),
      py::arg("kv_dtype") = spec.kv_dtype, py::arg("layers") = spec.layers,
      py::arg("kv_heads") = spec.kv_heads, py::arg("head_dim") = spec.head_dim,
      py::arg("block_tokens") = spec.block_tokens, py::arg("parts") = parts,
      py::arg("layout") = spec.layout, py::arg("rope") = spec.rope, py::arg("lora") = spec.lora,
      py::arg("salt") = spec.salt, py::arg("key_bytes") = spec.key_bytes);
}

py::dict DictOf(const DaemonStats& stats) {
  py::list tiers;
  for (const TierUse& tier : stats.tiers) {
    tiers.append(
        py::dict(py::arg("tier") = BlockTierName(tier.tier), py::arg("state") = tier.state,
                 py::arg("capacity_bytes") = tier.capacity_bytes,
                 py::arg("used_bytes") = tier.used_bytes, py::arg("blocks") = tier.blocks,
                 py::arg("hits") = tier.hits, py::arg("evictions") = tier.evictions,
                 py::arg("promotions") = tier.promotions, py::arg("demotions") = tier.demotions,
                 py::arg("share_bytes") = tier.share_bytes, py::arg("lent_bytes") = tier.lent_bytes,
                 py::arg("ttl_pinned_bytes") = tier.ttl_pinned_bytes));
  }
  return py::dict(py::arg("version") = stats.version, py::arg("epoch") = stats.epoch,
                  py::arg("uptime_ms") = stats.uptime_ms, py::arg("sessions") = stats.sessions,
                  py::arg("leases") = stats.leases, py::arg("reservations") = stats.reservations,
                  py::arg("spaces") = stats.spaces, py::arg("places") = stats.places,
                  py::arg("pins") = stats.pins, py::arg("lookups") = stats.lookups,
                  py::arg("misses") = stats.misses,
                  py::arg("misses_by_reason") = stats.misses_by_reason,
                  py::arg("corrupt_blocks") = stats.corrupt_blocks, py::arg("tiers") = tiers);
}

py::dict DictOf(const PinInfo& pin) {
  return py::dict(py::arg("pin") = pin.pin, py::arg("space") = BytesOf(pin.space),
                  py::arg("depth") = pin.depth, py::arg("expires_unix_ms") = pin.expires_unix_ms,
                  py::arg("tier") = BlockTierName(pin.tier));
}

py::bytes BytesOf(const Fingerprint& fingerprint) {
  return {reinterpret_cast<const char*>(fingerprint.bytes.data()), fingerprint.bytes.size()};
}

BlockTier TierOf(const std::string& name) {
  for (const BlockTier tier : {BlockTier::kNone, BlockTier::kHot, BlockTier::kWarm,
                               BlockTier::kCold, BlockTier::kRemote}) {
    if (name == BlockTierName(tier)) return tier;
  }
  throw py::value_error("there is no tier \"" + name +
                        "\"; there are none, hot, warm, cold, remote");
}

}  // namespace thermocline::python
