// One tenant's store: the catalog says which prefixes are here and where their bytes lie, the tiers
// hold the bytes, the policy says who goes first; the stack moves them. Hot and warm are exclusive
// in the steady state, cold copies are kept on promotion. Blocks leave warm only when a cold copy
// is safe (write-back) or when they are dropped.
//
// Thread: one strand owns a stack (its writer). Every function must be called on it, every callback
// is called on it, never before the call that took it has returned; slow I/O runs on the disk
// executor meanwhile. Nothing here blocks.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "catalog/reader.h"
#include "hashing/name.h"
#include "hashing/space.h"
#include "proto/shm_layout.h"
#include "tiers/device_memory.h"
#include "tiers/stack_options.h"
#include "tiers/stack_stats.h"
#include "tiers/tier.h"

namespace thermocline {

/// A client of the stack: a session of the daemon. Numbers index the catalog's pin areas.
struct ClientNumber {
  uint32_t value = 0;
  bool operator==(const ClientNumber&) const = default;
};

/// How a client went, which says what may still be written into slots that it had reserved.
enum class Departure : uint8_t {
  kProcessGone,  // nothing
  kGoodbye,      // nothing, but for a copy that was in the midst of it
  kLost,         // anything: its process may live
};

/// A block of a leased path, as docs/architecture.md and proto/thermocline/v1/types.proto have it.
struct BlockView {
  uint32_t depth = 0;
  uint16_t part = 0;
  TierKind tier = TierKind::kNone;
  uint64_t id = 0;
  uint64_t slab = 0;    // when hot: of the device's; 0: it is not to be read in place
  uint64_t offset = 0;  // bytes from the start of the arena, when warm, or of the slab
  uint64_t bytes = 0;
  uint64_t checksum = 0;
  bool checked = false;
};

struct LeaseView {
  uint64_t lease = 0;
  uint32_t depth = 0;             // usable places
  std::vector<BlockView> blocks;  // depth-major, then part
  Place end;                      // where it ends in the catalog
};

/// The end of a path that a client holds by a pin of its control area; that of a path of nothing
/// is its root's.
struct PinnedEnd {
  uint32_t space = 0;
  uint32_t pin = 0;
  Place place;
};

/// The offsets of slots of device memory: from here on, above all of the arena's.
inline constexpr uint64_t kDeviceSlots = uint64_t{1} << 63;
constexpr bool IsDeviceSlot(uint64_t offset) { return offset >= kDeviceSlots; }

/// Where such a slot lies, for who has the device.
struct SlabPlace {
  uint64_t slab = 0;    // see ExportSlab
  uint64_t offset = 0;  // bytes from its start
};

struct CommitItem {
  uint64_t offset = 0;  // of a slot reserved by the committing client
  uint16_t part = 0;
  uint32_t depth = 0;
  // XXH3-64 of the payload, computed by the daemon from the slot itself. Of one on the device by
  // SumOnDevice.
  uint64_t checksum = 0;
  bool keep_slot = false;  // where a block was there before: the slot offered stays reserved
  uint64_t grant = 0;      // under which it must be reserved; 0: whichever
};

/// A slot as it was granted once: it may have been published and granted anew since.
struct GrantedSlot {
  uint64_t offset = 0;
  uint64_t grant = 0;
};

class TierStack {
 public:
  using Options = StackOptions;
  using DoneCallback = std::function<void(absl::Status)>;

  /// Opens the arena (re-adopting what checks out) and the cold tier, and rebuilds the catalog from
  /// their headers.
  static absl::StatusOr<std::unique_ptr<TierStack>> Open(Options options);
  virtual ~TierStack() = default;

