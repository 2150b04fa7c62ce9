#include "base/options.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "base/file_util.h"
#include "base/options_toml.h"
#include "base/units.h"
#include "base/version.h"

namespace thermocline {
namespace {

constexpr uint64_t kConfigLimitBytes = 1 << 20;
constexpr std::string_view kConfigVariable = "THERMOCLINE_CONFIG";
constexpr std::string_view kActions[] = {"--config", "--check-config", "--print-config", "--help",
                                         "--version"};

std::string Quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

std::string TextOf(const absl::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

bool IsChoice(std::string_view choices, std::string_view text) {
  while (true) {
    const size_t bar = choices.find('|');
    if (choices.substr(0, bar) == text) return true;
    if (bar == std::string_view::npos) return false;
    choices.remove_prefix(bar + 1);
  }
}

absl::StatusOr<int64_t> ReadInt(std::string_view text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && rest == end && !text.empty()) return number;
  return absl::InvalidArgumentError("cannot read " + Quoted(text) +
                                    "; write a whole number like 8");
}

absl::StatusOr<std::vector<int64_t>> ReadIntList(std::string_view text) {
  std::vector<int64_t> numbers;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    TC_ASSIGN_OR_RETURN(const int64_t number, ReadInt(text.substr(0, comma)));
    numbers.push_back(number);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return numbers;
}

absl::StatusOr<int64_t> ReadBool(std::string_view text) {
  if (text == "true" || text == "1" || text == "on") return 1;
  if (text == "false" || text == "0" || text == "off") return 0;
  return absl::InvalidArgumentError("cannot read " + Quoted(text) + "; write true or false");
}

// The value as a number, in the unit of OptionDef::least; 0 for text.
absl::StatusOr<int64_t> ReadValue(const OptionDef& option, std::string_view text) {
  switch (option.type) {
    case OptionType::kString:
      return 0;
    case OptionType::kEnum:
      if (IsChoice(option.choices, text)) return 0;
      return absl::InvalidArgumentError(Quoted(text) + " is not one of " +
                                        std::string(option.choices));
    case OptionType::kBool:
      return ReadBool(text);
    case OptionType::kInt:
      return ReadInt(text);
    case OptionType::kIntList: {  // the limits are those of each number
      TC_ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, ReadIntList(text));
      for (const int64_t number : numbers) {
        if (number < option.least || number > option.most) return number;
      }
      return option.least;
    }
    case OptionType::kBytes: {
      TC_ASSIGN_OR_RETURN(const uint64_t bytes, ParseBytes(text));
      return static_cast<int64_t>(bytes);  // ParseBytes stops at 2^62
    }
    case OptionType::kDuration: {
      TC_ASSIGN_OR_RETURN(const std::chrono::microseconds duration, ParseDuration(text));
      return duration.count();
    }
  }
  return absl::InternalError("an option without a type");
}

std::string WithUnit(OptionType type, int64_t number) {
  if (type == OptionType::kBytes) return FormatBytes(static_cast<uint64_t>(number));
  if (type == OptionType::kDuration && number % 1'000'000 == 0) {
    return std::to_string(number / 1'000'000) + "s";
  }
  if (type == OptionType::kDuration) return std::to_string(number) + "us";
  return std::to_string(number);
}

absl::Status CheckLimits(const OptionDef& option, std::string_view text, int64_t number) {
  const bool has_limits = option.type == OptionType::kInt || option.type == OptionType::kIntList ||
                          option.type == OptionType::kBytes || option.type == OptionType::kDuration;
  if (!has_limits || (number >= option.least && number <= option.most)) return absl::OkStatus();
  const bool low = number < option.least;
  return absl::InvalidArgumentError(
      Quoted(text) + (low ? " is too small; the least is " : " is too large; the most is ") +
      WithUnit(option.type, low ? option.least : option.most));
}

// TOML knows types, and a number where text is due is most often a slip.
absl::Status CheckKind(const OptionDef& option, TomlKind kind) {
  const auto want = [&](bool fits, const char* advice) {
    return fits ? absl::OkStatus() : absl::InvalidArgumentError(advice);
  };
  const bool text = kind == TomlKind::kText;
  switch (option.type) {
    case OptionType::kString:
    case OptionType::kEnum:
      return want(text, "this is not text; write it in quotes");
    case OptionType::kBool:
      return want(kind == TomlKind::kBool, "this is not a bool; write true or false, unquoted");
    case OptionType::kInt:
      return want(kind == TomlKind::kInteger, "this is not a whole number; write one, unquoted");
    case OptionType::kIntList:
      return want(kind == TomlKind::kIntegers, "this is no list of numbers; write [1000, 1001]");
    case OptionType::kBytes:
      return want(text || kind == TomlKind::kInteger, "this is no size; write \"512MiB\"");
    case OptionType::kDuration:
      return want(text || kind == TomlKind::kInteger || kind == TomlKind::kReal,
                  "this is no duration; write \"250ms\" or \"10s\"");
  }
  return absl::OkStatus();
}

// All that is wrong at once: a file with three slips is corrected in one go.
class Errors {
 public:
  void Add(const std::string& line) { text_ += text_.empty() ? line : "\n" + line; }
  void Add(const absl::Status& status) {
    if (!status.ok()) Add(TextOf(status));
  }
  absl::Status status() const {
    return text_.empty() ? absl::OkStatus() : absl::InvalidArgumentError(text_);
  }

