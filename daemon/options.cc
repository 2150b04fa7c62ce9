#include "daemon/options.h"

#include <unistd.h>

#include <cstdlib>
#include <limits>

#include "base/socket_path.h"
#include "base/units.h"

namespace thermocline {
namespace {

constexpr OptionDef kOptions[] = {
    {.key = "socket",
     .type = OptionType::kString,
     .default_value = "",
     .help = "Path of the session socket. gRPC listens beside it, at PATH.grpc and PATH.admin. "
             "Empty: /run/thermocline/thermocline.sock where that can be created, else "
             "$XDG_RUNTIME_DIR/thermocline/thermocline.sock, else "
             "/tmp/thermocline-UID/thermocline.sock."},
    {.key = "data_dir",
     .type = OptionType::kString,
     .default_value = "",
     .help = "Directory of the cold tier and of pins: what survives a reboot. Empty: "
             "/var/lib/thermocline for root, else $XDG_STATE_HOME/thermocline, else "
             "~/.local/state/thermocline."},
    {.key = "arena_dir",
     .type = OptionType::kString,
     .default_value = "",
     .help = "Directory of the arena, on a tmpfs. Empty: /run/thermocline if that is a tmpfs with "
             "room for warm_capacity, else /dev/shm/thermocline-UID."},
    {.key = "huge_pages",
     .type = OptionType::kEnum,
     .default_value = "none",
     .help =
         "Pages of the arena: \"transparent\" asks its tmpfs for pages of 2 MiB, which must be "
         "mounted with huge=advise (or within_size, or always), and is refused where it is not; "
         "\"hugetlb\" takes pages that were set apart (vm.nr_hugepages), in huge_page_dir.",
     .choices = "none|transparent|hugetlb"},
    {.key = "huge_page_dir",
     .type = OptionType::kString,
     .default_value = "/dev/hugepages/thermocline",
     .help = "With huge_pages = \"hugetlb\", the arena's directory, on a hugetlbfs with pages of 2 "
             "MiB. What else belongs to it stays in arena_dir."},
    {.key = "warm_capacity",
     .type = OptionType::kBytes,
     .default_value = "1GiB",
     .help = "Memory for warm blocks: a hard limit. It must hold at least one block of every "
             "space.",
     .least = 1 << 20,
     .most = int64_t{1} << 40},  // 28 bits of 4 KiB pages
    {.key = "cold_capacity",
     .type = OptionType::kBytes,
     .default_value = "8GiB",
     .help = "Disk space of the cold tier, files and index; one segment (256 MiB) more at most, "
             "while it makes room. 0 turns it off; then what leaves memory is dropped.",
     .least = 0},
    {.key = "durability",
     .type = OptionType::kEnum,
     .default_value = "write_back",
     .help = "What the answer to a commit promises, where a tenant does not say otherwise: "
             "\"write_back\", that the daemon's end does no harm; \"ack\", that the blocks are on "
             "disk and survive a power loss, which takes a write of the disk.",
     .choices = "write_back|ack"},
    {.key = "cold_write_budget",
     .type = OptionType::kBytes,
     .default_value = "0",
     .help = "Bytes a day that each tenant may write to the cold tier, to spare the disk. While "
             "less than half an hour's worth is left, only blocks that were used again are "
             "written; the others are dropped. What durability = \"ack\" promises is written all "
             "the same. 0: no limit."},
    {.key = "pin_quota",
     .type = OptionType::kInt,
     .default_value = "50",
     .help = "What pins may hold of memory and of disk space, in percent of each tenant's share of "
             "it; of all of it where there is one tenant. A pin of any tier counts as disk space, "
             "one of the warm tier as memory, too; without a cold tier all count as memory. What "
             "is beyond is refused. 100 leaves no room for anything else.",
     .least = 0,
     .most = 100},
    {.key = "cold_read_deadline",
     .type = OptionType::kDuration,
     .default_value = "2s",
     .help = "A cold block that has not been read by then is a miss. After four late or failed "
             "reads in a row the cold tier is not asked for five seconds.",
     .least = 1'000},
    {.key = "cold_codec",
     .type = OptionType::kEnum,
     .default_value = "none",
     .help = "How cold blocks are compressed, without loss, where a tenant does not say otherwise: "
             "\"zstd\" keeps those raw that it does not make smaller. What is there is read with "
             "either.",
     .choices = "none|zstd"},
    {.key = "cold_key_file",
     .type = OptionType::kString,
     .default_value = "",
     .help =
         "File of the keys under which cold blocks and their names are encrypted "
         "(AES-256-GCM), where a tenant has none of its own: a line each, a number and 64 "
         "hexadecimal digits. The highest number encrypts, all decrypt; what no key of it "
         "decrypts, and what lies in the clear, is dropped. Its owner alone may read it. SIGHUP "
         "reads it again. Empty: nothing is encrypted. See docs/security.md."},
    {.key = "cold_key_command",
     .type = OptionType::kString,
     .default_value = "",
     .help = "Instead of cold_key_file a program's absolute path and its arguments, apart by "
             "blanks, which prints such lines within 10 seconds. Run without a shell, at the start "
             "and at SIGHUP."},
    {.key = "hot_capacity",
     .type = OptionType::kBytes,
     .default_value = "0",
     .help =
         "Device memory for hot blocks, a hard limit, of which each tenant has an equal part in "
         "chunks of 64 MiB. A custodian must keep it: thermoclined --vram, with the same "
         "options. 0: there is no hot tier. See docs/hot.md.",
     .least = 0,
     .most = int64_t{1} << 40},
    {.key = "hot_device",
     .type = OptionType::kInt,
     .default_value = "0",
     .help = "The CUDA device of the hot tier, by its number.",
     .least = 0,
     .most = 1023},
    {.key = "vram_socket",
     .type = OptionType::kString,
     .default_value = "",
     .help = "Where the custodian of the hot tier listens. Empty: PATH.vram beside `socket`."},
    {.key = "scrub_rate",
     .type = OptionType::kBytes,
     .default_value = "8MiB",
     .help = "Warm blocks that are read back and summed, in turn, each second; one counts 64 KiB "
             "at least. 0: none are."},
    {.key = "cold_scrub_rate",
     .type = OptionType::kBytes,
     .default_value = "4MiB",
     .help = "Cold blocks that are read back and summed, in turn, each second; one counts 64 KiB "
             "at least. 0: none are."},
    {.key = "other_users",
     .type = OptionType::kEnum,
     .default_value = "refuse",
     .help =
         "Users that no tenant names: \"refuse\" serves none but the daemon's own user and root, "
         "\"default\" makes them clients of the tenant of that name.",
     .choices = "refuse|default"},
    {.key = "commit",
     .type = OptionType::kEnum,
     .default_value = "in_place",
     .help = "How blocks come in, where a tenant does not say otherwise: \"in_place\", clients "
             "fill slots of the arena themselves, and those of one tenant could spoil each "
             "other's bytes; \"copy\", they fill memory of their own, map the arena read-only, "
             "and the daemon copies. Copying needs arena_view.",
     .choices = "in_place|copy"},
    {.key = "arena_view",
     .type = OptionType::kString,
     .default_value = "",
     .help = "Where arena_dir is mounted once more, read-only: clients of tenants that copy are "
             "handed the arena from there, as a descriptor that cannot be opened for writing."},
    {.key = "staging",
     .type = OptionType::kBytes,
     .default_value = "64MiB",
     .help = "Memory that each client of a tenant that copies fills; what is committed at once "
             "must fit.",
     .least = 4096,
     .most = int64_t{64} << 30},
    {.key = "policy",
     .type = OptionType::kEnum,
     .default_value = "lru",
     .help = "Who leaves first when a tier is full.",
     .choices = "lru"},
    {.key = "http",
     .type = OptionType::kString,
     .default_value = "127.0.0.1:9469",
     .help =
         "Address of /metrics, /livez and /readyz, or \"off\". Port 0 takes any free one, which "
         "is logged and written to SOCKET.http."},
    {.key = "grpc_listen",
     .type = OptionType::kString,
     .default_value = "off",
     .help = "TCP address of the Control and Data services for clients that cannot map the arena: "
             "on other machines, of other users, in containers; or \"off\". Refused without "
             "tls_certificate, tls_key, tls_client_ca and token_file. Port 0 takes any free one, "
             "which is logged and written to SOCKET.tcp."},
    {.key = "tls_certificate",
     .type = OptionType::kString,
     .default_value = "",
     .help = "PEM file of the daemon's certificate with its chain. It, the key and the CA may be "
             "replaced while the daemon runs; new connections have the new ones a second later."},
    {.key = "tls_key",
     .type = OptionType::kString,
     .default_value = "",
     .help = "PEM file of the certificate's private key, without a passphrase."},
    {.key = "tls_client_ca",
     .type = OptionType::kString,
     .default_value = "",
     .help = "PEM file of the certificates that clients' certificates must be signed by."},
    {.key = "token_file",
     .type = OptionType::kString,
     .default_value = "",
     .help = "File of the clients that may connect at grpc_listen, a line each: SHA-256 of the "
             "client's token, tenant, \"reader\" or \"writer\", name. Read again when it changes; "
             "the sessions of a token that is taken out end."},
    {.key = "insecure",
     .type = OptionType::kBool,
     .default_value = "false",
     .help = "Allows grpc_listen without some of its protections: without tls_certificate whoever "
             "can read the wire reads tokens, prompts and blocks; without tls_client_ca or "
             "token_file whoever reaches the port is let in that far."},
    {.key = "max_remote_sessions",
     .type = OptionType::kInt,
     .default_value = "64",
     .help = "Clients that cannot map the arena connected at once; more are refused.",
     .least = 1,
     .most = 1024},
    {.key = "shutdown",
     .type = OptionType::kEnum,
     .default_value = "keep",
     .help = "What SIGTERM does with the arena: \"keep\" leaves it in memory for the next daemon, "
             "\"drain\" writes it to the cold tier and frees the memory.",
     .choices = "keep|drain"},
    {.key = "shutdown_timeout",
     .type = OptionType::kDuration,
     .default_value = "60s",
     .help = "How long a shutdown may take before the daemon exits anyway, with code 1.",
     .least = 1'000'000},
    {.key = "max_sessions",
     .type = OptionType::kInt,
     .default_value = "64",
     .help = "Clients of each tenant connected at once; more are refused.",
     .least = 1,
     .most = 1024},
    {.key = "max_places",
     .type = OptionType::kInt,
     .default_value = "1048576",
     .help = "Prefixes of each tenant known at once, in all tiers together (16 tokens each).",
     .least = 1024,
     .most = 1 << 26},
    {.key = "worker_threads",
     .type = OptionType::kInt,
     .default_value = "2",
     .help = "Threads that check what clients commit.",
     .least = 1,
     .most = 64},
    {.key = "disk_threads",
     .type = OptionType::kInt,
     .default_value = "4",
     .help = "Threads that read the cold tier, and as many that write it.",
     .least = 1,
     .most = 64},
    {.key = "log.level",
     .type = OptionType::kEnum,
     .default_value = "info",
     .help = "The least important events that are logged.",
     .choices = "debug|info|warning|error|off"},
    {.key = "log.format",
     .type = OptionType::kEnum,
     .default_value = "text",
     .help = "One line an event, as text for people or JSON for machines.",
     .choices = "text|json"},
    {.key = "log.file",
     .type = OptionType::kString,
     .default_value = "",
     .help = "File that events are appended to. Empty: standard error."},
};

constexpr OptionDef kTenantOptions[] = {
    {.key = "name",
     .type = OptionType::kString,
     .default_value = "",
     .help = "What tokens, logs and files call it: small letters, digits, - and _."},
    {.key = "uids",
     .type = OptionType::kIntList,
     .default_value = "",
     .help = "Users whose processes are its clients.",
     .most = std::numeric_limits<uint32_t>::max()},
    {.key = "gids",
     .type = OptionType::kIntList,
     .default_value = "",
     .help = "Groups whose members are, where no tenant names the user itself. The primary group "
             "counts before others.",
     .most = std::numeric_limits<uint32_t>::max()},
    {.key = "warm_share",
     .type = OptionType::kBytes,
     .default_value = "0",
     .help = "Memory that it has whenever it wants it, whatever others do, in chunks of 64 MiB."},
    {.key = "warm_quota",
     .type = OptionType::kBytes,
     .default_value = "0",
     .help = "The most memory that it gets, in chunks of 64 MiB. 0: all of warm_capacity."},
    {.key = "cold_share",
     .type = OptionType::kBytes,
     .default_value = "0",
     .help = "Disk space that it has whenever it wants it, in units of 64 MiB."},
    {.key = "cold_quota",
     .type = OptionType::kBytes,
     .default_value = "0",
     .help = "The most disk space that it gets, in units of 64 MiB. 0: all of cold_capacity."},
    {.key = "durability",
     .type = OptionType::kEnum,
     .default_value = "default",
     .help = "\"write_back\" or \"ack\", as the option of that name, which is the default.",
     .choices = "default|write_back|ack"},
    {.key = "commit",
     .type = OptionType::kEnum,
     .default_value = "default",
     .help = "\"in_place\" or \"copy\", as the option of that name, which is the default.",
     .choices = "default|in_place|copy"},
    {.key = "cold_codec",
     .type = OptionType::kEnum,
     .default_value = "default",
     .help = "\"none\" or \"zstd\", as the option of that name, which is the default.",
     .choices = "default|none|zstd"},
    {.key = "cold_key_file",
     .type = OptionType::kString,
     .default_value = "",
     .help =
         "The tenant's own keys, as the option of that name, which is the default. Without them "
         "its blocks are gone."},
    {.key = "cold_key_command",
     .type = OptionType::kString,
     .default_value = "",
     .help = "Instead of its cold_key_file, as the option of that name."},
};

constexpr OptionTable kTenantTable{
    .program = "tenant",
    .summary =
        "A table for each tenant besides \"default\", which is always there: it is that of the "
        "daemon's own user and of root, unless they are named, and may have a table too, for "
        "its shares and quotas. The file alone sets these. See docs/tenants.md.",
    .default_file = "",
    .options = kTenantOptions};

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
      FormatBytes(kTenantUnitBytes) + "); lower some shares or raise the capacity");
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

const OptionTable& DaemonOptionTable() {
  static constexpr OptionTable kTable{
      .program = "thermoclined",
      .summary = "Keeps the KV cache of language models in memory and on disk.",
      .default_file = "/etc/thermocline/thermocline.toml",
      .options = kOptions,
      .rows = &kTenantTable};
  return kTable;
}

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
