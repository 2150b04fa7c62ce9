#include "daemon/tenant.h"

#include <future>

#include "base/check.h"
#include "base/log.h"
#include "daemon/local_puts.h"

namespace thermocline {
namespace {

constexpr std::chrono::seconds kTick{1};

Runner RunnerOf(Share share) {
  return [share](Task task) mutable { share.PostCompletion(std::move(task)); };
}

void FillStrand(StackOptions& options, Strand strand) {
  options.strand = [strand](Task task) mutable { strand.PostCompletion(std::move(task)); };
  options.strand_at = [strand](SteadyTime::duration delay, Task task) mutable {
    return strand.PostAfter(delay, std::move(task));
  };
}

void CutOffMisbehaving(TenantView& view) {
  for (const TierStack::Misbehaviour& found : view.stack->TakeMisbehaviours()) {
    for (const auto& [number, session] : view.sessions) {
      if (session.client == found.client && view.cut_off) view.cut_off(number, found.what);
    }
  }
}

template <class Function>
void Run(TenantView& view, Function& task) {
  view.went_on_at = Clock::Real().Now();
  task(view);
}

}  // namespace

absl::StatusOr<ClientNumber> TenantView::ClientOf(uint64_t session) const {
  const auto found = sessions.find(session);
  if (found != sessions.end()) return found->second.client;
  return absl::UnauthenticatedError("session " + std::to_string(session) +
                                    " has ended; connect again");
}

absl::Status TenantView::CheckOffered(uint64_t session, std::span<const uint64_t> offsets) const {
  TC_RETURN_IF_ERROR(ClientOf(session).status());
  const GrantedSlots& granted = sessions.at(session).granted;
  for (const uint64_t offset : offsets) {
    if (granted.Knows(offset)) continue;
    const std::string why =
        "it offered a slot that was never granted to it, at offset " + std::to_string(offset);
    if (cut_off) cut_off(session, why);
    return absl::PermissionDeniedError("this session is cut off: " + why);
  }
  return absl::OkStatus();
}

absl::StatusOr<TenantView::OpenSpace> TenantView::SpaceOf(uint32_t space,
                                                          const WireNames& names) const {
  const auto found = spaces.find(space);
  if (found == spaces.end()) {
    return absl::NotFoundError("space " + std::to_string(space) +
                               " was not opened since the daemon started; call OpenSpace first");
  }
  if (!names.names.empty() && found->second.key_bytes != names.key_bytes) {
    const auto form = [](uint32_t bytes) {
      return bytes == 0 ? std::string("token ids") : "keys of " + std::to_string(bytes) + " bytes";
    };
    return absl::InvalidArgumentError("space " + std::to_string(space) + " is named by " +
                                      form(found->second.key_bytes) + ", the request by " +
                                      form(names.key_bytes));
  }
  return found->second;
}

Tenant::Tenant(std::string name, const Shared& shared)
    : name_(std::move(name)),
      metrics_(shared.metrics),
      strand_(shared.strands.MakeStrand()),
      disk_(shared.disk.MakeShare()),
      reads_(shared.reads.MakeShare()),
      workers_(shared.workers.MakeShare()),
      scrub_(shared.workers.MakeShare()),
      view_(std::make_shared<TenantView>()),
      repeating_(std::make_shared<std::atomic<bool>>(true)) {
  view_->name = name_;
}

Tenant::~Tenant() = default;

absl::StatusOr<std::unique_ptr<Tenant>> Tenant::Open(Options options, const Shared& shared,
                                                     const Opener& open) {
  std::unique_ptr<Tenant> tenant(new Tenant(std::move(options.name), shared));
  const std::string arena_view = options.arena_view;
  FillStrand(options.stack, tenant->strand_);
  options.stack.disk = RunnerOf(tenant->disk_);
  options.stack.reads = RunnerOf(tenant->reads_);
  options.stack.work = RunnerOf(tenant->scrub_);
  std::promise<absl::Status> opened;
  const bool posted = tenant->Post([&](TenantView& view) {
    opened.set_value([&]() -> absl::Status {
      TC_ASSIGN_OR_RETURN(std::unique_ptr<TierStack> stack, open(std::move(options.stack)));
      if (!arena_view.empty()) {
        TC_ASSIGN_OR_RETURN(tenant->arena_view_, OpenArenaView(arena_view, stack->arena_fd()));
      }
      view.stack = std::move(stack);  // one that cannot be used has gone here, where it works
      return absl::OkStatus();
    }());
  });
  TC_CHECK(posted);
  TC_RETURN_IF_ERROR(opened.get_future().get());
  tenant->arena_fd_ = tenant->view_->stack->arena_fd();
  tenant->arena_bytes_ = tenant->view_->stack->arena_bytes();
  tenant->catalog_fd_ = tenant->view_->stack->catalog_fd();
  tenant->epoch_ = tenant->view_->stack->epoch();
  tenant->Repeat(kTick, [](TenantView& view) {
    view.stack->Tick();
    CutOffMisbehaving(view);
  });
  return tenant;
}

bool Tenant::Post(absl::AnyInvocable<void(TenantView&)> task) {
  return strand_.Post([view = view_, task = std::move(task)]() mutable { Run(*view, task); });
}

std::shared_ptr<void> Tenant::TakeRoom(size_t bytes) {
  if (request_bytes_->fetch_add(bytes) + bytes > kMaxRequestBytes) {
    request_bytes_->fetch_sub(bytes);
    return nullptr;
  }
  return {request_bytes_.get(),
          [taken = request_bytes_, bytes](void*) { taken->fetch_sub(bytes); }};
}

void Tenant::PostCompletion(absl::AnyInvocable<void(TenantView&)> task) {
  strand_.PostCompletion([view = view_, task = std::move(task)]() mutable { Run(*view, task); });
}

bool Tenant::PostAfter(std::chrono::microseconds delay,
                       absl::AnyInvocable<void(TenantView&)> task) {
  return strand_.PostAfter(delay,
                           [view = view_, task = std::move(task)]() mutable { Run(*view, task); });
}

void Tenant::Repeat(std::chrono::microseconds interval, std::function<void(TenantView&)> task) {
  struct Repeater {
    Strand strand;
    std::shared_ptr<TenantView> view;
    std::shared_ptr<std::atomic<bool>> on;
    std::chrono::microseconds interval;
    std::function<void(TenantView&)> task;

    static void Next(std::shared_ptr<Repeater> self) {
      Strand& strand = self->strand;
      strand.PostCompletionAfter(self->interval, [self] {
        if (!*self->on) return;
        Run(*self->view, self->task);
        Next(self);
      });
    }
  };
  Repeater::Next(
      std::make_shared<Repeater>(Repeater{strand_, view_, repeating_, interval, std::move(task)}));
}

void Tenant::SetCutOff(CutOff cut_off) {
  PostCompletion([cut_off = std::move(cut_off)](TenantView& view) mutable {
    view.cut_off = std::move(cut_off);
  });
}

std::optional<StackStats> Tenant::Stats(std::chrono::milliseconds patience) {
  auto answer = std::make_shared<std::promise<std::optional<StackStats>>>();
  std::future<std::optional<StackStats>> stats = answer->get_future();
  const bool posted = Post([answer](TenantView& view) {
    answer->set_value(view.stack ? std::optional(view.stack->Stats()) : std::nullopt);
  });
  if (!posted || stats.wait_for(patience) != std::future_status::ready) return std::nullopt;
  try {
    return stats.get();
  } catch (const std::future_error&) {
    return std::nullopt;  // the strand stopped and dropped the question
  }
}

void Tenant::Shutdown(bool drain, TierStack::DoneCallback done) {
  PostCompletion([drain, done = std::move(done), on = repeating_](TenantView& view) mutable {
    *on = false;
    // What is drained must not be held; what is kept stays as its clients left it.
    for (const auto& [number, session] : view.sessions) {
      if (drain) view.stack->RemoveClient(session.client, Departure::kLost);
    }
    view.sessions.clear();
    view.stack->Shutdown(drain, std::move(done));
  });
}

bool Tenant::Close(std::chrono::milliseconds patience) {
  auto closed = std::make_shared<std::promise<void>>();
  std::future<void> done = closed->get_future();
  PostCompletion([closed](TenantView& view) {
    view.stack.reset();
    closed->set_value();
  });
  return done.wait_for(patience) == std::future_status::ready;
}

void Tenant::Join(uint64_t session, pid_t pid, uint64_t start_time, SessionMemory memory,
                  std::function<void(absl::Status)> done) {
  PostCompletion(
      [=, this, memory = std::move(memory), done = std::move(done)](TenantView& view) mutable {
        if (!view.stack) return done(absl::UnavailableError("the daemon stops"));
        const absl::StatusOr<ClientNumber> client =
            view.stack->AddClient(pid, start_time, memory.control);
        if (client.ok()) {
          std::shared_ptr<LocalPuts> puts;
          if (memory.control != nullptr) {
            puts = std::make_shared<LocalPuts>(session, std::move(memory.control), *this, metrics_);
          }
          view.sessions.insert({session, {*client, puts, std::move(memory.staging)}});
          if (puts != nullptr) puts->Drain(view);  // and sleep
        }
        done(client.status());
      });
}

void Tenant::Put(uint64_t session, std::shared_ptr<std::atomic<bool>> posted) {
  PostCompletion([session, posted = std::move(posted)](TenantView& view) {
    *posted = false;
    const auto found = view.sessions.find(session);
    if (found != view.sessions.end()) found->second.puts->Drain(view);
  });
}

void Tenant::Leave(uint64_t session, Departure how) {
  PostCompletion([=](TenantView& view) {
    const auto found = view.sessions.find(session);
    if (found == view.sessions.end()) return;
    view.stack->RemoveClient(found->second.client, how);
    view.sessions.erase(found);
  });
}

void Tenant::ProcessGone(pid_t pid, uint64_t start_time) {
  PostCompletion([=](TenantView& view) {
    if (view.stack) view.stack->ProcessGone(pid, start_time);
  });
}

void Tenant::Awaits(pid_t pid, uint64_t start_time, std::function<void(bool)> done) {
  PostCompletion([=, done = std::move(done)](TenantView& view) {
    done(view.stack && view.stack->Awaits(pid, start_time));
  });
}

void Tenant::ExpireLeases(uint64_t session, std::function<void()> done) {
  PostCompletion([=, done = std::move(done)](TenantView& view) {
    const auto found = view.sessions.find(session);
    if (found != view.sessions.end()) {
      const TenantView::Session& silent = found->second;
      view.stack->ExpireLeases(silent.client);
      if (silent.puts != nullptr) silent.puts->TakeBack(view, silent.client);
    }
    done();
  });
}

void Tenant::ExportSlab(uint64_t slab, std::function<void(absl::StatusOr<ExportedSlab>)> done) {
  PostCompletion([slab, done = std::move(done)](TenantView& view) mutable {
    if (view.stack) return view.stack->ExportSlab(slab, std::move(done));
    done(absl::UnavailableError("the daemon stops"));
  });
}

void Tenant::EndGrace() {
  PostCompletion([](TenantView& view) {
    if (view.stack) view.stack->EndGrace();
  });
}

}  // namespace thermocline
