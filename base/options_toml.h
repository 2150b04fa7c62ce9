// The TOML reader behind the option table, fenced: nothing else includes toml++.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace thermocline {

enum class TomlKind : uint8_t { kText, kInteger, kReal, kBool, kIntegers, kOther };

struct TomlEntry {
  std::string key;  // dotted from the root: "warm.capacity"
  TomlKind kind;
  std::string text;  // the value as an option would be written in the environment
  uint32_t line;
  bool is_section = false;     // a table; its entries follow
  std::vector<TomlEntry> row;  // of a table in an array of tables: its own entries, if it has any
};

/// An array of tables is an entry for each of them. All entries of a file, sections first, then
/// their entries, in the order of keys. Errors: InvalidArgument "NAME:LINE: what is wrong".
absl::StatusOr<std::vector<TomlEntry>> ReadToml(std::string_view content, std::string_view name);

}  // namespace thermocline
