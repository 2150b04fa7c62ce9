#include "client/magazine.h"

#include <algorithm>

#include "base/units.h"
#include "proto/shm_layout.h"

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
  found->second.idle_calls = 0;
  std::vector<Slot> taken;
  TakeFrom(found->second, count, taken);
  return taken;
}

void Magazine::TakeFrom(Slots& slots, size_t count, std::vector<Slot>& taken) {
  for (const size_t most = taken.size() + count; taken.size() < most && !slots.held.empty();) {
    const Held held = slots.held.back();
    slots.held.pop_back();
    uint64_t bits = AheadBits(held.slot.offset, held.slot.grant);
    if (words_[held.word].compare_exchange_strong(bits, 0)) taken.push_back(held.slot);
    next_word_ = held.word;
  }
}

std::vector<Magazine::Slot> Magazine::Hold(Slots& slots, std::span<const Slot> those) {
  for (size_t i = 0, looked = 0; i < those.size(); ++i) {
    // Nobody else makes a free word one that is not.
    while (looked < words_.size() && words_[next_word_ % words_.size()].load() != 0) {
      ++looked;
      ++next_word_;
    }
    if (looked == words_.size()) {  // so many are not to be asked for again
      slots.target = static_cast<uint32_t>(slots.held.size()) + slots.on_their_way;
      return {those.begin() + static_cast<ptrdiff_t>(i), those.end()};
    }
    const auto word = static_cast<uint32_t>(next_word_++ % words_.size());
    words_[word].store(AheadBits(those[i].offset, those[i].grant));
    slots.held.push_back({those[i], word});
  }
  return {};
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

std::vector<Magazine::Slot> Magazine::Add(const Kind& kind, std::span<const Slot> slots) {
  MutexLock lock(mutex_);
  return Hold(slots_[kind], slots);
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

std::vector<Magazine::Slot> Magazine::Came(const Want& want, std::span<const Slot> slots) {
  MutexLock lock(mutex_);
  Slots& those = slots_[want.kind];
  those.on_their_way -= want.count;
  return Hold(those, slots);
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
    TakeFrom(slots, slots.held.size(), idle);
    slots.target = 0;
    next = slots.on_their_way > 0 ? std::next(next) : slots_.erase(next);
  }
  return idle;
}

}  // namespace client_v1
}  // namespace thermocline