  // ---- clients
  /// `pid`, `start_time` as in base/process.h. `shared`: where the client pins and counts without a
  /// message; nullptr for one that has no such memory. RESOURCE_EXHAUSTED beyond max_clients.
  /// Owner: `shared` is the client's and the stack's together.
  virtual absl::StatusOr<ClientNumber> AddClient(int pid, uint64_t start_time,
                                                 std::shared_ptr<ControlArea> shared) = 0;
  /// The session is over: its leases end. Its reservations return at once when the process has
  /// gone; after a goodbye when a lease's time is over; else they stay in quarantine until
  /// ProcessGone(pid, start_time): a stopped process may still write into them.
  virtual void RemoveClient(ClientNumber client, Departure how) = 0;
  virtual void ProcessGone(int pid, uint64_t start_time) = 0;
  /// Whether slots wait in quarantine for that process.
  virtual bool Awaits(int pid, uint64_t start_time) const = 0;
  /// The client was silent for longer than a lease lasts: its leases end, those by its own pins
  /// too. Its reservations stay with it where clients fill slots; what of these it only holds in
  /// advance the caller aborts. Whoever calls sees to it that the client takes nothing for leased
  /// that it pinned before this has returned.
  virtual void ExpireLeases(ClientNumber client) = 0;
  /// After a restart: nothing re-adopted is evicted, and no slot granted before is reused, until
  /// every client of the last epoch that still lives has come back or `grace` has passed. The
  /// daemon calls it once when it is over.
  virtual void EndGrace() = 0;

  /// Clients whose shared memory holds what no client library writes, with what it is, each once:
  /// they should be cut off.
  struct Misbehaviour {
    ClientNumber client;
    std::string what;
  };
  virtual std::vector<Misbehaviour> TakeMisbehaviours() = 0;

  // ---- spaces
  /// The number of the space with this fingerprint, valid until the epoch ends, or until it holds
  /// nothing, is used by nobody and has to give way (StackOptions::max_spaces).
  /// Errors: INVALID_ARGUMENT for a bad spec or a capacity too small for one of its blocks,
  ///         RESOURCE_EXHAUSTED when there are too many spaces.
  ///         PermissionDenied when there is none such and none may be added.
  virtual absl::StatusOr<uint32_t> OpenSpace(const SpaceSpec& spec, bool may_add = true) = 0;
  /// Where clients find the space in the catalog. REQUIRES: OpenSpace answered it, just now.
  virtual Root RootOf(uint32_t space) const = 0;
  /// `done` once the next daemon will know the space, or all spaces and pins when none is named; or
  /// with why it may not. Then it is written again by itself. Errors: of the disk, Unavailable when
  /// that does not answer. REQUIRES: OpenSpace answered it, just now.
  virtual void AwaitSaved(std::optional<uint32_t> space, DoneCallback done) = 0;
  virtual std::vector<SpaceView> Spaces() const = 0;

