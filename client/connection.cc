#include "client/connection.h"

#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/fence.h"
#include "base/socket_path.h"
#include "base/units.h"
#include "client/fork.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kHeartbeat{kHeartbeatMilliseconds};
// Short beside a lease's life: the thread that waits for it also beats the heart.
constexpr milliseconds kReturnTimeout{1000};
constexpr milliseconds kGoodbyeTimeout{500};

std::atomic<uint64_t> next_serial{1};

uint64_t BootNow() {
  timespec now;
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// A forked child begins a list of its own and leaves its parent's alone, whose mutex another thread
// may have held at the fork.
struct OpenConnections {
  explicit OpenConnections(uint64_t generation) : fork_generation(generation) {}
  const uint64_t fork_generation;
  Mutex mutex;
  std::vector<std::weak_ptr<Connection>> connections TC_GUARDED_BY(mutex);
};

OpenConnections& OfThisProcess() {
  static std::atomic<OpenConnections*> current{new OpenConnections(ForkGeneration())};
  OpenConnections* open = current.load();
  if (open->fork_generation != ForkGeneration()) {
    auto fresh = std::make_unique<OpenConnections>(ForkGeneration());
    if (current.compare_exchange_strong(open, fresh.get())) open = fresh.release();
  }
  return *open;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Connection>> Connection::Open(SessionRequest request,
                                                             Deadline deadline) {
  TC_RETURN_IF_ERROR(CheckGrpcAfterFork());
  // The daemon counts sessions by process: whichever of ours comes back may end its patience.
  request.before_hello = &SupersedeLost;
  absl::StatusOr<SessionGrant> grant = OpenSession(request, deadline);
  std::shared_ptr<Connection> connection = Make(request.socket_path);
  absl::Status mapped = grant.status();
  if (grant.ok()) mapped = connection->Map(*std::move(grant));
  // An answer without usable descriptors, or a map that the system refuses.
  const bool no_map = !mapped.ok() && (grant.ok() || absl::IsInternal(mapped));
  if (no_map && !request.admin) {
    const DaemonAddress address{DaemonAddress::Kind::kUnix, GrpcSocketPath(request.socket_path)};
    auto remote = OpenRemote(request, address, {}, deadline);
    if (remote.ok()) return remote;
  }
  TC_RETURN_IF_ERROR(mapped);
  TC_RETURN_IF_ERROR(Begin(connection));
  return connection;
}

absl::StatusOr<std::shared_ptr<Connection>> Connection::OpenRemote(const SessionRequest& request,
                                                                   const DaemonAddress& address,
                                                                   const RemoteOptions& options,
                                                                   Deadline deadline) {
  TC_RETURN_IF_ERROR(CheckGrpcAfterFork());
  std::shared_ptr<Connection> connection = Make(request.socket_path);
  connection->remote_ = true;
  connection->place_ = address.target;
  v1::RemoteWelcome welcome;
  const uint64_t asked_at_ns = BootNow();
  auto calls = GrpcCalls::OpenRemote(
      address, options, request.client_name,
      [raw = connection.get()](absl::Status why) { raw->Lose(std::string(why.message())); },
      welcome, deadline);
  if (!calls.ok()) return Annotate(calls.status(), "the daemon at " + connection->place_);
  connection->calls_ = *std::move(calls);
  SupersedeLost();
  connection->epoch_ = welcome.epoch();
  connection->lease_ns_ = welcome.lease_ms() * 1'000'000;
  connection->lease_until_ns_ = asked_at_ns + connection->lease_ns_;
  TC_RETURN_IF_ERROR(connection->mirror_.Map(welcome.arena_bytes()));
  connection->arena_bytes_ = welcome.arena_bytes();
  TC_RETURN_IF_ERROR(Begin(connection));
  return connection;
}

std::shared_ptr<Connection> Connection::Make(const std::string& socket_path) {
  std::shared_ptr<Connection> connection(new Connection(socket_path), [](Connection* c) {
    if (!c->Forked()) delete c;
  });
  connection->serial_ = next_serial.fetch_add(1);
  connection->fork_generation_ = ForkGeneration();
  connection->place_ = socket_path;
  return connection;
}

absl::Status Connection::Begin(const std::shared_ptr<Connection>& connection) {
  TC_RETURN_IF_ERROR(connection->StartThread());
  OpenConnections& open = OfThisProcess();
  MutexLock lock(open.mutex);
  std::erase_if(open.connections, [](const auto& other) { return other.expired(); });
  open.connections.push_back(connection);
  return absl::OkStatus();
}

absl::Status Connection::Map(SessionGrant grant) {
  epoch_ = grant.welcome.epoch();
  token_ = grant.welcome.session_token();
  socket_ = std::move(grant.socket);
  arena_fd_ = std::move(grant.arena);
  const uint64_t arena_bytes = grant.welcome.arena_bytes();
  const uint64_t staging_bytes = grant.welcome.staging_bytes();
  const int protection = staging_bytes > 0 ? PROT_READ : PROT_READ | PROT_WRITE;
  struct statfs system;
  arena_is_hugetlb_ = ::fstatfs(arena_fd_.get(), &system) == 0 && system.f_type == HUGETLBFS_MAGIC;
  // Huge pages are the daemon's to reserve.
  void* arena =
      ::mmap(nullptr, arena_bytes, protection, MAP_SHARED | MAP_NORESERVE, arena_fd_.get(), 0);
  if (arena == MAP_FAILED) {
    return ErrnoStatus(errno, "map the daemon's arena of " + FormatBytes(arena_bytes),
                       "raise this process's limit of address space (ulimit -v)");
  }
  arena_ = static_cast<std::byte*>(arena);
  arena_bytes_ = arena_bytes;
  if (staging_bytes > 0) TC_RETURN_IF_ERROR(staging_.Map(std::move(grant.staging), staging_bytes));
  void* control = ::mmap(nullptr, kControlAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                         grant.control.get(), 0);
  if (control == MAP_FAILED) return ErrnoStatus(errno, "map the session's control area");
  control_ = static_cast<ControlArea*>(control);
  if (control_->magic.load() != kControlAreaMagic || control_->epoch.load() != epoch_) {
    return absl::InternalError("the control area that the daemon handed over is not one of epoch " +
                               std::to_string(epoch_));
  }
  TC_ASSIGN_OR_RETURN(CatalogMemory catalog, CatalogMemory::Open(std::move(grant.catalog)));
  if (catalog.catalog().epoch() != epoch_) {
    return absl::InternalError("the catalog that the daemon handed over is not one of epoch " +
                               std::to_string(epoch_));
  }
  catalog_.emplace(std::move(catalog));
  local_readers_.emplace(catalog_->catalog(), *control_);
  magazine_.emplace(control_->ahead);
  puts_.emplace(
      *control_, *local_readers_,
      PutQueue::Hooks{
          .wake = [this] { WakeDaemon(socket_.get()); },
          .alive = [this] { return Alive(); },
          .abort = [this](Magazine::Slot slot) { QueueAbort(slot); },
          .unstage = [this](uint64_t at) { staging_.Give(at); },
          .want = [this](uint32_t space) { return magazine_->Lacking(space, kPutGrants); },
          .granted =
              [this](const Magazine::Want& want, uint64_t grant,
                     std::span<const uint64_t> offsets) {
                HoldAhead(
                    want,
                    Granted(want.kind, grant, offsets).value_or(std::vector<Magazine::Slot>()));
              }});
  calls_ = std::make_unique<GrpcCalls>(grant.welcome);
  MutexLock lock(mutex_);
  mapped_slots_.resize(arena_bytes_ / kPageBytes + 1);
  return absl::OkStatus();
}

absl::Status Connection::StartThread() {
  wake_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return ErrnoStatus(errno, "make an eventfd");
  // The host's signal handlers run on the host's threads.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  absl::Status status;
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    status = ErrnoStatus(error.code().value(), "start the heartbeat thread");
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

Connection::~Connection() {
  if (thread_.joinable()) {
    stop_.store(true);
    if (remote_) calls_->EndSession();  // which returns everything
    Wake();
    thread_.join();
    if (!lost_.load()) {
      // A daemon that let the last ones wait sees the session end, which returns everything.
      const Deadline deadline = steady_clock::now() + kGoodbyeTimeout;
      if (!remote_) {
        puts_->AwaitAll(deadline);
        ReturnIdleSlots(true);
      }
      if (!unanswered_.load()) FlushReturns(deadline);
      if (!remote_) SayGoodbye(socket_.get(), "the client is done");
    }
  }
  calls_.reset();
  if (control_ != nullptr) ::munmap(control_, kControlAreaBytes);
  if (arena_ != nullptr) ::munmap(arena_, arena_bytes_);
}

bool Connection::Forked() const { return fork_generation_ != ForkGeneration(); }

absl::Status Connection::Alive() {
  if (Forked()) {
    return absl::FailedPreconditionError(
        "this process was forked after it connected, and the session is its parent's; call "
        "Reconnect() for one of its own");
  }
  if (!lost_.load() && remote_) {
    if (BootNow() < lease_until_ns_.load(std::memory_order_acquire)) return absl::OkStatus();
    Lose("it has not answered for as long as a lease lasts");
  } else if (!lost_.load()) {
    const absl::Status end = ReadSessionEnd(socket_.get());
    if (end.ok()) return end;
    Lose(std::string(end.message()));
  }
  MutexLock lock(mutex_);
  return absl::UnavailableError(
      "the daemon at " + place_ + " is gone (" + lost_reason_ + ")" +
      (remote_ ? "" : "; start one with: thermoclined --socket " + socket_path_));
}

uint64_t Connection::LeaseGeneration() const {
  if (remote_) return 0;  // its leases end with the session
  return control_->lease_generation.load(std::memory_order_acquire);
}

bool Connection::LeaseHolds(uint64_t generation) const {
  // The reads of the leased bytes come first, then what is read here.
  FullFence();
  if (Forked() || superseded_.load(std::memory_order_acquire)) return false;
  if (remote_) return BootNow() < lease_until_ns_.load(std::memory_order_acquire);
  // The time before the generation, which is raised before the time is extended after a silence.
  if (BootNow() >= control_->lease_until_ns.load(std::memory_order_acquire)) return false;
  return control_->lease_generation.load(std::memory_order_acquire) == generation &&
         control_->epoch.load(std::memory_order_acquire) == epoch_;
}

std::span<std::byte> Connection::Bytes(uint64_t offset, uint64_t bytes) const {
  TC_CHECK(Contains(offset, bytes));
  return {(remote_ ? mirror_.data() : arena_) + offset, bytes};
}

std::shared_ptr<std::byte> Connection::MapSlab(DeviceAccess& device, uint64_t slab,
                                               uint64_t end_bytes, bool to_write,
                                               Deadline deadline) {
  MappedSlabs& slabs = to_write ? filled_slabs_ : slabs_;
  return slabs.Find(slab, end_bytes, [&]() -> absl::StatusOr<MappedSlabs::Slab> {
    TC_ASSIGN_OR_RETURN(const SlabGrant grant, AskForSlab(socket_path_, token_, slab, deadline));
    TC_ASSIGN_OR_RETURN(auto data, device.Map(grant.fd.get(), grant.bytes, to_write));
    return MappedSlabs::Slab{std::move(data), grant.bytes};
  });
}

void Connection::HoldSlot(uint64_t offset, uint64_t bytes) {
  TC_CHECK(Contains(offset, bytes));
  if (remote_ && !Forked()) mirror_.Hold(offset, bytes);
}

void Connection::DropSlot(uint64_t offset) {
  if (remote_ && !Forked()) mirror_.Drop(offset);
}

absl::Status Connection::Explain(absl::Status status) {
  if (absl::IsUnauthenticated(status)) {
    Lose("it does not know this session any more");
  } else if (!absl::IsUnavailable(status)) {
    return status;
  }
  if (remote_ && !Forked() && !lost_.load()) {
    // The daemon says so too, of what it cannot do just then: the session's stream knows better.
    const absl::Status beat = calls_->Beat(steady_clock::now() + kReturnTimeout);
    if (beat.ok()) return status;
    if (!absl::IsDeadlineExceeded(beat)) Lose(std::string(status.message()));
  }
  const absl::Status alive = Alive();
  if (!alive.ok()) return alive;
  return Annotate(status, "the daemon at " + place_ + " does not answer");
}

void Connection::SupersedeLost() {
  for (const std::shared_ptr<Connection>& connection : AllOfThisProcess()) {
    if (!connection->Alive().ok()) connection->superseded_.store(true);
  }
}

std::vector<std::shared_ptr<Connection>> Connection::AllOfThisProcess() {
  std::vector<std::shared_ptr<Connection>> connections;
  OpenConnections& open = OfThisProcess();
  MutexLock lock(open.mutex);
  for (const std::weak_ptr<Connection>& weak : open.connections) {
    if (std::shared_ptr<Connection> connection = weak.lock()) {
      connections.push_back(std::move(connection));
    }
  }
  return connections;
}

void Connection::Run() {
  steady_clock::time_point next_beat = steady_clock::now();
  while (!stop_.load()) {
    const steady_clock::time_point now = steady_clock::now();
    if (now >= next_beat) {
      if (const absl::Status beat = Beat(); !beat.ok()) return Lose(std::string(beat.message()));
      next_beat = now + kHeartbeat;
      FlushReturns(now + kReturnTimeout);  // what an earlier try left
    }
    const auto left = std::chrono::ceil<milliseconds>(next_beat - steady_clock::now()).count();
    const int64_t wait = std::max<int64_t>(left, 0);
    pollfd entries[2] = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                         {.fd = socket_.get(), .events = POLLIN | POLLRDHUP, .revents = 0}};
    if (::poll(entries, remote_ ? 1 : 2, static_cast<int>(wait)) <= 0) continue;
    if (entries[1].revents != 0 && !Alive().ok()) return;
    if (entries[0].revents != 0) {
      uint64_t count = 0;
      (void)!::read(wake_.get(), &count, sizeof count);
      if (stop_.load()) continue;
      FlushReturns(steady_clock::now() + kReturnTimeout);
    }
  }
}

absl::Status Connection::Beat() {
  if (!remote_) {
    control_->heartbeat.fetch_add(1, std::memory_order_release);
    puts_->Collect();
    slabs_.DropIdle(steady_clock::now());
    filled_slabs_.DropIdle(steady_clock::now());
    // Who was silent has lost what it was granted, where nobody but the daemon fills slots.
    const uint64_t generation = LeaseGeneration();
    const bool lapsed = std::exchange(beaten_generation_, generation) != generation;
    const uint32_t recalled = control_->slots_recalled.load(std::memory_order_relaxed);
    const bool called_back = std::exchange(slots_recalled_, recalled) != recalled;
    ReturnIdleSlots(called_back || (lapsed && staging_.there()));
    return absl::OkStatus();
  }
  if (lost_.load()) return absl::UnavailableError("it is lost");
  // From when it was sent: whenever the daemon has got it, its patience began later.
  const uint64_t sent_at_ns = BootNow();
  TC_RETURN_IF_ERROR(calls_->Beat(steady_clock::now() +
                                  std::chrono::nanoseconds(static_cast<int64_t>(lease_ns_))));
  lease_until_ns_.store(sent_at_ns + lease_ns_, std::memory_order_release);
  return absl::OkStatus();
}

void Connection::Lose(const std::string& reason) {
  MutexLock lock(mutex_);
  if (lost_.load()) return;
  lost_reason_ = reason;
  returns_ = {};
  if (!remote_) LeaveArena();
  lost_.store(true);
}

// In one step for every thread that looks into it: a page is the shared one or the private one. A
// private copy of a huge page would come from their pool, and SIGBUS where that is empty: there all
// becomes empty small ones, which nobody may take for what he leased.
void Connection::LeaveArena() {
  constexpr int kFlags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  if (!arena_is_hugetlb_) {
    (void)::mmap(arena_, arena_bytes_, PROT_READ | PROT_WRITE, kFlags, arena_fd_.get(), 0);
    return;
  }
  superseded_.store(true);
  if (staging_.there()) return;  // it does not write there
  (void)::mmap(arena_, arena_bytes_, PROT_READ | PROT_WRITE, kFlags | MAP_ANONYMOUS, -1, 0);
}

void Connection::Wake() {
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

}  // namespace client_v1
}  // namespace thermocline
