// The session of a client without the map, and the calls that carry bytes.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/file_util.h"
#include "client/grpc_stubs.h"
#include "proto/shm_layout.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

constexpr uint64_t kMaxCredentialBytes = 1 << 20;
constexpr std::string_view kWhiteSpace = " \t\r\n";

absl::Status ReadCredential(const char* what, const std::string& path, std::string& content) {
  if (path.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> read = ReadFile(path, kMaxCredentialBytes);
  if (!read.ok()) return Annotate(read.status(), what);
  content = *std::move(read);
  return absl::OkStatus();
}

/// Files are read for every session: what was renewed meanwhile is shown.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ChannelOf(const DaemonAddress& address,
                                                         const RemoteOptions& options) {
  switch (address.kind) {
    case DaemonAddress::Kind::kUnix:
      return ChannelTo(UnixTarget(address.target), grpc::InsecureChannelCredentials());
    case DaemonAddress::Kind::kPlaintext:
      return ChannelTo(address.target, grpc::InsecureChannelCredentials());
    case DaemonAddress::Kind::kTls:
      break;
  }
  grpc::SslCredentialsOptions tls;
  TC_RETURN_IF_ERROR(ReadCredential("the CA of the daemon", options.ca_file, tls.pem_root_certs));
  TC_RETURN_IF_ERROR(
      ReadCredential("the client's certificate", options.certificate_file, tls.pem_cert_chain));
  TC_RETURN_IF_ERROR(ReadCredential("the client's key", options.key_file, tls.pem_private_key));
  return ChannelTo(address.target, grpc::SslCredentials(tls));
}

}  // namespace

/// Waits have deadlines, so the stream is driven by a completion queue of its own.
/// Thread: one at a time.
class SessionStream {
 public:
  ~SessionStream() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    for (bool ok = false; queue_.Next(&tag, &ok);) {
    }
  }

  /// Begins the call. False when it did not come about in time.
  bool Start(v1::Control::Stub& control, const std::string& token, Deadline deadline) {
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    stream_ = control.PrepareAsyncOpenRemoteSession(&context_, &queue_);
    stream_->StartCall(nullptr);
    return Await(deadline);
  }
  /// Sends a message and waits for its answer.
  absl::Status Exchange(const v1::RemoteSessionRequest& request,
                        v1::RemoteSessionResponse& response, Deadline deadline) {
    if (late_) return Late();
    stream_->Write(request, nullptr);
    if (Await(deadline)) {
      stream_->Read(&response, nullptr);
      if (Await(deadline)) return absl::OkStatus();
    }
    return late_ ? Late() : End(deadline);
  }
  /// How the call ended. REQUIRES: something of it has failed.
  absl::Status End(Deadline deadline) {
    if (late_) return Late();
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    Await(deadline);
    if (late_) {  // it writes into the status above
      context_.TryCancel();
      void* tag = nullptr;
      bool ok = false;
      queue_.Next(&tag, &ok);
      return Late();
    }
    const absl::Status ended = FromGrpc(status);
    return ended.ok() ? absl::UnavailableError("the daemon ended the session") : ended;
  }

 private:
  static absl::Status Late() {
    return absl::DeadlineExceededError("the daemon did not answer in time");
  }
  /// Whether what was begun has succeeded. After a deadline that passed nothing more can be begun.
  bool Await(Deadline deadline) {
    void* tag = nullptr;
    bool ok = false;
    const auto next = queue_.AsyncNext(&tag, &ok, SystemTime(deadline));
    late_ = next != grpc::CompletionQueue::GOT_EVENT;
    return !late_ && ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<
      grpc::ClientAsyncReaderWriter<v1::RemoteSessionRequest, v1::RemoteSessionResponse>>
      stream_;
  bool late_ = false;
};

GrpcCalls::Stubs::Stubs() = default;
GrpcCalls::Stubs::~Stubs() = default;

absl::StatusOr<std::unique_ptr<GrpcCalls>> GrpcCalls::OpenRemote(const DaemonAddress& address,
                                                                 const RemoteOptions& options,
                                                                 const std::string& client_name,
                                                                 v1::RemoteWelcome& welcome,
                                                                 Deadline deadline) {
  UseGrpc();
  const InsideGrpc inside;
  std::string token;
  TC_RETURN_IF_ERROR(ReadCredential("the client's token", options.token_file, token));
  token.erase(token.find_last_not_of(kWhiteSpace) + 1);
  token.erase(0, token.find_first_not_of(kWhiteSpace));
  TC_ASSIGN_OR_RETURN(const auto channel, ChannelOf(address, options));
  auto stubs = std::make_unique<Stubs>();
  stubs->control = v1::Control::NewStub(channel);
  stubs->data = v1::Data::NewStub(channel);
  auto session = std::make_unique<SessionStream>();
  if (!session->Start(*stubs->control, token, deadline)) return session->End(deadline);
  v1::RemoteSessionRequest hello;
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  hello.mutable_hello()->set_client_name(client_name);
  v1::RemoteSessionResponse response;
  TC_RETURN_IF_ERROR(session->Exchange(hello, response, deadline));
  welcome = response.welcome();
  if (welcome.session_token().size() != 32 || welcome.arena_bytes() == 0 ||
      welcome.lease_ms() == 0) {
    return absl::InternalError("the daemon's welcome cannot be used");
  }
  stubs->token_hex = TokenHex(welcome.session_token());
  stubs->session = std::move(session);
  return std::unique_ptr<GrpcCalls>(new GrpcCalls(std::move(stubs)));
}

absl::Status GrpcCalls::Beat(Deadline deadline) {
  TC_CHECK(stubs_->session != nullptr);
  const InsideGrpc inside;
  v1::RemoteSessionResponse response;
  return stubs_->session->Exchange(v1::RemoteSessionRequest(), response, deadline);
}

absl::Status GrpcCalls::Read(
    const v1::ReadRequest& request, Deadline deadline,
    const std::function<absl::Status(const v1::ReadResponse&)>& on_blocks) {
  const InsideGrpc inside;
  grpc::ClientContext context;
  stubs_->Prepare(context, deadline);
  const std::unique_ptr<grpc::ClientReader<v1::ReadResponse>> reader =
      stubs_->data->Read(&context, request);
  absl::Status ours;
  v1::ReadResponse response;
  while (ours.ok() && reader->Read(&response)) ours = on_blocks(response);
  if (!ours.ok()) context.TryCancel();
  const grpc::Status theirs = reader->Finish();
  return ours.ok() ? FromGrpc(theirs) : ours;
}

absl::Status GrpcCalls::Write(Deadline deadline,
                              const std::function<bool(v1::WriteRequest&)>& next) {
  const InsideGrpc inside;
  grpc::ClientContext context;
  stubs_->Prepare(context, deadline);
  v1::WriteResponse response;
  const std::unique_ptr<grpc::ClientWriter<v1::WriteRequest>> writer =
      stubs_->data->Write(&context, &response);
  v1::WriteRequest request;
  for (request.Clear(); next(request); request.Clear()) {
    if (!writer->Write(request)) break;  // Finish says why
  }
  writer->WritesDone();
  return FromGrpc(writer->Finish());
}

}  // namespace client_v1
}  // namespace thermocline
