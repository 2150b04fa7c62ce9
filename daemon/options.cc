#include "daemon/options.h"

#include <unistd.h>

#include <cstdlib>
#include <limits>

#include "base/socket_path.h"
#include "base/units.h"
#include "tiers/stack_limits.h"

namespace thermocline {
namespace {

std::string DefaultDataDirectory() {
  if (::geteuid() == 0) return "/var/lib/thermocline";
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return std::string(state) + "/thermocline";
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return std::string(home) + "/.local/state/thermocline";
  return FallbackDirectory() + "/data";
}

LogLevel LevelOf(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  if (name == "off") return LogLevel::kOff;
  return LogLevel::kInfo;
}

/// What protects the TCP door is all there, or `insecure` says that it need not be.
absl::Status CheckProtections(const Options& options) {
  const bool certificate = !options.String("tls_certificate").empty();
  if (certificate != !options.String("tls_key").empty()) {
    return absl::InvalidArgumentError("tls_certificate and tls_key go together: set both");
  }
  if (!certificate && !options.String("tls_client_ca").empty()) {
    return absl::InvalidArgumentError(
        "tls_client_ca needs tls_certificate and tls_key: without TLS no client shows any");
  }
  if (options.String("grpc_listen") == "off" || options.Bool("insecure")) return absl::OkStatus();
  std::string missing;
  for (const char* key : {"tls_certificate", "tls_key", "tls_client_ca", "token_file"}) {
    if (!options.String(key).empty()) continue;
    missing += (missing.empty() ? "" : ", ") + std::string(key);
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      options.Origin("grpc_listen") + ": grpc_listen = \"" + options.String("grpc_listen") +
      "\" would let in whoever reaches it, or show prompts to whoever listens: set " + missing +
      " too (docs/security.md), or set it \"off\", or accept that with --insecure");
}

/// A share or quota in whole units, of `capacity` at most.
absl::StatusOr<uint64_t> UnitsOf(const Options& row, std::string_view key, uint64_t capacity) {
  const uint64_t bytes = row.Bytes(key);
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(row.Origin(key) + ": " + std::string(key) + ": " + what);
  };
  if (bytes > 0 && bytes < kTenantUnitBytes) {
    return wrong(row.Text(key) + " is less than one unit of " + FormatBytes(kTenantUnitBytes) +
                 "; write that at least, or 0");
  }
  if (bytes / kTenantUnitBytes > capacity / kTenantUnitBytes) {
    return wrong(row.Text(key) + " is more than the " + FormatBytes(capacity) +
                 " that there are; lower it or raise the capacity");
  }
  return bytes / kTenantUnitBytes;
}

struct Division {
  uint64_t share = 0;
  uint64_t quota = 0;
};
absl::StatusOr<Division> DivisionOf(const Options& row, const std::string& tier,
                                    uint64_t capacity) {
  Division units;
  TC_ASSIGN_OR_RETURN(units.share, UnitsOf(row, tier + "_share", capacity));
  TC_ASSIGN_OR_RETURN(units.quota, UnitsOf(row, tier + "_quota", capacity));
  if (units.quota == 0) units.quota = capacity / kTenantUnitBytes;
  if (units.share <= units.quota) return units;
  return absl::InvalidArgumentError(
      row.Origin(tier + "_share") + ": " + tier + "_share of tenant \"" + row.String("name") +
      "\" is more than its " + tier + "_quota; lower the one or raise the other");
}

absl::Status CheckShares(const std::vector<TenantOptions>& tenants, uint64_t TenantOptions::*share,
                         const std::string& tier, uint64_t capacity) {
  uint64_t sum = 0;
  for (const TenantOptions& tenant : tenants) sum += tenant.*share;
  if (sum <= capacity / kTenantUnitBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "the tenants' " + tier + "_share together are " + FormatBytes(sum * kTenantUnitBytes) +
      ", and " + tier + "_capacity is " + FormatBytes(capacity) + " (counted in units of " +
      FormatBytes(kTenantUnitBytes) + (tier == "cold" ? ", one each at least" : "") +
      "); lower some shares or raise the capacity");
}

/// Where the keys of a table's blocks come from; without any of its own, `fallback`.
absl::StatusOr<KeySource::Options> KeysOf(const Options& table, KeySource::Options fallback = {}) {
  KeySource::Options keys{.file = table.String("cold_key_file"),
                          .command = table.String("cold_key_command")};
  if (!keys.file.empty() && !keys.command.empty()) {
    return absl::InvalidArgumentError(
        table.Origin("cold_key_command") +
        ": keys come from cold_key_file or from cold_key_command, not from both; set one of them");
  }
  return keys ? keys : fallback;
}

Durability DurabilityOf(std::string_view promise) {
  return promise == "ack" ? Durability::kAck : Durability::kWriteBack;
}

absl::StatusOr<std::vector<TenantOptions>> TenantsOf(const Options& options, uint64_t warm_bytes,
                                                     uint64_t cold_bytes) {
  const bool copies = options.String("commit") == "copy";
  const Durability durability = DurabilityOf(options.String("durability"));
  const Codec codec = options.String("cold_codec") == "zstd" ? Codec::kZstd : Codec::kNone;
  TC_ASSIGN_OR_RETURN(const KeySource::Options keys, KeysOf(options));
  std::vector<TenantOptions> tenants = {{.name = kDefaultTenant,
                                         .copies = copies,
                                         .durability = durability,
                                         .cold_codec = codec,
                                         .cold_keys = keys}};
  if (options.rows().empty()) return tenants;
  if (warm_bytes < kTenantUnitBytes) {
    return absl::InvalidArgumentError(
        options.Origin("warm_capacity") + ": warm_capacity is less than the " +
        FormatBytes(kTenantUnitBytes) + " in which memory is lent to tenants; raise it");
  }
  if (cold_bytes > 0 && cold_bytes < kTenantUnitBytes) {
    return absl::InvalidArgumentError(
        options.Origin("cold_capacity") + ": cold_capacity is less than the " +
        FormatBytes(kTenantUnitBytes) +
        " in which disk space is lent to tenants; raise it, or turn the cold tier off with 0");
  }
  tenants[0].warm_quota_units = warm_bytes / kTenantUnitBytes;
  tenants[0].cold_quota_units = cold_bytes / kTenantUnitBytes;
  for (const Options& row : options.rows()) {
    TenantOptions tenant{.name = row.String("name"), .origin = row.row_origin()};
    for (const int64_t uid : row.IntList("uids")) tenant.uids.push_back(static_cast<uid_t>(uid));
    for (const int64_t gid : row.IntList("gids")) tenant.gids.push_back(static_cast<gid_t>(gid));
    TC_ASSIGN_OR_RETURN(const Division warm, DivisionOf(row, "warm", warm_bytes));
    TC_ASSIGN_OR_RETURN(const Division cold, DivisionOf(row, "cold", cold_bytes));
    tenant.warm_share_units = warm.share;
    tenant.warm_quota_units = warm.quota;
    tenant.cold_share_units = cold.share;
    tenant.cold_quota_units = cold.quota;
    const std::string& commit = row.String("commit");
    tenant.copies = commit == "default" ? copies : commit == "copy";
    const std::string& promise = row.String("durability");
    tenant.durability = promise == "default" ? durability : DurabilityOf(promise);
    const std::string& own_codec = row.String("cold_codec");
    tenant.cold_codec = own_codec == "default" ? codec
                        : own_codec == "zstd"  ? Codec::kZstd
                                               : Codec::kNone;
    TC_ASSIGN_OR_RETURN(tenant.cold_keys, KeysOf(row, keys));
    if (tenant.name == kDefaultTenant && tenants[0].origin.empty()) {
      tenants[0] = std::move(tenant);
    } else {
      tenants.push_back(std::move(tenant));
    }
  }
  // An empty store has files, too.
  for (TenantOptions& tenant : tenants) {
    if (cold_bytes > 0) tenant.cold_share_units = std::max<uint64_t>(tenant.cold_share_units, 1);
  }
  TC_RETURN_IF_ERROR(CheckShares(tenants, &TenantOptions::warm_share_units, "warm", warm_bytes));
  TC_RETURN_IF_ERROR(CheckShares(tenants, &TenantOptions::cold_share_units, "cold", cold_bytes));
  return tenants;
}

/// The hot tier takes what cold has, and gives it back there.
absl::Status CheckHot(const Options& options, const DaemonOptions& resolved) {
  if (resolved.hot_capacity_bytes == 0) return absl::OkStatus();
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(options.Origin("hot_capacity") + ": hot_capacity " + what);
  };
  if (resolved.cold_capacity_bytes == 0) {
    return wrong("needs a cold tier below it: give it disk space by cold_capacity");
  }
  const uint64_t tenants = resolved.tenants.size();
  if (resolved.hot_capacity_bytes / tenants >= kDefaultChunkBytes) return absl::OkStatus();
  return wrong("is less than a chunk of " + FormatBytes(kDefaultChunkBytes) + " for each of " +
               std::to_string(tenants) + " tenants; raise it, or turn the hot tier off with 0");
}

