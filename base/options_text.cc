// What is generated from an option table: --help, --print-config, the sample file, docs/config.md.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <numeric>

#include "base/options.h"

namespace thermocline {
namespace {

constexpr size_t kHelpColumns = 90;
constexpr size_t kMaxEditDistance = 3;

std::string MapCharacters(std::string_view key, char separator, bool upper) {
  std::string text;
  for (const char c : key) {
    if (c == '.' || c == '_') {
      text += separator;
    } else {
      text += upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    }
  }
  return text;
}

const char* TypeName(OptionType type) {
  switch (type) {
    case OptionType::kString:
      return "TEXT";
    case OptionType::kInt:
      return "NUMBER";
    case OptionType::kIntList:
      return "NUMBERS";
    case OptionType::kBool:
      return "BOOL";
    case OptionType::kBytes:
      return "SIZE";
    case OptionType::kDuration:
      return "DURATION";
    case OptionType::kEnum:
      return "CHOICE";
  }
  return "";
}

std::string ValueName(const OptionDef& option) {
  return option.type == OptionType::kEnum ? std::string(option.choices) : TypeName(option.type);
}

// Numbers and booleans as they are, all else as a basic string.
std::string TomlValue(const OptionDef& option, std::string_view text) {
  if (option.type == OptionType::kInt) return std::string(text);
  if (option.type == OptionType::kIntList) return "[" + std::string(text) + "]";
  if (option.type == OptionType::kBool) {
    return text == "true" || text == "1" || text == "on" ? "true" : "false";
  }
  std::string quoted = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted.append({'\\', c});
    } else if (byte < 0x20 || byte == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04X", byte);
      quoted += escape;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// `text` in lines of at most kHelpColumns, each after `indent`.
std::string Wrapped(std::string_view text, std::string_view indent) {
  std::string result;
  std::string line(indent);
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (line.size() > indent.size() && line.size() + 1 + word.size() > kHelpColumns) {
      result += line + "\n";
      line = indent;
    }
    if (line.size() > indent.size()) line += ' ';
    line.append(word);
    text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
  }
  return result + line + "\n";
}

std::string DefaultText(const OptionDef& option) {
  return option.default_value.empty() ? "none" : std::string(option.default_value);
}

// The entries of a TOML file: those without a section first, as TOML wants it, then section by
// section; `entry(option, name)` writes one.
template <typename Entry>
std::string TomlText(const OptionTable& table, const Entry& entry) {
  std::string text;
  std::vector<std::string_view> sections = {""};
  const auto section_of = [](const OptionDef& option) {
    const size_t dot = option.key.find('.');
    return option.key.substr(0, dot == std::string_view::npos ? 0 : dot);
  };
  for (const OptionDef& option : table.options) {
    const std::string_view section = section_of(option);
    if (std::find(sections.begin(), sections.end(), section) == sections.end()) {
      sections.push_back(section);
    }
  }
  for (const std::string_view section : sections) {
    if (!section.empty()) text.append("[").append(section).append("]\n\n");
    for (const OptionDef& option : table.options) {
      if (option.flag_only || section_of(option) != section) continue;
      text += entry(option, option.key.substr(section.empty() ? 0 : section.size() + 1));
    }
  }
  return text;
}

std::string SampleEntries(const OptionTable& table) {
  return TomlText(table, [&](const OptionDef& option, std::string_view name) {
    return Wrapped(option.help, "# ") + "# " + ValueName(option) + "\n#" + std::string(name) +
           " = " + TomlValue(option, option.default_value) + "\n\n";
  });
}

// Levenshtein, one row.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string FlagOf(const OptionDef& option) { return "--" + MapCharacters(option.key, '-', false); }

std::string EnvironmentOf(const OptionDef& option) {
  return "THERMOCLINE_" + MapCharacters(option.key, '_', true);
}

std::string NearestName(std::string_view name, std::span<const std::string> candidates) {
  constexpr size_t kLongestName = 256;  // the work is quadratic
  if (name.size() > kLongestName) return "";
  size_t least = std::min(kMaxEditDistance, name.size() / 2) + 1;
  std::string nearest;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string HelpText(const OptionTable& table) {
  std::string text = "Usage: " + std::string(table.program) + " [FLAGS]\n\n";
  text += Wrapped(table.summary, "") + "\n";
  for (const OptionDef& option : table.options) {
    text += "  " + FlagOf(option);
    if (option.type != OptionType::kBool) text += "=" + ValueName(option);
    text += "\n" + Wrapped(option.help, "      ");
    std::string facts = "[default " + DefaultText(option);
    if (!option.flag_only) {
      facts += "; file " + std::string(option.key) + "; " + EnvironmentOf(option);
    }
    text += Wrapped(facts + "]", "      ");
  }
  text += "  --config=FILE\n      The configuration file; also THERMOCLINE_CONFIG.";
  if (!table.default_file.empty()) {
    text.append(" Else ").append(table.default_file).append(", if it is there.");
  }
  return text +
         "\n  --check-config\n      Says whether the configuration is good, and exits.\n"
         "  --print-config\n      Prints the configuration with the origin of each value.\n"
         "  --version\n  --help\n\n"
         "Flags take precedence over the environment, the environment over the file.\n";
}

std::string ConfigText(const Options& options) {
  std::string text = TomlText(options.table(), [&](const OptionDef& option, std::string_view name) {
    return Wrapped(option.help, "# ") + "# from: " + options.Origin(option.key) + "\n" +
           std::string(name) + " = " + TomlValue(option, options.Text(option.key)) + "\n\n";
  });
  for (const Options& row : options.rows()) {
    text += "[[" + std::string(row.table().program) + "]]\n" + ConfigText(row);
  }
  return text;
}

std::string SampleConfigText(const OptionTable& table) {
  return "# Configuration of " + std::string(table.program) +
         ": every entry with its default. Generated from the option table.\n"
         "# The environment and the command line take precedence; see --help.\n\n" +
         SampleEntries(table) +
         (table.rows == nullptr
              ? std::string()
              : Wrapped(table.rows->summary, "# ") + "#[[" + std::string(table.rows->program) +
                    "]]\n" + SampleEntries(*table.rows));
}

std::string OptionTableMarkdown(const OptionTable& table) {
  std::string text = "# Configuration of `" + std::string(table.program) +
                     "`\n\nGenerated from its option table. A TOML file (`--config FILE`";
  if (!table.default_file.empty()) text += ", else `" + std::string(table.default_file) + "`";
  text +=
      ") is overridden by the environment, and that by flags. `--check-config` looks for mistakes, "
      "`--print-config` shows every value with its origin.\n\n"
      "| key | value | default | environment | meaning |\n|-|-|-|-|-|\n";
  for (const OptionDef& option : table.options) {
    std::string value = ValueName(option);
    for (size_t bar = value.find('|'); bar != std::string::npos; bar = value.find('|', bar + 2)) {
      value.replace(bar, 1, "\\|");
    }
    const std::string name = option.flag_only ? FlagOf(option) : std::string(option.key);
    const std::string variable = option.flag_only ? "" : "`" + EnvironmentOf(option) + "`";
    text += "| `" + name + "` | " + value + " | " +
            (option.default_value.empty() ? "" : "`" + std::string(option.default_value) + "`") +
            " | " + variable + " | " + std::string(option.help) + " |\n";
  }
  if (table.rows == nullptr) return text;
  text += "\n## `[[" + std::string(table.rows->program) + "]]`\n\n" +
          std::string(table.rows->summary) + "\n\n| key | value | default | meaning |\n|-|-|-|-|\n";
  for (const OptionDef& option : table.rows->options) {
    text += "| `" + std::string(option.key) + "` | " + ValueName(option) + " | " +
            (option.default_value.empty() ? "" : "`" + std::string(option.default_value) + "`") +
            " | " + std::string(option.help) + " |\n";
  }
  return text;
}

}  // namespace thermocline
