// Small segments become large ones. What commits wait for is written some MiB at a time, and what a
// segment leaves behind that goes is a small one, too: without folds there would be as many files
// as a full tier holds such writes.
//
// A fold goes beside the cold jobs, and nobody waits for it. Until the old segments have gone it
// needs the room of one, which writes leave free from when it is wanted until it has ended, and
// which in a full tier is made first, as any. Where nothing can go writes take it all the same: a
// fold under way then exceeds the capacity, and until it has ended no segment is dropped, which
// might, too.
#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

// Segments of less than a quarter of a full one are small. As soon as they are half of one together
// they become one, so that what was committed is written twice; and of one class before, when there
// are very many.
constexpr uint64_t kSmallShare = 4;
constexpr uint64_t kFoldedShare = 2;
constexpr size_t kMostSmallSegments = 512;
constexpr std::chrono::minutes kPauseAfterFailure{1};

/// Segments of one class differ by less than four times, lest large ones be written again for every
/// small one.
int SizeClass(uint64_t bytes) { return static_cast<int>(std::bit_width(bytes)) / 2; }

}  // namespace

void StackCore::FoldSegments() {
  if (cold_ == nullptr || !folding_.empty()) return;
  fold_room_ = 0;
  if (closing_ || !cold_writable() || options_.clock->Now() < fold_from_) return;
  std::vector<uint64_t> sequences = SegmentsToFold();
  if (sequences.empty()) return;
  fold_room_ = SegmentBytes();
  if (GrowCold(fold_room_)) return;
  const TierUsage usage = cold_->Usage();
  const uint64_t capacity = ColdCapacity(usage), used = usage.used_bytes + fold_room_;
  if (used > capacity) {  // the next tick comes back to it
    if (!job_running_ && !MakeColdRoom(used - capacity)) fold_room_ = 0;
    return;
  }
  std::vector<BlockRef> blocks;
  for (const uint64_t sequence : sequences) {
    const auto segment = cold_->SegmentFrom(sequence);
    if (!segment || segment->sequence != sequence) continue;
    std::copy_if(segment->blocks.begin(), segment->blocks.end(), std::back_inserter(blocks),
                 [&](BlockRef ref) { return HasColdCopy(ref); });
  }
  folding_ = std::move(sequences);
  for (const BlockRef ref : blocks) write_budget_.Spend(BytesOf(ref));
  options_.disk([cold = cold_, strand = options_.strand, weak = std::weak_ptr<StackCore*>(self_),
                 blocks = std::move(blocks)] {
    auto unread = cold->Fold(blocks);
    strand([weak, unread = std::move(unread)] {
      if (const auto self = weak.lock()) (*self)->FinishFold(unread);
    });
  });
}

// As many as are a full one together at most, the oldest first; none: that is not worth it yet.
std::vector<uint64_t> StackCore::SegmentsToFold() const {
  const uint64_t full = SegmentBytes();
  struct Run {
    std::vector<uint64_t> sequences;
    uint64_t bytes = 0;
    void Add(const SegmentSize& segment, uint64_t most_bytes) {
      if (bytes + segment.bytes > most_bytes) return;
      bytes += segment.bytes;
      sequences.push_back(segment.sequence);
    }
  };
  Run all;
  std::map<int, Run> classes;
  size_t count = 0;
  for (const SegmentSize& segment : cold_->SegmentSizes()) {
    if (segment.bytes >= full / kSmallShare || segment.sequence == dropping_) continue;
    if (IsStuck(segment.sequence)) continue;
    ++count;
    all.Add(segment, full);
    classes[SizeClass(segment.bytes)].Add(segment, full);
  }
  if (all.bytes >= full / kFoldedShare) return std::move(all.sequences);
  if (count < kMostSmallSegments) return {};
  const auto most =
      std::max_element(classes.begin(), classes.end(), [](const auto& a, const auto& b) {
        return a.second.sequences.size() < b.second.sequences.size();
      });
  return std::move(most->second.sequences);
}

bool StackCore::IsFolding(uint64_t sequence) const {
  return std::find(folding_.begin(), folding_.end(), sequence) != folding_.end();
}

// Whether the disk takes writes is for those to find out that somebody waits for.
void StackCore::FinishFold(const absl::StatusOr<std::vector<uint64_t>>& unread) {
  folding_.clear();
  fold_room_ = 0;
  ForgetLostCopies();
  if (unread.ok()) {
    for (const uint64_t sequence : *unread) {
      NoteStuck(sequence, absl::AbortedError("one of its blocks cannot be read"));
    }
  } else {
    fold_from_ = options_.clock->Now() + kPauseAfterFailure;
    LogEvent(LogLevel::kWarning, "cold_fold_failed",
             {{"cause", unread.status()}, {"data_dir", options_.data_dir}});
  }
  SchedulePump();
}

}  // namespace thermocline
