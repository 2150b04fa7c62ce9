// Slots that the daemon granted before anybody asked for them, so that a put need not wait for a
// grant. How many are held follows what is used: nothing at first, and nothing again once no slot
// has been asked for during a second or two, or when the daemon calls them back. From a session
// that is silent it takes them (proto/shm_layout.h, ahead): such a slot is never handed out.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace thermocline {
inline namespace client_v1 {

/// Thread: any. Owner: borrows the words of the control area.
class Magazine {
 public:
  explicit Magazine(std::span<std::atomic<uint64_t>> words) : words_(words) {}

  /// Of what its slots are: a part of a space, by the daemon's number.
  struct Kind {
    uint32_t space = 0;
    uint32_t part = 0;
    uint64_t bytes = 0;  // of a block
    auto operator<=>(const Kind&) const = default;
  };

  /// A slot by its offset, and the session's number for what it was granted with: who was silent
  /// for long may be granted the same one anew.
  struct Slot {
    uint64_t offset = 0;
    uint64_t grant = 0;
    bool operator==(const Slot&) const = default;
  };

  /// Takes up to `count` slots.
  std::vector<Slot> Take(const Kind& kind, uint32_t count) TC_EXCLUDES(mutex_);
  /// Puts back what was taken. Answers those for which there is no room.
  std::vector<Slot> Add(const Kind& kind, std::span<const Slot> slots) TC_EXCLUDES(mutex_);

  /// Slots that are asked for. They are on their way until Came, and nobody asks for them again.
  struct Want {
    Kind kind;
    uint32_t count = 0;
  };
  /// What to ask for beyond `missing`, which Take did not have.
  Want Ahead(const Kind& kind, uint32_t missing) TC_EXCLUDES(mutex_);
  /// What a space lacks most to what is to be held, at most `count`: to be asked for with a commit.
  Want Lacking(uint32_t space, uint32_t count) TC_EXCLUDES(mutex_);
  /// What was granted of those, however few. As Add.
  std::vector<Slot> Came(const Want& want, std::span<const Slot> slots) TC_EXCLUDES(mutex_);

  /// Takes out what nobody has needed since the last call but one; everything when `recalled`.
  std::vector<Slot> TakeIdle(bool recalled) TC_EXCLUDES(mutex_);

 private:
  struct Held {
    Slot slot;
    uint32_t word;  // its number
  };
  struct Slots {
    std::vector<Held> held;  // or taken by the daemon since
    uint32_t target = 0;
    uint32_t on_their_way = 0;
    uint32_t idle_calls = 0;  // of TakeIdle, since it was used
    uint32_t lacking() const {
      const auto coming = static_cast<uint32_t>(held.size()) + on_their_way;
      return coming < target ? target - coming : 0;
    }
  };

  std::vector<Slot> Hold(Slots& slots, std::span<const Slot> those) TC_REQUIRES(mutex_);
  /// Moves up to `count` slots that are this session's still out of `slots`.
  void TakeFrom(Slots& slots, size_t count, std::vector<Slot>& taken) TC_REQUIRES(mutex_);

  const std::span<std::atomic<uint64_t>> words_;
  Mutex mutex_;
  uint32_t next_word_ TC_GUARDED_BY(mutex_) = 0;  // perhaps a free one
  std::map<Kind, Slots> slots_ TC_GUARDED_BY(mutex_);
};

}  // namespace client_v1
}  // namespace thermocline
