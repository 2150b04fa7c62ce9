// The orderings on which the catalog's readers rely, each by name, so that the stress can be built
// once without each and must notice (TC_BREAK_x; docs/catalog.md says what each is for).
#pragma once
#include <atomic>

#include "base/fence.h"

namespace thermocline {

/// Between publishing a pin and reading what it protects.
inline void ReaderFence() {
#ifdef TC_BREAK_READER_FENCE
  std::atomic_signal_fence(std::memory_order_seq_cst);
#else
  FullFence();
#endif
}

/// The same of a place that another reader told of.
inline void AdopterFence() {
#ifdef TC_BREAK_ADOPTER_FENCE
  std::atomic_signal_fence(std::memory_order_seq_cst);
#else
  FullFence();
#endif
}

/// Between shortening runs and reading the pins.
inline void DropFence() {
#ifdef TC_BREAK_DROP_FENCE
  std::atomic_signal_fence(std::memory_order_seq_cst);
#else
  FullFence();
#endif
}

/// Between marking words as moving and reading the pins.
inline void MoveFence() {
#ifdef TC_BREAK_MOVE_FENCE
  std::atomic_signal_fence(std::memory_order_seq_cst);
#else
  FullFence();
#endif
}

/// Whether a reader looks again, behind its fence, at the nodes that it compared.
#ifdef TC_BREAK_REVALIDATION
inline constexpr bool kReaderRevalidates = false;
#else
inline constexpr bool kReaderRevalidates = true;
#endif

/// Whether it compares once more what was shortened meanwhile.
#ifdef TC_BREAK_RECHECK
inline constexpr bool kReaderComparesAgain = false;
#else
inline constexpr bool kReaderComparesAgain = true;
#endif

/// Whether who adopts a place looks behind its fence that it stands, and is the one.
#ifdef TC_BREAK_ADOPTER_LOOK
inline constexpr bool kAdopterLooks = false;
#else
inline constexpr bool kAdopterLooks = true;
#endif

/// Whether who has found a key looks at its version behind the fence of its pin.
#ifdef TC_BREAK_KEY_LOOK
inline constexpr bool kKeyReaderLooksAgain = false;
#else
inline constexpr bool kKeyReaderLooksAgain = true;
#endif

/// Whether it looks at all of them, or at the last one only.
#ifdef TC_BREAK_ANCESTORS
inline constexpr bool kReaderChecksAncestors = false;
#else
inline constexpr bool kReaderChecksAncestors = true;
#endif

/// Whether it sees, comparing once more, that a node hangs where it hung.
#ifdef TC_BREAK_PARENT
inline constexpr bool kReaderComparesParents = false;
#else
inline constexpr bool kReaderComparesParents = true;
#endif

/// Whether it looks behind its fence that its root is still that of the space.
#ifdef TC_BREAK_ROOT_TAG
inline constexpr bool kReaderChecksRoot = false;
#else
inline constexpr bool kReaderChecksRoot = true;
#endif

/// Whether who has found a key does.
#ifdef TC_BREAK_KEY_ROOT_TAG
inline constexpr bool kKeyReaderChecksRoot = false;
#else
inline constexpr bool kKeyReaderChecksRoot = true;
#endif

/// Whether who adopts a place takes it only below its own root.
#ifdef TC_BREAK_ADOPTER_ROOT
inline constexpr bool kAdopterChecksRoot = false;
#else
inline constexpr bool kAdopterChecksRoot = true;
#endif

/// Whether a table of children that was replaced stays as it was, for who has begun in it.
#ifdef TC_BREAK_OLD_TABLE
inline constexpr bool kOldTableStays = false;
#else
inline constexpr bool kOldTableStays = true;
#endif

/// Whether it takes the words from behind its fence.
#ifdef TC_BREAK_EARLY_WORDS
inline constexpr bool kWordsBehindFence = false;
#else
inline constexpr bool kWordsBehindFence = true;
#endif

/// Whether the writer reads the pins of an area in ascending order.
#ifdef TC_BREAK_PIN_ORDER
inline constexpr bool kPinsAscending = false;
#else
inline constexpr bool kPinsAscending = true;
#endif

/// Whether the words of places that are dropped are zeroed.
#ifdef TC_BREAK_WORD_ZEROED
inline constexpr bool kDropsZeroWords = false;
#else
inline constexpr bool kDropsZeroWords = true;
#endif

/// Whether a pin protects the places above it, too.
#ifdef TC_BREAK_CLIMB
inline constexpr bool kPinsProtectAncestors = false;
#else
inline constexpr bool kPinsProtectAncestors = true;
#endif

/// Whether a node that loses places gets a new version.
#ifdef TC_BREAK_VERSION
inline constexpr bool kDropsRaiseVersion = false;
#else
inline constexpr bool kDropsRaiseVersion = true;
#endif

}  // namespace thermocline
