#include "daemon/metrics.h"

#include <ctime>

namespace thermocline {
namespace {

constexpr std::array<std::string_view, static_cast<size_t>(Operation::kOther)> kOperationNames = {
    "match",    "load",   "reserve", "commit", "release", "pin",
    "prefetch", "delete", "flush",   "read",   "write"};
constexpr std::array<std::string_view, 17> kCodeNames = {
    "ok",        "cancelled",      "unknown",           "invalid_argument",   "deadline_exceeded",
    "not_found", "already_exists", "permission_denied", "resource_exhausted", "failed_precondition",
    "aborted",   "out_of_range",   "unimplemented",     "internal",           "unavailable",
    "data_loss", "unauthenticated"};

std::string_view CodeName(absl::StatusCode code) {
  const auto index = static_cast<size_t>(code);
  return index < kCodeNames.size() ? kCodeNames[index] : "unknown";
}

}  // namespace

DaemonMetrics::DaemonMetrics(std::string_view version, bool has_hot) : registry_(kMetricTable) {
  registry_.Get(kBuildInfo, {version}).Set(1);
  registry_.Get(kStartTimeSeconds).Set(static_cast<double>(std::time(nullptr)));
  for (size_t i = 0; i < latency_.size(); ++i) {
    latency_[i] = registry_.Get(kOperationSeconds, {kOperationNames[i]});
  }
  // They are there from the start, so that a rate over them is 0 and not absent.
  for (const TierKind tier : {TierKind::kHot, TierKind::kWarm, TierKind::kCold}) {
    if (tier == TierKind::kHot && !has_hot) continue;
    const char* name = TierKindName(tier);
    hit_tokens_[static_cast<size_t>(tier)] = registry_.Get(kLookupHitTokens, {name});
    hit_bytes_[static_cast<size_t>(tier)] = registry_.Get(kHitBytes, {name});
    tiers_[static_cast<size_t>(tier)] = {.capacity = registry_.Get(kTierCapacityBytes, {name}),
                                         .used = registry_.Get(kTierUsedBytes, {name}),
                                         .blocks = registry_.Get(kTierBlocks, {name}),
                                         .pinned = registry_.Get(kTtlPinnedBytes, {name}),
                                         .degraded = registry_.Get(kTierDegraded, {name}),
                                         .hits = registry_.Get(kHitBlocks, {name}),
                                         .evicted = registry_.Get(kEvictedBlocks, {name}),
                                         .promoted = registry_.Get(kPromotedBlocks, {name}),
                                         .demoted = registry_.Get(kDemotedBlocks, {name}),
                                         .written = registry_.Get(kWrittenBytes, {name}),
                                         .read = registry_.Get(kReadBytes, {name}),
                                         .kept = registry_.Get(kKeptBytes, {name})};
  }
  for (size_t i = 0; i < kMissReasonCount; ++i) {
    misses_[i] = registry_.Get(kMissBlocks, {MissReasonName(static_cast<MissReason>(i))});
  }
  requested_tokens_ = registry_.Get(kLookupRequestedTokens);
  lookups_ = registry_.Get(kLookups);
  committed_ = registry_.Get(kCommittedBlocks);
  corrupt_ = registry_.Get(kCorruptBlocks);
  silent_ = registry_.Get(kSilentSessions);
  refused_sessions_ = registry_.Get(kRefusedSessions);
  refused_reservations_ = registry_.Get(kRefusedReservations);
  remote_bytes_in_ = registry_.Get(kRemoteBytes, {"in"});
  remote_bytes_out_ = registry_.Get(kRemoteBytes, {"out"});
  ready_ = registry_.Get(kReady);
  silent_tenants_ = registry_.Get(kSilentTenants);
  sessions_ = registry_.Get(kSessions);
  leases_ = registry_.Get(kLeases);
  reservations_ = registry_.Get(kReservations);
  quarantined_ = registry_.Get(kQuarantinedSlots);
  spaces_ = registry_.Get(kSpaces);
  places_ = registry_.Get(kPlaces);
  pins_ = registry_.Get(kPins);
  pinned_bytes_ = registry_.Get(kArenaPinnedBytes);
}

void DaemonMetrics::Answered(Operation operation, absl::StatusCode code,
                             std::chrono::nanoseconds latency) {
  if (operation == Operation::kOther) return;
  const auto index = static_cast<size_t>(operation);
  latency_[index].Observe(std::chrono::duration<double>(latency).count());
  if (code == absl::StatusCode::kOk) return;
  registry_.Get(kOperationErrors, {kOperationNames[index], CodeName(code)}).Increment();
}

void DaemonMetrics::Matched(uint64_t requested_tokens, const Hits& hits) {
  requested_tokens_.Increment(static_cast<double>(requested_tokens));
  for (size_t tier = 0; tier < kTierKindCount; ++tier) {
    if (hits.tokens[tier] > 0) hit_tokens_[tier].Increment(static_cast<double>(hits.tokens[tier]));
    if (hits.bytes[tier] > 0) hit_bytes_[tier].Increment(static_cast<double>(hits.bytes[tier]));
  }
}

void DaemonMetrics::RemoteBytesIn(uint64_t bytes) {
  remote_bytes_in_.Increment(static_cast<double>(bytes));
}
void DaemonMetrics::RemoteBytesOut(uint64_t bytes) {
  remote_bytes_out_.Increment(static_cast<double>(bytes));
}

void DaemonMetrics::ShowReady(bool ready, size_t silent_tenants) {
  ready_.Set(ready ? 1 : 0);
  silent_tenants_.Set(static_cast<double>(silent_tenants));
}

void DaemonMetrics::Update(const StackStats& stats, const SessionServer::Counters& sessions) {
  const auto number = [](uint64_t value) { return static_cast<double>(value); };
  lookups_.AdvanceTo(number(stats.lookups));
  // Matches by message were counted as they came, those without one come here.
  constexpr auto kWarm = static_cast<size_t>(TierKind::kWarm);
  requested_tokens_.Increment(number(stats.shared_requested_tokens - shared_requested_tokens_));
  hit_tokens_[kWarm].Increment(number(stats.shared_hit_tokens - shared_hit_tokens_));
  hit_bytes_[kWarm].Increment(number(stats.shared_hit_bytes - shared_hit_bytes_));
  shared_requested_tokens_ = stats.shared_requested_tokens;
  shared_hit_tokens_ = stats.shared_hit_tokens;
  shared_hit_bytes_ = stats.shared_hit_bytes;
  committed_.AdvanceTo(number(stats.committed_blocks));
  corrupt_.AdvanceTo(number(stats.corrupt_blocks));
  refused_reservations_.AdvanceTo(number(stats.refused_reserves));
  silent_.AdvanceTo(number(sessions.expired));
  refused_sessions_.AdvanceTo(number(sessions.refused));
  for (size_t i = 0; i < kMissReasonCount; ++i) {
    misses_[i].AdvanceTo(number(stats.misses_by_reason[i]));
  }
  sessions_.Set(number(sessions.sessions));
  leases_.Set(number(stats.leases));
  reservations_.Set(number(stats.reserved_slots));
  quarantined_.Set(number(stats.quarantined_slots));
  spaces_.Set(number(stats.spaces));
  places_.Set(number(stats.places));
  pins_.Set(number(stats.pins));
  pinned_bytes_.Set(number(stats.pinned_bytes));
  for (const TierStats& tier : stats.tiers) {
    TierSeries& series = tiers_[static_cast<size_t>(tier.tier)];
    series.capacity.Set(number(tier.capacity_bytes));
    series.used.Set(number(tier.used_bytes));
    series.blocks.Set(number(tier.block_count));
    series.pinned.Set(number(tier.ttl_pinned_bytes));
    series.degraded.Set(tier.state == "ok" ? 0 : 1);
    series.hits.AdvanceTo(number(tier.hits));
    series.evicted.AdvanceTo(number(tier.evictions));
    series.promoted.AdvanceTo(number(tier.promotions));
    series.demoted.AdvanceTo(number(tier.demotions));
    series.written.AdvanceTo(number(tier.bytes_in));
    series.read.AdvanceTo(number(tier.bytes_out));
    series.kept.AdvanceTo(number(tier.kept_bytes));
  }
}

}  // namespace thermocline
