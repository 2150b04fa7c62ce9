#include "daemon/grpc_server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/admin_service.h"
#include "daemon/connection_door.h"
#include "daemon/control_service.h"
#include "daemon/data_service.h"

namespace thermocline {
namespace {

/// kMaxRequestPlaces keys of 64 bytes with their framing, and kMaxRequestItems items, fit.
constexpr int kMaxMessageBytes = 8 << 20;
constexpr int kMaxStreamsPerConnection = 1024;
constexpr std::chrono::milliseconds kStopPatience{500};
/// Of one door: payload streams of many clients, messages that have not come whole, and what gRPC
/// keeps beside them.
constexpr size_t kMaxDoorBytes = size_t{512} << 20;
/// A peer that does not answer for so long, twice, is gone: as long as a lease.
constexpr int kKeepaliveMilliseconds = kLeaseMilliseconds / 2;
constexpr int kHandshakeMilliseconds = 10'000;
constexpr unsigned kCertificateSeconds = 1;

void SetLimits(grpc::ServerBuilder& builder, const char* door) {
  builder.SetResourceQuota(grpc::ResourceQuota(door).Resize(kMaxDoorBytes));
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
}

std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const TlsFiles& files) {
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.client_ca, kCertificateSeconds);
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

/// A server whose connections come in by a door of ours.
class DoorServer {
 public:
  DoorServer(grpc::ServerBuilder& builder,
             const std::shared_ptr<grpc::ServerCredentials>& credentials)
      : acceptor_(builder.experimental().AddExternalConnectionAcceptor(
            grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, credentials)),
        server_(builder.BuildAndStart()) {}
  absl::Status Open(const std::string& socket, mode_t mode, ConnectionDoor::Knows knows) {
    TC_RETURN_IF_ERROR(CheckStarted());
    TC_ASSIGN_OR_RETURN(
        door_, ConnectionDoor::Open(socket, mode, DoorLimits(), std::move(knows), HandOn()));
    return absl::OkStatus();
  }
  absl::Status OpenTcp(const ListenAddress& address) {
    TC_RETURN_IF_ERROR(CheckStarted());
    TC_ASSIGN_OR_RETURN(door_, ConnectionDoor::OpenTcp(address, DoorLimits(), HandOn()));
    return absl::OkStatus();
  }
  void Close() { door_.reset(); }
  int tcp_port() const { return door_->tcp_port(); }  // until it is closed
  grpc::Server* server() { return server_.get(); }

 private:
  absl::Status CheckStarted() const {
    return server_ != nullptr ? absl::OkStatus()
                              : absl::InternalError("gRPC does not start a server");
  }
  ConnectionDoor::HandOn HandOn() {
    return [this](int fd) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.fd = fd;
      acceptor_->HandleNewConnection(&connection);
    };
  }

  const std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  const std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ConnectionDoor> door_;
};

}  // namespace

// Behind one door: its services know how who calls has come in.
struct OpenDoor {
  explicit OpenDoor(const ServiceContext& services) : control(services), data(services) {}
  ControlService control;
  DataService data;
};

struct GrpcServer::Impl {
  std::vector<Tenant*> tenants;
  std::shared_ptr<RemoteSessions> remote;  // shared with its timer
  std::unique_ptr<RemoteTokenFile> tokens;
  TlsFiles tls;
  int tcp_port = 0;
  std::unique_ptr<OpenDoor> local;
  std::unique_ptr<OpenDoor> tcp;  // none: not asked for
  std::unique_ptr<AdminService> admin;
  std::unique_ptr<DoorServer> local_server;
  std::unique_ptr<DoorServer> admin_server;
  std::unique_ptr<DoorServer> tcp_server;
  std::vector<std::thread> stopping;

  absl::Status OpenTokens(const std::string& file);
  absl::Status OpenLocal(const GrpcServerOptions& options, ServiceContext services);
  absl::Status OpenAdmin(const std::string& socket, const ServiceContext& services);
  absl::Status OpenTcp(const GrpcServerOptions& options, ServiceContext services);
};

absl::Status GrpcServer::Impl::OpenTokens(const std::string& file) {
  std::vector<std::string> names;
  for (const Tenant* tenant : tenants) names.push_back(tenant->name());
  TC_ASSIGN_OR_RETURN(tokens, RemoteTokenFile::Open(file, std::move(names)));
  return absl::OkStatus();
}

absl::Status GrpcServer::Impl::OpenLocal(const GrpcServerOptions& options,
                                         ServiceContext services) {
  services.tokens = tokens.get();
  services.tenant_of_guests = options.guests_are_default ? tenants[0] : nullptr;
  local = std::make_unique<OpenDoor>(services);
  grpc::ServerBuilder builder;
  SetLimits(builder, "local");
  builder.RegisterService(&local->control).RegisterService(&local->data);
  local_server = std::make_unique<DoorServer>(builder, grpc::InsecureServerCredentials());
  return local_server->Open(options.socket, options.serves_others ? 0666 : 0600, options.knows);
}

