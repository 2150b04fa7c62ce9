#include "daemon/server.h"

#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <future>
#include <latch>
#include <nlohmann/json.hpp>
#include <optional>
#include <semaphore>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "base/executor.h"
#include "base/file_util.h"
#include "base/log.h"
#include "base/socket_path.h"
#include "base/units.h"
#include "base/version.h"
#include "catalog/arena.h"
#include "catalog/arena_places.h"
#include "catalog/slot_headers.h"
#include "daemon/grpc_server.h"
#include "daemon/http_server.h"
#include "daemon/lock_file.h"
#include "daemon/metrics.h"
#include "daemon/service_notify.h"
#include "daemon/session_registry.h"
#include "daemon/session_server.h"
#include "daemon/tenant_figures.h"
#include "daemon/tenant_map.h"
#include "tiers/tier_budget.h"

namespace thermocline {
namespace {

constexpr std::chrono::seconds kStatsPatience{1};
constexpr std::chrono::seconds kClosePatience{10};
/// A strand that has done nothing for so long is stuck: nothing that it does takes a second.
constexpr std::chrono::seconds kStuck{10};

std::string HttpFileOf(const std::string& socket) { return socket + ".http"; }
std::string TcpFileOf(const std::string& socket) { return socket + ".tcp"; }

/// A slot of one page has a header of 256 bytes.
constexpr uint64_t kBytesPerByteOfHeaders = kPageBytes / sizeof(SlotRecord);

/// By how blocks come in, too: see CheckOtherArena.
std::string ArenaFileOf(const std::string& tenant, bool copies) {
  return tenant + (copies ? ".copy.arena" : ".arena");
}

/// An arena that clients of an earlier daemon mapped for writing is not one to copy into.
absl::Status CheckOtherArena(const std::string& directory, const std::string& headers_directory,
                             const TenantOptions& tenant) {
  const std::string file = ArenaFileOf(tenant.name, !tenant.copies);
  const std::string other = directory + "/" + file;
  if (!std::filesystem::exists(other)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the arena " + other + " was filled " +
      (tenant.copies ? "in place, by processes that may go on to write there" : "by copying") +
      "; to change how blocks come in, delete it and " +
      MetadataPath(headers_directory + "/" + file) +
      " (what was not drained to disk goes with it), or set \"commit\" back");
}

std::string AddressText(const std::string& host, int port) {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

/// Users of other tenants must get through to the sockets; what else lies beside them has modes of
/// its own. A directory that is there already is its owner's to open.
absl::Status OpenDirectoryOf(const std::string& socket) {
  const std::string directory = std::filesystem::path(socket).parent_path().string();
  if (directory.empty()) return absl::OkStatus();
  struct stat found;
  if (::stat(directory.c_str(), &found) != 0) {
    TC_RETURN_IF_ERROR(Annotate(MakeDirectories(directory, 0700), "directory of --socket"));
    if (::chmod(directory.c_str(), 0711) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, "chmod " + directory);
  }
  if ((found.st_mode & S_IXOTH) == 0) {
    LogEvent(LogLevel::kWarning, "socket_directory_closed",
             {{"directory", directory}, {"advice", "chmod o+x it, or other users cannot connect"}});
  }
  return absl::OkStatus();
}

}  // namespace

/// A tenant with the thread that is its strand's alone: nobody waits behind another's work.
struct TenantHouse {
  TenantHouse() : strand({.name = "tc-strand", .thread_count = 1}) {}
  Executor strand;
  std::unique_ptr<Tenant> tenant;
};

// Members in the order in which they come up; Shutdown() takes them down.
struct Server::Impl {
  Impl(const DaemonOptions& given, TenantMap tenant_map)
      : options(given),
        map(std::move(tenant_map)),
        metrics(Version(), given.hot_capacity_bytes > 0),
        disk({.name = "tc-disk", .thread_count = given.disk_threads}),
        reads({.name = "tc-read", .thread_count = given.disk_threads}),
        workers({.name = "tc-worker", .thread_count = given.worker_threads}) {}

