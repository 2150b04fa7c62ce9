#include "client/grpc_calls.h"

#include <grpc/fork.h>
#include <grpcpp/grpcpp.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string_view>

#include "base/check.h"
#include "client/fork.h"
#include "thermocline/v1/admin.grpc.pb.h"
#include "thermocline/v1/control.grpc.pb.h"
#include "thermocline/v1/data.grpc.pb.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

// A match of a million tokens answers with 65,536 blocks of about 50 bytes.
constexpr int kMaxMessageBytes = 64 << 20;

/// gRPC reads the path of a unix target as a URI does.
std::string UnixTarget(std::string_view path) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string target = "unix:";
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("/-._~").find(c) != std::string_view::npos;
    if (plain) {
      target += c;
    } else {
      target += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return target;
}

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Every session has a connection of its own: a global subchannel would carry the backoff of a
  // daemon that was away into the session with the one that came back.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(UnixTarget(socket), grpc::InsecureChannelCredentials(),
                                   arguments);
}

// gRPC's own handlers stop its threads before a fork and start them again on both sides, where its
// fork support is on; they pass when a thread is inside gRPC. Debian's build does not register
// them.
std::atomic<int> threads_inside{0};
std::atomic<bool> forked_amid_call{false};
constexpr uint64_t kNeverUsed = ~uint64_t{0};
std::atomic<uint64_t> used_in_generation{kNeverUsed};

bool ForkSupportIsOn() {
  const char* value = std::getenv("GRPC_ENABLE_FORK_SUPPORT");
  return value != nullptr && (std::string_view(value) == "1" || std::string_view(value) == "true");
}

void InChild() {
  if (threads_inside.exchange(0) != 0) forked_amid_call.store(true);
}

/// Held while this thread is inside gRPC.
class Inside {
 public:
  Inside() { threads_inside.fetch_add(1); }
  ~Inside() { threads_inside.fetch_sub(1); }
  Inside(const Inside&) = delete;
};

bool RegisterForkHandlers() {
  const bool handled = !ForkSupportIsOn() || ::pthread_atfork(&grpc_prefork, &grpc_postfork_parent,
                                                              &grpc_postfork_child) == 0;
  return ::pthread_atfork(nullptr, nullptr, &InChild) == 0 && handled;
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

}  // namespace

absl::Status CheckGrpcAfterFork() {
  const uint64_t used = used_in_generation.load();
  if (used == kNeverUsed || used == ForkGeneration()) return absl::OkStatus();
  if (ForkSupportIsOn() && !forked_amid_call.load()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this process was forked from one that used gRPC already, " +
      std::string(ForkSupportIsOn() ? "while a call was under way"
                                    : "without GRPC_ENABLE_FORK_SUPPORT=1 in its environment") +
      ", and cannot use it; connect after the fork only, or exec");
}

struct GrpcCalls::Stubs {
  std::string token_hex;
  std::unique_ptr<v1::Control::Stub> control;
  std::unique_ptr<v1::Data::Stub> data;
  std::unique_ptr<v1::Admin::Stub> admin;  // none unless the session is an admin's

  void Prepare(grpc::ClientContext& context, Deadline deadline) const {
    context.AddMetadata("thermocline-session", token_hex);
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::system_clock::duration>(
                             deadline - std::chrono::steady_clock::now()));
  }

  template <class Stub, class Request, class Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                Stub* stub, const Request& request, Deadline deadline) const {
    const Inside inside;
    grpc::ClientContext context;
    Prepare(context, deadline);
    Response response;
    const grpc::Status status = (stub->*method)(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response;
  }
};

GrpcCalls::GrpcCalls(const v1::Welcome& welcome) : stubs_(std::make_unique<Stubs>()) {
  static const bool registered = RegisterForkHandlers();
  TC_CHECK(registered);
  used_in_generation.store(ForkGeneration());
  const Inside inside;
  static constexpr char kHex[] = "0123456789abcdef";
  for (const char c : welcome.session_token()) {
    const auto byte = static_cast<unsigned char>(c);
    stubs_->token_hex += {kHex[byte >> 4], kHex[byte & 15]};
  }
  const std::shared_ptr<grpc::Channel> channel = ChannelTo(welcome.grpc_socket());
  stubs_->control = v1::Control::NewStub(channel);
  stubs_->data = v1::Data::NewStub(channel);
  if (!welcome.admin_socket().empty()) {
    stubs_->admin = v1::Admin::NewStub(ChannelTo(welcome.admin_socket()));
  }
}

GrpcCalls::~GrpcCalls() {
  const Inside inside;
  stubs_.reset();
}

#define TC_DEFINE_CALL(stub_type, stub, method)                                               \
  absl::StatusOr<v1::method##Response> GrpcCalls::method(const v1::method##Request& request,  \
                                                         Deadline deadline) {                 \
    TC_CHECK(stubs_->stub != nullptr);                                                        \
    return stubs_->Call(&v1::stub_type::Stub::method, stubs_->stub.get(), request, deadline); \
  }
TC_DEFINE_CALL(Control, control, OpenSpace)
TC_DEFINE_CALL(Control, control, ListSpaces)
TC_DEFINE_CALL(Control, control, Pin)
TC_DEFINE_CALL(Control, control, Unpin)
TC_DEFINE_CALL(Control, control, ListPins)
TC_DEFINE_CALL(Control, control, Prefetch)
TC_DEFINE_CALL(Control, control, Stats)
TC_DEFINE_CALL(Data, data, Match)
TC_DEFINE_CALL(Data, data, Reserve)
TC_DEFINE_CALL(Data, data, Commit)
TC_DEFINE_CALL(Data, data, Abort)
TC_DEFINE_CALL(Data, data, Release)
TC_DEFINE_CALL(Admin, admin, Delete)
TC_DEFINE_CALL(Admin, admin, Flush)
TC_DEFINE_CALL(Admin, admin, DropArena)
#undef TC_DEFINE_CALL

absl::Status GrpcCalls::Load(
    const v1::LoadRequest& request, Deadline deadline,
    const std::function<absl::Status(const v1::LoadResponse&)>& on_blocks) {
  const Inside inside;
  grpc::ClientContext context;
  stubs_->Prepare(context, deadline);
  const std::unique_ptr<grpc::ClientReader<v1::LoadResponse>> reader =
      stubs_->data->Load(&context, request);
  absl::Status ours;
  v1::LoadResponse response;
  while (ours.ok() && reader->Read(&response)) ours = on_blocks(response);
  if (!ours.ok()) context.TryCancel();
  const grpc::Status theirs = reader->Finish();
  return ours.ok() ? FromGrpc(theirs) : ours;
}

}  // namespace client_v1
}  // namespace thermocline
