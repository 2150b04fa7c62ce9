// Slots that the daemon granted before anybody asked for them, so that a put need not wait for a
// grant. How many are held follows what is used: nothing at first, and nothing again once no slot
// has been asked for during a second or two, or when the daemon calls them back.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace thermocline {
inline namespace client_v1 {

/// Thread: any.
class Magazine {
 public:
  /// Of what its slots are: a part of a space, by the daemon's number.
  struct Kind {
    uint32_t space = 0;
    uint32_t part = 0;
    uint64_t bytes = 0;  // of a block
    auto operator<=>(const Kind&) const = default;
  };

  /// Takes up to `count` slots, by their offsets. `low`: RunLow has something to say.
  std::vector<uint64_t> Take(const Kind& kind, uint32_t count, bool& low) TC_EXCLUDES(mutex_);
  /// How many to ask for beyond `missing`, which Take did not have.
  uint32_t Ahead(const Kind& kind, uint32_t missing) TC_EXCLUDES(mutex_);
  /// What was granted of those, however few: so many are held from now on.
  void Add(const Kind& kind, std::span<const uint64_t> offsets) TC_EXCLUDES(mutex_);

  /// A kind that has run low, and how many to ask for; each once until Add.
  std::optional<std::pair<Kind, uint32_t>> RunLow() TC_EXCLUDES(mutex_);
  /// Takes out what nobody has needed since the last call but one; everything when `recalled`.
  std::vector<uint64_t> TakeIdle(bool recalled) TC_EXCLUDES(mutex_);

 private:
  struct Slots {
    std::vector<uint64_t> offsets;
    uint32_t target = 0;
    uint32_t idle_calls = 0;  // of TakeIdle, since it was used
    bool asked = false;       // for more
    bool low() const { return !asked && offsets.size() < (target + 1) / 2; }
  };

  Mutex mutex_;
  std::map<Kind, Slots> slots_ TC_GUARDED_BY(mutex_);
};

}  // namespace client_v1
}  // namespace thermocline
