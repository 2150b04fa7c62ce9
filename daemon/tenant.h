// One tenant: its tier stack, the strand that owns it, and which sessions are its clients. Whoever
// wants something of the stack posts to the strand; gRPC and session threads never touch it.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "base/clock.h"
#include "base/executor.h"
#include "base/status.h"
#include "daemon/given_up_calls.h"
#include "daemon/granted_slots.h"
#include "daemon/session_server.h"
#include "daemon/wire.h"
#include "tiers/tier_stack.h"

namespace thermocline {

class DaemonMetrics;
class LocalPuts;

/// What a tenant looks like on the strand: all of it may be used there only.
struct TenantView {
  struct OpenSpace {
    uint32_t key_bytes = 0;     // of an opaque space
    uint32_t block_tokens = 0;  // for counting tokens
  };
  struct Session {
    ClientNumber client;
    std::shared_ptr<LocalPuts> puts;         // none: a remote one
    std::shared_ptr<const Staging> staging;  // none: it fills slots in the arena itself
    GrantedSlots granted{};
    GivenUpCalls given_up_reserves{};
    GivenUpCalls given_up_matches{};
  };
  std::string name;
  std::unique_ptr<TierStack> stack;                // none once the tenant is closed
  std::unordered_map<uint64_t, Session> sessions;  // by number
  std::unordered_map<uint32_t, OpenSpace> spaces;  // by number
  std::function<void(uint64_t session, const std::string& why)> cut_off;
  std::atomic<SteadyTime> went_on_at{};  // when a task began last. Thread: any.

  /// Errors: Unauthenticated when the session has ended meanwhile.
  absl::StatusOr<ClientNumber> ClientOf(uint64_t session) const;
  /// Ends a session that offers a slot which was never granted to it.
  /// Errors: PermissionDenied then, Unauthenticated when it has ended before.
  absl::Status CheckOffered(uint64_t session, std::span<const uint64_t> offsets) const;
  /// Errors: InvalidArgument when names of this form do not fit the space, NotFound for a number
  ///         that was not opened in this epoch.
  absl::StatusOr<OpenSpace> SpaceOf(uint32_t space, const WireNames& names) const;
};

/// What requests of a tenant that are not answered yet may take. What is made of their names takes
/// about as much again.
inline constexpr size_t kMaxRequestBytes = size_t{256} << 20;

/// Thread: any.
class Tenant final : public SessionHost {
 public:
  struct Options {
    std::string name;
    StackOptions stack;      // its runners are filled in here
    std::string arena_view;  // of the arena, for clients that may not write there; "": they may
  };
  using Opener = std::function<absl::StatusOr<std::unique_ptr<TierStack>>(StackOptions)>;

  /// What the tenants of a daemon share, and what outlives them.
  struct Shared {
    Executor& strands;
    Executor& disk;     // what the stack writes there
    Executor& reads;    // and reads
    Executor& workers;  // sum and copy payloads, for clients and for the stack
    DaemonMetrics& metrics;
  };
  /// Opens the stack on a strand of its own; waits for it.
  static absl::StatusOr<std::unique_ptr<Tenant>> Open(Options options, const Shared& shared,
                                                      const Opener& open);
  /// REQUIRES: the executors have stopped, or nothing is posted any more.
  ~Tenant() override;

  /// Runs `task` on the strand. False when too much waits there already; then it was not taken.
  [[nodiscard]] bool Post(absl::AnyInvocable<void(TenantView&)> task);
  /// Room for a request of so many bytes, for as long as it is kept. Nothing when the requests that
  /// are not answered yet leave none. Thread: any.
  [[nodiscard]] std::shared_ptr<void> TakeRoom(size_t bytes);
  /// Runs `task` on the strand for work that was admitted before.
  void PostCompletion(absl::AnyInvocable<void(TenantView&)> task);

  /// Runs `task` on the strand once `delay` has passed. False when there are too many such already.
  [[nodiscard]] bool PostAfter(std::chrono::microseconds delay,
                               absl::AnyInvocable<void(TenantView&)> task);

  /// Runs `task` on the strand every `interval` until Shutdown().
  void Repeat(std::chrono::microseconds interval, std::function<void(TenantView&)> task);

  const std::string& name() const { return name_; }
  /// When the strand last began a task, of which there is one a second at least: however much waits
  /// there, a strand that goes on is not stuck. Thread: any.
  SteadyTime went_on_at() const { return view_->went_on_at; }
  /// Its share of the workers. Thread: any.
  Share& workers() { return workers_; }
  /// What its clients map. Borrowed.
  int arena_fd() const { return arena_view_ ? arena_view_.get() : arena_fd_; }
  uint64_t arena_bytes() const { return arena_bytes_; }
  int catalog_fd() const { return catalog_fd_; }
  uint64_t epoch() const { return epoch_; }

  /// Who ends the sessions of misbehaving clients. Called on the strand; once, before there are
  /// any.
  using CutOff = std::function<void(uint64_t session, const std::string& why)>;
  void SetCutOff(CutOff cut_off);

  /// Nothing when the strand does not answer in time.
  std::optional<StackStats> Stats(std::chrono::milliseconds patience);
  /// Ends what is repeated, lets no session at the stack any more and shuts it down. `done` on the
  /// strand.
  void Shutdown(bool drain, TierStack::DoneCallback done);
  /// Destroys the stack, and with it the callbacks that it still holds. False when the strand does
  /// not come to it in time.
  [[nodiscard]] bool Close(std::chrono::milliseconds patience);

  // SessionHost
  void Join(uint64_t session, pid_t pid, uint64_t start_time, SessionMemory memory,
            std::function<void(absl::Status)> done) override;
  void Put(uint64_t session, std::shared_ptr<std::atomic<bool>> posted) override;
  void Leave(uint64_t session, Departure how) override;
  void ProcessGone(pid_t pid, uint64_t start_time) override;
  void Awaits(pid_t pid, uint64_t start_time, std::function<void(bool)> done) override;
  void ExpireLeases(uint64_t session, std::function<void()> done) override;
  void EndGrace() override;
  void ExportSlab(uint64_t slab, std::function<void(absl::StatusOr<ExportedSlab>)> done) override;

 private:
  Tenant(std::string name, const Shared& shared);

  const std::string name_;
  DaemonMetrics& metrics_;
  Strand strand_;
  Share disk_;
  Share reads_;
  Share workers_;
  Share scrub_;  // of the workers, for the stack: nobody waits for it
  // Shared with tasks that still wait on the strand when the tenant goes.
  std::shared_ptr<TenantView> view_;
  std::shared_ptr<std::atomic<bool>> repeating_;  // what Repeat() began
  // Of requests that are not answered yet. Shared with them.
  std::shared_ptr<std::atomic<size_t>> request_bytes_ = std::make_shared<std::atomic<size_t>>(0);
  int arena_fd_ = -1;
  UniqueFd arena_view_;
  uint64_t arena_bytes_ = 0;
  int catalog_fd_ = -1;
  uint64_t epoch_ = 0;
};

}  // namespace thermocline
