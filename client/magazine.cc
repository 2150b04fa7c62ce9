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

std::vector<uint64_t> Magazine::Take(const Kind& kind, uint32_t count, bool& low) {
  low = false;
  MutexLock lock(mutex_);
  const auto found = slots_.find(kind);
  if (found == slots_.end()) return {};
  Slots& slots = found->second;
  slots.idle_calls = 0;
  const auto taken = slots.offsets.end() - std::min<ptrdiff_t>(count, std::ssize(slots.offsets));
  std::vector<uint64_t> offsets(taken, slots.offsets.end());
  slots.offsets.erase(taken, slots.offsets.end());
  low = slots.low();
  return offsets;
}

// What was missed once is likely to be missed again, and twice as much is enough for a while.
uint32_t Magazine::Ahead(const Kind& kind, uint32_t missing) {
  MutexLock lock(mutex_);
  Slots& slots = slots_[kind];
  slots.target = std::min(std::max(2 * slots.target, missing), MostOf(kind));
  return slots.target;
}

void Magazine::Add(const Kind& kind, std::span<const uint64_t> offsets) {
  MutexLock lock(mutex_);
  Slots& slots = slots_[kind];
  slots.asked = false;
  slots.offsets.insert(slots.offsets.end(), offsets.begin(), offsets.end());
  slots.target = std::min(slots.target, static_cast<uint32_t>(2 * slots.offsets.size()));
}

std::optional<std::pair<Magazine::Kind, uint32_t>> Magazine::RunLow() {
  MutexLock lock(mutex_);
  for (auto& [kind, slots] : slots_) {
    if (!slots.low()) continue;
    slots.asked = true;
    return std::pair(kind, slots.target - static_cast<uint32_t>(slots.offsets.size()));
  }
  return std::nullopt;
}

std::vector<uint64_t> Magazine::TakeIdle(bool recalled) {
  MutexLock lock(mutex_);
  std::vector<uint64_t> idle;
  for (auto next = slots_.begin(); next != slots_.end();) {
    Slots& slots = next->second;
    if (!recalled && ++slots.idle_calls <= kIdleCalls) {
      ++next;
      continue;
    }
    idle.insert(idle.end(), slots.offsets.begin(), slots.offsets.end());
    slots.offsets.clear();
    slots.target = 0;
    next = slots.asked ? std::next(next) : slots_.erase(next);
  }
  return idle;
}

}  // namespace client_v1
}  // namespace thermocline
