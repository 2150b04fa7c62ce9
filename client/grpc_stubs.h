// The inside of GrpcCalls, shared by its two sources: what every call needs, and the stream that is
// a remote session.
#pragma once
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "client/grpc_calls.h"
#include "thermocline/v1/admin.grpc.pb.h"
#include "thermocline/v1/control.grpc.pb.h"
#include "thermocline/v1/data.grpc.pb.h"

namespace thermocline {
inline namespace client_v1 {

/// Held while this thread is inside gRPC, so that a fork amid a call is known.
class InsideGrpc {
 public:
  InsideGrpc();
  ~InsideGrpc();
  InsideGrpc(const InsideGrpc&) = delete;
};

/// Before the first use of gRPC in a process.
void UseGrpc();

/// With the limits and settings of every channel of ours.
std::shared_ptr<grpc::Channel> ChannelTo(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials);
/// gRPC reads the path of a unix target as a URI does.
std::string UnixTarget(std::string_view path);
std::string TokenHex(std::string_view token);
absl::Status FromGrpc(const grpc::Status& status);
std::chrono::system_clock::time_point SystemTime(Deadline deadline);

class SessionStream;

struct GrpcCalls::Stubs {
  std::string token_hex;
  std::unique_ptr<v1::Control::Stub> control;
  std::unique_ptr<v1::Data::Stub> data;
  std::unique_ptr<v1::Admin::Stub> admin;  // none unless the session is an admin's
  std::unique_ptr<SessionStream> session;  // none unless the session is a remote one

  Stubs();
  ~Stubs();
  void Prepare(grpc::ClientContext& context, Deadline deadline) const {
    context.AddMetadata("thermocline-session", token_hex);
    context.set_deadline(SystemTime(deadline));
  }

  template <class Stub, class Request, class Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                Stub* stub, const Request& request, Deadline deadline) const {
    const InsideGrpc inside;
    grpc::ClientContext context;
    Prepare(context, deadline);
    Response response;
    const grpc::Status status = (stub->*method)(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response;
  }
  /// `on_message` is called on this thread for every message; an error of its ends the call.
  template <class Request, class Response>
  absl::Status Stream(std::unique_ptr<grpc::ClientReader<Response>> (v1::Data::Stub::*method)(
                          grpc::ClientContext*, const Request&),
                      const Request& request, Deadline deadline,
                      const std::function<absl::Status(const Response&)>& on_message) const {
    const InsideGrpc inside;
    grpc::ClientContext context;
    Prepare(context, deadline);
    const std::unique_ptr<grpc::ClientReader<Response>> reader =
        (data.get()->*method)(&context, request);
    absl::Status ours;
    Response response;
    while (ours.ok() && reader->Read(&response)) ours = on_message(response);
    if (!ours.ok()) context.TryCancel();
    const grpc::Status theirs = reader->Finish();
    return ours.ok() ? FromGrpc(theirs) : ours;
  }
};

}  // namespace client_v1
}  // namespace thermocline
