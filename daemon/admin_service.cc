#include "daemon/admin_service.h"

#include "base/log.h"
#include "hashing/name.h"

namespace thermocline {

grpc::ServerUnaryReactor* AdminService::Delete(grpc::CallbackServerContext* context,
                                               const v1::DeleteRequest* request,
                                               v1::DeleteResponse* response) {
  const absl::StatusOr<Fingerprint> space = FingerprintOfBytes(request->fingerprint());
  if (!space.ok())
    return Refuse(services_, context, Operation::kDelete, Right::kDestroy, space.status());
  absl::StatusOr<WireNames> names = NamesOf(request->names());
  if (!names.ok())
    return Refuse(services_, context, Operation::kDelete, Right::kDestroy, names.status());
  if (request->names().tokens().size() % kNameBytes != 0) {  // rounded down it would delete more
    return Refuse(services_, context, Operation::kDelete, Right::kDestroy,
                  absl::InvalidArgumentError("delete takes whole places of 16 token ids"));
  }
  return AnswerOnStrand(
      services_, context, Operation::kDelete, Right::kDestroy,
      [response, space = *space, names = *std::move(names)](TenantView& tenant,
                                                            ClientNumber) -> absl::Status {
        for (const SpaceView& view : tenant.stack->Spaces()) {
          if (!(view.fingerprint == space) || names.names.empty()) continue;
          if (view.spec.key_bytes == names.key_bytes) continue;
          return absl::InvalidArgumentError("the names have not the form of the space's");
        }
        TC_ASSIGN_OR_RETURN(const uint64_t places, tenant.stack->Delete(space, names.names));
        response->set_places(places);
        LogEvent(LogLevel::kInfo, "deleted",
                 {{"space", space.Hex()}, {"from_depth", names.names.size()}, {"places", places}});
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::Flush(grpc::CallbackServerContext* context,
                                              const v1::FlushRequest* request,
                                              v1::FlushResponse* response) {
  const absl::StatusOr<TierKind> tier = TierOf(request->tier());
  if (!tier.ok())
    return Refuse(services_, context, Operation::kFlush, Right::kDestroy, tier.status());
  if (*tier != TierKind::kWarm && *tier != TierKind::kCold) {
    return Refuse(services_, context, Operation::kFlush, Right::kDestroy,
                  absl::InvalidArgumentError("flush takes the tier warm or cold"));
  }
  return RunOnStrand(
      services_, context, Operation::kFlush, Right::kDestroy,
      [response, tier = *tier](StrandCall strand) {
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        strand.tenant.stack->Flush(
            tier, [call, response, tier](absl::Status status, uint64_t blocks, uint64_t kept) {
              response->set_blocks(blocks);
              response->set_kept(kept);
              LogEvent(LogLevel::kInfo, "flushed",
                       {{"tier", TierKindName(tier)}, {"blocks", blocks}, {"kept", kept}});
              call->Finish(status);
            });
      });
}

grpc::ServerUnaryReactor* AdminService::DropArena(grpc::CallbackServerContext* context,
                                                  const v1::DropArenaRequest*,
                                                  v1::DropArenaResponse* response) {
  return RunOnStrand(
      services_, context, Operation::kFlush, Right::kDestroy, [response](StrandCall strand) {
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        strand.tenant.stack->DropArena(
            [call, response](absl::Status status, uint64_t blocks, uint64_t kept) {
              response->set_blocks(blocks);
              LogEvent(LogLevel::kInfo, "arena_dropped", {{"blocks", blocks}, {"kept", kept}});
              call->Finish(status);
            });
      });
}

}  // namespace thermocline