absl::Status CheckListen(const Options& options, std::string_view key) {
  const std::string& text = options.String(key);
  if (text == "off") return absl::OkStatus();
  return Annotate(ParseListenAddress(text).status(), options.Origin(key) + ": " + std::string(key));
}

}  // namespace

absl::StatusOr<DaemonOptions> ResolveDaemonOptions(const Options& options) {
  const auto milliseconds = [&](std::string_view key) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(options.Duration(key));
  };
  DaemonOptions resolved;
  resolved.socket = options.String("socket");
  if (resolved.socket.empty()) resolved.socket = DefaultSocketPath();
  resolved.data_dir = options.String("data_dir");
  if (resolved.data_dir.empty()) resolved.data_dir = DefaultDataDirectory();
  resolved.arena_dir = options.String("arena_dir");
  const std::string& huge_pages = options.String("huge_pages");
  if (huge_pages == "transparent") resolved.huge_pages = HugePages::kTransparent;
  if (huge_pages == "hugetlb") resolved.huge_pages = HugePages::kHugetlb;
  resolved.huge_page_dir = options.String("huge_page_dir");
  if (resolved.huge_pages == HugePages::kHugetlb && resolved.huge_page_dir.empty()) {
    return absl::InvalidArgumentError(
        "huge_pages = \"hugetlb\" needs huge_page_dir, a directory on a hugetlbfs");
  }
  resolved.warm_capacity_bytes = options.Bytes("warm_capacity");
  resolved.cold_capacity_bytes = options.Bytes("cold_capacity");
  if (resolved.cold_capacity_bytes > 0 && resolved.cold_capacity_bytes < kLeastColdBytes) {
    return absl::InvalidArgumentError(
        options.Origin("cold_capacity") + ": cold_capacity is less than the " +
        FormatBytes(kLeastColdBytes) + " that a store needs; raise it, or turn it off with 0");
  }
  resolved.cold_write_bytes_per_day = options.Bytes("cold_write_budget");
  resolved.pin_quota_percent = static_cast<uint32_t>(options.Int("pin_quota"));
  resolved.cold_read_deadline = milliseconds("cold_read_deadline");
  resolved.hot_capacity_bytes = options.Bytes("hot_capacity");
  resolved.hot_device = static_cast<int>(options.Int("hot_device"));
  resolved.vram_socket = options.String("vram_socket");
  if (resolved.vram_socket.empty()) resolved.vram_socket = resolved.socket + ".vram";
  resolved.scrub_rate_bytes = options.Bytes("scrub_rate");
  resolved.cold_scrub_rate_bytes = options.Bytes("cold_scrub_rate");
  TC_ASSIGN_OR_RETURN(resolved.tenants, TenantsOf(options, resolved.warm_capacity_bytes,
                                                  resolved.cold_capacity_bytes));
  TC_RETURN_IF_ERROR(CheckHot(options, resolved));
  resolved.others_are_default = options.String("other_users") == "default";
  TC_RETURN_IF_ERROR(
      TenantMap::Make(resolved.tenants, resolved.others_are_default, ::geteuid()).status());
  resolved.arena_view = options.String("arena_view");
  resolved.staging_bytes = options.Bytes("staging");
  const bool some_copy = std::any_of(resolved.tenants.begin(), resolved.tenants.end(),
                                     [](const TenantOptions& tenant) { return tenant.copies; });
  const bool some_ack = std::any_of(
      resolved.tenants.begin(), resolved.tenants.end(),
      [](const TenantOptions& tenant) { return tenant.durability == Durability::kAck; });
  if (some_ack && resolved.cold_capacity_bytes == 0) {
    return absl::InvalidArgumentError(
        "durability = \"ack\" promises that blocks are on disk, and cold_capacity is 0; give it "
        "disk space");
  }
  if (some_copy && resolved.arena_view.empty()) {
    return absl::InvalidArgumentError(
        "commit = \"copy\" needs arena_view: mount the arena's directory once more, read-only, and "
        "say where (docs/security.md)");
  }
  resolved.policy = options.String("policy");
  TC_RETURN_IF_ERROR(CheckListen(options, "http"));
  TC_RETURN_IF_ERROR(CheckListen(options, "grpc_listen"));
  resolved.http = options.String("http");
  resolved.grpc_listen = options.String("grpc_listen");
  TC_RETURN_IF_ERROR(CheckProtections(options));
  resolved.tls = {.certificate = options.String("tls_certificate"),
                  .key = options.String("tls_key"),
                  .client_ca = options.String("tls_client_ca")};
  resolved.token_file = options.String("token_file");
  resolved.max_remote_sessions = static_cast<uint32_t>(options.Int("max_remote_sessions"));
  resolved.drain = options.String("shutdown") == "drain";
  resolved.shutdown_timeout = milliseconds("shutdown_timeout");
  resolved.max_sessions = static_cast<uint32_t>(options.Int("max_sessions"));
  resolved.max_places = static_cast<uint32_t>(options.Int("max_places"));
  resolved.worker_threads = static_cast<int>(options.Int("worker_threads"));
  resolved.disk_threads = static_cast<int>(options.Int("disk_threads"));
  resolved.log.level = LevelOf(options.String("log.level"));
  resolved.log.json = options.String("log.format") == "json";
  resolved.log.file = options.String("log.file");
  return resolved;
}

}  // namespace thermocline