 private:
  std::string text_;
};

const OptionDef* FindKey(const OptionTable& table, std::string_view key) {
  for (const OptionDef& option : table.options) {
    if (option.key == key) return &option;
  }
  return nullptr;
}

bool IsSection(const OptionTable& table, std::string_view section) {
  const std::string prefix = std::string(section) + ".";
  for (const OptionDef& option : table.options) {
    if (!option.flag_only && option.key.substr(0, prefix.size()) == prefix) return true;
  }
  return false;
}

std::string DidYouMean(std::string_view name, const std::vector<std::string>& candidates,
                       const std::string& otherwise) {
  const std::string nearest = NearestName(name, candidates);
  return nearest.empty() ? "; " + otherwise : "; did you mean '" + nearest + "'?";
}

std::vector<std::string> FileKeys(const OptionTable& table) {
  std::vector<std::string> keys;
  for (const OptionDef& option : table.options) {
    if (!option.flag_only) keys.emplace_back(option.key);
  }
  return keys;
}

// ---- the command line

struct CommandLine {
  struct Setting {
    const OptionDef* option;
    std::string text;
  };
  std::vector<Setting> settings;
  std::string config;
  bool has_config = false;
  bool check_config = false;
  bool print_config = false;
  bool help = false;
  bool version = false;
};

class CommandLineReader {
 public:
  CommandLineReader(const OptionTable& table, const std::vector<std::string>& arguments)
      : table_(table), arguments_(arguments) {}

  CommandLine Read(Errors& errors) {
    while (next_ < arguments_.size()) errors.Add(ReadOne(arguments_[next_++]));
    return std::move(line_);
  }

