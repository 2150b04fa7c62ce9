// Values out of a mapped file, where nothing is aligned.
#pragma once
#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>

namespace thermocline {

static_assert(std::endian::native == std::endian::little, "model files are read as they lie");

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace thermocline
