// Which slots were ever granted to a session. Its clients commit and give back no others, however
// late their calls come: who offers one that was never granted to it has made it up, or taken it
// from another.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/units.h"
#include "tiers/tier_stack.h"

namespace thermocline {

/// Thread: the strand's. A bit a page of the arena, and of the device's memory, up to the last slot
/// granted.
class GrantedSlots {
 public:
  void Note(std::span<const uint64_t> offsets) {
    for (const uint64_t offset : offsets) {
      std::vector<bool>& pages = pages_[IsDeviceSlot(offset) ? 1 : 0];
      const uint64_t page = offset % kDeviceSlots / kPageBytes;
      if (page >= pages.size()) pages.resize(page + 1);
      pages[page] = true;
    }
  }
  bool Knows(uint64_t offset) const {
    const std::vector<bool>& pages = pages_[IsDeviceSlot(offset) ? 1 : 0];
    const uint64_t page = offset % kDeviceSlots / kPageBytes;
    return page < pages.size() && pages[page];
  }

 private:
  std::array<std::vector<bool>, 2> pages_;
};

}  // namespace thermocline