 private:
  absl::Status ReadOne(const std::string& argument) {
    const size_t equals = argument.find('=');
    const std::string flag = argument.substr(0, equals);
    const bool has_value = equals != std::string::npos;
    const std::string value = has_value ? argument.substr(equals + 1) : "";
    if (argument.substr(0, 2) != "--") {
      if (argument == "-h") return SetSwitch(line_.help, flag, has_value);
      return absl::InvalidArgumentError("unexpected argument " + Quoted(argument) + "; " +
                                        std::string(table_.program) +
                                        " takes flags only, see --help");
    }
    if (flag == "--help") return SetSwitch(line_.help, flag, has_value);
    if (flag == "--version") return SetSwitch(line_.version, flag, has_value);
    if (flag == "--check-config") return SetSwitch(line_.check_config, flag, has_value);
    if (flag == "--print-config") return SetSwitch(line_.print_config, flag, has_value);
    if (flag == "--config") {
      line_.has_config = true;
      return TakeValue(flag, has_value, value, line_.config);
    }
    for (const OptionDef& option : table_.options) {
      const std::string name = FlagOf(option);
      if (option.type == OptionType::kBool && flag == "--no-" + name.substr(2)) {
        if (has_value) return absl::InvalidArgumentError("flag " + flag + " takes no value");
        line_.settings.push_back({&option, "false"});
        return absl::OkStatus();
      }
      if (flag != name) continue;
      CommandLine::Setting setting{&option, value};
      if (option.type != OptionType::kBool) {
        TC_RETURN_IF_ERROR(TakeValue(flag, has_value, value, setting.text));
      } else if (!has_value) {
        setting.text = "true";
      }
      line_.settings.push_back(std::move(setting));
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError("unknown flag " + Quoted(flag) +
                                      DidYouMean(flag, Flags(), "see --help"));
  }

  static absl::Status SetSwitch(bool& target, const std::string& flag, bool has_value) {
    if (has_value) return absl::InvalidArgumentError("flag " + flag + " takes no value");
    target = true;
    return absl::OkStatus();
  }

  absl::Status TakeValue(const std::string& flag, bool has_value, const std::string& value,
                         std::string& target) {
    if (!has_value && next_ == arguments_.size()) {
      return absl::InvalidArgumentError("flag " + flag + " needs a value: " + flag + "=VALUE");
    }
    target = has_value ? value : arguments_[next_++];
    return absl::OkStatus();
  }

  std::vector<std::string> Flags() const {
    std::vector<std::string> flags(std::begin(kActions), std::end(kActions));
    for (const OptionDef& option : table_.options) flags.push_back(FlagOf(option));
    return flags;
  }

  const OptionTable& table_;
  const std::vector<std::string>& arguments_;
  size_t next_ = 0;
  CommandLine line_;
};

// ---- the environment

std::string VariableValue(const std::vector<std::string>& environment, std::string_view name) {
  for (const std::string& variable : environment) {
    if (variable.rfind(name, 0) == 0 && variable.size() > name.size() &&
        variable[name.size()] == '=') {
      return variable.substr(name.size() + 1);
    }
  }
  return "";
}

void ApplyEnvironment(const std::vector<std::string>& environment, Options& options, Errors& errors,
                      std::vector<std::string>& warnings) {
  std::vector<std::string> known = {std::string(kConfigVariable)};
  for (const OptionDef& option : options.table().options) {
    if (!option.flag_only) known.push_back(EnvironmentOf(option));
  }
  for (const std::string& variable : environment) {
    const size_t equals = variable.find('=');
    if (variable.rfind("THERMOCLINE_", 0) != 0 || equals == std::string::npos) continue;
    const std::string name = variable.substr(0, equals);
    const std::string text = variable.substr(equals + 1);
    const auto found = std::find_if(options.table().options.begin(), options.table().options.end(),
                                    [&](const OptionDef& option) {
                                      return !option.flag_only && EnvironmentOf(option) == name;
                                    });
    if (found != options.table().options.end()) {
      errors.Add(options.Set(found->key, text, "environment variable " + name));
    } else if (name != kConfigVariable) {
      const std::string nearest = NearestName(name, known);
      if (!nearest.empty()) {
        warnings.push_back("environment variable " + name + " means nothing to " +
                           std::string(options.table().program) + "; did you mean " + nearest +
                           "?");
      }
    }
  }
}

// The file, if one is to be read: its name, or "". NotFound when it was asked for and is not there.
absl::StatusOr<std::string> ApplyFile(const std::string& asked_for, Options& options) {
  const std::string file =
      asked_for.empty() ? std::string(options.table().default_file) : asked_for;
  if (file.empty()) return file;
  if (asked_for.empty() && ::access(file.c_str(), F_OK) != 0) return std::string();
  const auto content = ReadFile(file, kConfigLimitBytes);
  if (!content.ok()) return Annotate(content.status(), "configuration cannot be read");
  TC_RETURN_IF_ERROR(ReadConfig(*content, file, options));
  return file;
}

}  // namespace

Options::Options(const OptionTable& table) : table_(&table), values_(table.options.size()) {
  for (const OptionDef& option : table.options) {
    const absl::Status status = Set(option.key, option.default_value, "default");
    if (!status.ok()) CheckFailed(TextOf(status).c_str(), __FILE__, __LINE__);
  }
}

absl::Status Options::Set(std::string_view key, std::string_view text, std::string_view origin) {
  const OptionDef* option = FindKey(*table_, key);
  TC_CHECK(option != nullptr);
  const auto number = ReadValue(*option, text);
  const absl::Status status = number.ok() ? CheckLimits(*option, text, *number) : number.status();
  if (!status.ok()) return Annotate(status, std::string(origin) + ": " + std::string(key));
  values_[static_cast<size_t>(option - table_->options.data())] = {std::string(text),
                                                                   std::string(origin), *number};
  return absl::OkStatus();
}

Options& Options::AddRow(std::string_view origin) {
  TC_CHECK(table_->rows != nullptr);
  Options& row = rows_.emplace_back(*table_->rows);
  row.row_origin_ = std::string(origin);
  return row;
}

const Options::Value& Options::Find(std::string_view key, OptionType type) const {
  const OptionDef* option = FindKey(*table_, key);
  TC_CHECK(option != nullptr);
  TC_CHECK(option->type == type);
  return values_[static_cast<size_t>(option - table_->options.data())];
}

const std::string& Options::Text(std::string_view key) const {
  const OptionDef* option = FindKey(*table_, key);
  TC_CHECK(option != nullptr);
  return Find(key, option->type).text;
}

const std::string& Options::Origin(std::string_view key) const {
  const OptionDef* option = FindKey(*table_, key);
  TC_CHECK(option != nullptr);
  return Find(key, option->type).origin;
}

const std::string& Options::String(std::string_view key) const {
  const OptionDef* option = FindKey(*table_, key);
  TC_CHECK(option != nullptr);
  TC_CHECK(option->type == OptionType::kString || option->type == OptionType::kEnum);
  return Find(key, option->type).text;
}

int64_t Options::Int(std::string_view key) const { return Find(key, OptionType::kInt).number; }

std::vector<int64_t> Options::IntList(std::string_view key) const {
  return *ReadIntList(Find(key, OptionType::kIntList).text);
}

bool Options::Bool(std::string_view key) const { return Find(key, OptionType::kBool).number != 0; }

uint64_t Options::Bytes(std::string_view key) const {
  return static_cast<uint64_t>(Find(key, OptionType::kBytes).number);
}

std::chrono::microseconds Options::Duration(std::string_view key) const {
  return std::chrono::microseconds(Find(key, OptionType::kDuration).number);
}

OptionSources SourcesOf(int argc, char** argv) {
  OptionSources sources;
  for (int i = 1; i < argc; ++i) sources.arguments.emplace_back(argv[i]);
  for (char** variable = environ; *variable != nullptr; ++variable) {
    sources.environment.emplace_back(*variable);
  }
  return sources;
}

namespace {

void ApplyEntries(const std::vector<TomlEntry>& entries, std::string_view name, Options& options,
                  Errors& errors) {
  const OptionTable& table = options.table();
  std::string unknown_section;  // reported once, not with every entry
  for (const TomlEntry& entry : entries) {
    const std::string where = std::string(name) + ":" + std::to_string(entry.line);
    if (!unknown_section.empty() && entry.key.rfind(unknown_section + ".", 0) == 0) continue;
    if (!entry.row.empty() && table.rows != nullptr && entry.key == table.rows->program) {
      ApplyEntries(entry.row, name, options.AddRow(where), errors);
      continue;
    }
    if (entry.is_section && IsSection(table, entry.key)) continue;
    const OptionDef* option = FindKey(table, entry.key);
    if (option == nullptr || option->flag_only) {
      if (entry.is_section) unknown_section = entry.key;
      errors.Add(where + ": unknown " + (entry.is_section ? "section " : "key ") +
                 Quoted(entry.key) +
                 DidYouMean(entry.key, FileKeys(table), "--print-config shows all keys"));
      continue;
    }
    if (absl::Status status = CheckKind(*option, entry.kind); !status.ok()) {
      if (entry.is_section) unknown_section = entry.key;
      errors.Add(Annotate(status, where + ": " + entry.key));
      continue;
    }
    errors.Add(options.Set(entry.key, entry.text, where));
  }
}

}  // namespace

absl::Status ReadConfig(std::string_view content, std::string_view name, Options& options) {
  TC_ASSIGN_OR_RETURN(const std::vector<TomlEntry> entries, ReadToml(content, name));
  Errors errors;
  ApplyEntries(entries, name, options, errors);
  return errors.status();
}

absl::StatusOr<LoadedOptions> LoadOptions(const OptionTable& table, const OptionSources& sources) {
  LoadedOptions loaded{.options = Options(table), .output = {}, .exit = false, .warnings = {}};
  Errors errors;
  CommandLine line = CommandLineReader(table, sources.arguments).Read(errors);
  if (line.help || line.version) {
    loaded.exit = true;
    loaded.output = line.help ? HelpText(table)
                              : std::string(table.program) + " " + std::string(Version()) + "\n";
    return loaded;
  }
  const auto file =
      ApplyFile(line.has_config ? line.config : VariableValue(sources.environment, kConfigVariable),
                loaded.options);
  errors.Add(file.status());
  ApplyEnvironment(sources.environment, loaded.options, errors, loaded.warnings);
  for (const CommandLine::Setting& setting : line.settings) {
    errors.Add(
        loaded.options.Set(setting.option->key, setting.text, "flag " + FlagOf(*setting.option)));
  }
  TC_RETURN_IF_ERROR(errors.status());
  if (line.print_config) {
    loaded.exit = true;
    loaded.output = ConfigText(loaded.options);
  } else if (line.check_config) {
    loaded.exit = true;
    loaded.output = "configuration is good (" + (file->empty() ? "no file" : *file) + ")\n";
  }
  return loaded;
}

}  // namespace thermocline
