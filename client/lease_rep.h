// The inside of a lease: where its path ends, which blocks lie on it, and which of them are known
// to be whole. A path that is warm throughout is held by a pin in shared memory, without a message;
// any other, and one without the memory to share, by a lease of the daemon's. What holds the path
// may lie behind its end after a truncation; it is moved when that matters.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "client/client.h"
#include "client/connection.h"
#include "client/core.h"
#include "client/local_readers.h"
#include "hashing/name.h"

namespace thermocline {
inline namespace client_v1 {

inline MirroredBlock Mirrored(const v1::Block& block) {
  return {.id = block.id(), .part = block.part(), .checksum = block.checksum()};
}

/// Out of a block into memory of the caller's, by the stores that are the fastest for its size.
/// REQUIRES: as StreamingCopy. Thread: any.
void CopyOut(std::span<std::byte> to, std::span<const std::byte> from);

inline constexpr uint32_t kMaxReserve = 4096;  // slots a call, as the daemon bounds it

/// Errors: InvalidArgument when the space has no such part.
absl::Status CheckPart(const SpaceSpec& spec, uint32_t part);
/// FailedPrecondition, saying what to do.
absl::Status NoDevice();

/// Thread: one at a time.
struct Lease::Rep {
  struct Source {
    uint64_t offset = 0;  // in the arena, or in the slab
    uint64_t checksum = 0;
    bool verified = false;
    uint64_t slab = 0;                        // of the device's memory; 0: not to be read there
    std::shared_ptr<const std::byte> mapped;  // its start, once it is mapped; shared with others
  };
  /// A lease that ends with a stream's work, and how it was then.
  struct Ending {
    std::unique_ptr<Rep> rep;
    std::atomic<bool> ended{false};
    bool held = false;  // at the end
  };

  /// A commit that is sent once a stream has filled its slots.
  /// Thread: what is open to all is written before the stream is asked; then it is its caller's.
  class Filling {
   public:
    std::shared_ptr<Connection> connection;
    uint32_t begin = 0;  // of the lease's names
    v1::CommitRequest request;
    std::chrono::milliseconds timeout{0};
    std::vector<Reservation> slots;

    /// The stream has come by.
    void Send() TC_EXCLUDES(mutex_);
    /// It may write on, though nobody will be told: the slots stay this session's.
    void LeaveSlots();
    bool Answered() TC_EXCLUDES(mutex_);
    /// What the daemon said; nothing unless it has by then.
    std::optional<absl::StatusOr<v1::CommitResponse>> Await(Deadline deadline) TC_EXCLUDES(mutex_);
    /// Keeps what holds the path until then. False when that has been: then nothing is taken.
    bool TakeHold(std::unique_ptr<LocalReader>& local, uint64_t lease) TC_EXCLUDES(mutex_);

   private:
    Mutex mutex_;
    CondVar answered_;
    std::optional<absl::StatusOr<v1::CommitResponse>> answer_ TC_GUARDED_BY(mutex_);
    bool holds_ TC_GUARDED_BY(mutex_) = false;
    std::unique_ptr<LocalReader> local_ TC_GUARDED_BY(mutex_);
    uint64_t lease_ TC_GUARDED_BY(mutex_) = 0;
  };

  std::shared_ptr<Connection> connection;
  std::shared_ptr<SpaceState> space;
  std::unique_ptr<LocalReader> local;  // what holds the path, or
  uint64_t lease = 0;                  // the daemon's number
  bool held = false;
  uint64_t generation = 0;         // of the control area, before the match
  bool on_device = false;          // hot blocks are read where they lie
  std::shared_ptr<Ending> ending;  // what holds the path; shared with what the stream will call
  uint32_t depth = 0;              // places that the owner may use
  uint32_t leased_depth = 0;       // places that are held
  std::vector<Name> names;         // of [0, leased_depth), and of what was enqueued behind it
  // Enqueued behind what is held, and not settled yet. Shared with the queue.
  std::vector<std::shared_ptr<EnqueuedPut>> puts;
  std::shared_ptr<Filling> filling;  // likewise, on the device; then there are no puts
  // Sorted by depth, then part; below `depth` only. `sources` is parallel. Of a path that is held
  // in shared memory they are written down when somebody first asks.
  bool listed = true;
  std::vector<BlockInfo> blocks;
  std::vector<Source> sources;
  std::vector<uint64_t> mirrored;  // offsets that it holds in the mirror, sorted

  ~Rep();
  uint32_t part_count() const { return static_cast<uint32_t>(space->spec.parts.size()); }
  uint32_t block_places() const { return space->spec.block_tokens / kPlaceTokens; }
  bool windowed() const;

  /// FailedPrecondition when this lease cannot be used any more.
  absl::Status Usable() const;
  /// Matches `names` and holds what is there of them.
  absl::Status Acquire(Deadline deadline);
  /// The same without a message. False when that cannot be: then nothing has changed.
  bool AcquireLocal(Root root);
  absl::Status AcquireByMessage(v1::MatchRequest request, Deadline deadline);
  /// One call. What it leased is released should its answer be lost.
  absl::StatusOr<v1::MatchResponse> Ask(v1::MatchRequest& request, Deadline deadline);
  /// Holds a path that another process told of. Errors: NotFound when it is not there.
  absl::Status AdoptLocal(Root root, Place end, uint64_t id);
  absl::Status AdoptByMessage(Root root, const v1::ExportedLease& path, Deadline deadline);
  /// What a match without a message has found and pinned.
  void Hold(std::unique_ptr<LocalReader> reader, uint32_t places);
  /// Lets go of what holds the path.
  void LetGo();
  /// Moves what holds the path to `depth`. Aborted when the path is not all there any more.
  absl::Status Rematch(Deadline deadline);
  /// Writes down the blocks of a path that is held in shared memory.
  void List();
  /// Of the blocks listed now, those that were known to be whole in an earlier list still are.
  void CarryOver(const std::vector<BlockInfo>& old_blocks, const std::vector<Source>& old_sources);
  uint32_t WindowBlocks(uint32_t part) const;  // 0: the part is needed everywhere
  /// Whether a path of `count` blocks has one of this part at its block number `block`.
  bool Needs(uint32_t part, uint32_t block, uint32_t count) const;
  /// Whether these are slots for so many blocks behind the end of this path.
  absl::Status CheckSlots(std::span<const Reservation> slots, uint32_t blocks,
                          bool on_device) const;
  /// A commit of `names` [begin, end).
  v1::CommitRequest RequestFor(uint32_t begin, uint32_t end,
                               std::span<const Reservation> slots) const;
  /// Says in a commit what it stands behind.
  absl::Status SayWhere(v1::CommitRequest& request, Deadline deadline) const;
  /// Commits `names` from `begin` on; without waiting, or by message.
  absl::Status Enqueue(std::vector<Reservation>& slots, uint32_t begin, Deadline deadline);
  absl::Status CommitByMessage(std::vector<Reservation>& slots, uint32_t begin, Deadline deadline);
  /// Makes `more` names ready to be committed: what was enqueued is settled first where that is
  /// due, and the end is where it is held. Answers where they begin.
  absl::StatusOr<uint32_t> Append(NamesView more, uint32_t blocks, bool settle, Deadline deadline);
  /// What the daemon said to a commit of the names from `begin` on.
  absl::Status TakeAnswer(uint32_t begin, const v1::CommitRequest& request,
                          const absl::StatusOr<v1::CommitResponse>& response, Deadline deadline);
  /// Makes a commit behind a stream ready to be sent.
  absl::Status Prepare(NamesView more, Filling& commit, Deadline deadline);
  absl::Status SettleFilling(Deadline deadline);
  /// Waits for what was enqueued, and takes over what was published of it.
  absl::Status Settle(Deadline deadline);
  absl::Status TakeOver(Deadline deadline);
  /// Checks a block against the arena and the space, and makes it one of the path.
  absl::Status Put(const v1::Block& block, bool matched);
  size_t IndexOf(uint32_t block_depth, uint32_t part) const;  // blocks.size(): none
  /// Readable on the device: maps the slab that it lies in.
  bool InPlace(size_t index, Deadline deadline);
  /// Whether no hot block of the path has to be brought to memory.
  bool HotCanStay(Deadline deadline);
  /// Readable in place, after being summed where that is due. A damaged block ends the path.
  bool Readable(size_t index, Deadline deadline);
  /// Drops everything at and below the block that ends behind `new_depth`.
  void Cut(uint32_t new_depth);
  /// Places readable from the root, looking from block `next` on; moves `next` to the first that
  /// is not.
  uint32_t Advance(size_t& next, Deadline deadline);
  /// Fetches the bytes of [from_depth, to_depth) into the mirror; 0: to the end. `landed` is called
  /// after what may have completed a block. A passed deadline is no error.
  absl::Status Fetch(uint32_t from_depth, uint32_t to_depth, const std::function<void()>& landed,
                     Deadline deadline);
  absl::Status TakeIn(const v1::ReadPiece& piece);
  /// Holds a slot in the mirror until the lease is gone.
  void HoldMirrored(uint64_t offset, uint64_t bytes);
  void DropMirrored();
  /// Sends what the slots were filled with, and says in the commit what that is.
  absl::Status Send(const std::vector<Reservation>& slots, v1::CommitRequest& commit,
                    Deadline deadline);
  /// Of the blocks that a commit published, those that were ours lie in the mirror already.
  void KeepCommitted(const v1::CommitRequest& request, const v1::CommitResponse& response);
  /// One Load call and what it brings. A passed deadline is no error.
  absl::Status Promote(size_t& next, const std::function<void(uint32_t)>& on_ready,
                       Deadline deadline);
};

}  // namespace client_v1
}  // namespace thermocline