  // ---- data
  virtual absl::StatusOr<LeaseView> Match(ClientNumber client, uint32_t space,
                                          std::span<const Name> names) = 0;
  /// Leases the path that ends at `end`, as its holder told of it; `names`: of all its places. It
  /// is no match: nothing is counted. `digest`: Sha256OfPath of it, which its holder knew.
  /// Errors: NotFound unless `id` is there still, in that space, and everything up to it, and the
  ///         digest is that path's.
  virtual absl::StatusOr<LeaseView> Adopt(ClientNumber client, uint32_t space, Place end,
                                          uint64_t id, const Sha256& digest,
                                          std::vector<Name>& names) = 0;
  /// The blocks of unordered keys, each a place right below the root of an opaque space: all parts
  /// of all keys, in their order; `depth` is the key's number. Without a lease: what is not here,
  /// or is about to go, has no tier. `read`: the part that is about to be read, which counts as a
  /// use.
  virtual absl::StatusOr<std::vector<BlockView>> LookUp(uint32_t space, std::span<const Name> keys,
                                                        std::optional<uint16_t> read) = 0;
  /// `ready` is called with warm blocks in prefix order, any number of times, then `done` once. A
  /// block that cannot be had ends the load early, with OK. `ready` answers whether anybody still
  /// waits: false ends the load, and what is not under way yet stays where it is. A lease has one
  /// load at a time: the next one ends it, with Cancelled.
  /// `hot_stays`: what can be read on the device in place is as good as warm.
  using ReadyCallback = std::function<bool(std::vector<BlockView>)>;
  virtual void Load(ClientNumber client, uint64_t lease, ReadyCallback ready, DoneCallback done,
                    bool hot_stays = false) = 0;
  /// A slab of the device's memory, for a client that has the device: what it leases there it reads
  /// in place. `done` once, on any thread.
  /// Errors: NotFound; PermissionDenied where clients may not write, as who has a slab may;
  ///         Unavailable.
  using SlabCallback = std::function<void(absl::StatusOr<ExportedSlab>)>;
  virtual void ExportSlab(uint64_t slab, SlabCallback done) = 0;
  /// Whether the lease is the client's and has not ended since it was given. Errors:
  /// FailedPrecondition.
  virtual absl::Status CheckLease(ClientNumber client, uint64_t lease) = 0;
  /// Keeps warm blocks where they lie until LetGo, for whoever copies them outside the strand;
  /// `held` says of each whether it does, or was elsewhere by now.
  struct Held {
    uint64_t number = 0;
    std::vector<bool> held;
  };
  virtual Held Hold(std::span<const BlockView> blocks) = 0;
  virtual void LetGo(uint64_t number) = 0;
  using ReserveCallback = std::function<void(absl::StatusOr<std::vector<uint64_t>>)>;
  /// `ahead`: so many more than `count`, of those that are free and that nobody else is short of.
  /// `grant`: the client's number for what it is granted.
  virtual void Reserve(ClientNumber client, uint32_t space, uint16_t part, uint32_t count,
                       std::chrono::milliseconds wait, ReserveCallback done, uint32_t ahead = 0,
                       uint64_t grant = 0) = 0;
  /// Slots of the device's memory, for a client that fills them there; each has an offset as those
  /// of the arena have. At least one, within `wait`; a share of the tier at most, for all clients
  /// together. Errors: as Reserve; ResourceExhausted without a hot tier too, or one that can be
  /// copied from; PermissionDenied where clients may not write.
  virtual void ReserveOnDevice(ClientNumber client, uint32_t space, uint16_t part, uint32_t count,
                               std::chrono::milliseconds wait, ReserveCallback done,
                               uint64_t grant = 0) = 0;
  /// REQUIRES: it is such a slot, and reserved.
  virtual SlabPlace PlaceOnDevice(uint64_t offset) const = 0;
  /// Reads slots of the device that the client has reserved, and sums them: before they are
  /// committed, once all that was to be written there is. REQUIRES: each is named once. Errors: as
  /// ReservedBytes; ResourceExhausted when the device cannot be read, or not now.
  using SumsCallback = std::function<void(absl::StatusOr<std::vector<uint64_t>>)>;
  virtual void SumOnDevice(ClientNumber client, std::vector<uint64_t> offsets,
                           SumsCallback done) = 0;
  /// How many slots to grant for what this client puts next, having put `put` blocks: even where
  /// others leave for them, but no more than clients may have in hand of a full arena.
  virtual uint32_t SlotsForMore(ClientNumber client, uint32_t space, uint16_t part,
                                uint32_t put) = 0;
  /// Whether `offset` is a slot reserved by this client, and how many payload bytes it has: asked
  /// before the payload is summed outside the strand.
  virtual absl::StatusOr<uint64_t> ReservedBytes(ClientNumber client, uint64_t offset) = 0;
  /// Publishes filled slots behind the end of the lease and moves the lease to the deepest place
  /// of `items`. Answers the lease's depth now and the blocks as they stand, in the order of
  /// `items`: where a block was there before, that one, and the slot offered is free again, unless
  /// the item says otherwise.
  /// `names`: of the places behind the lease's end, in order.
  /// Errors: RESOURCE_EXHAUSTED when its names do not all fit. With every error nothing has
  /// changed.
  virtual absl::StatusOr<LeaseView> Commit(ClientNumber client, uint64_t lease,
                                           std::span<const Name> names,
                                           std::span<const CommitItem> items) = 0;
  /// The same behind a path that the client holds without a message. Its pin is moved to the new
  /// end, unless the client has let go of it meanwhile.
  virtual absl::StatusOr<LeaseView> Commit(ClientNumber client, const PinnedEnd& end,
                                           std::span<const Name> names,
                                           std::span<const CommitItem> items) = 0;
  virtual Durability durability() const = 0;
  /// Under Durability::kAck: `done` once the blocks that a Commit answered are in the cold tier for
  /// good, or with ABORTED and why they are not; in memory they are all the same.
  virtual void AwaitDurable(const LeaseView& view, DoneCallback done) = 0;
  /// Whether a commit would be done, but for the names that it needs. Errors: as Commit.
  virtual absl::Status CheckCommit(ClientNumber client, uint64_t lease, std::span<const Name> names,
                                   std::span<const CommitItem> items) = 0;
  virtual absl::Status CheckCommit(ClientNumber client, const PinnedEnd& end,
                                   std::span<const Name> names,
                                   std::span<const CommitItem> items) = 0;
  /// Gives back what is reserved; an error names the first offset that was not.
  virtual absl::Status Abort(ClientNumber client, std::span<const uint64_t> offsets) = 0;
  /// What the client still has reserved of these grants, and of these slots under theirs.
  virtual std::vector<uint64_t> StillReserved(ClientNumber client, std::span<const uint64_t> grants,
                                              std::span<const GrantedSlot> slots) const = 0;
  virtual absl::Status Release(ClientNumber client, uint64_t lease) = 0;
  /// The client's own number for a lease, above 0 and each once: by it one can release a lease that
  /// one was never told of. REQUIRES: it is the client's.
  virtual void NameLease(ClientNumber client, uint64_t lease, uint64_t asked) = 0;
  virtual void ReleaseNamed(ClientNumber client, std::span<const uint64_t> asked) = 0;

