// A tier with faults: a decorator for tests that lets seeded errors, delays, flipped bits, short
// reads and lost writes happen to whatever tier lies below. What it hands out may be wrong without
// a word, as from a medium behind a broken cable: whoever is above must verify.
#pragma once
#include <chrono>
#include <memory>
#include <random>
#include <string>

#include "base/mutex.h"
#include "tiers/tier.h"

namespace thermocline {

/// Probabilities a call, from 0 to 1.
struct FaultRates {
  double error = 0;  // Put, Get, Erase, DropSegment, Fold, Sync fail with UNAVAILABLE, do nothing
  double keep = 0;   // DropSegment reads a block in vain: ABORTED
  double flip = 0;   // Get: one bit of the payload is wrong
  double truncate = 0;  // Get: the end of the payload is not written
  double lose = 0;      // Put: says OK and stores nothing; PutAll: nothing at all
  double delay = 0;     // any call takes `delay_time` longer
  std::chrono::microseconds delay_time{0};
};

/// Thread: as Tier.
class FaultTier : public Tier {
 public:
  FaultTier(std::unique_ptr<Tier> below, FaultRates rates, uint64_t seed)
      : below_(std::move(below)), rates_(rates), random_(seed) {}

  void SetRates(FaultRates rates);
  uint64_t fault_count() const;

  absl::Status Put(const BlockRecord& record, std::span<const std::byte> payload) override;
  absl::StatusOr<std::optional<BlockRecord>> Get(BlockRef ref,
                                                 std::span<std::byte> payload) override;
  void PutAll(std::span<TierPut> puts) override;
  absl::Status Erase(BlockRef ref) override;
  absl::Status EraseAll(std::span<const BlockRef> refs) override;
  std::optional<TierSegment> SegmentFrom(uint64_t sequence) const override {
    return below_->SegmentFrom(sequence);
  }
  std::vector<SegmentSize> SegmentSizes() const override { return below_->SegmentSizes(); }
  absl::Status DropSegment(uint64_t sequence, std::span<const BlockRef> keep) override;
  absl::StatusOr<std::vector<uint64_t>> Fold(std::span<const BlockRef> blocks) override;
  absl::Status ForEach(const std::function<bool(const BlockRecord&)>& visit) override {
    return below_->ForEach(visit);
  }
  absl::Status Sync() override;
  TierUsage Usage() const override { return below_->Usage(); }
  std::vector<LostBlock> TakeLost() override { return below_->TakeLost(); }
  bool RefusesWrites() const override { return below_->RefusesWrites(); }
  void TellDamage() override { below_->TellDamage(); }
  std::string State() const override { return below_->State(); }

 private:
  struct Draw {
    bool error = false;
    bool keep = false;
    bool flip = false;
    bool truncate = false;
    bool lose = false;
    uint64_t where = 0;  // for flip and truncate
  };
  Draw DrawFaults();

  const std::unique_ptr<Tier> below_;
  mutable Mutex mutex_;
  FaultRates rates_ TC_GUARDED_BY(mutex_);
  std::mt19937_64 random_ TC_GUARDED_BY(mutex_);
  uint64_t fault_count_ TC_GUARDED_BY(mutex_) = 0;
};

}  // namespace thermocline
