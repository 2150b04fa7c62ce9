// Options of a program: one table, read from a TOML file, the environment and the command line, in
// that order of rising precedence. From the key "warm.capacity" follow the flag --warm-capacity,
// the variable THERMOCLINE_WARM_CAPACITY and the entry `capacity` in the section [warm]; from the
// table also --help, --print-config, the sample file and docs/config.md.
//
// What there may be several of are rows, written as an array of tables, [[tenant]]: each is a table
// of options of its own, which only the file sets.
//
// Every value is read by the same parser whatever its source, and every error says where the value
// came from and what a good one looks like. An unknown key or flag is an error that names the
// nearest known one. Unknown THERMOCLINE_* variables are no errors (other programs have their own,
// and Kubernetes invents some), but one that is nearly right is warned about.
#pragma once
#include <chrono>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace thermocline {

enum class OptionType : uint8_t { kString, kInt, kBool, kBytes, kDuration, kEnum, kIntList };

struct OptionDef {
  std::string_view key;  // [a-z0-9_]+, or section.key
  OptionType type;
  std::string_view default_value;  // as one would write it in the environment
  std::string_view help;           // one paragraph, no newline
  std::string_view choices = {};   // of an enum: "keep|drain"
  int64_t least = 0;               // of kInt, kIntList, kBytes (bytes) and kDuration (microseconds)
  int64_t most = std::numeric_limits<int64_t>::max();
  bool flag_only = false;  // one-off actions, that no file and no environment should set
};

struct OptionTable {
  std::string_view program;       // "thermoclined"; of rows their name in the file, "tenant"
  std::string_view summary;       // one sentence, for --help; of rows a paragraph
  std::string_view default_file;  // read when it exists and --config names no other; may be empty
  std::span<const OptionDef> options;
  const OptionTable* rows = nullptr;  // none, as in rows themselves
};

/// The values. Getters REQUIRE a key of the table, of that type.
/// Thread: immutable once loaded. The table outlives it.
class Options {
 public:
  /// All defaults.
  explicit Options(const OptionTable& table);

  const std::string& String(std::string_view key) const;  // kString, kEnum
  int64_t Int(std::string_view key) const;
  std::vector<int64_t> IntList(std::string_view key) const;  // [1, 2], or "1,2" as text
  bool Bool(std::string_view key) const;
  uint64_t Bytes(std::string_view key) const;
  std::chrono::microseconds Duration(std::string_view key) const;
  /// "default", "FILE:LINE", "environment variable X" or "flag --x".
  const std::string& Origin(std::string_view key) const;
  bool IsDefault(std::string_view key) const { return Origin(key) == "default"; }

  /// Errors: InvalidArgument "ORIGIN: KEY: what is wrong; an example"; nothing changed.
  absl::Status Set(std::string_view key, std::string_view text, std::string_view origin);

  /// In the order of the file.
  const std::vector<Options>& rows() const { return rows_; }
  /// `origin`: where it begins.
  Options& AddRow(std::string_view origin);
  /// Of a row: where it begins.
  const std::string& row_origin() const { return row_origin_; }

  const OptionTable& table() const { return *table_; }
  /// As it was written, whatever the type.
  const std::string& Text(std::string_view key) const;

 private:
  struct Value {
    std::string text;
    std::string origin;
    int64_t number = 0;  // kInt, kBool, kBytes, kDuration
  };
  const Value& Find(std::string_view key, OptionType type) const;

  const OptionTable* table_;
  std::vector<Value> values_;  // one per entry of the table
  std::vector<Options> rows_;
  std::string row_origin_;
};

struct OptionSources {
  std::vector<std::string> arguments;    // without the program's name
  std::vector<std::string> environment;  // "NAME=value"
};
OptionSources SourcesOf(int argc, char** argv);

struct LoadedOptions {
  Options options;
  /// Set by --help, --version, --check-config and --print-config: print it and exit with 0.
  std::string output;
  bool exit = false;
  std::vector<std::string> warnings;
};

/// Besides the table's flags it knows --config FILE (also THERMOCLINE_CONFIG), --check-config,
/// --print-config, --help and --version. A flag is --name value or --name=value; a bool also
/// --name alone and --no-name.
/// Errors: InvalidArgument (NotFound for a missing --config file) with all that is wrong, one line
///         each.
absl::StatusOr<LoadedOptions> LoadOptions(const OptionTable& table, const OptionSources& sources);

/// Reads a configuration into `options`: what LoadOptions does with the file's content.
/// `name` is the file's, for messages. Errors: as LoadOptions.
absl::Status ReadConfig(std::string_view content, std::string_view name, Options& options);

std::string FlagOf(const OptionDef& option);         // "--warm-capacity"
std::string EnvironmentOf(const OptionDef& option);  // "THERMOCLINE_WARM_CAPACITY"

/// The closest candidate by edit distance, "" when none is close.
std::string NearestName(std::string_view name, std::span<const std::string> candidates);

// The generated texts.
std::string HelpText(const OptionTable& table);
std::string ConfigText(const Options& options);          // --print-config: TOML, with origins
std::string SampleConfigText(const OptionTable& table);  // every entry commented out
std::string OptionTableMarkdown(const OptionTable& table);

}  // namespace thermocline
