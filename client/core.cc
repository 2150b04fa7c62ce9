#include "client/core.h"

#include <algorithm>

#include "client/address.h"
#include "client/fork.h"
#include "client/wire.h"
#include "proto/space_wire.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstBackoff{50};
constexpr milliseconds kLastBackoff{2000};

absl::Status Forked() {
  return absl::FailedPreconditionError(
      "this process was forked after its client connected, and the session is its parent's; call "
      "Reconnect() for one of its own");
}

}  // namespace

ClientCore::ClientCore(ClientOptions options, bool admin)
    : options_(std::move(options)), admin_(admin), state_(new ProcessState(ForkGeneration())) {}

ClientCore::~ClientCore() {
  ProcessState* state = state_.load();
  if (state->fork_generation == ForkGeneration()) delete state;
}

absl::StatusOr<std::shared_ptr<Connection>> ClientCore::Get(Deadline deadline) {
  ProcessState* state = state_.load();
  if (state->fork_generation != ForkGeneration()) return Forked();
  return Obtain(*state, deadline, false);
}

absl::Status ClientCore::Reconnect() {
  ProcessState* state = state_.load();
  if (state->fork_generation != ForkGeneration()) {
    auto fresh = std::make_unique<ProcessState>(ForkGeneration());
    if (state_.compare_exchange_strong(state, fresh.get())) state = fresh.release();
  }
  return Obtain(*state, DeadlineOf({}), true).status();
}

bool ClientCore::Connected() const {
  ProcessState* state = state_.load();
  if (state->fork_generation != ForkGeneration()) return false;
  MutexLock lock(state->mutex);
  return state->connection != nullptr && state->connection->Alive().ok();
}

absl::StatusOr<std::shared_ptr<Connection>> ClientCore::Open(Deadline deadline) const {
  SessionRequest request{
      .socket_path = options_.socket_path, .client_name = options_.client_name, .admin = admin_};
  const RemoteOptions remote = WithEnvironment(options_.remote);
  const auto open_remote = [&]() -> absl::StatusOr<std::shared_ptr<Connection>> {
    TC_ASSIGN_OR_RETURN(const DaemonAddress address, ParseDaemonAddress(remote.address));
    return Connection::OpenRemote(request, address, remote, deadline);
  };
  if (!options_.remote.address.empty()) {
    if (!admin_) return open_remote();
    return absl::PermissionDeniedError(
        "what deletes and drops is for the daemon's own user on its own machine, at its socket");
  }
  auto local = Connection::Open(request, deadline);
  // Nobody listens on this machine, or somebody else's daemon does: there may be one elsewhere.
  const bool elsewhere =
      absl::IsUnavailable(local.status()) || absl::IsPermissionDenied(local.status());
  if (!elsewhere || admin_ || remote.address.empty()) return local;
  return open_remote();
}

absl::StatusOr<std::shared_ptr<Connection>> ClientCore::Obtain(ProcessState& state,
                                                               Deadline deadline, bool now) {
  {
    MutexLock lock(state.mutex);
    if (state.connection != nullptr && state.connection->SeemsAlive()) return state.connection;
    if (state.connection != nullptr) {
      const absl::Status alive = state.connection->Alive();
      if (alive.ok()) return state.connection;
      if (state.last_error.ok()) state.last_error = alive;
      if (!options_.auto_reconnect && !now) return alive;
    }
    const bool wait = state.connecting || (!now && steady_clock::now() < state.next_attempt);
    if (wait) {
      return state.last_error.ok() ? absl::UnavailableError("connecting to the daemon")
                                   : state.last_error;
    }
    state.connecting = true;
  }
  absl::StatusOr<std::shared_ptr<Connection>> fresh = Open(deadline);
  MutexLock lock(state.mutex);
  state.connecting = false;
  if (fresh.ok()) {
    state.connection = *fresh;
    state.last_error = absl::OkStatus();
    state.backoff = milliseconds(0);
    state.next_attempt = {};
  } else {
    state.last_error = fresh.status();
    state.backoff = std::clamp(state.backoff * 2, kFirstBackoff, kLastBackoff);
    state.next_attempt = steady_clock::now() + state.backoff;
  }
  return fresh;
}

absl::StatusOr<uint32_t> SpaceState::NumberIn(Connection& connection, Deadline deadline) {
  TC_ASSIGN_OR_RETURN(const Root root, RootIn(connection, deadline));
  return root.tag;
}

absl::StatusOr<Root> SpaceState::RootIn(Connection& connection, Deadline deadline) {
  const uint64_t number = serial_and_number.load(std::memory_order_acquire);
  const uint64_t node = serial_and_root.load(std::memory_order_acquire);
  if (number >> 32 == connection.serial() && node >> 32 == connection.serial()) {
    return Root{static_cast<NodeId>(node), static_cast<uint32_t>(number)};
  }
  v1::OpenSpaceRequest request;
  ToWire(spec, *request.mutable_spec());
  request.mutable_spec()->set_salt(spec.salt);
  const absl::StatusOr<v1::OpenSpaceResponse> response =
      connection.calls().OpenSpace(request, deadline);
  if (!response.ok()) return connection.Explain(response.status());
  if (!connection.remote() && !connection.catalog().IsNode(response->root_node())) {
    return absl::InternalError("the daemon opened the space at node " +
                               std::to_string(response->root_node()) +
                               ", which is none of its catalog");
  }
  if (number == 0) {  // the first time, before anyone shares this
    TC_ASSIGN_OR_RETURN(fingerprint, FingerprintFromWire(response->fingerprint()));
  }
  serial_and_root.store(connection.serial() << 32 | response->root_node());
  serial_and_number.store(connection.serial() << 32 | response->space());
  return Root{response->root_node(), response->space()};
}

}  // namespace client_v1
}  // namespace thermocline
