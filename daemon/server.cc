#include "daemon/server.h"

#include <unistd.h>

#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/executor.h"
#include "base/file_util.h"
#include "base/log.h"
#include "base/socket_path.h"
#include "base/units.h"
#include "base/version.h"
#include "catalog/arena.h"
#include "daemon/grpc_server.h"
#include "daemon/http_server.h"
#include "daemon/lock_file.h"
#include "daemon/metrics.h"
#include "daemon/service_notify.h"
#include "daemon/session_registry.h"
#include "daemon/session_server.h"

namespace thermocline {
namespace {

constexpr char kTenantName[] = "default";
constexpr std::chrono::seconds kStatsPatience{1};
constexpr std::chrono::seconds kClosePatience{10};
constexpr std::chrono::seconds kPulse{1};
/// A strand that has done nothing for so long is stuck: nothing that it does takes a second.
constexpr std::chrono::seconds kStuck{10};

std::string HttpFileOf(const std::string& socket) { return socket + ".http"; }
std::string TcpFileOf(const std::string& socket) { return socket + ".tcp"; }

std::string AddressText(const std::string& host, int port) {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

}  // namespace

// Members in the order in which they come up; Shutdown() takes them down.
struct Server::Impl {
  explicit Impl(const DaemonOptions& given)
      : options(given),
        metrics(Version()),
        strands({.name = "tc-strand", .thread_count = 1}),
        disk({.name = "tc-disk", .thread_count = given.disk_threads}),
        workers({.name = "tc-worker", .thread_count = given.worker_threads}) {}

  absl::Status OpenTenant(const Tenant::Opener& open_stack);
  absl::Status OpenDoors(SocketClaim claim);
  absl::Status OpenHttp();
  HttpAnswer AnswerHttp(std::string_view path);
  HttpAnswer Readiness();
  void Pulse() { pulsed_at = std::chrono::steady_clock::now(); }
  bool Alive() const {
    return stopping || std::chrono::steady_clock::now() < pulsed_at.load() + kStuck;
  }
  absl::Status StopStack();

