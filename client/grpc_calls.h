// The daemon's gRPC services as plain calls: one function a method, absl::Status out, the session's
// token and a deadline on every call. gRPC itself stays in the .cc.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "client/address.h"
#include "client/session.h"
#include "thermocline/v1/admin.pb.h"
#include "thermocline/v1/control.pb.h"
#include "thermocline/v1/data.pb.h"

namespace thermocline {
inline namespace client_v1 {

/// Whether this process can use gRPC: a forked child only inherits it whole when it was started
/// with GRPC_ENABLE_FORK_SUPPORT=1 and no call of ours was under way at the fork; without, it would
/// crash or hang on threads that are not there.
/// Errors: FailedPrecondition, saying what to do.
absl::Status CheckGrpcAfterFork();

/// One channel to each socket that the welcome names.
/// Thread: any.
/// Errors: of every call: the daemon's own status; Unavailable when the channel is broken;
///         DeadlineExceeded when no answer came (what was asked for may have happened).
class GrpcCalls {
 public:
  explicit GrpcCalls(const v1::Welcome& welcome);
  ~GrpcCalls();

  /// Of a session without the map, which it opens and is: it ends when this goes.
  /// `ended` is called at most once, on a thread of its own, when the session has.
  /// Errors: Unavailable when nobody answers at the address; what is wrong with the files; the
  ///         daemon's own words when it refuses.
  static absl::StatusOr<std::unique_ptr<GrpcCalls>> OpenRemote(
      const DaemonAddress& address, const RemoteOptions& options, const std::string& client_name,
      std::function<void(absl::Status)> ended, v1::RemoteWelcome& welcome, Deadline deadline);
  /// Tells the daemon that the remote session lives, and waits for its answer.
  /// Thread: one at a time. Errors: how the session ended; DeadlineExceeded.
  absl::Status Beat(Deadline deadline);
  /// Ends the remote session, and a beat that waits. Thread: any.
  void EndSession();

  absl::StatusOr<v1::OpenSpaceResponse> OpenSpace(const v1::OpenSpaceRequest&, Deadline);
  absl::StatusOr<v1::ListSpacesResponse> ListSpaces(const v1::ListSpacesRequest&, Deadline);
  absl::StatusOr<v1::PinResponse> Pin(const v1::PinRequest&, Deadline);
  absl::StatusOr<v1::UnpinResponse> Unpin(const v1::UnpinRequest&, Deadline);
  absl::StatusOr<v1::ListPinsResponse> ListPins(const v1::ListPinsRequest&, Deadline);
  absl::StatusOr<v1::PrefetchResponse> Prefetch(const v1::PrefetchRequest&, Deadline);
  absl::StatusOr<v1::StatsResponse> Stats(const v1::StatsRequest&, Deadline);

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest&, Deadline);
  absl::StatusOr<v1::LookUpResponse> LookUp(const v1::LookUpRequest&, Deadline);
  absl::StatusOr<v1::ReserveResponse> Reserve(const v1::ReserveRequest&, Deadline);
  absl::StatusOr<v1::CommitResponse> Commit(const v1::CommitRequest&, Deadline);
  absl::StatusOr<v1::AbortResponse> Abort(const v1::AbortRequest&, Deadline);
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest&, Deadline);
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest&, Deadline);
  /// `on_blocks` is called on this thread for every message of the stream; an error of its ends
  /// the call.
  absl::Status Load(const v1::LoadRequest&, Deadline,
                    const std::function<absl::Status(const v1::LoadResponse&)>& on_blocks);

  /// As Load, with the bytes. For remote sessions.
  absl::Status Read(const v1::ReadRequest&, Deadline,
                    const std::function<absl::Status(const v1::ReadResponse&)>& on_blocks);
  absl::Status ReadKeys(const v1::ReadKeysRequest&, Deadline,
                        const std::function<absl::Status(const v1::ReadResponse&)>& on_blocks);
  /// Sends what `next` puts into an empty message, until it answers false. For remote sessions.
  absl::Status Write(Deadline, const std::function<bool(v1::WriteRequest&)>& next);

  absl::StatusOr<v1::DeleteResponse> Delete(const v1::DeleteRequest&, Deadline);
  absl::StatusOr<v1::FlushResponse> Flush(const v1::FlushRequest&, Deadline);
  absl::StatusOr<v1::DropArenaResponse> DropArena(const v1::DropArenaRequest&, Deadline);
  absl::StatusOr<v1::FsckResponse> Fsck(const v1::FsckRequest&, Deadline);
  absl::StatusOr<v1::ListTenantsResponse> ListTenants(const v1::ListTenantsRequest&, Deadline);

 private:
  struct Stubs;
  explicit GrpcCalls(std::unique_ptr<Stubs> stubs);
  std::unique_ptr<Stubs> stubs_;
};

}  // namespace client_v1
}  // namespace thermocline
