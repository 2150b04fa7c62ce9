// What LogTier knows by heart: which segment has which block, and what the segments take.
#pragma once
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "tiers/log_format.h"
#include "tiers/tier.h"

namespace thermocline {

/// Thread: one at a time.
class LogIndex {
 public:
  struct Place {
    uint64_t sequence = 0;
    uint32_t entry_bytes = 0;  // key and value
    FilePlace at = {};
  };

  /// A segment that has no blocks yet. REQUIRES: there is none of this sequence.
  void AddSegment(uint64_t sequence, uint64_t bytes);
  bool HasSegment(uint64_t sequence) const { return segments_.contains(sequence); }
  /// The block is there, and nowhere else any more. REQUIRES: so is the segment.
  void Set(BlockRef ref, Place place);
  /// False when it was absent.
  bool Erase(BlockRef ref);
  const Place* Find(BlockRef ref) const;

  /// The oldest one not older than `sequence` that has a block.
  std::optional<TierSegment> SegmentFrom(uint64_t sequence) const;
  /// Those with a block, the oldest first.
  std::vector<SegmentSize> SegmentSizes() const;
  /// Blocks of this one that the other has not.
  std::vector<BlockRef> NotIn(const LogIndex& other) const;
  /// Those without a block.
  std::vector<uint64_t> EmptySegments() const;
  /// Those that have no other blocks than these, of which none is named twice.
  std::vector<uint64_t> SegmentsWithin(std::span<const BlockRef> blocks) const;
  /// Segments that lost their last block since the last call.
  std::vector<uint64_t> TakeEmptied() { return std::exchange(emptied_, {}); }
  /// REQUIRES: it has no block.
  void RemoveSegment(uint64_t sequence);

  uint64_t segment_bytes() const { return segment_bytes_; }  // erased blocks included
  uint64_t entry_bytes() const { return entry_bytes_; }      // of the blocks that are there
  uint64_t block_count() const { return places_.size(); }
  uint64_t segment_count() const { return segments_.size(); }
  uint64_t newest_sequence() const { return segments_.empty() ? 0 : segments_.rbegin()->first; }

 private:
  struct Segment {
    uint64_t bytes = 0;
    uint64_t live = 0;             // blocks that are here
    std::vector<BlockRef> blocks;  // that were, too
  };
  void Leave(const Place& place);

  boost::unordered_flat_map<BlockRef, Place, BlockRefHash> places_;
  std::map<uint64_t, Segment> segments_;
  std::vector<uint64_t> emptied_;
  uint64_t segment_bytes_ = 0;
  uint64_t entry_bytes_ = 0;
};

}  // namespace thermocline
