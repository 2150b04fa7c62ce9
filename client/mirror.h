// The memory of a client without the map: a private stand-in for the daemon's arena, with the same
// offsets, of which only what is held takes room. A block is fetched to where it lies in the arena,
// so that the rest of the client knows one kind of place.
//
// What has landed at an offset is known by what it is, and is not fetched twice while somebody
// holds it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>

#include "base/mutex.h"
#include "base/status.h"

namespace thermocline {
inline namespace client_v1 {

/// Which block, and which bytes of it: the parts of a place share its id, and a place that was
/// found damaged gets other bytes under the same one.
struct MirroredBlock {
  uint64_t id = 0;  // 0: none
  uint32_t part = 0;
  uint64_t checksum = 0;
  bool operator==(const MirroredBlock&) const = default;
};

/// Thread: any. Whoever reads bytes knows that they have landed, or has filled them.
class Mirror {
 public:
  Mirror() = default;
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  /// Takes address space, no memory. Errors: ResourceExhausted when there is none.
  absl::Status Map(uint64_t arena_bytes);
  std::byte* data() const { return data_; }

  /// One more holder of a slot: a lease with a block there, or a reservation.
  void Hold(uint64_t offset, uint64_t bytes) TC_EXCLUDES(mutex_);
  /// One less. The last one gives the memory back.
  void Drop(uint64_t offset) TC_EXCLUDES(mutex_);

  /// Puts a piece of a block where it belongs, unless the block has landed already.
  /// REQUIRES: the slot is held and the piece lies in it.
  void Store(uint64_t offset, const MirroredBlock& block, uint64_t at, std::string_view piece)
      TC_EXCLUDES(mutex_);
  /// All of the block came. False when that is not what its checksum says.
  bool Land(uint64_t offset, const MirroredBlock& block, uint64_t bytes) TC_EXCLUDES(mutex_);
  /// The holder of the slot filled it, and it is this block now.
  void Become(uint64_t offset, const MirroredBlock& block) TC_EXCLUDES(mutex_);
  bool Has(uint64_t offset, const MirroredBlock& block) const TC_EXCLUDES(mutex_);

 private:
  struct Slot {
    uint64_t bytes = 0;  // of the largest block that it was held for
    uint32_t holders = 0;
    MirroredBlock block;  // that has landed there
  };
  std::byte* data_ = nullptr;
  uint64_t mapped_bytes_ = 0;
  mutable Mutex mutex_;
  std::map<uint64_t, Slot> slots_ TC_GUARDED_BY(mutex_);  // those that are held, by offset
};

}  // namespace client_v1
}  // namespace thermocline
