#include "base/options_toml.h"

#include <toml++/toml.h>

#include <cstdio>

namespace thermocline {
namespace {

std::string TextOf(const toml::array& integers) {
  std::string text;
  for (const auto& node : integers) {
    text += (text.empty() ? "" : ",") + std::to_string(node.value_or(int64_t{0}));
  }
  return text;
}

// Depth is bounded by toml++'s own limit of nested tables.
void Flatten(const toml::table& table, const std::string& prefix, std::vector<TomlEntry>& entries) {
  for (const auto& [key, node] : table) {
    TomlEntry entry{.key = prefix + std::string(key.str()),
                    .kind = TomlKind::kOther,
                    .text = {},
                    .line = static_cast<uint32_t>(key.source().begin.line)};
    if (node.is_array_of_tables()) {
      for (const auto& element : *node.as_array()) {
        TomlEntry row = entry;
        row.line = static_cast<uint32_t>(element.source().begin.line);
        Flatten(*element.as_table(), "", row.row);
        entries.push_back(std::move(row));
      }
      continue;
    }
    if (const auto* text = node.as_string()) {
      entry.kind = TomlKind::kText;
      entry.text = text->get();
    } else if (const auto* integer = node.as_integer()) {
      entry.kind = TomlKind::kInteger;
      entry.text = std::to_string(integer->get());
    } else if (const auto* real = node.as_floating_point()) {
      entry.kind = TomlKind::kReal;
      char digits[40];
      std::snprintf(digits, sizeof digits, "%.17g", real->get());
      entry.text = digits;
    } else if (const auto* boolean = node.as_boolean()) {
      entry.kind = TomlKind::kBool;
      entry.text = boolean->get() ? "true" : "false";
    } else if (const auto* array = node.as_array();
               array != nullptr && (array->empty() || array->is_homogeneous<int64_t>())) {
      entry.kind = TomlKind::kIntegers;
      entry.text = TextOf(*array);
    }
    entry.is_section = node.is_table();
    const std::string deeper = entry.key + ".";
    entries.push_back(std::move(entry));
    if (const auto* section = node.as_table()) Flatten(*section, deeper, entries);
  }
}

}  // namespace

absl::StatusOr<std::vector<TomlEntry>> ReadToml(std::string_view content, std::string_view name) {
  try {
    const toml::table root = toml::parse(content, std::string(name));
    std::vector<TomlEntry> entries;
    Flatten(root, "", entries);
    return entries;
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(std::string(name) + ":" +
                                      std::to_string(error.source().begin.line) + ": " +
                                      std::string(error.description()));
  }
}

}  // namespace thermocline
