#include "client/client.h"

#include <utility>

#include "base/socket_path.h"
#include "client/core.h"
#include "client/wire.h"
#include "hashing/name.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

absl::StatusOr<std::shared_ptr<ClientCore>> NewCore(ClientOptions options, bool admin) {
  if (options.socket_path.empty()) options.socket_path = ClientSocketPath();
  auto core = std::make_shared<ClientCore>(std::move(options), admin);
  TC_RETURN_IF_ERROR(core->Reconnect());
  return core;
}

}  // namespace

Client::Client(std::shared_ptr<ClientCore> core) : core_(std::move(core)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(Options options) {
  TC_ASSIGN_OR_RETURN(auto core, NewCore(std::move(options), false));
  return std::unique_ptr<Client>(new Client(std::move(core)));
}

absl::StatusOr<Space> Client::OpenSpace(const SpaceSpec& spec, Timeout timeout) {
  TC_RETURN_IF_ERROR(spec.Validate());
  const Deadline deadline = core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, core_->Get(deadline));
  auto state = std::make_shared<SpaceState>();
  state->core = core_;
  state->spec = spec;
  for (const PartSpec& part : spec.parts) {
    state->rules.push_back({(part.window_tokens + kPlaceTokens - 1) / kPlaceTokens});
  }
  TC_RETURN_IF_ERROR(state->NumberIn(*connection, deadline).status());
  return Space(std::move(state));
}

absl::StatusOr<std::vector<SpaceInfo>> Client::Spaces(Timeout timeout) {
  const Deadline deadline = core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, core_->Get(deadline));
  const auto response = connection->calls().ListSpaces({}, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  std::vector<SpaceInfo> spaces;
  for (const v1::SpaceInfo& wire : response->spaces()) {
    TC_ASSIGN_OR_RETURN(SpaceInfo space, FromWire(wire));
    spaces.push_back(std::move(space));
  }
  return spaces;
}

absl::StatusOr<std::vector<PinInfo>> Client::Pins(Timeout timeout) {
  const Deadline deadline = core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, core_->Get(deadline));
  const auto response = connection->calls().ListPins({}, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  std::vector<PinInfo> pins;
  for (const v1::PinInfo& wire : response->pins()) {
    TC_ASSIGN_OR_RETURN(PinInfo pin, FromWire(wire));
    pins.push_back(pin);
  }
  return pins;
}

absl::Status Client::Unpin(uint64_t pin, Timeout timeout) {
  const Deadline deadline = core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, core_->Get(deadline));
  v1::UnpinRequest request;
  request.set_pin(pin);
  return connection->Explain(connection->calls().Unpin(request, deadline).status());
}

absl::StatusOr<DaemonStats> Client::Stats(Timeout timeout) {
  const Deadline deadline = core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, core_->Get(deadline));
  Connection::FlushAllReturns(socket_path(), deadline);
  const auto response = connection->calls().Stats({}, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  return FromWire(*response);
}

absl::Status Client::Reconnect() { return core_->Reconnect(); }
bool Client::Connected() const { return core_->Connected(); }
const std::string& Client::socket_path() const { return core_->options().socket_path; }

absl::StatusOr<std::unique_ptr<AdminClient>> AdminClient::Connect(ClientOptions options) {
  TC_ASSIGN_OR_RETURN(auto core, NewCore(std::move(options), true));
  std::unique_ptr<Client> client(new Client(std::move(core)));
  return std::unique_ptr<AdminClient>(new AdminClient(std::move(client)));
}

absl::StatusOr<uint64_t> AdminClient::Delete(const Fingerprint& space, NamesView names,
                                             Timeout timeout) {
  if (names.tokens().size() % kPlaceTokens != 0) {  // rounded down it would delete more
    return absl::InvalidArgumentError("delete takes whole places of 16 token ids, and " +
                                      std::to_string(names.tokens().size()) +
                                      " ids are no multiple of 16");
  }
  const Deadline deadline = client_->core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, client_->core_->Get(deadline));
  Connection::FlushAllReturns(client_->socket_path(), deadline, true);
  v1::DeleteRequest request;
  request.set_fingerprint(space.bytes.data(), space.bytes.size());
  *request.mutable_names() = ToWire(names);
  const auto response = connection->calls().Delete(request, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  return response->places();
}

absl::StatusOr<FlushResult> AdminClient::Flush(BlockTier tier, Timeout timeout) {
  const Deadline deadline = client_->core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, client_->core_->Get(deadline));
  Connection::FlushAllReturns(client_->socket_path(), deadline, true);
  v1::FlushRequest request;
  request.set_tier(ToWire(tier));
  const auto response = connection->calls().Flush(request, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  return FlushResult{.blocks = response->blocks(), .kept = response->kept()};
}

absl::StatusOr<uint64_t> AdminClient::DropArena(Timeout timeout) {
  const Deadline deadline = client_->core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, client_->core_->Get(deadline));
  Connection::FlushAllReturns(client_->socket_path(), deadline, true);
  const auto response = connection->calls().DropArena({}, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  return response->blocks();
}

absl::StatusOr<FsckResult> AdminClient::Fsck(Timeout timeout) {
  const Deadline deadline = client_->core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, client_->core_->Get(deadline));
  const auto response = connection->calls().Fsck({}, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  return FsckResult{.blocks = response->blocks(), .damaged = response->damaged()};
}

absl::StatusOr<std::vector<TenantInfo>> AdminClient::Tenants(Timeout timeout) {
  const Deadline deadline = client_->core_->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, client_->core_->Get(deadline));
  Connection::FlushAllReturns(client_->socket_path(), deadline);
  const auto response = connection->calls().ListTenants({}, deadline);
  if (!response.ok()) return connection->Explain(response.status());
  std::vector<TenantInfo> tenants;
  for (const v1::TenantInfo& tenant : response->tenants()) {
    tenants.push_back({.name = tenant.name(), .stats = FromWire(tenant.stats())});
  }
  return tenants;
}

}  // namespace client_v1
}  // namespace thermocline
