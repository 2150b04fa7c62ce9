#include "client/grpc_calls.h"

#include <grpc/fork.h>
#include <pthread.h>

#include <atomic>
#include <cstdlib>

#include "base/check.h"
#include "client/fork.h"
#include "client/grpc_stubs.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

// A match of a million tokens answers with 65,536 blocks of about 50 bytes.
constexpr int kMaxMessageBytes = 64 << 20;

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

bool RegisterForkHandlers() {
  const bool handled = !ForkSupportIsOn() || ::pthread_atfork(&grpc_prefork, &grpc_postfork_parent,
                                                              &grpc_postfork_child) == 0;
  return ::pthread_atfork(nullptr, nullptr, &InChild) == 0 && handled;
}

}  // namespace

InsideGrpc::InsideGrpc() { threads_inside.fetch_add(1); }
InsideGrpc::~InsideGrpc() { threads_inside.fetch_sub(1); }

void UseGrpc() {
  static const bool registered = RegisterForkHandlers();
  TC_CHECK(registered);
  used_in_generation.store(ForkGeneration());
}

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

std::shared_ptr<grpc::Channel> ChannelTo(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Every session has a connection of its own: a global subchannel would carry the backoff of a
  // daemon that was away into the session with the one that came back.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, credentials, arguments);
}

std::string TokenHex(std::string_view token) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (const char c : token) {
    const auto byte = static_cast<unsigned char>(c);
    hex += {kHex[byte >> 4], kHex[byte & 15]};
  }
  return hex;
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

std::chrono::system_clock::time_point SystemTime(Deadline deadline) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(
             deadline - std::chrono::steady_clock::now());
}

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

GrpcCalls::GrpcCalls(const v1::Welcome& welcome) : stubs_(std::make_unique<Stubs>()) {
  UseGrpc();
  const InsideGrpc inside;
  stubs_->token_hex = TokenHex(welcome.session_token());
  const auto insecure = grpc::InsecureChannelCredentials();
  const auto channel = ChannelTo(UnixTarget(welcome.grpc_socket()), insecure);
  stubs_->control = v1::Control::NewStub(channel);
  stubs_->data = v1::Data::NewStub(channel);
  if (!welcome.admin_socket().empty()) {
    stubs_->admin = v1::Admin::NewStub(ChannelTo(UnixTarget(welcome.admin_socket()), insecure));
  }
}

GrpcCalls::GrpcCalls(std::unique_ptr<Stubs> stubs) : stubs_(std::move(stubs)) {}

GrpcCalls::~GrpcCalls() {
  const InsideGrpc inside;
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
TC_DEFINE_CALL(Data, data, LookUp)
TC_DEFINE_CALL(Data, data, Reserve)
TC_DEFINE_CALL(Data, data, Commit)
TC_DEFINE_CALL(Data, data, Abort)
TC_DEFINE_CALL(Data, data, Release)
TC_DEFINE_CALL(Data, data, Report)
TC_DEFINE_CALL(Admin, admin, Delete)
TC_DEFINE_CALL(Admin, admin, Flush)
TC_DEFINE_CALL(Admin, admin, DropArena)
TC_DEFINE_CALL(Admin, admin, Fsck)
TC_DEFINE_CALL(Admin, admin, ListTenants)
#undef TC_DEFINE_CALL

absl::Status GrpcCalls::Load(
    const v1::LoadRequest& request, Deadline deadline,
    const std::function<absl::Status(const v1::LoadResponse&)>& on_blocks) {
  return stubs_->Stream(&v1::Data::Stub::Load, request, deadline, on_blocks);
}

}  // namespace client_v1
}  // namespace thermocline
