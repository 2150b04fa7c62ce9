#include "daemon/admin_service.h"

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/mutex.h"
#include "daemon/control_service.h"
#include "hashing/name.h"

namespace thermocline {
namespace {

/// What all tenants together answer; each part comes on its tenant's strand.
class Gathering {
 public:
  struct Part {
    absl::Status status;
    uint64_t blocks = 0;
    uint64_t kept = 0;  // of a check: damaged
  };
  Gathering(size_t parts, std::function<void(const Part& sum)> done)
      : missing_(parts), done_(std::move(done)) {}

  void Add(const Part& part) {
    {
      MutexLock lock(mutex_);
      sum_.status.Update(part.status);
      sum_.blocks += part.blocks;
      sum_.kept += part.kept;
      if (--missing_ > 0) return;
    }
    done_(sum_);  // nobody adds to it any more
  }

 private:
  Mutex mutex_;
  size_t missing_ TC_GUARDED_BY(mutex_);
  Part sum_;
  const std::function<void(const Part&)> done_;
};

/// An admin's verb is the machine's: `task` runs on the strand of every tenant, and calls back once
/// with its part.
using PartCallback = std::function<void(const Gathering::Part&)>;
void AskEach(const std::vector<Tenant*>& tenants,
             const std::function<void(TenantView&, PartCallback)>& task,
             std::function<void(const Gathering::Part&)> done) {
  const auto gathering = std::make_shared<Gathering>(tenants.size(), std::move(done));
  for (Tenant* tenant : tenants) {
    tenant->PostCompletion([task, gathering](TenantView& view) {
      if (view.stack == nullptr)
        return gathering->Add({absl::UnavailableError("the daemon stops")});
      task(view, [gathering](const Gathering::Part& part) { gathering->Add(part); });
    });
  }
}

Gathering::Part DeleteFrom(TenantView& tenant, const Fingerprint& space, const WireNames& names) {
  for (const SpaceView& view : tenant.stack->Spaces()) {
    if (!(view.fingerprint == space)) continue;
    if (!names.names.empty() && view.spec.key_bytes != names.key_bytes) {
      return {absl::InvalidArgumentError("the names have not the form of the space's")};
    }
    const absl::StatusOr<uint64_t> places = tenant.stack->Delete(space, names.names);
    return {
        .status = places.status(), .blocks = places.value_or(0), .kept = 1};  // kept: it is here
  }
  return {};
}

}  // namespace

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
  // A space is one tenant's: its fingerprint says so.
  return RunOnStrand(
      services_, context, *request, Operation::kDelete, Right::kDestroy,
      [this, response, space = *space, names = *std::move(names)](StrandCall strand) {
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        AskEach(
            services_.tenants,
            [space, names](TenantView& tenant, const PartCallback& done) {
              Gathering::Part part = DeleteFrom(tenant, space, names);
              // Where nothing is left to delete, an earlier try may not be off the disk yet.
              if (part.kept == 0 || !part.status.ok()) return done(part);
              tenant.stack->SyncDeletions([done, part](const absl::Status& status) mutable {
                part.status.Update(
                    Annotate(status,
                             "deleted, and not off the disk yet, so that a daemon that is "
                             "killed now may find it again"));
                done(part);
              });
            },
            [call, response, space, depth = names.names.size()](const Gathering::Part& sum) {
              if (sum.status.ok() && sum.kept == 0) {
                return call->Finish(absl::NotFoundError("space " + space.Hex() + " is not here"));
              }
              response->set_places(sum.blocks);
              LogEvent(LogLevel::kInfo, "deleted",
                       {{"space", space.Hex()}, {"from_depth", depth}, {"places", sum.blocks}});
              call->Finish(sum.status);
            });
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
      services_, context, *request, Operation::kFlush, Right::kDestroy,
      [this, response, tier = *tier](StrandCall strand) {
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        AskEach(
            services_.tenants,
            [tier](TenantView& tenant, const PartCallback& done) {
              tenant.stack->Flush(tier,
                                  [done](absl::Status status, uint64_t blocks, uint64_t kept) {
                                    done({status, blocks, kept});
                                  });
            },
            [call, response, tier](const Gathering::Part& sum) {
              response->set_blocks(sum.blocks);
              response->set_kept(sum.kept);
              LogEvent(LogLevel::kInfo, "flushed",
                       {{"tier", TierKindName(tier)}, {"blocks", sum.blocks}, {"kept", sum.kept}});
              call->Finish(sum.status);
            });
      });
}

grpc::ServerUnaryReactor* AdminService::DropArena(grpc::CallbackServerContext* context,
                                                  const v1::DropArenaRequest* request,
                                                  v1::DropArenaResponse* response) {
  return RunOnStrand(
      services_, context, *request, Operation::kFlush, Right::kDestroy,
      [this, response](StrandCall strand) {
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        AskEach(
            services_.tenants,
            [](TenantView& tenant, const PartCallback& done) {
              tenant.stack->DropArena([done](absl::Status status, uint64_t blocks, uint64_t kept) {
                done({status, blocks, kept});
              });
            },
            [call, response](const Gathering::Part& sum) {
              response->set_blocks(sum.blocks);
              LogEvent(LogLevel::kInfo, "arena_dropped",
                       {{"blocks", sum.blocks}, {"kept", sum.kept}});
              call->Finish(sum.status);
            });
      });
}

grpc::ServerUnaryReactor* AdminService::Fsck(grpc::CallbackServerContext* context,
                                             const v1::FsckRequest* request,
                                             v1::FsckResponse* response) {
  return RunOnStrand(
      services_, context, *request, Operation::kOther, Right::kDestroy,
      [this, response](StrandCall strand) {
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        AskEach(
            services_.tenants,
            [](TenantView& tenant, const PartCallback& done) {
              tenant.stack->Check([done](absl::Status status, uint64_t blocks, uint64_t damaged) {
                done({status, blocks, damaged});
              });
            },
            [call, response](const Gathering::Part& sum) {
              response->set_blocks(sum.blocks);
              response->set_damaged(sum.kept);
              LogEvent(LogLevel::kInfo, "checked", {{"blocks", sum.blocks}, {"damaged", sum.kept}});
              call->Finish(sum.status);
            });
      });
}

grpc::ServerUnaryReactor* AdminService::ListTenants(grpc::CallbackServerContext* context,
                                                    const v1::ListTenantsRequest* request,
                                                    v1::ListTenantsResponse* response) {
  return RunOnStrand(
      services_, context, *request, Operation::kOther, Right::kDestroy,
      [this, response](StrandCall strand) {
        auto call = std::make_shared<UnaryCall>(std::move(strand.call));
        const std::vector<Tenant*>& tenants = services_.tenants;
        for (const Tenant* tenant : tenants) response->add_tenants()->set_name(tenant->name());
        // Each strand fills its own message.
        AskEach(
            tenants,
            [this, response](TenantView& tenant, const PartCallback& done) {
              for (size_t i = 0; i < services_.tenants.size(); ++i) {
                const Tenant& home = *services_.tenants[i];
                if (home.name() != tenant.name) continue;
                FillStats(services_, home, tenant.stack->Stats(),
                          *response->mutable_tenants(static_cast<int>(i))->mutable_stats());
              }
              done({});
            },
            [call](const Gathering::Part& sum) { call->Finish(sum.status); });
      });
}

}  // namespace thermocline