  const DaemonOptions options;
  DaemonMetrics metrics;
  SessionRegistry registry;
  UniqueFd data_lock;
  std::atomic<std::chrono::steady_clock::time_point> pulsed_at{};  // by the tenant's strand
  Executor strands;
  Executor disk;
  Executor workers;
  std::string arena_path;
  std::unique_ptr<Tenant> tenant;
  std::unique_ptr<GrpcServer> grpc;
  std::unique_ptr<SessionServer> sessions;
  std::unique_ptr<HttpServer> http;
  std::string http_address;
  std::string tcp_address;
  std::atomic<bool> stopping{false};
};

absl::Status Server::Impl::OpenTenant(const Tenant::Opener& open_stack) {
  const std::string data_advice = "choose a --data-dir that this user can write and that has room";
  const absl::Status made = MakeDirectories(options.data_dir, 0700);
  if (!made.ok()) return Annotate(made, "data_dir (" + data_advice + ")");
  TC_ASSIGN_OR_RETURN(data_lock,
                      TakeLock(options.data_dir + "/LOCK", "data directory " + options.data_dir,
                               "stop that daemon or choose another --data-dir"));
  const std::string arena_file = std::string(kTenantName) + ".arena";
  TC_ASSIGN_OR_RETURN(const std::string arena_dir,
                      ChooseArenaDirectory({.option = options.arena_dir,
                                            .file = arena_file,
                                            .capacity_bytes = options.warm_capacity_bytes}));
  TC_RETURN_IF_ERROR(Annotate(MakeDirectories(arena_dir, 0700), "arena_dir"));
  arena_path = arena_dir + "/" + arena_file;
  Tenant::Options tenant_options{.name = kTenantName};
  tenant_options.stack.arena_path = arena_path;
  tenant_options.stack.data_dir = options.data_dir;
  tenant_options.stack.warm_capacity_bytes = options.warm_capacity_bytes;
  tenant_options.stack.cold_capacity_bytes = options.cold_capacity_bytes;
  tenant_options.stack.scrub_bytes_per_tick = options.scrub_rate_bytes;  // a tick is a second
  // A session that has closed may hold its place until its leases have run out.
  tenant_options.stack.max_clients = options.max_sessions + options.max_remote_sessions;
  tenant_options.stack.max_places = options.max_places;
  tenant_options.stack.lease_time = std::chrono::milliseconds(kLeaseMilliseconds);
  tenant_options.stack.policy = options.policy;
  TC_ASSIGN_OR_RETURN(tenant, Tenant::Open(std::move(tenant_options), strands, disk, open_stack));
  const std::optional<StackStats> stats = tenant->Stats(kStatsPatience);
  LogEvent(LogLevel::kInfo, "tenant_opened",
           {{"tenant", kTenantName},
            {"arena", arena_path},
            {"data_dir", options.data_dir},
            {"warm_capacity", FormatBytes(options.warm_capacity_bytes)},
            {"cold_capacity", FormatBytes(options.cold_capacity_bytes)},
            {"epoch", tenant->epoch()},
            {"adopted_places", stats ? stats->places : 0}});
  return absl::OkStatus();
}

absl::Status Server::Impl::OpenDoors(SocketClaim claim) {
  const std::string grpc_socket = GrpcSocketPath(options.socket);
  const std::string admin_socket = AdminSocketPath(options.socket);
  TC_ASSIGN_OR_RETURN(
      grpc,
      GrpcServer::Start({.socket = grpc_socket,
                         .admin_socket = admin_socket,
                         .tcp_address = options.grpc_listen == "off" ? "" : options.grpc_listen,
                         .tls = options.tls,
                         .token_file = options.token_file,
                         .remote = {.max_sessions = options.max_remote_sessions}},
                        registry, *tenant, workers, metrics));
  if (options.grpc_listen != "off") {
    TC_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(options.grpc_listen));
    tcp_address = AddressText(address.host, grpc->tcp_port());
    TC_RETURN_IF_ERROR(WriteFileAtomically(TcpFileOf(options.socket), tcp_address + "\n"));
  }
  SessionServerOptions session_options;
  session_options.epoch = tenant->epoch();
  session_options.arena_fd = tenant->arena_fd();
  session_options.arena_bytes = tenant->arena_bytes();
  session_options.catalog_fd = tenant->catalog_fd();
  session_options.grpc_socket = std::filesystem::absolute(grpc_socket).string();
  session_options.admin_socket = std::filesystem::absolute(admin_socket).string();
  session_options.daemon_version = std::string(Version());
  session_options.sessions_file = arena_path + ".sessions";
  session_options.max_sessions = options.max_sessions;
  TC_ASSIGN_OR_RETURN(sessions, SessionServer::Start(std::move(session_options), std::move(claim),
                                                     *tenant, registry));
  tenant->SetCutOff(
      [this](uint64_t session, const std::string& why) { sessions->CutOff(session, why); });
  return OpenHttp();
}

absl::Status Server::Impl::OpenHttp() {
  metrics.registry().OnScrape([this] {
    const auto stats = tenant->Stats(kStatsPatience);
    metrics.ShowReady(stats.has_value() && !stopping);
    if (!stats) return;
    SessionServer::Counters counters = sessions->counters();
    counters += grpc->remote_counters();
    metrics.Update(*stats, counters);
  });
  if (options.http == "off") return absl::OkStatus();
  TC_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(options.http));
  Pulse();
  tenant->Repeat(kPulse, [this](TenantView&) { Pulse(); });
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
  nlohmann::json degradations = nlohmann::json::array();
  const char* status = "ready";
  if (stopping) {
    status = "stopping";
  } else if (const auto stats = tenant->Stats(kStatsPatience); !stats) {
    status = "overloaded";
  } else {
    for (const TierStats& tier : stats->tiers) {
      if (tier.state == "ok") continue;
      status = "degraded";
      degradations.push_back({{"tier", TierKindName(tier.tier)}, {"state", tier.state}});
    }
  }
  const nlohmann::json body = {
      {"status", status}, {"version", Version()}, {"degradations", degradations}};
  const bool ready = status == std::string_view("ready") || status == std::string_view("degraded");
  // What a medium says of itself may hold bytes that are no UTF-8.
  return {.status = ready ? 200 : 503,
          .content_type = "application/json",
          .body = body.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"};
}

absl::Status Server::Impl::StopStack() {
  // Shared: after a timeout the answer may still come.
  auto answer = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> done = answer->get_future();
  tenant->Shutdown(options.drain,
                   [answer](absl::Status status) { answer->set_value(std::move(status)); });
  if (done.wait_for(options.shutdown_timeout) != std::future_status::ready) {
    return absl::DeadlineExceededError(
        "the shutdown took longer than shutdown_timeout; the next daemon takes over what is there");
  }
  const absl::Status status = done.get();
  workers.Stop();  // they read the arena, which goes away with the stack
  return tenant->Close(kClosePatience) ? status
                                       : absl::DeadlineExceededError("the stack does not close");
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
  // First what another daemon may hold: a refusal must not have touched anything.
  TC_ASSIGN_OR_RETURN(SocketClaim claim, ClaimSocketPath(options.socket));
  std::unique_ptr<Server> server(new Server(std::make_unique<Impl>(options)));
  Impl& impl = *server->impl_;
  TC_RETURN_IF_ERROR(impl.OpenTenant(open_stack));
  if (const absl::Status opened = impl.OpenDoors(std::move(claim)); !opened.ok()) {
    server->Shutdown().IgnoreError();  // the reason why it cannot start is the one to tell
    return opened;
  }
  LogEvent(LogLevel::kInfo, "ready",
           {{"socket", options.socket},
            {"http", impl.http ? impl.http_address : "off"},
            {"grpc_listen", impl.tcp_address.empty() ? "off" : impl.tcp_address}});
  // On the strand: whoever waits for a stuck one gets no answer, however well the rest is.
  if (const auto interval = WatchdogInterval()) {
    impl.tenant->Repeat(*interval, [](TenantView&) { NotifyAlive(); });
  }
  NotifyReady("serving at " + options.socket);
  return server;
}

absl::Status Server::Shutdown() {
  Impl& impl = *impl_;
  impl.stopping = true;
  NotifyStopping(impl.options.shutdown_timeout + 2 * kClosePatience);
  LogEvent(LogLevel::kInfo, "stopping", {{"shutdown", impl.options.drain ? "drain" : "keep"}});
  if (impl.sessions) {
    impl.tenant->SetCutOff(nullptr);
    impl.sessions->Stop("the daemon stops; it may be back soon", impl.options.drain);
  }
  if (impl.grpc) impl.grpc->BeginStop();
  const absl::Status status = impl.StopStack();
  if (absl::IsDeadlineExceeded(status)) return status;
  impl.grpc.reset();
  impl.http.reset();
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
  if (impl_->grpc) impl_->grpc->Reload();
}

std::string Server::http_address() const { return impl_->http_address; }

}  // namespace thermocline
