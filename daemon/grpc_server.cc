#include "daemon/grpc_server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/admin_service.h"
#include "daemon/control_service.h"
#include "daemon/data_service.h"

namespace thermocline {
namespace {

/// kMaxRequestPlaces keys of 64 bytes with their framing, and kMaxRequestItems items, fit.
constexpr int kMaxMessageBytes = 8 << 20;
constexpr int kMaxStreamsPerConnection = 1024;
constexpr std::chrono::milliseconds kStopPatience{500};

void SetLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  // Two daemons must never share a TCP port in silence.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

absl::Status CannotListen(const std::string& address) {
  return absl::UnavailableError("gRPC cannot listen at " + address +
                                "; is the address taken, or its directory not writable?");
}

absl::Status MakePrivate(const std::string& socket) {
  if (::chmod(socket.c_str(), 0600) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "chmod " + socket);
}

}  // namespace

struct GrpcServer::Impl {
  explicit Impl(ServiceContext services) : control(services), data(services), admin(services) {}

  ControlService control;
  DataService data;
  AdminService admin;
  std::vector<std::string> sockets;
  int tcp_port = 0;
  std::unique_ptr<grpc::Server> open_server;
  std::unique_ptr<grpc::Server> admin_server;
  std::vector<std::thread> stopping;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              SessionRegistry& registry,
                                                              Tenant& tenant, Executor& workers,
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
  auto impl = std::make_unique<Impl>(
      ServiceContext{registry, tenant, workers, metrics, Clock::Real().Now()});
  const auto insecure = grpc::InsecureServerCredentials();

  grpc::ServerBuilder open;
  SetLimits(open);
  open.AddListeningPort("unix:" + options.socket, insecure);
  if (!options.tcp_address.empty()) {
    open.AddListeningPort(options.tcp_address, insecure, &impl->tcp_port);
  }
  open.RegisterService(&impl->control).RegisterService(&impl->data);
  impl->open_server = open.BuildAndStart();
  if (impl->open_server == nullptr) {
    return CannotListen(options.socket +
                        (options.tcp_address.empty() ? "" : " or " + options.tcp_address));
  }

  grpc::ServerBuilder admin;
  SetLimits(admin);
  admin.AddListeningPort("unix:" + options.admin_socket, insecure);
  admin.RegisterService(&impl->admin);
  impl->admin_server = admin.BuildAndStart();
  if (impl->admin_server == nullptr) return CannotListen(options.admin_socket);

  impl->sockets = {options.socket, options.admin_socket};
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(impl)));
  for (const std::string& socket : server->impl_->sockets) TC_RETURN_IF_ERROR(MakePrivate(socket));
  return server;
}

void GrpcServer::BeginStop() {
  if (!impl_->stopping.empty()) return;
  // Shutdown() returns when every call is answered, and some wait for the stack, which is stopped
  // after us: so it has threads of its own.
  for (grpc::Server* server : {impl_->open_server.get(), impl_->admin_server.get()}) {
    if (server == nullptr) continue;
    impl_->stopping.emplace_back(
        [server] { server->Shutdown(std::chrono::system_clock::now() + kStopPatience); });
  }
}

GrpcServer::~GrpcServer() {
  BeginStop();
  for (std::thread& thread : impl_->stopping) thread.join();
  for (const std::string& socket : impl_->sockets) ::unlink(socket.c_str());
}

int GrpcServer::tcp_port() const { return impl_->tcp_port; }

}  // namespace thermocline
