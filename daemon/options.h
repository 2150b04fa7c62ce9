// The options of thermoclined: one table, from which flags, environment, file, --help,
// docs/config.md and deploy/thermocline.toml follow; and the same options with their types, their
// defaults resolved and checked against each other.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/options.h"
#include "base/status.h"
#include "catalog/arena.h"
#include "daemon/listen_address.h"
#include "daemon/tenant_map.h"
#include "daemon/tls_files.h"

namespace thermocline {

const OptionTable& DaemonOptionTable();

struct DaemonOptions {
  std::string socket;
  std::string data_dir;
  std::string arena_dir;  // "": the arena chooses (catalog/arena_places.h)
  HugePages huge_pages = HugePages::kNone;
  std::string huge_page_dir;  // of kHugetlb
  uint64_t warm_capacity_bytes = 0;
  uint64_t cold_capacity_bytes = 0;       // 0: no cold tier
  uint64_t cold_write_bytes_per_day = 0;  // 0: no limit
  uint32_t pin_quota_percent = 0;         // of each tenant's shares
  std::chrono::milliseconds cold_read_deadline{0};
  uint64_t hot_capacity_bytes = 0;  // 0: no hot tier
  int hot_device = 0;
  std::string vram_socket;
  uint64_t scrub_rate_bytes = 0;       // a second; 0: no scrubber
  uint64_t cold_scrub_rate_bytes = 0;  // the same of cold blocks
  std::vector<TenantOptions> tenants;  // the default one first
  bool others_are_default = false;     // users that no tenant names; else they are refused
  std::string arena_view;              // "": none
  uint64_t staging_bytes = 0;          // of a client of a tenant that copies
  std::string policy;
  std::string http;         // "off" or HOST:PORT
  std::string grpc_listen;  // "off" or HOST:PORT
  TlsFiles tls;             // all "": no TLS, by way of insecure
  std::string token_file;   // "": no tokens, by way of insecure
  uint32_t max_remote_sessions = 0;
  bool drain = false;  // shutdown = drain
  std::chrono::milliseconds shutdown_timeout{0};
  uint32_t max_sessions = 0;
  uint32_t max_places = 0;
  int worker_threads = 0;
  int disk_threads = 0;
  LogOptions log;
};

/// Without tables of tenants there is the default one, with all of both capacities.
/// Errors: InvalidArgument where options do not go together.
absl::StatusOr<DaemonOptions> ResolveDaemonOptions(const Options& options);

}  // namespace thermocline
