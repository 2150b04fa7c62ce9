#include "tiers/stack_stats.h"

#include <algorithm>

namespace thermocline {
namespace {

void Add(TierStats& sum, const TierStats& other) {
  sum.capacity_bytes += other.capacity_bytes;
  sum.share_bytes += other.share_bytes;
  sum.lent_bytes += other.lent_bytes;
  sum.used_bytes += other.used_bytes;
  sum.ttl_pinned_bytes += other.ttl_pinned_bytes;
  sum.block_count += other.block_count;
  sum.hits += other.hits;
  sum.evictions += other.evictions;
  sum.promotions += other.promotions;
  sum.demotions += other.demotions;
  sum.bytes_in += other.bytes_in;
  sum.bytes_out += other.bytes_out;
  sum.kept_bytes += other.kept_bytes;
  if (other.state == "ok") return;
  sum.state = sum.state == "ok" ? other.state : sum.state + "; " + other.state;
}

}  // namespace

StackStats& operator+=(StackStats& sum, const StackStats& other) {
  sum.clients += other.clients;
  sum.leases += other.leases;
  sum.reserved_slots += other.reserved_slots;
  sum.quarantined_slots += other.quarantined_slots;
  sum.spaces += other.spaces;
  sum.places += other.places;
  sum.pins += other.pins;
  sum.lookups += other.lookups;
  sum.shared_requested_tokens += other.shared_requested_tokens;
  sum.shared_hit_tokens += other.shared_hit_tokens;
  sum.shared_hit_bytes += other.shared_hit_bytes;
  sum.misses += other.misses;
  for (size_t i = 0; i < kMissReasonCount; ++i) {
    sum.misses_by_reason[i] += other.misses_by_reason[i];
  }
  sum.committed_blocks += other.committed_blocks;
  sum.committed_bytes += other.committed_bytes;
  sum.duplicate_blocks += other.duplicate_blocks;
  sum.corrupt_blocks += other.corrupt_blocks;
  sum.refused_reserves += other.refused_reserves;
  sum.pinned_bytes += other.pinned_bytes;
  for (const TierStats& tier : other.tiers) {
    const auto same = std::find_if(sum.tiers.begin(), sum.tiers.end(),
                                   [&](const TierStats& own) { return own.tier == tier.tier; });
    if (same == sum.tiers.end()) {
      sum.tiers.push_back(tier);
    } else {
      Add(*same, tier);
    }
  }
  return sum;
}

}  // namespace thermocline
