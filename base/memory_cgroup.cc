#include "base/memory_cgroup.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <string_view>

#include "base/file_util.h"
#include "base/units.h"

namespace thermocline {
namespace {

constexpr uint64_t kMostBytes = 64 * KiB;  // of each of the files

struct Version {
  const char* limit;
  const char* usage;
  const char* caches[2];  // keys of memory.stat
};
constexpr Version kFirst = {"/memory.limit_in_bytes",
                            "/memory.usage_in_bytes",
                            {"total_inactive_file", "total_active_file"}};
constexpr Version kSecond = {"/memory.max", "/memory.current", {"inactive_file", "active_file"}};

std::optional<uint64_t> NumberIn(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return number;
}

std::optional<uint64_t> NumberInFile(const std::string& path) {
  const auto text = ReadFile(path, kMostBytes);
  return text.ok() ? NumberIn(*text) : std::nullopt;  // "max" is none
}

uint64_t CachesOf(const std::string& directory, const Version& version) {
  const auto text = ReadFile(directory + "/memory.stat", kMostBytes);
  if (!text.ok()) return 0;
  std::istringstream lines(*text);
  uint64_t bytes = 0;
  uint64_t value = 0;
  for (std::string key; lines >> key >> value;) {
    if (key == version.caches[0] || key == version.caches[1]) bytes += value;
  }
  return bytes;
}

std::optional<MemoryCgroupRoom> RoomOf(const std::string& directory, const Version& version) {
  const auto limit = NumberInFile(directory + version.limit);
  const auto usage = NumberInFile(directory + version.usage);
  if (!limit || !usage) return std::nullopt;
  const uint64_t fixed = *usage - std::min(*usage, CachesOf(directory, version));
  return MemoryCgroupRoom{*limit - std::min(*limit, fixed), *limit, directory};
}

}  // namespace

std::optional<MemoryCgroupRoom> RoomInMemoryCgroup(const std::string& membership,
                                                   const std::string& root) {
  const auto text = ReadFile(membership, kMostBytes);
  if (!text.ok()) return std::nullopt;
  const Version* version = nullptr;
  std::string top, path;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {  // NUMBER:CONTROLLERS:PATH
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool is_first = controllers.find(",memory,") != std::string::npos;
    if (!is_first && (controllers != ",," || version != nullptr)) continue;
    version = is_first ? &kFirst : &kSecond;
    top = is_first ? root + "/memory" : root;
    path = line.substr(second + 1);
  }
  if (version == nullptr) return std::nullopt;
  // In a container the path may be one outside it; then only its top is there.
  std::optional<MemoryCgroupRoom> least;
  while (true) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    const auto room = RoomOf(top + path, *version);
    if (room && (!least || room->bytes < least->bytes)) least = room;
    if (path.empty()) return least;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace thermocline
