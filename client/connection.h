// One session while it lives, and its mappings while anything still looks into them. A thread
// beats the heart, watches the socket, and carries releases and aborts to the daemon in batches.
//
// When the session is lost the arena is remapped privately in place: views stay readable, and what
// is still written into reserved slots reaches nobody, since a restarted daemon may lend those
// slots to another. (Where the arena has huge pages of a pool, private ones might not be had: there
// it gives way to other memory, and leases end at once.) When this process is about to ask for a
// new session, by whichever client, the leases of all its lost ones end at once, because the daemon
// stops protecting them as soon as this process is back.
//
// Without the map the session is a stream of gRPC, and a mirror (client/mirror.h) takes the arena's
// place: blocks are fetched there, and what is filled there is sent. Such a session ends with its
// stream, and when the daemon has not answered for as long as a lease lasts.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "catalog/catalog.h"
#include "client/grpc_calls.h"
#include "client/local_readers.h"
#include "client/magazine.h"
#include "client/mapped_slabs.h"
#include "client/mirror.h"
#include "client/put_queue.h"
#include "client/session.h"
#include "client/staging.h"
#include "proto/shm_layout.h"

namespace thermocline {
inline namespace client_v1 {

/// Thread: any.
/// Owner:  shared by the client, its leases and its reservations. In a forked child the last owner
///         leaves everything as it is: gRPC's and the heartbeat's threads are not there.
class Connection {
 public:
  /// `request` without before_hello, which ends the leases of lost sessions here.
  /// Where the daemon is there but its memory cannot be mapped, and no admin asks: a remote session
  /// at the daemon's gRPC socket.
  /// Errors: as OpenSession; ResourceExhausted when memory cannot be mapped.
  static absl::StatusOr<std::shared_ptr<Connection>> Open(SessionRequest request,
                                                          Deadline deadline);
  /// Without the map. `request.socket_path` only names it beside others.
  /// Errors: as GrpcCalls::OpenRemote; ResourceExhausted.
  static absl::StatusOr<std::shared_ptr<Connection>> OpenRemote(const SessionRequest& request,
                                                                const DaemonAddress& address,
                                                                const RemoteOptions& options,
                                                                Deadline deadline);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Unlike that of any other connection of this process.
  uint64_t serial() const { return serial_; }
  uint64_t epoch() const { return epoch_; }
  /// Whether blocks travel. Then there is a mirror, and no catalog, readers or queue of puts.
  bool remote() const { return remote_; }
  bool Forked() const;
  /// OK while the session lives; Unavailable, saying why it ended; FailedPrecondition after a fork.
  absl::Status Alive();
  /// The same as far as it is known, without asking the system.
  bool SeemsAlive() const { return !lost_.load(std::memory_order_acquire) && !Forked(); }

  /// To be read before a lease is asked for, and handed to LeaseHolds.
  uint64_t LeaseGeneration() const;
  /// Whether everything read before this call through leases of `generation` was theirs.
  bool LeaseHolds(uint64_t generation) const;

  bool Contains(uint64_t offset, uint64_t bytes) const {
    return bytes <= arena_bytes_ && offset <= arena_bytes_ - bytes;
  }
  /// REQUIRES: Contains(offset, bytes).
  std::span<std::byte> Bytes(uint64_t offset, uint64_t bytes) const;
  /// At least one slot, and at most `count`, that the daemon granted before or grants within
  /// `wait`.
  /// Errors: ResourceExhausted; of the session.
  absl::StatusOr<std::vector<Magazine::Slot>> TakeSlots(const Magazine::Kind& kind, uint32_t count,
                                                        std::chrono::milliseconds wait,
                                                        Deadline deadline) TC_EXCLUDES(mutex_);

  struct DeviceSlot {
    Magazine::Slot slot;
    uint64_t slab = 0;
    uint64_t at = 0;  // in the slab
  };
  /// Of the device's memory, asked for each time. REQUIRES: !remote(). Errors: likewise.
  absl::StatusOr<std::vector<DeviceSlot>> TakeDeviceSlots(const Magazine::Kind& kind,
                                                          uint32_t count,
                                                          std::chrono::milliseconds wait,
                                                          Deadline deadline) TC_EXCLUDES(mutex_);

  /// What is at these places stays there until it is dropped as often, in the mirror; nothing to do
  /// where there is the arena itself. REQUIRES: Contains(offset, bytes).
  void HoldSlot(uint64_t offset, uint64_t bytes);
  void DropSlot(uint64_t offset);
  Mirror& mirror() { return mirror_; }

  const Catalog& catalog() const { return catalog_->catalog(); }
  LocalReaders& local_readers() { return *local_readers_; }
  PutQueue& puts() { return *puts_; }
  StagingMemory& staging() { return staging_; }
  /// Where the session's device has a slab; nullptr where it cannot be had. REQUIRES: !remote().
  std::shared_ptr<std::byte> MapSlab(DeviceAccess& device, uint64_t slab, uint64_t end_bytes,
                                     bool to_write, Deadline deadline);

  /// REQUIRES: !Forked(). Unavailable and Unauthenticated answers end the session.
  GrpcCalls& calls() { return *calls_; }
  /// `status` of a call, in words that name the daemon.
  absl::Status Explain(absl::Status status);

  /// Given back soon, in a batch, and again with every beat until the daemon has it. Never blocks;
  /// nothing happens after a fork or a loss.
  void QueueRelease(uint64_t lease) TC_EXCLUDES(mutex_);
  /// A Match of this number has failed: what it may have leased all the same ends.
  void QueueUntold(uint64_t asked, const absl::Status& why) TC_EXCLUDES(mutex_);
  /// A slot goes back, unless it was published, or was granted anew since. What it was staged in,
  /// where the daemon may yet look at it, is free once that knows.
  void QueueAbort(Magazine::Slot slot, std::optional<uint64_t> staged_at = {}) TC_EXCLUDES(mutex_);
  /// A block that did not have its checksum. The daemon looks for itself.
  void QueueReport(uint64_t id, uint32_t part) TC_EXCLUDES(mutex_);
  /// For a call of this session, whose answer may be lost.
  uint64_t NewNumber() TC_EXCLUDES(mutex_);
  /// Gives back what is queued, now; afterwards the daemon has it all, or `deadline` has passed.
  void FlushReturns(Deadline deadline) TC_EXCLUDES(mutex_);
  /// The same for all connections of this process to `socket_path`: what one of its threads has let
  /// go of, the daemon does not take for leased when another asks.
  /// `those_ahead`: slots that nobody has asked for yet, too.
  static void FlushAllReturns(const std::string& socket_path, Deadline deadline,
                              bool those_ahead = false);

 private:
  explicit Connection(std::string socket_path) : socket_path_(std::move(socket_path)) {}
  static std::shared_ptr<Connection> Make(const std::string& socket_path);
  /// Begins to beat, and is one of this process.
  static absl::Status Begin(const std::shared_ptr<Connection>& connection);
  absl::Status Map(SessionGrant grant);
  absl::Status StartThread();
  void Run();
  absl::Status Beat();
  struct Aborted {
    Magazine::Slot slot;
    std::optional<uint64_t> staged_at;
  };
  /// What is on its way back.
  struct Returns {
    std::vector<uint64_t> releases;  // leases
    std::vector<uint64_t> untold;    // of calls that got no answer
    std::vector<uint64_t> grants;    // of calls that got no answer
    std::vector<Aborted> aborts;
    std::vector<std::pair<uint64_t, uint32_t>> reports;  // blocks by id and part
    size_t size() const {
      return releases.size() + untold.size() + grants.size() + aborts.size() + reports.size();
    }
    void Add(Returns&& others);
  };
  template <class Item>
  void Queue(std::vector<Item> Returns::*queue, Item item) TC_EXCLUDES(mutex_);
  /// Leaves what has to be sent again.
  void SendReturns(Returns& returns, Deadline deadline);
  bool SendAborts(Returns& returns, Deadline deadline);
  bool SendReports(Returns& returns, Deadline deadline);
  /// Asks for slots, under a grant of their own.
  absl::StatusOr<std::vector<Magazine::Slot>> AskForSlots(const Magazine::Kind& kind,
                                                          uint32_t count, uint32_t ahead,
                                                          std::chrono::milliseconds wait,
                                                          Deadline deadline) TC_EXCLUDES(mutex_);
  absl::StatusOr<v1::ReserveResponse> SendReserve(v1::ReserveRequest& request,
                                                  std::chrono::milliseconds wait, Deadline deadline)
      TC_EXCLUDES(mutex_);
  static std::vector<std::shared_ptr<Connection>> AllOfThisProcess();
  static void SupersedeLost();
  /// The slots of a grant: checks them, and maps their pages.
  absl::StatusOr<std::vector<Magazine::Slot>> Granted(const Magazine::Kind& kind, uint64_t grant,
                                                      std::span<const uint64_t> offsets)
      TC_EXCLUDES(mutex_);
  /// Maps the pages of a slot that was granted, all at once and once a slot: a fault a page while
  /// it is filled costs several times as much.
  void MapSlot(uint64_t offset, uint64_t bytes) TC_EXCLUDES(mutex_);
  /// What came of the slots that were asked for ahead of need.
  void HoldAhead(const Magazine::Want& want, std::span<const Magazine::Slot> slots)
      TC_EXCLUDES(mutex_);
  /// Gives back what it holds in vain, or all of it.
  void ReturnIdleSlots(bool all);
  void Lose(const std::string& reason) TC_EXCLUDES(mutex_);
  void LeaveArena();
  void Wake();

  const std::string socket_path_;
  uint64_t serial_ = 0;
  uint64_t fork_generation_ = 0;
  uint64_t epoch_ = 0;
  UniqueFd socket_;
  UniqueFd arena_fd_;
  UniqueFd wake_;  // eventfd
  std::byte* arena_ = nullptr;
  uint64_t arena_bytes_ = 0;
  ControlArea* control_ = nullptr;
  bool arena_is_hugetlb_ = false;
  bool remote_ = false;
  std::string place_;  // for people: where the daemon is
  Mirror mirror_;      // of a remote session
  uint64_t lease_ns_ = 0;
  std::atomic<uint64_t> lease_until_ns_{0};  // of a remote session, by our own clock
  std::optional<CatalogMemory> catalog_;
  std::optional<LocalReaders> local_readers_;
  std::optional<PutQueue> puts_;
  StagingMemory staging_;
  std::string token_;                 // of a local session
  MappedSlabs slabs_, filled_slabs_;  // those that are read alone, and those that are written
  std::optional<Magazine> magazine_;  // of a local session
  uint32_t slots_recalled_ = 0;       // when the daemon last said so
  uint64_t beaten_generation_ = 0;    // of leases, at the last beat
  std::unique_ptr<GrpcCalls> calls_;
  std::thread thread_;

  std::atomic<bool> stop_{false};
  std::atomic<bool> lost_{false};
  std::atomic<bool> superseded_{false};  // nothing that it leased may be relied on any more
  std::atomic<bool> unanswered_{false};  // the last returns were
  Mutex mutex_;
  std::string lost_reason_ TC_GUARDED_BY(mutex_);
  Returns returns_ TC_GUARDED_BY(mutex_);
  uint64_t last_number_ TC_GUARDED_BY(mutex_) = 0;
  std::vector<bool> mapped_slots_ TC_GUARDED_BY(mutex_);  // by the page that a slot starts with
  bool returning_ TC_GUARDED_BY(mutex_) = false;          // a thread carries some away
  CondVar returned_;
};

}  // namespace client_v1
}  // namespace thermocline
