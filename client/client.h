// The client library: match a prompt's prefix, read its KV blocks in place, commit new ones.
//
// A client holds one session with the daemon of its machine. The session hands over the arena, so
// the bytes of a block never travel: a Lease gives views into the arena, a Reservation gives a slot
// of the arena to fill. Only places and offsets travel, over gRPC on a unix socket.
//
// A lease is good for as long as the daemon hears from this process, and ten seconds more. The
// rule: read, then ask StillValid(), then use what was computed. False means that what was read
// was a miss. Everything that the cache cannot give is a miss, and never a reason to fail.
//
//   auto client = Client::Connect({.client_name = "my-engine"});
//   auto space = (*client)->OpenSpace(spec);
//   auto lease = space->Match(prompt);                          // the longest prefix that is here
//   auto cached = lease->Load();                                // places readable now, verified
//   for (uint32_t place = 0; place < *cached; ++place) Attend(lease->View(place));
//   auto slots = space->Reserve(new_places);
//   for (Reservation& slot : *slots) Fill(slot.bytes());
//   absl::Status committed = lease->Commit(new_tokens, *std::move(slots));
//   if (!lease->StillValid()) ...                               // compute again without the cache
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "hashing/space.h"

namespace thermocline {
// Its own names in a program that also links the daemon's libraries.
inline namespace client_v1 {

class Connection;
class ClientCore;
struct SpaceState;

enum class BlockTier : uint8_t { kNone = 0, kHot = 1, kWarm = 2, kCold = 3, kRemote = 4 };
/// "none", "hot", "warm", "cold", "remote".
const char* BlockTierName(BlockTier tier);

using Timeout = std::optional<std::chrono::milliseconds>;  // none: Client::Options::timeout

/// The names of consecutive places: token ids, 16 a place (a remainder of fewer is ignored), or the
/// keys of an engine that brings its own, one a place.
/// Owner: borrows.
class NamesView {
 public:
  NamesView() = default;
  NamesView(std::span<const int32_t> tokens) : tokens_(tokens) {}     // NOLINT: implicit
  NamesView(const std::vector<int32_t>& tokens) : tokens_(tokens) {}  // NOLINT: implicit
  NamesView(std::span<const std::string> keys) : keys_(keys) {}       // NOLINT: implicit
  NamesView(const std::vector<std::string>& keys) : keys_(keys) {}    // NOLINT: implicit

  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const std::string> keys() const { return keys_; }
  uint32_t places() const {
    return static_cast<uint32_t>(keys_.empty() ? tokens_.size() / 16 : keys_.size());
  }

 private:
  std::span<const int32_t> tokens_;
  std::span<const std::string> keys_;
};

/// A stream of a device, as the device's runtime has it: a cudaStream_t.
using DeviceStream = void*;

/// What this library needs of a device's runtime, without being linked with it. CUDA's, in a
/// library of its own: client/device_cuda.h. Thread: any.
class DeviceAccess {
 public:
  virtual ~DeviceAccess() = default;
  /// Maps memory of the device that another process shares: to read there alone, or to write, too.
  /// Owner: the descriptor stays the caller's; the last copy of the answer unmaps it, without
  ///        waiting.
  virtual absl::StatusOr<std::shared_ptr<std::byte>> Map(int fd, uint64_t bytes, bool to_write) = 0;
  /// Calls `then`, on a thread on which it may take its time, once all that `stream` was given
  /// until now is done: not before, and never when the stream has failed.
  virtual absl::Status After(DeviceStream stream, std::function<void()> then) = 0;
};

/// How the bytes of blocks lie, as who computes with them expects it. In the words of a SpaceSpec.
struct BlockLayout {
  std::string kv_dtype;
  std::string layout;  // the order of dimensions, and its version
  uint32_t block_tokens = 16;
  std::vector<uint64_t> block_bytes;  // of each part
};

/// One block of a leased path.
struct BlockInfo {
  uint32_t depth = 0;  // place number from the root, 0-based
  uint32_t part = 0;
  uint64_t id = 0;                            // the daemon's, never reused
  BlockTier matched_tier = BlockTier::kNone;  // where the match (or the commit) found it
  BlockTier tier = BlockTier::kNone;          // where it is now
  uint64_t bytes = 0;
};

/// Copies by stores that go past the caches, where the processor has such: the fastest way into a
/// slot, from some tens of KiB on. Out of a block: Lease::Read.
/// REQUIRES: `to` is as long as `from`, and they do not overlap. Thread: any.
void StreamingCopy(std::span<std::byte> to, std::span<const std::byte> from);

/// A slot of the arena to fill, or of the device's memory (Space::ReserveOnDevice). Its destructor
/// gives an uncommitted slot back; of the device, no stream may write there any more then.
/// Owner:  the slot belongs to this process until it is committed or given back.
/// Thread: one at a time; different reservations may be filled by different threads.
class Reservation {
 public:
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  /// The payload: exactly the space's block_bytes of this part, at a page boundary, its content
  /// undefined. In the arena, or where the tenant's clients may not write there, in memory of this
  /// session from which the daemon copies. Empty after a fork, in the child. After the daemon is
  /// lost the memory stays writable, and what is written there reaches nobody.
  /// Empty for a slot of the device.
  std::span<std::byte> bytes() const;
  /// The same on the device: an address of its memory, at a multiple of 4 KiB, which the host
  /// cannot read or write. Empty for a slot of the arena.
  std::span<std::byte> device_bytes() const;
  uint32_t part() const { return part_; }

 private:
  friend class Space;
  friend class Lease;
  Reservation(std::shared_ptr<Connection> connection, uint32_t part, uint64_t offset,
              uint64_t grant, uint64_t bytes, std::optional<uint64_t> staged_at,
              std::shared_ptr<std::byte> device = nullptr);
  void GiveBack();  // unless it was moved from, or is used
  void Unstage();
  void Use();  // it is the daemon's now

  std::shared_ptr<Connection> connection_;  // shared: the mapping lives while any view of it may
  uint32_t part_ = 0;
  uint64_t offset_ = 0;
  uint64_t grant_ = 0;  // the session's number for what it was granted with
  uint64_t bytes_ = 0;
  // Filled there, where the arena is not ours to write.
  std::optional<uint64_t> staged_at_;
  std::shared_ptr<std::byte> device_;  // where it is on the device; shares the slab's mapping
};

/// The right to read a path in place: a cursor that pins everything from the root to its end, and
/// that commits extend. Its destructor releases it.
/// Thread: one at a time.
/// Errors: every call on a lease of a lost daemon, of an earlier epoch or of the parent process of
///         a fork is FailedPrecondition; match again.
class Lease {
 public:
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease();

  /// Usable places: the match covers [0, depth()). Cold ones among them are not readable yet.
  uint32_t depth() const;
  /// The blocks of the path, depth-major, then part. Parts with a window have none outside it.
  std::span<const BlockInfo> blocks() const;
  /// nullptr when the path has no block there.
  const BlockInfo* Find(uint32_t depth, uint32_t part = 0) const;

  /// The bytes of a block, in the arena. A block that the daemon has not verified since it lies
  /// there is summed at the first call.
  /// Owner: valid until the lease, its last move included, is destroyed; trust what was read only
  ///        when StillValid() afterwards.
  /// Errors: empty when the block is not readable in place: cold and not loaded, outside the window
  ///         of its part, or damaged (then depth() ends there from now on).
  std::span<const std::byte> View(uint32_t depth, uint32_t part = 0);

  /// Copies what View gives, a large block past the caches. False: there is nothing to view, or it
  /// is of another size than `to`. Trust what was read only when StillValid() afterwards.
  bool Read(uint32_t depth, std::span<std::byte> to, uint32_t part = 0);

  /// The bytes of a hot block where they lie: an address of device memory, which the host cannot
  /// read, in the space's layout, at a multiple of 4 KiB. Of a lease by MatchOnDevice; such a block
  /// has no View. Its bytes were summed on their way to the device, and are not again.
  /// Owner: as View; what a stream reads there has to be done, or see ReleaseAfter.
  /// Errors: empty when the block is not hot, or its memory cannot be mapped: Load brings it to
  ///         memory then.
  std::span<const std::byte> DeviceView(uint32_t depth, uint32_t part = 0);

  /// Makes the whole path readable: promotes its cold blocks, in prefix order, and verifies those
  /// that need it. `on_ready(n)` is called with growing n when the places [0, n) are readable, so
  /// that work on the first can start while later ones are still being read.
  /// Of a lease by MatchOnDevice, hot blocks stay where they are and have a DeviceView.
  /// Returns the depth that is readable, which is the lease's depth from now on: shorter than
  /// before when a block could not be had. No message when everything is warm.
  /// Thread: `on_ready` runs on the calling thread and must not use this lease except View.
  /// A deadline that passes is no error: what is not there by then is a miss.
  /// Errors: Unavailable, FailedPrecondition: the lease is of no more use.
  absl::StatusOr<uint32_t> Load(const std::function<void(uint32_t)>& on_ready = {},
                                Timeout timeout = {});

  /// Moves the end back to `depth` places, so that the next commit goes behind them.
  /// REQUIRES: depth <= this->depth().
  absl::Status Truncate(uint32_t depth, Timeout timeout = {});

  /// Publishes filled slots behind the end, in order, and moves the end behind them. `names` are
  /// those of the new places; `slots` holds, for each new block, one reservation of every part,
  /// parts in order. Where another client was first its identical block takes the place of ours,
  /// and the slot goes back. The slots are used up, whatever the outcome.
  /// Errors: InvalidArgument when names and slots do not fit; FailedPrecondition when the slots are
  ///         of another epoch; DataLoss, Aborted...: nothing was published, go on uncached.
  absl::Status Commit(NamesView names, std::vector<Reservation> slots, Timeout timeout = {});

  /// As Commit, without waiting for the daemon: the blocks are published in the order in which they
  /// were enqueued, through whichever lease, and other clients find them then. The end of the lease
  /// moves with Settle; what is enqueued before goes behind what was enqueued last. Until then the
  /// slots keep their bytes and may be read, but not written. A lease that is destroyed meanwhile
  /// publishes all the same. One whose path is not warm throughout, and a remote client's, waits
  /// as Commit does.
  /// Errors: as Commit; DeadlineExceeded when so much is on its way already that this could not be
  ///         enqueued, or not all of it.
  absl::Status CommitAsync(NamesView names, std::vector<Reservation> slots, Timeout timeout = {});
  /// As Commit, of slots of the device's memory (Space::ReserveOnDevice), once all that `stream`
  /// was given until now is done: what it writes there need not be waited for. The daemon is told
  /// then, sums the slots, and other clients find the blocks, on the device. The end of the lease
  /// moves with Settle; until then the lease is read as before, and whatever else commits behind
  /// it, moves its end or loads it waits as Settle does. A lease that is destroyed meanwhile, or
  /// that ends by ReleaseAfter, publishes all the same. `timeout`: of what is sent then. A stream
  /// that fails publishes nothing, and Settle waits for it in vain.
  /// Errors: as Commit, and nobody else gets the slots before the stream has come by;
  ///         FailedPrecondition without ClientOptions::device; those of the device, and nobody else
  ///         gets them before this process ends.
  absl::Status CommitAfter(NamesView names, std::vector<Reservation> slots, DeviceStream stream,
                           Timeout timeout = {});
  /// Waits until all that was enqueued is answered, and moves the end behind what was published.
  /// Errors: the first that a commit met: what came behind it was not published, and the lease ends
  ///         before it; DeadlineExceeded: call it again.
  absl::Status Settle(Timeout timeout = {});
  /// Whether Settle would not have to wait.
  bool Settled() const;

  /// Whether everything read through this lease until now was read from blocks that were its own:
  /// asks the clock and the control area, no message.
  bool StillValid() const;

  /// Ends the lease now. The daemon hears of it a little later, in a batch.
  void Release();

  /// Ends the lease once all that `stream` was given until now is done: what the device reads until
  /// then, of hot blocks and of others, is still the blocks' own. Does not wait. From now on the
  /// lease has no blocks, and StillValid() tells of the time until that end. A process that dies
  /// before leaves nothing behind.
  /// Errors: FailedPrecondition without ClientOptions::device; those of the device. With all of
  ///         them the lease is as it was.
  absl::Status ReleaseAfter(DeviceStream stream);

  /// What another process of the tenant needs to lease the same path (Space::Import), however many
  /// do. It promises nothing: this lease must hold until the other has its own.
  /// Errors: FailedPrecondition as for every call.
  absl::StatusOr<std::string> Export() const;

 private:
  friend class Space;
  struct Rep;
  explicit Lease(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

struct PinInfo {
  uint64_t pin = 0;
  Fingerprint space;
  uint32_t depth = 0;  // places
  int64_t expires_unix_ms = 0;
  BlockTier tier = BlockTier::kNone;  // kNone: kept in any local tier
};

struct PrefetchInfo {
  uint32_t matched_depth = 0;
  uint32_t promoting_blocks = 0;
};

/// Blocks that are interchangeable: one model, one layout, one tenant. A light handle; it outlives
/// restarts of the daemon and opens itself again.
/// Thread: any.
class Space {
 public:
  const SpaceSpec& spec() const;
  /// As the daemon counts it: with the tenant, which it adds.
  Fingerprint fingerprint() const;

  /// Leases the longest prefix of `names` that some local tier holds. Nothing found is a lease of
  /// depth 0, behind which one can commit.
  absl::StatusOr<Lease> Match(NamesView names, Timeout timeout = {}) const;

  /// As Match, for who computes on the device: its hot blocks are read where they lie, and not
  /// brought to memory. Where this cannot be (a remote client, one that sums everything itself, a
  /// tenant whose clients may not write) it is a Match.
  /// Errors: InvalidArgument when the space's blocks lie otherwise than `expected`;
  ///         FailedPrecondition without ClientOptions::device; as Match.
  absl::StatusOr<Lease> MatchOnDevice(NamesView names, const BlockLayout& expected,
                                      Timeout timeout = {}) const;

  /// Leases the path that another process exported and still holds: nothing is compared, and no
  /// prompt travels, but back to a remote client. What such a client exports is its prompt, which
  /// the other then matches.
  /// Errors: InvalidArgument for what no lease of this space exported; NotFound when its holder has
  ///         let go of it, or the daemon was restarted: match instead.
  absl::StatusOr<Lease> Import(std::string_view exported, Timeout timeout = {}) const;

  /// For a space of opaque keys, one a block, that stand for themselves and in no order: a batch of
  /// them costs no more than its cache misses. Such a block is committed behind a lease of depth 0,
  /// as the only name of its path.
  ///
  /// In which tier each key is, that of its slowest part; kNone: it is not here, or not all of it.
  /// Nothing is leased: it may be different by now. No message, unless the client is remote.
  /// Errors: InvalidArgument for a space without such keys.
  absl::StatusOr<std::vector<BlockTier>> LookUp(NamesView keys, Timeout timeout = {}) const;
  /// Copies one part of each key that is here into the buffer of the same number, which has its
  /// size, as Lease::Read does, and answers where it was found; kNone: it could not be had, and its
  /// buffer may hold anything. Every answer stands: nothing has to be asked afterwards. Warm blocks
  /// cost no message (a remote client: one for all of them), others one or two each. A deadline
  /// that passes is no error: what was not copied by then is kNone.
  /// Errors: InvalidArgument for a space without such keys, or buffers that do not fit.
  absl::StatusOr<std::vector<BlockTier>> Read(NamesView keys,
                                              std::span<const std::span<std::byte>> buffers,
                                              uint32_t part = 0, Timeout timeout = {}) const;

  /// Slots to fill, at least one and at most `count`, waiting up to `wait` for room.
  /// Errors: ResourceExhausted: go on without the cache.
  absl::StatusOr<std::vector<Reservation>> Reserve(
      uint32_t count, uint32_t part = 0,
      std::chrono::milliseconds wait = std::chrono::milliseconds(0), Timeout timeout = {}) const;
  /// The same in the memory of the device, for streams to fill: Lease::CommitAfter takes them. How
  /// much of the hot tier may be so at once is bounded.
  /// Errors: ResourceExhausted, also without a hot tier, and of a device that fails: Reserve, and
  ///         copy there; PermissionDenied where the tenant's clients may not write; InvalidArgument
  ///         as MatchOnDevice, and of a remote client; FailedPrecondition without
  ///         ClientOptions::device.
  absl::StatusOr<std::vector<Reservation>> ReserveOnDevice(
      uint32_t count, const BlockLayout& expected, uint32_t part = 0,
      std::chrono::milliseconds wait = std::chrono::milliseconds(0), Timeout timeout = {}) const;

  /// Keeps what is here of a path for `ttl`, across restarts; tier kWarm promotes it and keeps it
  /// warm.
  /// Errors: NotFound when nothing of it is here; ResourceExhausted when the tenant's pins would
  ///         hold more than they may.
  absl::StatusOr<PinInfo> Pin(NamesView names, std::chrono::milliseconds ttl,
                              BlockTier tier = BlockTier::kNone, Timeout timeout = {}) const;
  /// Asks for the cold blocks of a path to be promoted; returns at once.
  absl::StatusOr<PrefetchInfo> Prefetch(NamesView names, Timeout timeout = {}) const;

 private:
  friend class Client;
  explicit Space(std::shared_ptr<SpaceState> state) : state_(std::move(state)) {}
  std::shared_ptr<SpaceState> state_;  // shared by the copies of this handle
};

struct SpaceInfo {
  Fingerprint fingerprint;
  SpaceSpec spec;
  uint64_t places = 0;
  uint64_t warm_bytes = 0;
  uint64_t cold_bytes = 0;
};

struct TierUse {
  BlockTier tier = BlockTier::kNone;
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t blocks = 0;
  uint64_t hits = 0;  // blocks
  uint64_t evictions = 0;
  uint64_t promotions = 0;  // into this tier
  uint64_t demotions = 0;   // out of this tier, downwards
  std::string state;        // "ok", or what is wrong
  // Where tenants share the tier: of the capacity what no other gets for long, and what it may use
  // now. Else the capacity.
  uint64_t share_bytes = 0;
  uint64_t lent_bytes = 0;
  uint64_t ttl_pinned_bytes = 0;  // what TTL pins hold there, or may
};

struct DaemonStats {
  std::string version;
  uint64_t epoch = 0;
  uint64_t uptime_ms = 0;
  uint64_t sessions = 0;
  uint64_t leases = 0;
  uint64_t reservations = 0;
  uint64_t spaces = 0;
  uint64_t places = 0;
  uint64_t pins = 0;
  uint64_t lookups = 0;
  uint64_t misses = 0;  // blocks asked for and not usable
  std::map<std::string, uint64_t> misses_by_reason;
  uint64_t corrupt_blocks = 0;
  std::vector<TierUse> tiers;
};

/// How to reach a daemon whose arena this process cannot map. What is empty is taken from the
/// environment: THERMOCLINE_ADDRESS, _CA, _CERTIFICATE, _KEY, _CLIENT_TOKEN_FILE.
struct RemoteOptions {
  std::string address;           // "tls://HOST:PORT"; "": none, see Client
  std::string ca_file;           // PEM, as all of them: who signed the daemon's certificate
  std::string certificate_file;  // of this client
  std::string key_file;
  std::string token_file;  // the client's token, alone in its file
};

struct ClientOptions {
  std::string socket_path;  // "": $THERMOCLINE_SOCKET, else the daemon's default
  RemoteOptions remote;
  std::string client_name;                  // for the daemon's log
  std::chrono::milliseconds timeout{5000};  // of calls that name none
  // For MatchOnDevice, ReserveOnDevice and what waits for streams; shared with leases.
  std::shared_ptr<DeviceAccess> device;
  bool verify_always = false;  // sum every block of every lease before it is handed out
  bool auto_reconnect =
      true;  // a call that finds the daemon lost tries a new session, with backoff
};

/// A session with a daemon: that of this machine, whose arena is mapped; without the map, where
/// every block travels, when `remote.address` says so, when the daemon's memory cannot be mapped,
/// and, with an address in the environment, when this machine has no daemon for this user. Then a
/// view is a private copy, a slot is sent by Commit, leases end with the session, and a forked
/// child cannot reconnect.
///
/// When the daemon goes away every call returns Unavailable at once, and what is leased stays
/// mapped and readable while StillValid(). The next call (or Reconnect) tries again, with backoff;
/// then spaces are opened again, and leases and reservations of before are dead.
/// After a fork the child's client is dead (FailedPrecondition) until it reconnects; a child whose
/// parent was connected can do so only when the parent was started with GRPC_ENABLE_FORK_SUPPORT=1
/// and was in no call at the fork. Better: connect after the fork.
/// Thread: any.
class Client {
 public:
  using Options = ClientOptions;

  /// Errors: Unavailable, naming the socket and how to start the daemon, when nobody listens;
  ///         FailedPrecondition for another protocol or layout version; PermissionDenied for
  ///         another user's daemon.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(Options options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Errors: InvalidArgument when the specification is wrong or a block cannot fit the arena.
  absl::StatusOr<Space> OpenSpace(const SpaceSpec& spec, Timeout timeout = {});
  absl::StatusOr<std::vector<SpaceInfo>> Spaces(Timeout timeout = {});
  absl::StatusOr<std::vector<PinInfo>> Pins(Timeout timeout = {});
  /// Errors: NotFound.
  absl::Status Unpin(uint64_t pin, Timeout timeout = {});
  absl::StatusOr<DaemonStats> Stats(Timeout timeout = {});

  /// Opens a new session now, without backoff: after a lost daemon, or in a forked child. Nothing
  /// to do while the session is alive.
  absl::Status Reconnect();
  /// Whether the session was alive a moment ago.
  bool Connected() const;
  const std::string& socket_path() const;

 private:
  friend class AdminClient;
  explicit Client(std::shared_ptr<ClientCore> core);
  std::shared_ptr<ClientCore> core_;  // shared with spaces, which may outlive the client
};

struct TenantInfo {
  std::string name;
  DaemonStats stats;  // its own
};

struct FlushResult {
  uint64_t blocks = 0;  // moved or dropped
  uint64_t kept = 0;    // leased or pinned
};

/// Blocks in the cold tiers.
struct FsckResult {
  uint64_t blocks = 0;   // read
  uint64_t damaged = 0;  // of these, and dropped
};

/// The verbs about all tenants, and the destructive ones, for the daemon's own user. Each first
/// gives back what this process has released, by whichever client; what others release reaches the
/// daemon a little later.
/// Thread: any.
class AdminClient {
 public:
  /// Errors: as Client::Connect; PermissionDenied unless this process runs as the daemon's user.
  static absl::StatusOr<std::unique_ptr<AdminClient>> Connect(ClientOptions options);

  /// Deletes what lies at and behind a path; no names: the whole space. Returns the places deleted.
  absl::StatusOr<uint64_t> Delete(const Fingerprint& space, NamesView names, Timeout timeout = {});
  /// kWarm: everything to cold (dropped where there is no cold tier); kCold: dropped.
  absl::StatusOr<FlushResult> Flush(BlockTier tier, Timeout timeout = {});
  /// Drops every block of the arena. Returns the blocks dropped.
  absl::StatusOr<uint64_t> DropArena(Timeout timeout = {});
  /// Checks the daemon's books against each other and reads every cold block of all tenants back,
  /// while clients are served; damaged ones are dropped. Takes as long as the disk needs for that:
  /// give it a timeout to match. Errors: Internal for books that disagree; Unavailable when the
  /// disk is not read, or another check is under way.
  absl::StatusOr<FsckResult> Fsck(Timeout timeout = {});
  absl::StatusOr<std::vector<TenantInfo>> Tenants(Timeout timeout = {});

 private:
  explicit AdminClient(std::unique_ptr<Client> client) : client_(std::move(client)) {}
  std::unique_ptr<Client> client_;
};

}  // namespace client_v1
}  // namespace thermocline
