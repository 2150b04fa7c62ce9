// The session of a client without the map, and the calls that carry bytes.
#include <algorithm>
#include <functional>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/file_util.h"
#include "base/mutex.h"
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

/// A thread of its own takes what comes, so that the stream's end is known at once and every wait
/// has a deadline.
/// Thread: any, Exchange one at a time.
class SessionStream {
 public:
  /// `ended` is called once, on the stream's thread, when the daemon has ended the session or is
  /// gone.
  SessionStream(v1::Control::Stub& control, const std::string& token,
                std::function<void(absl::Status)> ended)
      : ended_(std::move(ended)) {
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    stream_ = control.PrepareAsyncOpenRemoteSession(&context_, &queue_);
    stream_->StartCall(Tag(Event::kStarted));
    thread_ = std::thread([this] { Run(); });
  }
  ~SessionStream() {
    Cancel();
    thread_.join();
    queue_.Shutdown();
    void* tag = nullptr;
    for (bool ok = false; queue_.Next(&tag, &ok);) {
    }
  }
  void Cancel() { context_.TryCancel(); }

  /// Sends a message and waits for its answer.
  /// Errors: how the session ended; DeadlineExceeded.
  absl::Status Exchange(v1::RemoteSessionRequest request, Deadline deadline) {
    MutexLock lock(mutex_);
    while (!over_ && (!started_ || writing_)) {
      if (!changed_.WaitUntil(mutex_, deadline)) return Late();
    }
    if (over_) return end_;
    request_ = std::move(request);
    request_.set_beat(++beat_);
    writing_ = true;
    stream_->Write(request_, Tag(Event::kWritten));
    while (!over_ && answered_ < beat_) {
      if (!changed_.WaitUntil(mutex_, deadline)) return Late();
    }
    return over_ ? end_ : absl::OkStatus();
  }
  /// What the daemon granted. REQUIRES: an exchange has succeeded.
  v1::RemoteWelcome welcome() {
    MutexLock lock(mutex_);
    return welcome_;
  }

 private:
  enum class Event : intptr_t { kStarted = 1, kWritten, kRead, kFinished };
  static void* Tag(Event event) { return reinterpret_cast<void*>(event); }
  static absl::Status Late() {
    return absl::DeadlineExceededError("the daemon did not answer in time");
  }

  void Run() {
    const InsideGrpc inside;  // for as long as it lives: no fork of this process goes on with gRPC
    void* tag = nullptr;
    for (bool ok = false; queue_.Next(&tag, &ok);) {
      const auto event = static_cast<Event>(reinterpret_cast<intptr_t>(tag));
      if (event == Event::kFinished) break;
      MutexLock lock(mutex_);
      Take(event, ok);
      changed_.NotifyAll();
    }
    absl::Status end = FromGrpc(status_);
    if (end.ok()) end = absl::UnavailableError("it ended the session");
    {
      MutexLock lock(mutex_);
      over_ = true;
      end_ = end;
      changed_.NotifyAll();
    }
    ended_(std::move(end));
  }
  void Take(Event event, bool ok) TC_REQUIRES(mutex_) {
    if (event == Event::kWritten) writing_ = false;  // one that failed is told by the read
    if (event == Event::kRead && ok) {
      answered_ = incoming_.beat();
      if (incoming_.has_welcome()) welcome_ = incoming_.welcome();
    }
    if (event == Event::kStarted) started_ = ok;
    if (event == Event::kWritten) return;
    if (ok) {
      stream_->Read(&incoming_, Tag(Event::kRead));
    } else {
      stream_->Finish(&status_, Tag(Event::kFinished));
    }
  }

  const std::function<void(absl::Status)> ended_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<
      grpc::ClientAsyncReaderWriter<v1::RemoteSessionRequest, v1::RemoteSessionResponse>>
      stream_;
  v1::RemoteSessionResponse incoming_;  // of the read under way
  grpc::Status status_;                 // once it has finished
  Mutex mutex_;
  CondVar changed_;
  v1::RemoteSessionRequest request_ TC_GUARDED_BY(mutex_);  // of the write under way
  v1::RemoteWelcome welcome_ TC_GUARDED_BY(mutex_);
  uint64_t beat_ TC_GUARDED_BY(mutex_) = 0;
  uint64_t answered_ TC_GUARDED_BY(mutex_) = 0;
  bool started_ TC_GUARDED_BY(mutex_) = false;
  bool writing_ TC_GUARDED_BY(mutex_) = false;
  bool over_ TC_GUARDED_BY(mutex_) = false;
  absl::Status end_ TC_GUARDED_BY(mutex_);
  std::thread thread_;
};

GrpcCalls::Stubs::Stubs() = default;
GrpcCalls::Stubs::~Stubs() = default;

absl::StatusOr<std::unique_ptr<GrpcCalls>> GrpcCalls::OpenRemote(
    const DaemonAddress& address, const RemoteOptions& options, const std::string& client_name,
    std::function<void(absl::Status)> ended, v1::RemoteWelcome& welcome, Deadline deadline) {
  UseGrpc();
  const InsideGrpc inside;
  std::string token;
  TC_RETURN_IF_ERROR(ReadCredential("the client's token", options.token_file, token));
  token.erase(token.find_last_not_of(kWhiteSpace) + 1);
  token.erase(0, token.find_first_not_of(kWhiteSpace));
  if (!std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c <= '~'; })) {
    return absl::InvalidArgumentError(options.token_file +
                                      " holds more than one word of printable characters: a token "
                                      "stands alone in its file");
  }
  TC_ASSIGN_OR_RETURN(const auto channel, ChannelOf(address, options));
  auto stubs = std::make_unique<Stubs>();
  stubs->control = v1::Control::NewStub(channel);
  stubs->data = v1::Data::NewStub(channel);
  stubs->session = std::make_unique<SessionStream>(*stubs->control, token, std::move(ended));
  v1::RemoteSessionRequest hello;
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  hello.mutable_hello()->set_client_name(client_name);
  TC_RETURN_IF_ERROR(stubs->session->Exchange(std::move(hello), deadline));
  welcome = stubs->session->welcome();
  if (welcome.session_token().size() != 32 || welcome.arena_bytes() == 0 ||
      welcome.lease_ms() == 0) {
    return absl::InternalError("the daemon's welcome cannot be used");
  }
  stubs->token_hex = TokenHex(welcome.session_token());
  return std::unique_ptr<GrpcCalls>(new GrpcCalls(std::move(stubs)));
}

absl::Status GrpcCalls::Beat(Deadline deadline) {
  TC_CHECK(stubs_->session != nullptr);
  const InsideGrpc inside;
  return stubs_->session->Exchange(v1::RemoteSessionRequest(), deadline);
}

void GrpcCalls::EndSession() {
  const InsideGrpc inside;
  if (stubs_->session != nullptr) stubs_->session->Cancel();
}

absl::Status GrpcCalls::Read(
    const v1::ReadRequest& request, Deadline deadline,
    const std::function<absl::Status(const v1::ReadResponse&)>& on_blocks) {
  return stubs_->Stream(&v1::Data::Stub::Read, request, deadline, on_blocks);
}

absl::Status GrpcCalls::ReadKeys(
    const v1::ReadKeysRequest& request, Deadline deadline,
    const std::function<absl::Status(const v1::ReadResponse&)>& on_blocks) {
  return stubs_->Stream(&v1::Data::Stub::ReadKeys, request, deadline, on_blocks);
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
