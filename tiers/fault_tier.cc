#include "tiers/fault_tier.h"

#include <algorithm>
#include <thread>
#include <vector>

namespace thermocline {
namespace {

absl::Status Injected(const char* call) {
  return absl::UnavailableError(std::string("injected fault in ") + call);
}

}  // namespace

void FaultTier::SetRates(FaultRates rates) {
  MutexLock lock(mutex_);
  rates_ = rates;
}

uint64_t FaultTier::fault_count() const {
  MutexLock lock(mutex_);
  return fault_count_;
}

FaultTier::Draw FaultTier::DrawFaults() {
  std::chrono::microseconds delay{0};
  Draw draw;
  {
    MutexLock lock(mutex_);
    std::uniform_real_distribution<double> chance(0, 1);
    const auto happens = [&](double rate) TC_NO_THREAD_SAFETY_ANALYSIS {
      const bool yes = chance(random_) < rate;
      fault_count_ += yes ? 1 : 0;
      return yes;
    };
    draw.error = happens(rates_.error);
    draw.keep = happens(rates_.keep);
    draw.flip = happens(rates_.flip);
    draw.truncate = happens(rates_.truncate);
    draw.lose = happens(rates_.lose);
    if (happens(rates_.delay)) delay = rates_.delay_time;
    draw.where = random_();
  }
  if (delay.count() > 0) std::this_thread::sleep_for(delay);
  return draw;
}

absl::Status FaultTier::Put(const BlockRecord& record, std::span<const std::byte> payload) {
  const Draw draw = DrawFaults();
  if (draw.error) return Injected("Put");
  if (draw.lose) return absl::OkStatus();
  return below_->Put(record, payload);
}

void FaultTier::PutAll(std::span<TierPut> puts) {
  const Draw draw = DrawFaults();
  if (!draw.error && !draw.lose) return below_->PutAll(puts);
  for (TierPut& put : puts) put.status = draw.error ? Injected("PutAll") : absl::OkStatus();
}

absl::StatusOr<std::optional<BlockRecord>> FaultTier::Get(BlockRef ref,
                                                          std::span<std::byte> payload) {
  const Draw draw = DrawFaults();
  if (draw.error) return Injected("Get");
  if (!draw.truncate) {
    auto header = below_->Get(ref, payload);
    if (draw.flip && header.ok() && header->has_value() && !payload.empty()) {
      const uint64_t byte = draw.where / 8 % (*header)->payload_bytes;
      payload[byte] ^= std::byte{1} << draw.where % 8;
    }
    return header;
  }
  std::vector<std::byte> whole(payload.size());
  auto header = below_->Get(ref, whole);
  if (header.ok() && header->has_value()) {
    std::copy_n(whole.begin(), draw.where % (*header)->payload_bytes, payload.begin());
  }
  return header;
}

absl::Status FaultTier::Erase(BlockRef ref) {
  if (DrawFaults().error) return Injected("Erase");
  return below_->Erase(ref);
}

absl::Status FaultTier::EraseAll(std::span<const BlockRef> refs) {
  if (DrawFaults().error) return Injected("EraseAll");
  return below_->EraseAll(refs);
}

absl::Status FaultTier::DropSegment(uint64_t sequence, std::span<const BlockRef> keep) {
  const Draw draw = DrawFaults();
  if (draw.error) return Injected("DropSegment");
  if (draw.keep) return absl::AbortedError("injected: a block cannot be read");
  return below_->DropSegment(sequence, keep);
}

absl::StatusOr<std::vector<uint64_t>> FaultTier::Fold(std::span<const BlockRef> blocks) {
  if (DrawFaults().error) return Injected("Fold");
  return below_->Fold(blocks);
}

absl::Status FaultTier::Sync() {
  if (DrawFaults().error) return Injected("Sync");
  return below_->Sync();
}

}  // namespace thermocline
