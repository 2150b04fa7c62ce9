#include "kernels/simt/access_statistics.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>

#include "kernels/simt/emulator_state.h"

namespace thermocline::simt {
namespace {

constexpr size_t kSectorBytes = 32;
constexpr size_t kPassBytes = 128;
constexpr size_t kWordBytes = 4;
constexpr size_t kBanks = 32;

struct LaneAccess {
  uint32_t lane;
  const char* at;
  size_t bytes;
};

struct Request {
  bool shared = false;
  bool write = false;
  std::vector<LaneAccess> lanes;
};

struct Statistics {
  bool wanted = false;
  /// (warp, instruction, how often the lane was there) -> the warp's request
  std::map<std::tuple<uint32_t, const void*, uint32_t>, Request> requests;
  std::map<std::pair<uint32_t, const void*>, uint32_t> visits;
  std::map<const void*, AccessSite> sites;
};

Statistics& OfThisThread() {
  static thread_local Statistics statistics;
  return statistics;
}

uintptr_t Number(const char* at) { return reinterpret_cast<uintptr_t>(at); }

void CountPasses(const std::vector<LaneAccess>& lanes, AccessSite& site) {
  const size_t at_once = std::max<size_t>(1, kPassBytes / lanes.front().bytes);
  for (size_t begin = 0; begin < lanes.size(); begin += at_once) {
    std::set<uintptr_t> words;
    for (size_t i = begin; i < std::min(begin + at_once, lanes.size()); ++i) {
      const uintptr_t first = Number(lanes[i].at) / kWordBytes;
      const uintptr_t last = (Number(lanes[i].at) + lanes[i].bytes - 1) / kWordBytes;
      for (uintptr_t word = first; word <= last; ++word) words.insert(word);
    }
    uint64_t of_bank[kBanks] = {};
    for (const uintptr_t word : words) ++of_bank[word % kBanks];
    site.phases += *std::max_element(of_bank, of_bank + kBanks);
    ++site.ideal_phases;
  }
}

void CountSectors(const std::vector<LaneAccess>& lanes, AccessSite& site) {
  std::set<uintptr_t> sectors;
  for (const LaneAccess& access : lanes) {
    const uintptr_t last = (Number(access.at) + access.bytes - 1) / kSectorBytes;
    for (uintptr_t s = Number(access.at) / kSectorBytes; s <= last; ++s) sectors.insert(s);
  }
  site.sectors += sectors.size();
}

}  // namespace

void CountAccess(const char* at, size_t bytes, bool shared, bool write, const void* instruction) {
  Statistics& statistics = OfThisThread();
  if (!statistics.wanted) return;
  const uint32_t thread = current_lane->linear;
  const uint32_t visit = statistics.visits[{thread, instruction}]++;
  Request& request = statistics.requests[{thread / kLanes, instruction, visit}];
  request.shared = shared;
  request.write = write;
  request.lanes.push_back({current_lane->lane, at, bytes});
}

void FlushAccesses() {
  Statistics& statistics = OfThisThread();
  for (auto& [key, request] : statistics.requests) {
    std::sort(request.lanes.begin(), request.lanes.end(),
              [](const LaneAccess& a, const LaneAccess& b) { return a.lane < b.lane; });
    AccessSite& site = statistics.sites[std::get<1>(key)];
    site.instruction = std::get<1>(key);
    site.shared = request.shared;
    site.write = request.write;
    ++site.warp_accesses;
    for (const LaneAccess& access : request.lanes) site.bytes += access.bytes;
    CountSectors(request.lanes, site);
    if (request.shared) CountPasses(request.lanes, site);
  }
  statistics.requests.clear();
  statistics.visits.clear();
}

void CollectAccesses(bool wanted) { OfThisThread().wanted = wanted; }

std::vector<AccessSite> TakeAccessSites() {
  Statistics& statistics = OfThisThread();
  std::vector<AccessSite> sites;
  for (const auto& [instruction, site] : statistics.sites) sites.push_back(site);
  statistics.sites.clear();
  return sites;
}

}  // namespace thermocline::simt
