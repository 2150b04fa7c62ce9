#include "client/magazine.h"

#include <algorithm>

#include "base/units.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

constexpr uint32_t kMostSlots = 256;
constexpr uint64_t kMostBytes = 64 * MiB;
constexpr uint32_t kIdleCalls = 2;

uint32_t MostOf(const Magazine::Kind& kind) {
  return static_cast<uint32_t>(std::clamp<uint64_t>(kMostBytes / kind.bytes, 1, kMostSlots));
}

}  // namespace

std::vector<Magazine::Slot> Magazine::Take(const Kind& kind, uint32_t count) {
  MutexLock lock(mutex_);
  const auto found = slots_.find(kind);
  if (found == slots_.end()) return {};
  Slots& slots = found->second;
  slots.idle_calls = 0;
  const auto begin = slots.held.end() - std::min<ptrdiff_t>(count, std::ssize(slots.held));
  std::vector<Slot> taken(begin, slots.held.end());
  slots.held.erase(begin, slots.held.end());
  return taken;
}

// What was missed once is likely to be missed again, and twice as much is enough for a while.
Magazine::Want Magazine::Ahead(const Kind& kind, uint32_t missing) {
  MutexLock lock(mutex_);
  Slots& slots = slots_[kind];
  slots.target = std::min(std::max(2 * slots.target, missing), MostOf(kind));
  const Want want{kind, slots.lacking()};
  slots.on_their_way += want.count;
  return want;
}

void Magazine::Add(const Kind& kind, std::span<const Slot> slots) {
  MutexLock lock(mutex_);
  std::vector<Slot>& held = slots_[kind].held;
  held.insert(held.end(), slots.begin(), slots.end());
}

Magazine::Want Magazine::Lacking(uint32_t space, uint32_t count) {
  MutexLock lock(mutex_);
  Want want;
  Slots* most = nullptr;
  for (auto at = slots_.lower_bound({space, 0, 0}); at != slots_.end(); ++at) {
    if (at->first.space != space) break;
    if (at->second.lacking() <= want.count) continue;
    most = &at->second;
    want = {at->first, most->lacking()};
  }
  want.count = std::min(want.count, count);
  if (most != nullptr) most->on_their_way += want.count;
  return want;
}

void Magazine::Came(const Want& want, std::span<const Slot> slots) {
  MutexLock lock(mutex_);
  Slots& those = slots_[want.kind];
  those.on_their_way -= want.count;
  those.held.insert(those.held.end(), slots.begin(), slots.end());
}

std::vector<Magazine::Slot> Magazine::TakeIdle(bool recalled) {
  MutexLock lock(mutex_);
  std::vector<Slot> idle;
  for (auto next = slots_.begin(); next != slots_.end();) {
    Slots& slots = next->second;
    if (!recalled && ++slots.idle_calls <= kIdleCalls) {
      ++next;
      continue;
    }
    idle.insert(idle.end(), slots.held.begin(), slots.held.end());
    slots.held.clear();
    slots.target = 0;
    next = slots.on_their_way > 0 ? std::next(next) : slots_.erase(next);
  }
  return idle;
}

}  // namespace client_v1
}  // namespace thermocline
