// What thermoclined tells Prometheus: time series of base/metric_table.h, filled at every scrape
// from the stack's statistics and kept up to date by the services.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/metric_table.h"
#include "base/metrics.h"
#include "base/status.h"
#include "daemon/session_server.h"
#include "tiers/stack_stats.h"

namespace thermocline {

enum class Operation : uint8_t {
  kMatch,
  kLoad,
  kReserve,
  kCommit,
  kRelease,
  kPin,
  kPrefetch,
  kDelete,
  kFlush,
  kRead,
  kWrite,
  kOther,  // not measured
};

/// Thread: any, except Update: one at a time.
class DaemonMetrics {
 public:
  /// `has_hot`: there are series of a hot tier, too.
  explicit DaemonMetrics(std::string_view version, bool has_hot = false);

  MetricRegistry& registry() { return registry_; }

  /// A call was answered. The latency is from its arrival to its answer.
  void Answered(Operation operation, absl::StatusCode code, std::chrono::nanoseconds latency);
  /// What a match found, by tier.
  struct Hits {
    std::array<uint64_t, kTierKindCount> tokens{};
    std::array<uint64_t, kTierKindCount> bytes{};
  };
  void Matched(uint64_t requested_tokens, const Hits& hits);
  /// Payload of clients without the map came, or is on its way to one.
  void RemoteBytesIn(uint64_t bytes);
  void RemoteBytesOut(uint64_t bytes);
  void ShowReady(bool ready, size_t silent_tenants);

  /// Brings the series that mirror other counts up to date.
  void Update(const StackStats& stats, const SessionServer::Counters& sessions);

 private:
  struct TierSeries {
    Gauge capacity, used, blocks, pinned, degraded;
    Counter hits, evicted, promoted, demoted, written, read, kept;
  };

  MetricRegistry registry_;
  std::array<Histogram, static_cast<size_t>(Operation::kOther)> latency_;
  std::array<Counter, kTierKindCount> hit_tokens_, hit_bytes_;
  std::array<TierSeries, kTierKindCount> tiers_;
  std::array<Counter, kMissReasonCount> misses_;
  Counter requested_tokens_, lookups_, committed_, corrupt_, silent_, refused_sessions_,
      refused_reservations_, remote_bytes_in_, remote_bytes_out_;
  uint64_t shared_requested_tokens_ = 0, shared_hit_tokens_ = 0, shared_hit_bytes_ = 0;
  Gauge ready_, silent_tenants_, sessions_, leases_, reservations_, quarantined_, spaces_, places_,
      pins_, pinned_bytes_;
};

}  // namespace thermocline
