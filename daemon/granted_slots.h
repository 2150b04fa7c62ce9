// Which slots were ever granted to a session. Its clients commit and give back no others, however
// late their calls come: who offers one that was never granted to it has made it up, or taken it
// from another.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/units.h"

namespace thermocline {

/// Thread: the strand's. A bit a page of the arena, up to the last slot granted.
class GrantedSlots {
 public:
  void Note(std::span<const uint64_t> offsets) {
    for (const uint64_t offset : offsets) {
      const uint64_t page = offset / kPageBytes;
      if (page >= pages_.size()) pages_.resize(page + 1);
      pages_[page] = true;
    }
  }
  bool Knows(uint64_t offset) const {
    const uint64_t page = offset / kPageBytes;
    return page < pages_.size() && pages_[page];
  }

 private:
  std::vector<bool> pages_;
};

}  // namespace thermocline
