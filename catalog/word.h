// What the tree of names says about one part of one place, in 64 bits: where its bytes lie now and
// what may be done with them. One atomic word, so that a reader sees the old or the new whereabouts
// of a block and nothing in between.
//
//   bits  0..27  warm slot: the slot's offset in the arena in pages of 4 KiB; 0 is none (page 0 is
//                the arena's own header), so an arena holds up to 1 TiB
//   bits 28..55  hot slot with its pool's number; 0 is none
//   bit  56      moving:    the writer is about to reuse the slot; readers must not start on it
//   bit  57      checked:   the daemon has verified the payload since it was last adopted
//   bit  58      cold copy: the cold tier holds a copy
//   bit  59      deleted:   readers must not start on it; it goes once nobody reads there
#pragma once
#include <cstdint>

namespace thermocline {

/// Value type; constexpr, any thread. Word{} means that the part has no bytes anywhere.
class Word {
 public:
  static constexpr uint32_t kSlotBits = 28;
  static constexpr uint32_t kMaxSlot = (uint32_t{1} << kSlotBits) - 1;

  constexpr Word() = default;
  static constexpr Word FromBits(uint64_t bits) {
    Word word;
    word.bits_ = bits;
    return word;
  }

  constexpr uint64_t bits() const { return bits_; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr uint32_t warm_slot() const { return bits_ & kMaxSlot; }
  constexpr uint32_t hot_slot() const { return (bits_ >> kSlotBits) & kMaxSlot; }
  constexpr bool moving() const { return (bits_ & kMovingBit) != 0; }
  constexpr bool checked() const { return (bits_ & kCheckedBit) != 0; }
  constexpr bool cold_copy() const { return (bits_ & kColdCopyBit) != 0; }
  constexpr bool deleted() const { return (bits_ & kDeletedBit) != 0; }
  /// Whether a host client may read the bytes in place: they are warm and stay where they are.
  constexpr bool readable_warm() const { return warm_slot() != 0 && !moving() && !deleted(); }

  /// Copies with one field replaced. Slots are cut to 28 bits.
  constexpr Word WithWarmSlot(uint32_t slot) const {
    return FromBits((bits_ & ~uint64_t{kMaxSlot}) | (slot & kMaxSlot));
  }
  constexpr Word WithHotSlot(uint32_t slot) const {
    return FromBits((bits_ & ~(uint64_t{kMaxSlot} << kSlotBits)) |
                    (uint64_t{slot & kMaxSlot} << kSlotBits));
  }
  constexpr Word WithMoving(bool on) const { return WithFlag(kMovingBit, on); }
  constexpr Word WithChecked(bool on) const { return WithFlag(kCheckedBit, on); }
  constexpr Word WithColdCopy(bool on) const { return WithFlag(kColdCopyBit, on); }

  constexpr Word WithDeleted(bool on) const { return WithFlag(kDeletedBit, on); }

  constexpr bool operator==(const Word&) const = default;

 private:
  static constexpr uint64_t kMovingBit = uint64_t{1} << 56;
  static constexpr uint64_t kCheckedBit = uint64_t{1} << 57;
  static constexpr uint64_t kColdCopyBit = uint64_t{1} << 58;
  static constexpr uint64_t kDeletedBit = uint64_t{1} << 59;
  constexpr Word WithFlag(uint64_t bit, bool on) const {
    return FromBits(on ? bits_ | bit : bits_ & ~bit);
  }

  uint64_t bits_ = 0;
};

static_assert(sizeof(Word) == 8);

}  // namespace thermocline
