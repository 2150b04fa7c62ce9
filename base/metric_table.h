// Every metric of thermoclined. A metric is declared here and listed in kMetricTable below it;
// docs/metrics.md is generated from this table, dashboards and alerts are checked against it.
//
// Label values: `tier` is hot, warm, cold or remote. `reason` is absent, incomplete, corrupt,
// io_error, no_slot or late. `operation` is match, load, reserve, commit, release, pin,
// prefetch, delete, flush, read or write. `direction` is in or out. No label ever carries a tenant,
// a salt or a key: they are secrets.
#pragma once
#include "base/metrics.h"

namespace thermocline {

// From a match in the daemon's memory to a cold prefix off a slow disk.
inline constexpr double kLatencyBuckets[] = {10e-6,  25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3,
                                             2.5e-3, 5e-3,  10e-3, 25e-3,  50e-3,  .1,     .25,
                                             .5,     1,     2.5,   5,      10};

inline constexpr GaugeDef kBuildInfo{"thermocline_build_info",
                                     "1",
                                     {"version"},
                                     "Always 1; the version of the daemon is its label."};
inline constexpr GaugeDef kStartTimeSeconds{"thermocline_start_time_seconds",
                                            "seconds",
                                            {},
                                            "When the daemon started, in seconds since 1970."};
inline constexpr GaugeDef kReady{
    "thermocline_ready", "0 or 1", {}, "Whether /readyz answers that the daemon is ready."};
inline constexpr GaugeDef kSilentTenants{
    "thermocline_silent_tenants",
    "tenants",
    {},
    "Tenants that did not answer in time; what they told last counts in the other series."};

inline constexpr CounterDef kLookups{
    "thermocline_lookups_total", "lookups", {}, "Matches asked for."};
inline constexpr CounterDef kLookupRequestedTokens{
    "thermocline_lookup_requested_tokens_total", "tokens", {}, "Tokens in the prefixes asked for."};
inline constexpr CounterDef kLookupHitTokens{
    "thermocline_lookup_hit_tokens_total",
    "tokens",
    {"tier"},
    "Tokens whose blocks a match found, by the tier that had them."};
inline constexpr CounterDef kHitBlocks{"thermocline_hit_blocks_total",
                                       "blocks",
                                       {"tier"},
                                       "Blocks that a match found, by the tier that had them."};
inline constexpr CounterDef kHitBytes{
    "thermocline_hit_bytes_total",
    "bytes",
    {"tier"},
    "Payload bytes of the blocks that a match found, by the tier that had them."};
inline constexpr CounterDef kMissBlocks{"thermocline_miss_blocks_total",
                                        "blocks",
                                        {"reason"},
                                        "Blocks that were asked for and not usable, by reason."};

inline constexpr CounterDef kCommittedBlocks{
    "thermocline_committed_blocks_total", "blocks", {}, "Blocks committed by clients."};
inline constexpr CounterDef kWrittenBytes{"thermocline_tier_written_bytes_total",
                                          "bytes",
                                          {"tier"},
                                          "Payload bytes written into a tier: commits, movements."};
inline constexpr CounterDef kReadBytes{
    "thermocline_tier_read_bytes_total",
    "bytes",
    {"tier"},
    "Payload bytes read out of a tier by movements; clients read in place, uncounted."};
inline constexpr CounterDef kKeptBytes{
    "thermocline_tier_kept_bytes_total",
    "bytes",
    {"tier"},
    "Bytes written anew, because what lay beside them had to go or was small."};
inline constexpr CounterDef kEvictedBlocks{"thermocline_evicted_blocks_total",
                                           "blocks",
                                           {"tier"},
                                           "Blocks that lost their last copy, by its tier."};
inline constexpr CounterDef kPromotedBlocks{"thermocline_promoted_blocks_total",
                                            "blocks",
                                            {"tier"},
                                            "Blocks raised into a tier from a lower one."};
inline constexpr CounterDef kDemotedBlocks{"thermocline_demoted_blocks_total",
                                           "blocks",
                                           {"tier"},
                                           "Blocks sunk out of a tier into a lower one."};
inline constexpr CounterDef kCorruptBlocks{
    "thermocline_corrupt_blocks_total",
    "blocks",
    {},
    "Blocks whose checksum, name, parent or space did not fit; they were dropped."};

inline constexpr CounterDef kRemoteBytes{
    "thermocline_remote_bytes_total",
    "bytes",
    {"direction"},
    "Payload bytes that came from clients without the map (in) and were sent to them (out)."};

inline constexpr GaugeDef kTierCapacityBytes{
    "thermocline_tier_capacity_bytes", "bytes", {"tier"}, "The hard limit of a tier."};
inline constexpr GaugeDef kTierUsedBytes{
    "thermocline_tier_used_bytes", "bytes", {"tier"}, "What counts against the limit of a tier."};
inline constexpr GaugeDef kTierBlocks{
    "thermocline_tier_blocks", "blocks", {"tier"}, "Blocks in a tier."};
inline constexpr GaugeDef kTtlPinnedBytes{
    "thermocline_ttl_pinned_bytes",
    "bytes",
    {"tier"},
    "What unexpired pins hold of a tier, or may: the blocks of their paths, each once."};
inline constexpr GaugeDef kArenaPinnedBytes{
    "thermocline_arena_pinned_bytes",
    "bytes",
    {},
    "What of the arena is pinned, so that a device copies from and to it directly."};
inline constexpr GaugeDef kTierDegraded{"thermocline_tier_degraded",
                                        "0 or 1",
                                        {"tier"},
                                        "Whether a tier's medium fails, hangs or is full, or its "
                                        "store was unusable and set aside."};

inline constexpr GaugeDef kSessions{"thermocline_sessions", "sessions", {}, "Connected clients."};
inline constexpr GaugeDef kLeases{"thermocline_leases", "leases", {}, "Paths held for reading."};
inline constexpr GaugeDef kReservations{
    "thermocline_reservations", "slots", {}, "Slots granted to clients and not yet committed."};
inline constexpr GaugeDef kSpaces{"thermocline_spaces", "spaces", {}, "Open spaces."};
inline constexpr GaugeDef kPlaces{
    "thermocline_places", "places", {}, "Prefixes in the tree, whatever tier their bytes are in."};
inline constexpr GaugeDef kPins{"thermocline_pins", "pins", {}, "Unexpired pins."};
inline constexpr CounterDef kSilentSessions{
    "thermocline_silent_sessions_total",
    "sessions",
    {},
    "Times that a client's leases ended because it was silent for too long."};
inline constexpr CounterDef kRefusedSessions{
    "thermocline_refused_sessions_total",
    "sessions",
    {},
    "Clients refused at the session socket, or cut off for what they sent."};
inline constexpr GaugeDef kQuarantinedSlots{
    "thermocline_quarantined_slots",
    "slots",
    {},
    "Slots of ended sessions whose processes live and may still write into them."};
inline constexpr CounterDef kRefusedReservations{
    "thermocline_refused_reservations_total",
    "requests",
    {},
    "Requests for slots that got none in time; the engine went on in private memory."};

inline constexpr HistogramDef kOperationSeconds{"thermocline_operation_seconds",
                                                "seconds",
                                                {"operation"},
                                                "Time from the arrival of a request to its answer.",
                                                kLatencyBuckets};
inline constexpr CounterDef kOperationErrors{"thermocline_operation_errors_total",
                                             "calls",
                                             {"operation", "code"},
                                             "Requests answered by an error, by its gRPC code."};

inline constexpr const MetricDef* kMetricTable[] = {
    &kBuildInfo,
    &kStartTimeSeconds,
    &kReady,
    &kSilentTenants,
    &kLookups,
    &kLookupRequestedTokens,
    &kLookupHitTokens,
    &kHitBlocks,
    &kHitBytes,
    &kMissBlocks,
    &kCommittedBlocks,
    &kWrittenBytes,
    &kReadBytes,
    &kKeptBytes,
    &kEvictedBlocks,
    &kPromotedBlocks,
    &kDemotedBlocks,
    &kCorruptBlocks,
    &kRemoteBytes,
    &kTierCapacityBytes,
    &kTierUsedBytes,
    &kTierBlocks,
    &kTtlPinnedBytes,
    &kArenaPinnedBytes,
    &kTierDegraded,
    &kSessions,
    &kLeases,
    &kReservations,
    &kSpaces,
    &kPlaces,
    &kPins,
    &kSilentSessions,
    &kRefusedSessions,
    &kQuarantinedSlots,
    &kRefusedReservations,
    &kOperationSeconds,
    &kOperationErrors,
};

}  // namespace thermocline
