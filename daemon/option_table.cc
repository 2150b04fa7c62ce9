// Every option of the daemon, and of a tenant. Here docs/config.md and deploy/thermocline.toml come
// from.
#include "daemon/options.h"

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
     .help = "Disk space of the cold tier, all that it has below data_dir, as the disk counts it "
             "(docs/cold.md); a segment, 256 MiB at most, more while room is made. 4 MiB is the "
             "least. 0 turns it off; then what leaves memory is dropped.",
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
     .help = "Disk space that it has whenever it wants it, in units of 64 MiB; one at least."},
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

}  // namespace thermocline
