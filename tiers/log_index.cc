#include "tiers/log_index.h"

#include "base/check.h"

namespace thermocline {

void LogIndex::AddSegment(uint64_t sequence, uint64_t bytes) {
  const bool added = segments_.emplace(sequence, Segment{.bytes = bytes}).second;
  TC_CHECK(added);
  segment_bytes_ += bytes;
}

void LogIndex::Set(BlockRef ref, Place place) {
  Segment& segment = segments_.at(place.sequence);
  const auto [found, added] = places_.emplace(ref, place);
  if (!added) {
    Leave(found->second);
    found->second = place;
  }
  ++segment.live;
  segment.blocks.push_back(ref);
  entry_bytes_ += place.entry_bytes;
}

bool LogIndex::Erase(BlockRef ref) {
  const auto found = places_.find(ref);
  if (found == places_.end()) return false;
  Leave(found->second);
  places_.erase(found);
  return true;
}

void LogIndex::Leave(const Place& place) {
  entry_bytes_ -= place.entry_bytes;
  if (--segments_.at(place.sequence).live == 0) emptied_.push_back(place.sequence);
}

const LogIndex::Place* LogIndex::Find(BlockRef ref) const {
  const auto found = places_.find(ref);
  return found == places_.end() ? nullptr : &found->second;
}

std::optional<TierSegment> LogIndex::SegmentFrom(uint64_t sequence) const {
  auto at = segments_.lower_bound(sequence);
  while (at != segments_.end() && at->second.live == 0) ++at;
  if (at == segments_.end()) return std::nullopt;
  TierSegment segment{.sequence = at->first, .bytes = at->second.bytes};
  segment.blocks.reserve(at->second.live);
  for (const BlockRef ref : at->second.blocks) {
    const Place* const place = Find(ref);
    if (place != nullptr && place->sequence == at->first) segment.blocks.push_back(ref);
  }
  return segment;
}

std::vector<SegmentSize> LogIndex::SegmentSizes() const {
  std::vector<SegmentSize> sizes;
  for (const auto& [sequence, segment] : segments_) {
    if (segment.live > 0) sizes.push_back({sequence, segment.bytes});
  }
  return sizes;
}

std::vector<BlockRef> LogIndex::NotIn(const LogIndex& other) const {
  std::vector<BlockRef> missing;
  for (const auto& [ref, place] : places_) {
    if (other.Find(ref) == nullptr) missing.push_back(ref);
  }
  return missing;
}

std::vector<uint64_t> LogIndex::EmptySegments() const {
  std::vector<uint64_t> empty;
  for (const auto& [sequence, segment] : segments_) {
    if (segment.live == 0) empty.push_back(sequence);
  }
  return empty;
}

std::vector<uint64_t> LogIndex::SegmentsWithin(std::span<const BlockRef> blocks) const {
  std::map<uint64_t, uint64_t> counts;
  for (const BlockRef ref : blocks) {
    if (const Place* const place = Find(ref)) ++counts[place->sequence];
  }
  std::vector<uint64_t> within;
  for (const auto& [sequence, count] : counts) {
    if (count == segments_.at(sequence).live) within.push_back(sequence);
  }
  return within;
}

void LogIndex::RemoveSegment(uint64_t sequence) {
  const auto found = segments_.find(sequence);
  TC_CHECK(found != segments_.end() && found->second.live == 0);
  segment_bytes_ -= found->second.bytes;
  segments_.erase(found);
}

}  // namespace thermocline