  absl::Status OpenTenants(const Tenant::Opener& open_stack);
  absl::Status ChooseArenaDirectories();
  absl::Status CheckOtherPages(const std::string& file) const;
  void MakeBudgets();
  absl::StatusOr<Tenant::Options> OptionsOf(size_t index) const;
  absl::Status AddKeys(const TenantOptions& tenant, BlockEnvelope::Options& envelope);
  void ReloadKeys();
  absl::Status OpenAll(std::vector<Tenant::Options> given, const Tenant::Opener& open_stack);
  void BeginWith(TenantHouse& house, const Tenant::Options& opened);
  absl::Status OpenDoors(SocketClaim claim);
  absl::Status OpenHttp();
  bool Alive() const;
  TenantFigures::Figures Figures();
  bool Serves(const TenantFigures::Figures& figures) const;
  HttpAnswer AnswerHttp(std::string_view path);
  HttpAnswer Readiness();
  absl::Status StopStacks();

  const DaemonOptions options;
  const TenantMap map;
  DaemonMetrics metrics;
  SessionRegistry registry;
  UniqueFd data_lock;
  Executor disk;
  Executor reads;
  Executor workers;
  std::string arena_dir, headers_dir;                                    // mostly the same
  std::vector<std::pair<std::string, std::shared_ptr<KeySource>>> keys;  // by tenant
  std::shared_ptr<TierBudget> warm_budget, cold_budget;  // none where there is one tenant
  std::vector<std::unique_ptr<TenantHouse>> houses;      // as options.tenants
  std::unique_ptr<TenantFigures> tenant_figures;
  std::unique_ptr<GrpcServer> grpc;
  std::unique_ptr<SessionServer> sessions;
  std::unique_ptr<HttpServer> http;
  std::string http_address;
  std::string tcp_address;
  std::atomic<bool> stopping{false};
  std::stop_source stop_reloads;
  // One that runs, and one for all that was asked meanwhile. Last, as it uses the others.
  Executor reloads{{.name = "tc-reload", .thread_count = 1, .queue_limit = 2}};
};

/// In arena_dir; or in huge_page_dir, with the slot headers in arena_dir.
absl::Status Server::Impl::ChooseArenaDirectories() {
  const std::string file = ArenaFileOf(kDefaultTenant, options.tenants[0].copies);
  const bool is_hugetlb = options.huge_pages == HugePages::kHugetlb;
  const uint64_t bytes = options.warm_capacity_bytes;
  TC_ASSIGN_OR_RETURN(headers_dir,
                      ChooseArenaDirectory(
                          {.option = options.arena_dir,
                           .file = is_hugetlb ? MetadataPath(file) : file,
                           .capacity_bytes = is_hugetlb ? bytes / kBytesPerByteOfHeaders : bytes}));
  TC_RETURN_IF_ERROR(Annotate(MakeDirectories(headers_dir, 0700), "arena_dir"));
  arena_dir = is_hugetlb ? options.huge_page_dir : headers_dir;
  return Annotate(MakeDirectories(arena_dir, 0700), is_hugetlb ? "huge_page_dir" : "arena_dir");
}

absl::Status Server::Impl::OpenTenants(const Tenant::Opener& open_stack) {
  const std::string data_advice = "choose a --data-dir that this user can write and that has room";
  const absl::Status made = MakeDirectories(options.data_dir, 0700);
  if (!made.ok()) return Annotate(made, "data_dir (" + data_advice + ")");
  TC_ASSIGN_OR_RETURN(data_lock,
                      TakeLock(options.data_dir + "/LOCK", "data directory " + options.data_dir,
                               "stop that daemon or choose another --data-dir"));
  TC_RETURN_IF_ERROR(ChooseArenaDirectories());
  if (options.tenants.size() > 1) {
    // One arena may grow to its quota, all together to the capacity.
    std::vector<std::string> files;
    for (const TenantOptions& tenant : options.tenants) {
      files.push_back(ArenaFileOf(tenant.name, tenant.copies));
    }
    TC_RETURN_IF_ERROR(CheckRoom(arena_dir, files, options.warm_capacity_bytes, "warm_capacity"));
    MakeBudgets();
  }
  const bool some_copy = std::any_of(options.tenants.begin(), options.tenants.end(),
                                     [](const TenantOptions& tenant) { return tenant.copies; });
  // Else a process of the same user could take our writable descriptors from /proc.
  if (some_copy && ::prctl(PR_SET_DUMPABLE, 0) != 0) return ErrnoStatus(errno, "prctl");
  std::vector<Tenant::Options> given;
  for (size_t i = 0; i < options.tenants.size(); ++i) {
    TC_ASSIGN_OR_RETURN(given.emplace_back(), OptionsOf(i));
    TC_RETURN_IF_ERROR(AddKeys(options.tenants[i], given.back().stack.cold_envelope));
  }
  return OpenAll(std::move(given), open_stack);
}

/// An arena that an earlier daemon left on pages of the other kind would keep its memory.
absl::Status Server::Impl::CheckOtherPages(const std::string& file) const {
  const std::string beside_headers = headers_dir + "/" + file;
  std::string other;
  if (options.huge_pages == HugePages::kHugetlb) {
    if (headers_dir != arena_dir) other = beside_headers;
  } else if (!std::filesystem::exists(beside_headers) &&
             std::filesystem::exists(MetadataPath(beside_headers))) {
    other = options.huge_page_dir + "/" + file;
  }
  std::error_code unreadable;
  if (other.empty() || !std::filesystem::exists(other, unreadable)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the arena " + other +
      " lies on pages of another kind; to change huge_pages, delete it and " +
      MetadataPath(beside_headers) +
      " (what was not drained to disk goes with them), or set huge_pages back");
}

// A tenant alone has all of both tiers, to the byte.
void Server::Impl::MakeBudgets() {
  std::vector<TierBudget::Limits> warm, cold;
  for (const TenantOptions& tenant : options.tenants) {
    warm.push_back({tenant.warm_share_units, tenant.warm_quota_units});
    cold.push_back({tenant.cold_share_units, tenant.cold_quota_units});
  }
  warm_budget =
      std::make_shared<TierBudget>(options.warm_capacity_bytes / kTenantUnitBytes, std::move(warm));
  cold_budget =
      std::make_shared<TierBudget>(options.cold_capacity_bytes / kTenantUnitBytes, std::move(cold));
}

// The default tenant lies where it lay when it was the only one.
absl::StatusOr<Tenant::Options> Server::Impl::OptionsOf(size_t index) const {
  const TenantOptions& tenant = options.tenants[index];
  const bool is_default = tenant.name == kDefaultTenant;
  Tenant::Options opened{.name = tenant.name};
  StackOptions& stack = opened.stack;
  stack.name = tenant.name;
  const std::string arena_file = ArenaFileOf(tenant.name, tenant.copies);
  TC_RETURN_IF_ERROR(CheckOtherArena(arena_dir, headers_dir, tenant));
  TC_RETURN_IF_ERROR(CheckOtherPages(arena_file));
  stack.arena_path = arena_dir + "/" + arena_file;
  stack.arena_metadata_path = MetadataPath(headers_dir + "/" + arena_file);
  stack.data_dir = options.data_dir + (is_default ? "" : "/tenants/" + tenant.name);
  TC_RETURN_IF_ERROR(Annotate(MakeDirectories(stack.data_dir, 0700), "data_dir"));
  stack.huge_pages = options.huge_pages;
  stack.warm_capacity_bytes = options.warm_capacity_bytes;
  stack.cold_capacity_bytes = options.cold_capacity_bytes;
  if (warm_budget != nullptr) {
    stack.warm_capacity_bytes = tenant.warm_quota_units * kTenantUnitBytes;
    stack.cold_capacity_bytes = tenant.cold_quota_units * kTenantUnitBytes;
    stack.warm_account = BudgetAccount(warm_budget, index);
    stack.cold_account = BudgetAccount(cold_budget, index);
  }
  if (tenant.copies) {
    stack.clients_fill = false;
    opened.arena_view = options.arena_view + "/" + arena_file;
  }
  stack.durability = tenant.durability;
  stack.cold_write_bytes_per_day = options.cold_write_bytes_per_day;
  stack.pin_quota_percent = options.pin_quota_percent;
  stack.cold_open_files = ColdOpenFiles(options.tenants.size());
  stack.read_deadline = options.cold_read_deadline;
  stack.scrub_bytes_per_tick = options.scrub_rate_bytes;  // a tick is a second
  stack.cold_scrub_bytes_per_tick = options.cold_scrub_rate_bytes;
  // A session that has closed may hold its place until its leases have run out.
  stack.max_clients = options.max_sessions + options.max_remote_sessions;
  stack.max_places = options.max_places;
  stack.lease_time = std::chrono::milliseconds(kLeaseMilliseconds);
  stack.policy = options.policy;
  return opened;
}

/// Without its keys a tenant's store would be emptied: then the daemon does not start.
absl::Status Server::Impl::AddKeys(const TenantOptions& tenant, BlockEnvelope::Options& envelope) {
  envelope.codec = tenant.cold_codec;
  envelope.context = tenant.name;
  if (options.cold_capacity_bytes == 0 || !tenant.cold_keys) return absl::OkStatus();
  auto source = KeySource::Open(tenant.cold_keys);
  if (!source.ok()) return Annotate(source.status(), "cold keys of tenant " + tenant.name);
  envelope.keys = *source;
  keys.emplace_back(tenant.name, *std::move(source));
  return absl::OkStatus();
}

void Server::Impl::ReloadKeys() {
  for (const auto& [tenant, source] : keys) {
    const absl::Status status = source->Reload(stop_reloads.get_token());
    if (absl::IsCancelled(status)) return;
    if (!status.ok()) {
      LogEvent(LogLevel::kError, "cold_keys_not_read", {{"tenant", tenant}, {"reason", status}});
      continue;
    }
    const auto ring = source->ring();
    if (ring->empty()) {
      LogEvent(LogLevel::kWarning, "cold_keys_gone", {{"tenant", tenant}});
      continue;
    }
    LogEvent(
        LogLevel::kInfo, "cold_keys_read",
        {{"tenant", tenant}, {"keys", ring->keys().size()}, {"newest", ring->newest().number}});
  }
}

/// As many at a time as there are workers. Each strand waits for all of them before it goes on, so
/// that nobody takes a chunk which another's arena still holds from the last life.
absl::Status Server::Impl::OpenAll(std::vector<Tenant::Options> given,
                                   const Tenant::Opener& open_stack) {
  std::vector<std::unique_ptr<TenantHouse>> opening(given.size());
  std::vector<absl::Status> outcomes(given.size());
  std::counting_semaphore<> turns(options.worker_threads);
  std::latch all_opened(static_cast<ptrdiff_t>(given.size()));
  const auto open = [&](StackOptions stack) {
    turns.acquire();
    absl::StatusOr<std::unique_ptr<TierStack>> opened = open_stack(std::move(stack));
    turns.release();
    all_opened.arrive_and_wait();
    return opened;
  };
  {
    std::vector<std::jthread> waiting;
    for (size_t i = 0; i < given.size(); ++i) {
      waiting.emplace_back([&, i] {
        opening[i] = std::make_unique<TenantHouse>();
        auto tenant =
            Tenant::Open(given[i], {opening[i]->strand, disk, reads, workers, metrics}, open);
        outcomes[i] = tenant.status();
        if (tenant.ok()) opening[i]->tenant = *std::move(tenant);
      });
    }
  }
  absl::Status status;
  for (size_t i = 0; i < given.size(); ++i) {
    if (!outcomes[i].ok()) {
      const bool is_default = given[i].name == kDefaultTenant;
      status.Update(is_default ? outcomes[i] : Annotate(outcomes[i], "tenant " + given[i].name));
      continue;
    }
    houses.push_back(std::move(opening[i]));
    BeginWith(*houses.back(), given[i]);
  }
  return status;
}

void Server::Impl::BeginWith(TenantHouse& house, const Tenant::Options& opened) {
  const std::optional<StackStats> stats = house.tenant->Stats(kStatsPatience);
  LogEvent(LogLevel::kInfo, "tenant_opened",
           {{"tenant", opened.name},
            {"arena", opened.stack.arena_path},
            {"data_dir", opened.stack.data_dir},
            {"warm_capacity", FormatBytes(opened.stack.warm_capacity_bytes)},
            {"cold_capacity", FormatBytes(opened.stack.cold_capacity_bytes)},
            {"epoch", house.tenant->epoch()},
            {"adopted_places", stats ? stats->places : 0}});
}

absl::Status Server::Impl::OpenDoors(SocketClaim claim) {
  const std::string grpc_socket = GrpcSocketPath(options.socket);
  const std::string admin_socket = AdminSocketPath(options.socket);
  std::vector<Tenant*> tenants;
  for (const auto& house : houses) tenants.push_back(house->tenant.get());
  std::optional<ListenAddress> tcp;
  if (options.grpc_listen != "off") {
    TC_ASSIGN_OR_RETURN(tcp, ParseListenAddress(options.grpc_listen));
  }
  TC_ASSIGN_OR_RETURN(
      grpc, GrpcServer::Start(
                {.socket = grpc_socket,
                 .admin_socket = admin_socket,
                 .tcp_address = tcp,
                 .tls = options.tls,
                 .token_file = options.token_file,
                 .remote = {.max_sessions = options.max_remote_sessions},
                 .serves_others = map.serves_others(),
                 .knows = [this](const PeerUser& user) { return map.Find(user).ok(); },
                 .guests_are_default = !map.serves_others() ||
                                       (options.others_are_default && options.tenants.size() == 1)},
                registry, tenants, workers, metrics));
  if (tcp) {
    tcp_address = AddressText(tcp->host, grpc->tcp_port());
    TC_RETURN_IF_ERROR(WriteFileAtomically(TcpFileOf(options.socket), tcp_address + "\n"));
  }
  SessionServerOptions session_options;
  for (size_t i = 0; i < tenants.size(); ++i) {
    Tenant* const tenant = tenants[i];
    const bool copies = options.tenants[i].copies;
    session_options.homes.push_back({.host = tenant,
                                     .tenant = tenant,
                                     .epoch = tenant->epoch(),
                                     .arena_fd = tenant->arena_fd(),
                                     .arena_bytes = tenant->arena_bytes(),
                                     .catalog_fd = tenant->catalog_fd(),
                                     .staging_bytes = copies ? options.staging_bytes : 0});
  }
  session_options.home_of = [this](const PeerUser& user) { return map.Find(user); };
  session_options.socket_mode = map.serves_others() ? 0666 : 0600;
  session_options.grpc_socket = std::filesystem::absolute(grpc_socket).string();
  session_options.admin_socket = std::filesystem::absolute(admin_socket).string();
  session_options.daemon_version = std::string(Version());
  session_options.sessions_file =
      headers_dir + "/" + std::string(kDefaultTenant) + ".arena.sessions";
  session_options.max_sessions = options.max_sessions;
  TC_ASSIGN_OR_RETURN(sessions,
                      SessionServer::Start(std::move(session_options), std::move(claim), registry));
  for (Tenant* tenant : tenants) {
    tenant->SetCutOff([this](uint64_t session, const std::string& why) {
      if (session < kFirstRemoteSession) return sessions->CutOff(session, why);
      grpc->CutOff(session, why);
    });
  }
  return OpenHttp();
}

bool Server::Impl::Alive() const {
  const SteadyTime since = Clock::Real().Now() - kStuck;
  return stopping || std::all_of(houses.begin(), houses.end(), [&](const auto& house) {
           return house->tenant->went_on_at() > since;
         });
}

TenantFigures::Figures Server::Impl::Figures() {
  TenantFigures::Figures figures = tenant_figures->Ask(kStatsPatience);
  for (TierStats& tier : figures.sum.tiers) {
    if (tier.tier == TierKind::kWarm) tier.capacity_bytes = options.warm_capacity_bytes;
    if (tier.tier == TierKind::kCold) tier.capacity_bytes = options.cold_capacity_bytes;
  }
  return figures;
}

/// One tenant that hangs is no reason to send the others' clients away.
bool Server::Impl::Serves(const TenantFigures::Figures& figures) const {
  return !stopping && figures.silent.size() < houses.size();
}

absl::Status Server::Impl::OpenHttp() {
  std::vector<Tenant*> tenants;
  for (const auto& house : houses) tenants.push_back(house->tenant.get());
  tenant_figures = std::make_unique<TenantFigures>(std::move(tenants));
  Figures();  // something to tell of each, should it not answer later
  metrics.registry().OnScrape([this] {
    const TenantFigures::Figures figures = Figures();
    metrics.ShowReady(Serves(figures), figures.silent.size());
    SessionServer::Counters counters = sessions->counters();
    counters += grpc->remote_counters();
    metrics.Update(figures.sum, counters);
  });
  if (options.http == "off") return absl::OkStatus();
  TC_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(options.http));
  TC_ASSIGN_OR_RETURN(
      http, HttpServer::Start(
                address.host, address.port, [this](auto path) { return AnswerHttp(path); },
                [this] { return Alive(); }));
  http_address = AddressText(address.host, http->port());
  return WriteFileAtomically(HttpFileOf(options.socket), http_address + "\n");
}

HttpAnswer Server::Impl::AnswerHttp(std::string_view path) {
  if (path == "/metrics") {
    return {.content_type = std::string(MetricRegistry::kContentType),
            .body = metrics.registry().Expose()};
  }
  if (path == "/readyz") return Readiness();
  return {.status = 404, .body = "not here; there are /metrics, /livez and /readyz\n"};
}

/// Degraded is not unready: a daemon whose disk failed still serves its memory.
HttpAnswer Server::Impl::Readiness() {
  const TenantFigures::Figures figures = Figures();
  nlohmann::json degradations = nlohmann::json::array();
  for (const std::string& tenant : figures.silent) {
    degradations.push_back({{"tenant", tenant}, {"state", "does not answer"}});
  }
  for (const TierStats& tier : figures.sum.tiers) {
    if (tier.state == "ok") continue;
    degradations.push_back({{"tier", TierKindName(tier.tier)}, {"state", tier.state}});
  }
  const bool ready = Serves(figures);
  const char* const status = stopping               ? "stopping"
                             : !ready               ? "overloaded"
                             : degradations.empty() ? "ready"
                                                    : "degraded";
  const nlohmann::json body = {
      {"status", status}, {"version", Version()}, {"degradations", degradations}};
  // What a medium says of itself may hold bytes that are no UTF-8.
  return {.status = ready ? 200 : 503,
          .content_type = "application/json",
          .body = body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"};
}

// All of them at once, within one timeout.
absl::Status Server::Impl::StopStacks() {
  const auto deadline = std::chrono::steady_clock::now() + options.shutdown_timeout;
  std::vector<std::future<absl::Status>> stopped;
  for (const auto& house : houses) {
    // Shared: after a timeout the answer may still come.
    auto answer = std::make_shared<std::promise<absl::Status>>();
    stopped.push_back(answer->get_future());
    house->tenant->Shutdown(
        options.drain, [answer](absl::Status status) { answer->set_value(std::move(status)); });
  }
  absl::Status status;
  for (std::future<absl::Status>& done : stopped) {
    if (done.wait_until(deadline) != std::future_status::ready) {
      return absl::DeadlineExceededError(
          "the shutdown took longer than shutdown_timeout; the next daemon takes over what is "
          "there");
    }
    status.Update(done.get());
  }
  workers.Stop();  // they read the arenas, which go away with the stacks
  for (const auto& house : houses) {
    if (house->tenant->Close(kClosePatience)) continue;
    return absl::DeadlineExceededError("the stack of tenant " + house->tenant->name() +
                                       " does not close");
  }
  return status;
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const DaemonOptions& options,
                                                      const Tenant::Opener& open_stack) {
  LogEvent(LogLevel::kInfo, "starting",
           {{"version", Version()}, {"pid", ::getpid()}, {"socket", options.socket}});
  for (const std::string& path : {options.socket, options.data_dir}) {
    const std::string shared = FallbackDirectory();
    if (path.rfind(shared + "/", 0) == 0) TC_RETURN_IF_ERROR(MakeOwnDirectory(shared));
  }
  NotifyStatus("opening what the last daemon left");
  TC_ASSIGN_OR_RETURN(TenantMap map,
                      TenantMap::Make(options.tenants, options.others_are_default, ::geteuid()));
  if (map.serves_others()) TC_RETURN_IF_ERROR(OpenDirectoryOf(options.socket));
  // First what another daemon may hold: a refusal must not have touched anything.
  TC_ASSIGN_OR_RETURN(SocketClaim claim, ClaimSocketPath(options.socket));
  std::unique_ptr<Server> server(new Server(std::make_unique<Impl>(options, std::move(map))));
  Impl& impl = *server->impl_;
  absl::Status opened = impl.OpenTenants(open_stack);
  if (opened.ok()) opened = impl.OpenDoors(std::move(claim));
  if (!opened.ok() && !impl.houses.empty()) {
    server->Shutdown().IgnoreError();  // the reason why it cannot start is the one to tell
  }
  TC_RETURN_IF_ERROR(opened);
  LogEvent(LogLevel::kInfo, "ready",
           {{"socket", options.socket},
            {"http", impl.http ? impl.http_address : "off"},
            {"grpc_listen", impl.tcp_address.empty() ? "off" : impl.tcp_address}});
  // On a strand, of all: whoever waits for a stuck one gets no answer, however well the rest is.
  if (const auto interval = WatchdogInterval()) {
    impl.houses[0]->tenant->Repeat(*interval, [&impl](TenantView&) {
      if (impl.Alive()) NotifyAlive();
    });
  }
  NotifyReady("serving at " + options.socket);
  return server;
}

absl::Status Server::Shutdown() {
  Impl& impl = *impl_;
  impl.stopping = true;
  impl.stop_reloads.request_stop();
  impl.reloads.Stop();
  NotifyStopping(impl.options.shutdown_timeout + 2 * kClosePatience);
  LogEvent(LogLevel::kInfo, "stopping", {{"shutdown", impl.options.drain ? "drain" : "keep"}});
  if (impl.sessions) {
    for (const auto& house : impl.houses) house->tenant->SetCutOff(nullptr);
    impl.sessions->Stop("the daemon stops; it may be back soon", impl.options.drain);
  }
  if (impl.grpc) impl.grpc->BeginStop();
  const absl::Status status = impl.StopStacks();
  if (absl::IsDeadlineExceeded(status)) return status;
  impl.http.reset();  // a scrape asks the others
  impl.grpc.reset();
  if (!impl.http_address.empty()) ::unlink(HttpFileOf(impl.options.socket).c_str());
  if (!impl.tcp_address.empty()) ::unlink(TcpFileOf(impl.options.socket).c_str());
  if (status.ok()) {
    LogEvent(LogLevel::kInfo, "stopped");
  } else {
    LogEvent(LogLevel::kError, "stopped_with_loss", {{"reason", status}});
  }
  return status;
}

void Server::Reload() {
  // Refused: one that has not begun yet reads it all.
  (void)impl_->reloads.Post([impl = impl_.get()] {
    if (impl->stopping) return;
    impl->ReloadKeys();
    if (impl->grpc) impl->grpc->Reload();
  });
}

std::string Server::http_address() const { return impl_->http_address; }

}  // namespace thermocline
