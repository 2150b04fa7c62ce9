// Reading a parsed file's values: every key may hold any type, so that each getter checks again.
#include "engine/gguf.h"

#include <absl/strings/str_cat.h>

#include <cstring>
#include <limits>

#include "engine/file_bytes.h"
#include "engine/printable.h"

namespace thermocline {
namespace {

/// An integer of any width as int64_t; none for other types and for what exceeds int64_t.
std::optional<int64_t> Integer(const GgufValue& value) {
  if (value.is_array) return std::nullopt;
  const std::byte* at = value.bytes.data();
  switch (value.type) {
    case GgufType::kUint8:
      return Load<uint8_t>(at);
    case GgufType::kInt8:
      return Load<int8_t>(at);
    case GgufType::kUint16:
      return Load<uint16_t>(at);
    case GgufType::kInt16:
      return Load<int16_t>(at);
    case GgufType::kUint32:
      return Load<uint32_t>(at);
    case GgufType::kInt32:
      return Load<int32_t>(at);
    case GgufType::kInt64:
      return Load<int64_t>(at);
    case GgufType::kUint64: {
      const auto wide = Load<uint64_t>(at);
      if (wide > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(wide);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

absl::Status GgufFile::WrongType(std::string_view key, std::string_view wanted) const {
  return absl::InvalidArgumentError(absl::StrCat(
      path_, ": the value of ", Printable(key), " is not ", std::string(wanted),
      "; the engine cannot read this model, convert it again with a current llama.cpp"));
}

absl::StatusOr<std::optional<uint32_t>> GgufFile::Uint(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> integer = Integer(*value);
  if (!integer || *integer < 0 || *integer > std::numeric_limits<uint32_t>::max()) {
    return WrongType(key, "one unsigned integer of 32 bits");
  }
  return static_cast<uint32_t>(*integer);
}

absl::StatusOr<int32_t> GgufFile::TokenId(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return -1;
  const std::optional<int64_t> integer = Integer(*value);
  if (integer == -1 || integer == std::numeric_limits<uint32_t>::max()) return -1;
  if (!integer || *integer < 0 || *integer > std::numeric_limits<int32_t>::max()) {
    return WrongType(key, "a token id");
  }
  return static_cast<int32_t>(*integer);
}

absl::StatusOr<std::optional<double>> GgufFile::Float(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array && value->type == GgufType::kFloat32)
    return Load<float>(value->bytes.data());
  if (!value->is_array && value->type == GgufType::kFloat64) {
    return Load<double>(value->bytes.data());
  }
  return WrongType(key, "a floating-point number");
}

absl::StatusOr<std::optional<bool>> GgufFile::Bool(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != GgufType::kBool) return WrongType(key, "a bool");
  return value->bytes[0] == std::byte{1};
}

absl::StatusOr<std::optional<std::string>> GgufFile::String(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != GgufType::kString) return WrongType(key, "a string");
  return std::string(AsText(value->bytes));
}

absl::StatusOr<const GgufValue*> GgufFile::Array(std::string_view key, GgufType element,
                                                 std::string_view wanted) const {
  const GgufValue* value = Find(key);
  if (value == nullptr || (value->is_array && value->type == element)) return value;
  return WrongType(key, wanted);
}

absl::StatusOr<std::optional<std::vector<std::string>>> GgufFile::Strings(
    std::string_view key) const {
  TC_ASSIGN_OR_RETURN(const GgufValue* value, Array(key, GgufType::kString, "a list of strings"));
  if (value == nullptr) return std::nullopt;
  std::vector<std::string> strings;
  strings.reserve(value->count);
  const std::byte* at = value->bytes.data();
  for (uint64_t i = 0; i < value->count; ++i) {  // Parse has checked every length
    const auto length = Load<uint64_t>(at);
    strings.emplace_back(AsText({at + sizeof length, length}));
    at += sizeof length + length;
  }
  return strings;
}

absl::StatusOr<std::optional<std::vector<float>>> GgufFile::Floats(std::string_view key) const {
  TC_ASSIGN_OR_RETURN(const GgufValue* value,
                      Array(key, GgufType::kFloat32, "a list of 32-bit floats"));
  if (value == nullptr) return std::nullopt;
  std::vector<float> floats(value->count);
  if (!floats.empty()) std::memcpy(floats.data(), value->bytes.data(), value->bytes.size());
  return floats;
}

absl::StatusOr<std::optional<std::vector<int32_t>>> GgufFile::Ints(std::string_view key) const {
  TC_ASSIGN_OR_RETURN(const GgufValue* value,
                      Array(key, GgufType::kInt32, "a list of 32-bit integers"));
  if (value == nullptr) return std::nullopt;
  std::vector<int32_t> ints(value->count);
  if (!ints.empty()) std::memcpy(ints.data(), value->bytes.data(), value->bytes.size());
  return ints;
}

}  // namespace thermocline
