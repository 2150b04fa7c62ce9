#include "daemon/control_service.h"

#include <memory>
#include <set>
#include <utility>

#include "base/log.h"
#include "base/version.h"
#include "daemon/grpc_remote_session.h"
#include "daemon/tenant_map.h"

namespace thermocline {
namespace {

/// A pin for longer than this is a mistake in units.
constexpr uint64_t kMaxPinMilliseconds = uint64_t{366} * 24 * 3600 * 1000;
/// So many are remembered before those that gave way to others are looked for.
constexpr size_t kMaxSpacesRemembered = 4096;

void ForgetClosedSpaces(TenantView& tenant) {
  if (tenant.spaces.size() < kMaxSpacesRemembered) return;
  std::set<uint32_t> open;
  for (const SpaceView& view : tenant.stack->Spaces()) open.insert(view.space);
  std::erase_if(tenant.spaces, [&](const auto& entry) { return !open.contains(entry.first); });
}

void SetFingerprint(const Fingerprint& fingerprint, std::string& out) {
  out.assign(reinterpret_cast<const char*>(fingerprint.bytes.data()), fingerprint.bytes.size());
}

absl::Status OpenIn(TenantView& tenant, const SpaceSpec& spec, bool may_add,
                    v1::OpenSpaceResponse& response) {
  TC_ASSIGN_OR_RETURN(const uint32_t space, tenant.stack->OpenSpace(spec, may_add));
  const Fingerprint fingerprint = FingerprintOf(spec);
  ForgetClosedSpaces(tenant);
  const bool is_new =
      tenant.spaces
          .insert_or_assign(space, TenantView::OpenSpace{.key_bytes = spec.key_bytes,
                                                         .block_tokens = spec.block_tokens})
          .second;
  response.set_space(space);
  response.set_root_node(tenant.stack->RootOf(space).node);
  SetFingerprint(fingerprint, *response.mutable_fingerprint());
  if (is_new) {
    LogEvent(LogLevel::kInfo, "space_opened",
             {{"tenant", tenant.name},
              {"space", space},
              {"fingerprint", fingerprint.Hex()},
              {"model", spec.model},
              {"parts", spec.parts.size()}});
  }
  return absl::OkStatus();
}

absl::StatusOr<TierStack::PinView> PinIn(TenantView& tenant, const v1::PinRequest& request,
                                         const WireNames& names, TierKind tier) {
  TC_RETURN_IF_ERROR(tenant.SpaceOf(request.space(), names).status());
  return tenant.stack->Pin(request.space(), names.names,
                           std::chrono::milliseconds(request.ttl_ms()), tier);
}

void FillTier(const TierStats& tier, v1::TierStats& out) {
  out.set_tier(ToWire(tier.tier));
  out.set_capacity_bytes(tier.capacity_bytes);
  out.set_used_bytes(tier.used_bytes);
  out.set_blocks(tier.block_count);
  out.set_hits(tier.hits);
  out.set_evictions(tier.evictions);
  out.set_promotions(tier.promotions);
  out.set_demotions(tier.demotions);
  out.set_state(tier.state);
  out.set_share_bytes(tier.share_bytes);
  out.set_lent_bytes(tier.lent_bytes);
  out.set_ttl_pinned_bytes(tier.ttl_pinned_bytes);
}

}  // namespace

void FillStats(const ServiceContext& services, const Tenant& tenant, const StackStats& stats,
               v1::StatsResponse& out) {
  out.set_version(std::string(Version()));
  out.set_sessions(services.registry.CountOf(tenant));
  out.set_uptime_ms(static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::Real().Now() - services.started)
          .count()));
  out.set_epoch(stats.epoch);
  out.set_leases(stats.leases);
  out.set_reservations(stats.reserved_slots);
  out.set_spaces(stats.spaces);
  out.set_places(stats.places);
  out.set_pins(stats.pins);
  out.set_lookups(stats.lookups);
  out.set_misses(stats.misses);
  for (size_t i = 0; i < kMissReasonCount; ++i) {
    (*out.mutable_misses_by_reason())[MissReasonName(static_cast<MissReason>(i))] =
        stats.misses_by_reason[i];
  }
  out.set_corrupt_blocks(stats.corrupt_blocks);
  for (const TierStats& tier : stats.tiers) FillTier(tier, *out.add_tiers());
}

grpc::ServerBidiReactor<v1::RemoteSessionRequest, v1::RemoteSessionResponse>*
ControlService::OpenRemoteSession(grpc::CallbackServerContext* context) {
  return StartRemoteSession(services_, *context);
}

grpc::ServerUnaryReactor* ControlService::OpenSpace(grpc::CallbackServerContext* context,
                                                    const v1::OpenSpaceRequest* request,
                                                    v1::OpenSpaceResponse* response) {
  // Its tenant is the session's.
  absl::StatusOr<SpaceSpec> checked = SpaceSpecOf(request->spec(), kDefaultTenant);
  if (!checked.ok()) {
    return Refuse(services_, context, Operation::kOther, Right::kRead, checked.status());
  }
  const bool may_add = Authenticate(*context, services_, Right::kWrite).ok();
  return RunOnStrand(services_, context, *request, Operation::kOther, Right::kRead,
                     [spec = *std::move(checked), may_add, response](StrandCall strand) mutable {
                       spec.tenant = strand.tenant.name;
                       const absl::Status opened = OpenIn(strand.tenant, spec, may_add, *response);
                       if (!opened.ok()) return strand.call.Finish(opened);
                       // Where it cannot be noted, its blocks serve until the daemon ends.
                       const auto call = std::make_shared<UnaryCall>(std::move(strand.call));
                       strand.tenant.stack->AwaitSaved(
                           response->space(),
                           [call](const absl::Status&) { call->Finish(absl::OkStatus()); });
                     });
}

