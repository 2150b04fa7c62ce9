#include "daemon/data_service.h"

#include <cstring>
#include <limits>
#include <vector>

#include "daemon/data_commit.h"
#include "daemon/data_load.h"
#include "daemon/data_read.h"
#include "daemon/data_write.h"
#include "hashing/name.h"
#include "hashing/sha256.h"

namespace thermocline {
namespace {

constexpr std::chrono::seconds kMaxReserveWait{60};

/// What is leased by the tier that holds it; tokens are where the slowest block at their end is.
DaemonMetrics::Hits HitsOf(const LeaseView& lease, uint64_t block_tokens) {
  DaemonMetrics::Hits hits;
  for (size_t i = 0; i < lease.blocks.size();) {
    const uint32_t depth = lease.blocks[i].depth;
    TierKind slowest = TierKind::kNone;
    for (; i < lease.blocks.size() && lease.blocks[i].depth == depth; ++i) {
      const BlockView& block = lease.blocks[i];
      hits.bytes[static_cast<size_t>(block.tier)] += block.bytes;
      slowest = std::max(slowest, block.tier);
    }
    hits.tokens[static_cast<size_t>(slowest)] += block_tokens;
  }
  return hits;
}

absl::Status MatchInto(const StrandCall& strand, const v1::MatchRequest& request,
                       const WireNames& names, v1::MatchResponse& response,
                       DaemonMetrics& metrics) {
  TC_ASSIGN_OR_RETURN(const TenantView::OpenSpace space,
                      strand.tenant.SpaceOf(request.space(), names));
  LeaseView lease;
  if (request.place() != 0) {
    Sha256 digest{};
    if (request.names_sha256().size() != digest.size()) {
      return absl::InvalidArgumentError("names_sha256 is 32 bytes: hand over what Export answered");
    }
    std::memcpy(digest.data(), request.names_sha256().data(), digest.size());
    std::vector<Name> adopted;
    TC_ASSIGN_OR_RETURN(lease, strand.tenant.stack->Adopt(strand.client, request.space(),
                                                          PlaceFromBits(request.place()),
                                                          request.id(), digest, adopted));
    *response.mutable_names() = ToWire(adopted, space.key_bytes);
  } else {
    TC_ASSIGN_OR_RETURN(lease,
                        strand.tenant.stack->Match(strand.client, request.space(), names.names));
    metrics.Matched(names.names.size() * kPlaceTokens, HitsOf(lease, space.block_tokens));
  }
  if (request.asked() != 0) {
    strand.tenant.stack->NameLease(strand.client, lease.lease, request.asked());
  }
  response.set_lease(lease.lease);
  response.set_depth(lease.depth);
  for (const BlockView& block : lease.blocks) ToWire(block, *response.add_blocks());
  return absl::OkStatus();
}

absl::Status LookUpInto(TenantView& tenant, const v1::LookUpRequest& request, const WireNames& keys,
                        v1::LookUpResponse& response) {
  TC_RETURN_IF_ERROR(tenant.SpaceOf(request.space(), keys).status());
  TC_ASSIGN_OR_RETURN(const std::vector<BlockView> blocks,
                      tenant.stack->LookUp(request.space(), keys.names, std::nullopt));
  for (size_t i = 0; i < blocks.size();) {
    const uint32_t key = blocks[i].depth;
    TierKind slowest = blocks[i].tier;
    for (; i < blocks.size() && blocks[i].depth == key; ++i) {
      const bool all = slowest != TierKind::kNone && blocks[i].tier != TierKind::kNone;
      slowest = all ? std::max(slowest, blocks[i].tier) : TierKind::kNone;
    }
    response.add_tiers(ToWire(slowest));
  }
  return absl::OkStatus();
}

void TellPlaces(const TierStack& stack, std::span<const uint64_t> offsets,
                v1::ReserveResponse& response) {
  for (const uint64_t offset : offsets) {
    const SlabPlace at = stack.PlaceOnDevice(offset);
    v1::SlabPlace* const place = response.add_places();
    place->set_slab(at.slab);
    place->set_offset(at.offset);
  }
}

absl::Status AbortSlots(const StrandCall& strand, const v1::AbortRequest& request) {
  const std::span<const uint64_t> given_back(request.offsets().data(),
                                             static_cast<size_t>(request.offsets_size()));
  TC_RETURN_IF_ERROR(strand.tenant.CheckOffered(strand.session, given_back));
  const std::span<const uint64_t> grants(request.grants().data(),
                                         static_cast<size_t>(request.grants_size()));
  strand.tenant.sessions.at(strand.session).given_up_reserves.Add(grants);
  std::vector<GrantedSlot> offered;
  for (const v1::GrantedSlot& slot : request.offered()) {
    offered.push_back({.offset = slot.offset(), .grant = slot.grant()});
  }
  std::vector<uint64_t> offsets =
      strand.tenant.stack->StillReserved(strand.client, grants, offered);
  offsets.insert(offsets.end(), given_back.begin(), given_back.end());
  SlotsInHand in_hand;
  if (strand.remote != nullptr) {
    auto taken = SlotsInHand::Take(strand.remote, offsets);
    if (!taken.ok()) return absl::ResourceExhaustedError(taken.status().message());
    in_hand = *std::move(taken);
    strand.remote->Forget(offsets);
  }
  return strand.tenant.stack->Abort(strand.client, offsets);
}

}  // namespace

grpc::ServerUnaryReactor* DataService::Match(grpc::CallbackServerContext* context,
                                             const v1::MatchRequest* request,
                                             v1::MatchResponse* response) {
  absl::StatusOr<WireNames> names = NamesOf(request->names());
  if (names.ok() && request->place() != 0 && !names->names.empty()) {
    names = absl::InvalidArgumentError("a match has names or the place where they end, not both");
  }
  if (!names.ok())
    return Refuse(services_, context, Operation::kMatch, Right::kRead, names.status());
  return RunOnStrand(
      services_, context, *request, Operation::kMatch, Right::kRead,
      [this, request, response, names = *std::move(names)](StrandCall strand) {
        absl::Status answer = MatchInto(strand, *request, names, *response, services_.metrics);
        const bool given_up =
            strand.call.Cancelled() ||
            strand.tenant.sessions.at(strand.session).given_up_matches.Contains(request->asked());
        if (answer.ok() && given_up) {  // a lease of which nobody will know
          strand.tenant.stack->Release(strand.client, response->lease()).IgnoreError();
          answer = absl::CancelledError("the caller has gone");
        }
        strand.call.Finish(answer);
      });
}

grpc::ServerUnaryReactor* DataService::LookUp(grpc::CallbackServerContext* context,
                                              const v1::LookUpRequest* request,
                                              v1::LookUpResponse* response) {
  absl::StatusOr<WireNames> keys = NamesOf(request->names());
  const absl::Status fits = keys.ok() ? CheckCount("keys", keys->names.size()) : keys.status();
  if (!fits.ok()) return Refuse(services_, context, Operation::kMatch, Right::kRead, fits);
  return AnswerOnStrand(
      services_, context, *request, Operation::kMatch, Right::kRead,
      [request, response, keys = *std::move(keys)](TenantView& tenant, ClientNumber) {
        return LookUpInto(tenant, *request, keys, *response);
      });
}

grpc::ServerWriteReactor<v1::LoadResponse>* DataService::Load(grpc::CallbackServerContext* context,
                                                              const v1::LoadRequest* request) {
  return StartLoad(services_, *context, *request);
}

grpc::ServerWriteReactor<v1::ReadResponse>* DataService::Read(grpc::CallbackServerContext* context,
                                                              const v1::ReadRequest* request) {
  return StartBlocksOut(services_, *context, *request);
}

grpc::ServerWriteReactor<v1::ReadResponse>* DataService::ReadKeys(
    grpc::CallbackServerContext* context, const v1::ReadKeysRequest* request) {
  return StartKeysOut(services_, *context, *request);
}

grpc::ServerReadReactor<v1::WriteRequest>* DataService::Write(grpc::CallbackServerContext* context,
                                                              v1::WriteResponse* response) {
  return StartBlocksIn(services_, *context, *response);
}

grpc::ServerUnaryReactor* DataService::Reserve(grpc::CallbackServerContext* context,
                                               const v1::ReserveRequest* request,
                                               v1::ReserveResponse* response) {
  const absl::Status counted = CheckCount("slots", request->count());
  if (!counted.ok()) return Refuse(services_, context, Operation::kReserve, Right::kWrite, counted);
  if (request->count() == 0 || request->part() >= kMaxParts) {
    return Refuse(
        services_, context, Operation::kReserve, Right::kWrite,
        absl::InvalidArgumentError("reserve takes a count of at least 1 and a part below " +
                                   std::to_string(kMaxParts)));
  }
  return RunOnStrand(
      services_, context, *request, Operation::kReserve, Right::kWrite,
      [context, request, response](StrandCall strand) {
        TenantView& tenant = strand.tenant;
        // Nine tenths: an answer after the deadline would grant slots to nobody.
        const auto patience = TimeLeft(*context, kMaxReserveWait) * 9 / 10;
        const auto wait = std::min(std::chrono::milliseconds(request->wait_ms()), patience);
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        auto granted = [call, request, response, &tenant, client = strand.client,
                        session = strand.session,
                        remote = strand.remote](absl::StatusOr<std::vector<uint64_t>> offsets) {
          if (!offsets.ok()) return call->Finish(offsets.status());
          if (remote != nullptr) remote->Forget(*offsets);  // who had them filled them before
          const auto own = tenant.sessions.find(session);
          bool given_up = call->Cancelled();
          if (own != tenant.sessions.end()) {
            own->second.granted.Note(*offsets);
            given_up = given_up || own->second.given_up_reserves.Contains(request->grant());
          }
          if (given_up) {
            tenant.stack->Abort(client, *offsets).IgnoreError();  // they are its own
            return call->Finish(absl::CancelledError("the caller has gone"));
          }
          response->mutable_offsets()->Add(offsets->begin(), offsets->end());
          if (request->on_device()) TellPlaces(*tenant.stack, *offsets, *response);
          call->Finish(absl::OkStatus());
        };
        const auto part = static_cast<uint16_t>(request->part());
        if (!request->on_device()) {
          return tenant.stack->Reserve(strand.client, request->space(), part, request->count(),
                                       wait, std::move(granted), request->ahead(),
                                       request->grant());
        }
        if (strand.remote != nullptr) {
          return call->Finish(absl::InvalidArgumentError(
              "a remote session reaches no memory of this machine's device; reserve in the arena"));
        }
        tenant.stack->ReserveOnDevice(strand.client, request->space(), part, request->count(), wait,
                                      std::move(granted), request->grant());
      });
}

grpc::ServerUnaryReactor* DataService::Commit(grpc::CallbackServerContext* context,
                                              const v1::CommitRequest* request,
                                              v1::CommitResponse* response) {
  absl::StatusOr<CommitSteps> steps = CommitSteps::Of(*request);
  if (!steps.ok()) {
    return Refuse(services_, context, Operation::kCommit, Right::kWrite, steps.status());
  }
  return RunOnStrand(
      services_, context, *request, Operation::kCommit, Right::kWrite,
      [request, response, steps = *std::move(steps)](StrandCall strand) mutable {
        StartCommit(std::move(strand), *request, std::move(steps), *response);
      },
      WhenGone::kTheSame);
}

grpc::ServerUnaryReactor* DataService::Abort(grpc::CallbackServerContext* context,
                                             const v1::AbortRequest* request, v1::AbortResponse*) {
  absl::Status counted = CheckCount("offsets", static_cast<size_t>(request->offsets_size()));
  counted.Update(CheckCount("grants", static_cast<size_t>(request->grants_size())));
  counted.Update(CheckCount("offered", static_cast<size_t>(request->offered_size())));
  if (!counted.ok()) return Refuse(services_, context, Operation::kRelease, Right::kWrite, counted);
  return RunOnStrand(
      services_, context, *request, Operation::kRelease, Right::kWrite,
      [request](StrandCall strand) {
        const absl::Status answer = AbortSlots(strand, *request);
        strand.call.Finish(answer);
      },
      WhenGone::kTheSame);
}

grpc::ServerUnaryReactor* DataService::Release(grpc::CallbackServerContext* context,
                                               const v1::ReleaseRequest* request,
                                               v1::ReleaseResponse*) {
  absl::Status counted = CheckCount("leases", static_cast<size_t>(request->leases_size()));
  counted.Update(CheckCount("asked", static_cast<size_t>(request->asked_size())));
  if (!counted.ok()) return Refuse(services_, context, Operation::kRelease, Right::kRead, counted);
  return RunOnStrand(
      services_, context, *request, Operation::kRelease, Right::kRead,
      [request](StrandCall strand) {
        for (const uint64_t lease : request->leases()) {
          // One that has ended already (its client was silent) is as released as
          // can be, and keeps none of the others.
          strand.tenant.stack->Release(strand.client, lease).IgnoreError();
        }
        const std::span<const uint64_t> asked(request->asked().data(),
                                              static_cast<size_t>(request->asked_size()));
        strand.tenant.sessions.at(strand.session).given_up_matches.Add(asked);
        strand.tenant.stack->ReleaseNamed(strand.client, asked);
        strand.call.Finish(absl::OkStatus());
      },
      WhenGone::kTheSame);
}

grpc::ServerUnaryReactor* DataService::Report(grpc::CallbackServerContext* context,
                                              const v1::ReportRequest* request,
                                              v1::ReportResponse*) {
  const absl::Status counted = CheckCount("blocks", static_cast<size_t>(request->blocks_size()));
  if (!counted.ok()) return Refuse(services_, context, Operation::kOther, Right::kRead, counted);
  return AnswerOnStrand(services_, context, *request, Operation::kOther, Right::kRead,
                        [request](TenantView& tenant, ClientNumber) {
                          std::vector<BlockRef> blocks;
                          for (const v1::SuspectBlock& block : request->blocks()) {
                            if (block.part() > std::numeric_limits<uint16_t>::max()) continue;
                            blocks.push_back({block.id(), static_cast<uint16_t>(block.part())});
                          }
                          tenant.stack->Suspect(blocks);
                          return absl::OkStatus();
                        });
}

}  // namespace thermocline
