#include "base/units.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <iterator>

namespace thermocline {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr Unit kByteUnits[] = {{"", 1},
                               {"B", 1},
                               {"KiB", 1024.0},
                               {"MiB", 1048576.0},
                               {"GiB", 1073741824.0},
                               {"TiB", 1099511627776.0},
                               {"KB", 1e3},
                               {"MB", 1e6},
                               {"GB", 1e9},
                               {"TB", 1e12}};
constexpr Unit kDurationUnits[] = {{"", 1e6},   {"us", 1},     {"ms", 1e3},   {"s", 1e6},
                                   {"m", 60e6}, {"h", 3600e6}, {"d", 86400e6}};

// 2^62: well inside both int64_t and uint64_t, so the conversion below cannot overflow.
constexpr double kLargest = 4611686018427387904.0;

template <size_t kCount>
absl::StatusOr<double> Parse(std::string_view text, const Unit (&units)[kCount],
                             std::string_view example) {
  double number = 0;
  const char* begin = text.data();
  const char* end = begin + text.size();
  auto [rest, error] = std::from_chars(begin, end, number);
  while (rest != end && *rest == ' ') ++rest;
  const std::string_view suffix(rest, static_cast<size_t>(end - rest));
  if (error == std::errc() && std::isfinite(number) && number >= 0) {
    for (const Unit& unit : units) {
      if (unit.name != suffix) continue;
      if (number * unit.factor >= kLargest) break;
      return number * unit.factor;
    }
  }
  std::string message = "cannot read '";
  message.append(text).append("'; write it like ").append(example);
  return absl::InvalidArgumentError(message);
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  TC_ASSIGN_OR_RETURN(const double bytes, Parse(text, kByteUnits, "512MiB or 1.5GiB"));
  return static_cast<uint64_t>(std::llround(bytes));
}

std::string FormatBytes(uint64_t bytes) {
  static constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kNames)) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  std::string result(text);
  while (result.back() == '0') result.pop_back();
  if (result.back() == '.') result.pop_back();
  return result + " " + kNames[unit];
}

absl::StatusOr<std::chrono::microseconds> ParseDuration(std::string_view text) {
  TC_ASSIGN_OR_RETURN(const double us, Parse(text, kDurationUnits, "250ms, 10s or 2h"));
  return std::chrono::microseconds(std::llround(us));
}

}  // namespace thermocline