grpc::ServerUnaryReactor* ControlService::ListSpaces(grpc::CallbackServerContext* context,
                                                     const v1::ListSpacesRequest* request,
                                                     v1::ListSpacesResponse* response) {
  return AnswerOnStrand(services_, context, *request, Operation::kOther, Right::kRead,
                        [response](TenantView& tenant, ClientNumber) {
                          for (const SpaceView& view : tenant.stack->Spaces()) {
                            v1::SpaceInfo* info = response->add_spaces();
                            info->set_space(view.space);
                            SetFingerprint(view.fingerprint, *info->mutable_fingerprint());
                            ToWire(view.spec, *info->mutable_spec());
                            info->set_places(view.places);
                            info->set_warm_bytes(view.warm_bytes);
                            info->set_cold_bytes(view.cold_bytes);
                          }
                          return absl::OkStatus();
                        });
}

grpc::ServerUnaryReactor* ControlService::Pin(grpc::CallbackServerContext* context,
                                              const v1::PinRequest* request,
                                              v1::PinResponse* response) {
  absl::StatusOr<WireNames> names = NamesOf(request->names());
  if (!names.ok())
    return Refuse(services_, context, Operation::kPin, Right::kWrite, names.status());
  const absl::StatusOr<TierKind> tier = TierOf(request->tier());
  if (!tier.ok()) return Refuse(services_, context, Operation::kPin, Right::kWrite, tier.status());
  if (request->ttl_ms() == 0 || request->ttl_ms() > kMaxPinMilliseconds) {
    return Refuse(services_, context, Operation::kPin, Right::kWrite,
                  absl::InvalidArgumentError("ttl_ms is " + std::to_string(request->ttl_ms()) +
                                             "; it must be from 1 to " +
                                             std::to_string(kMaxPinMilliseconds) + " (366 days)"));
  }
  return RunOnStrand(
      services_, context, *request, Operation::kPin, Right::kWrite,
      [request, response, tier = *tier, names = *std::move(names)](StrandCall strand) {
        const auto pin = PinIn(strand.tenant, *request, names, tier);
        if (!pin.ok()) return strand.call.Finish(pin.status());
        response->set_pin(pin->pin);
        response->set_depth(pin->depth);
        const auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        strand.tenant.stack->AwaitSaved(
            {}, [call, &tenant = strand.tenant, number = pin->pin](const absl::Status& saved) {
              if (!saved.ok()) tenant.stack->Unpin(number).IgnoreError();  // it may have expired
              call->Finish(Annotate(saved, "the pin was not stored"));
            });
      });
}

grpc::ServerUnaryReactor* ControlService::Unpin(grpc::CallbackServerContext* context,
                                                const v1::UnpinRequest* request,
                                                v1::UnpinResponse*) {
  return RunOnStrand(
      services_, context, *request, Operation::kPin, Right::kWrite, [request](StrandCall strand) {
        const absl::Status unpinned = strand.tenant.stack->Unpin(request->pin());
        if (!unpinned.ok()) return strand.call.Finish(unpinned);
        const auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        strand.tenant.stack->AwaitSaved({}, [call](const absl::Status& saved) {
          call->Finish(Annotate(saved, "the pin is gone, but may be back after a restart"));
        });
      });
}

grpc::ServerUnaryReactor* ControlService::ListPins(grpc::CallbackServerContext* context,
                                                   const v1::ListPinsRequest* request,
                                                   v1::ListPinsResponse* response) {
  return AnswerOnStrand(services_, context, *request, Operation::kOther, Right::kRead,
                        [response](TenantView& tenant, ClientNumber) {
                          for (const TierStack::PinView& pin : tenant.stack->Pins()) {
                            v1::PinInfo* info = response->add_pins();
                            info->set_pin(pin.pin);
                            SetFingerprint(pin.space, *info->mutable_fingerprint());
                            info->set_depth(pin.depth);
                            info->set_expires_unix_ms(static_cast<uint64_t>(pin.expires_unix_ms));
                            info->set_tier(ToWire(pin.tier));
                          }
                          return absl::OkStatus();
                        });
}

grpc::ServerUnaryReactor* ControlService::Prefetch(grpc::CallbackServerContext* context,
                                                   const v1::PrefetchRequest* request,
                                                   v1::PrefetchResponse* response) {
  absl::StatusOr<WireNames> names = NamesOf(request->names());
  if (!names.ok())
    return Refuse(services_, context, Operation::kPrefetch, Right::kRead, names.status());
  return AnswerOnStrand(services_, context, *request, Operation::kPrefetch, Right::kRead,
                        [request, response, names = *std::move(names)](
                            TenantView& tenant, ClientNumber client) -> absl::Status {
                          TC_RETURN_IF_ERROR(tenant.SpaceOf(request->space(), names).status());
                          TC_ASSIGN_OR_RETURN(
                              const TierStack::PrefetchView prefetch,
                              tenant.stack->Prefetch(client, request->space(), names.names));
                          response->set_matched_depth(prefetch.matched_depth);
                          response->set_promoting_blocks(prefetch.promoting_blocks);
                          return absl::OkStatus();
                        });
}

grpc::ServerUnaryReactor* ControlService::Stats(grpc::CallbackServerContext* context,
                                                const v1::StatsRequest* request,
                                                v1::StatsResponse* response) {
  // Of the session's tenant: what others do is none of its business.
  return RunOnStrand(services_, context, *request, Operation::kOther, Right::kRead,
                     [this, response](StrandCall strand) {
                       FillStats(services_, strand.home, strand.tenant.stack->Stats(), *response);
                       strand.call.Finish(absl::OkStatus());
                     });
}

}  // namespace thermocline