  // ---- pins, prefetch
  struct PinView {
    uint64_t pin = 0;
    Fingerprint space;
    uint32_t depth = 0;
    int64_t expires_unix_ms = 0;
    TierKind tier = TierKind::kNone;
  };
  /// Both hold at once, and after a restart once AwaitSaved has said so. Errors: RESOURCE_EXHAUSTED
  /// when pins would hold more than `pin_quota_percent`.
  virtual absl::StatusOr<PinView> Pin(uint32_t space, std::span<const Name> names,
                                      std::chrono::milliseconds ttl, TierKind tier) = 0;
  virtual absl::Status Unpin(uint64_t pin) = 0;
  virtual std::vector<PinView> Pins() const = 0;
  struct PrefetchView {
    uint32_t matched_depth = 0;
    uint32_t promoting_blocks = 0;
  };
  /// What is not warm comes there in prefix order, with the reads that loads leave over, for as
  /// long as the client is there. A client has a bounded number under way; what is beyond it is
  /// not promoted, and not counted.
  virtual absl::StatusOr<PrefetchView> Prefetch(ClientNumber client, uint32_t space,
                                                std::span<const Name> names) = 0;

  // ---- admin
  virtual absl::StatusOr<uint64_t> Delete(const Fingerprint& space,
                                          std::span<const Name> names) = 0;
  /// What was deleted is erased from the cold tier, too, for good: not even a power cut brings it
  /// back. Errors: Unavailable, also when the disk does not answer in time, and those of the
  /// medium: then it is erased later.
  virtual void SyncDeletions(DoneCallback done) = 0;
  /// `done(blocks, kept)`.
  using FlushCallback = std::function<void(absl::Status, uint64_t blocks, uint64_t kept)>;
  virtual void Flush(TierKind tier, FlushCallback done) = 0;
  /// Checks the books against each other, and reads every cold block back: `done` with how many it
  /// read, and how many of them were damaged and are dropped. Others are served meanwhile, but for
  /// the books. Errors: Internal for books that disagree, Unavailable.
  virtual void Check(FlushCallback done) = 0;
  /// Somebody says that these warm blocks are damaged. They are summed soon, and dropped if so,
  /// once nobody leases them. How much is summed for such a reason in a while is bounded, and so is
  /// how many wait for it: the others, and what is not there, are passed over.
  virtual void Suspect(std::span<const BlockRef> blocks) = 0;
  virtual void DropArena(FlushCallback done) = 0;

  // ---- life
  /// Called every second or so: expires TTL pins and incomplete places, returns slots from
  /// quarantine, keeps the reserve of free slots.
  virtual void Tick() = 0;
  /// SIGTERM: `drain` writes every warm block to cold first and frees the arena; both leave
  /// everything durable. `done` on the strand, with an error when it is not, or when a drain had to
  /// leave blocks in the arena.
  virtual void Shutdown(bool drain, DoneCallback done) = 0;

  virtual StackStats Stats() = 0;
  virtual int arena_fd() const = 0;
  virtual int catalog_fd() const = 0;
  virtual uint64_t arena_bytes() const = 0;
  virtual uint64_t epoch() const = 0;
  /// The slot's payload. `offset`, `bytes` come from ReservedBytes, or are those of a leased block.
  virtual std::span<std::byte> SlotPayload(uint64_t offset, uint64_t bytes) const = 0;
};

}  // namespace thermocline
