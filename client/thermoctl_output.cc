// What thermoctl prints: any verb's JSON as text, and the screen of `watch`.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string_view>
#include <thread>

#include "base/units.h"
#include "client/thermoctl_verbs.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

constexpr std::chrono::seconds kRefresh{1};
constexpr std::string_view kClearScreen = "\x1b[H\x1b[2J";
constexpr size_t kFingerprintDigits = 12;  // in tables; JSON has them all

std::string Cell(const std::string& key, const Json& value) {
  if (value.is_number() && key.size() > 6 && key.compare(key.size() - 6, 6, "_bytes") == 0) {
    return FormatBytes(value.get<uint64_t>());
  }
  if (!value.is_string()) return value.dump();
  const auto& text = value.get_ref<const std::string&>();
  return key == "space" ? text.substr(0, kFingerprintDigits) : text;
}

std::string Padded(const std::string& text, size_t width) {
  return text + std::string(width > text.size() ? width - text.size() : 0, ' ');
}

bool IsTable(const Json& value) {
  return value.is_array() && !value.empty() && value[0].is_object();
}

/// Columns are the scalar keys of the first row.
std::string Table(const Json& rows) {
  std::vector<std::vector<std::string>> lines(1);
  for (const auto& [key, value] : rows[0].items()) {
    if (!value.is_structured()) lines[0].push_back(key);
  }
  for (const Json& row : rows) {
    std::vector<std::string> line;
    for (const std::string& key : lines[0]) line.push_back(Cell(key, row.value(key, Json())));
    lines.push_back(std::move(line));
  }
  std::string text;
  for (const auto& line : lines) {
    std::string out;
    for (size_t c = 0; c < line.size(); ++c) {
      size_t width = 0;
      for (const auto& other : lines) width = std::max(width, other[c].size());
      out += "  " + (c + 1 == line.size() ? line[c] : Padded(line[c], width));
    }
    text += out + "\n";
  }
  return text;
}

}  // namespace

std::string Dump(const Json& result) {
  return result.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string TextOf(const Json& result) {
  size_t width = 0;
  for (const auto& [key, value] : result.items()) width = std::max(width, key.size());
  std::string scalars, tables;
  for (const auto& [key, value] : result.items()) {
    if (IsTable(value)) {
      tables += key + ":\n" + Table(value);
    } else if (value.is_array()) {
      scalars += Padded(key, width) + "  none\n";
    } else if (value.is_object()) {
      for (const auto& [name, count] : value.items()) {
        tables += key + ": " + name + " " + Cell(name, count) + "\n";
      }
    } else {
      scalars += Padded(key, width) + "  " +
                 (key == "space" ? value.get<std::string>() : Cell(key, value)) + "\n";
    }
  }
  return scalars + tables;
}

absl::Status RunWatch(const ConnectOptions& connect, uint64_t refreshes, bool json) {
  TC_ASSIGN_OR_RETURN(const auto client, Client::Connect({.socket_path = connect.socket,
                                                          .client_name = "thermoctl watch",
                                                          .timeout = connect.timeout}));
  DaemonStats before;
  for (uint64_t round = 0; refreshes == 0 || round < refreshes; ++round) {
    if (round > 0) std::this_thread::sleep_for(kRefresh);
    const absl::StatusOr<DaemonStats> stats = client->Stats();
    if (json) {
      const Json line =
          stats.ok() ? JsonOf(*stats) : Json{{"error", std::string(stats.status().message())}};
      std::cout << Dump(line) << std::endl;
      continue;
    }
    std::string screen =
        std::string(kClearScreen) + "thermocline at " + client->socket_path() + "\n\n";
    if (stats.ok()) {
      Json result = JsonOf(*stats);
      if (round > 0 && stats->epoch == before.epoch) {
        result["lookups_per_s"] = stats->lookups - before.lookups;
        result["misses_per_s"] = stats->misses - before.misses;
      }
      screen += TextOf(result);
      before = *stats;
    } else {
      screen += std::string(stats.status().message()) + "\n";
    }
    std::cout << screen << std::flush;
    if (!std::cout) return absl::UnknownError("standard output is closed");
  }
  return absl::OkStatus();
}

}  // namespace client_v1
}  // namespace thermocline