absl::Status GrpcServer::Impl::OpenAdmin(const std::string& socket,
                                         const ServiceContext& services) {
  admin = std::make_unique<AdminService>(services);
  grpc::ServerBuilder builder;
  SetLimits(builder, "admin");
  builder.RegisterService(admin.get());
  admin_server = std::make_unique<DoorServer>(builder, grpc::InsecureServerCredentials());
  return admin_server->Open(socket, 0600, {});
}

absl::Status GrpcServer::Impl::OpenTcp(const GrpcServerOptions& options, ServiceContext services) {
  tls = options.tls;
  if (!tls.certificate.empty()) TC_RETURN_IF_ERROR(CheckTlsFiles(tls));
  if (tls.certificate.empty() || tls.client_ca.empty() || tokens == nullptr) {
    LogEvent(LogLevel::kWarning, "insecure_listener",
             {{"address", options.tcp_address->host},
              {"tls", !tls.certificate.empty()},
              {"client_certificates", !tls.client_ca.empty()},
              {"tokens", tokens != nullptr}});
  }
  services.over_tcp = true;
  services.tokens = tokens.get();
  services.tenant_of_guests = tokens == nullptr ? tenants[0] : nullptr;
  tcp = std::make_unique<OpenDoor>(services);
  grpc::ServerBuilder builder;
  SetLimits(builder, "tcp");
  // Whoever comes from afar may vanish without a word.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMilliseconds);
  builder.RegisterService(&tcp->control).RegisterService(&tcp->data);
  tcp_server = std::make_unique<DoorServer>(builder, CredentialsOf(tls));
  TC_RETURN_IF_ERROR(tcp_server->OpenTcp(*options.tcp_address));
  tcp_port = tcp_server->tcp_port();
  return absl::OkStatus();
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              SessionRegistry& registry,
                                                              std::vector<Tenant*> tenants,
                                                              Executor& timers,
                                                              DaemonMetrics& metrics) {
  static const bool configured = [] {
    gpr_set_log_function([](gpr_log_func_args* line) {
      LogEvent(line->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kDebug,
               "grpc", {{"message", line->message}});
    });
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(configured);
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::make_unique<Impl>()));
  Impl& impl = *server->impl_;
  impl.tenants = std::move(tenants);
  impl.remote = RemoteSessions::Make(options.remote, registry, timers);
  const ServiceContext services{registry, impl.tenants, metrics, *impl.remote, Clock::Real().Now()};
  const bool asks_for_tokens =
      impl.tenants.size() > 1 || !options.guests_are_default || options.tcp_address.has_value();
  if (asks_for_tokens && !options.token_file.empty()) {
    TC_RETURN_IF_ERROR(impl.OpenTokens(options.token_file));
  }
  TC_RETURN_IF_ERROR(impl.OpenLocal(options, services));
  TC_RETURN_IF_ERROR(impl.OpenAdmin(options.admin_socket, services));
  if (options.tcp_address.has_value()) TC_RETURN_IF_ERROR(impl.OpenTcp(options, services));
  return server;
}

void GrpcServer::BeginStop() {
  if (!impl_->stopping.empty()) return;
  impl_->remote->Stop("the daemon stops; it may be back soon");
  // Shutdown() returns when every call is answered, and some wait for the stack, which is stopped
  // after us: so it has threads of its own.
  for (DoorServer* of_door :
       {impl_->tcp_server.get(), impl_->local_server.get(), impl_->admin_server.get()}) {
    if (of_door == nullptr) continue;
    of_door->Close();
    grpc::Server* const server = of_door->server();
    if (server == nullptr) continue;
    impl_->stopping.emplace_back(
        [server] { server->Shutdown(std::chrono::system_clock::now() + kStopPatience); });
  }
}

GrpcServer::~GrpcServer() {
  BeginStop();
  for (std::thread& thread : impl_->stopping) thread.join();
}

void GrpcServer::Reload() {
  if (!impl_->tls.certificate.empty()) {
    const absl::Status fits = CheckTlsFiles(impl_->tls);
    if (fits.ok()) {
      LogEvent(LogLevel::kInfo, "certificates_looked_at", {{"file", impl_->tls.certificate}});
    } else {
      LogEvent(LogLevel::kError, "certificates_do_not_fit", {{"reason", fits}});
    }
  }
  if (impl_->tokens == nullptr) return;
  const absl::Status read = impl_->tokens->Reload();
  if (read.ok()) {
    LogEvent(LogLevel::kInfo, "tokens_reloaded");
  } else {
    LogEvent(LogLevel::kError, "tokens_not_reloaded", {{"reason", read}});
  }
}

void GrpcServer::CutOff(uint64_t session, const std::string& why) {
  impl_->remote->CutOff(session, why);
}

SessionServer::Counters GrpcServer::remote_counters() const { return impl_->remote->counters(); }

int GrpcServer::tcp_port() const { return impl_->tcp_port; }

}  // namespace thermocline
