// The tier stack's one implementation. What it is made of:
//
//   catalog    names, words, pins: what is where, and who reads it (catalog/)
//   warm, cold the tiers; warm is used in place, cold through jobs on the disk executor
//   policies   two, over the places with warm bytes and over those with cold ones
//   places_    what else is known of a place, by id
//
// All that happens later is done by one function, Pump, which is posted to the strand whenever
// something has changed: it grants slots to those who wait, frees slots, writes copies to cold,
// starts promotions and hands out what has arrived. It looks at the state and not at who changed
// it, so that whatever is under way already is joined and never done twice, and it never waits: a
// step that cannot be done now is done by the pump that follows the next change, or given up when
// its deadline has passed.
//
//   stack_books.h      what is written down of spaces, places and clients
//   stack_holds.h      blocks that somebody copies elsewhere
//   stack_open.cc      opening, recovery from headers
//   stack_clients.cc   clients, spaces, match, leases
//   stack_shared.cc    what clients do without a message: pins, uses, counts
//   stack_commit.cc    reserve, commit, abort
//   stack_movement.cc  slots, eviction from warm, dropping
//   stack_cold.cc      write-back, eviction from cold
//   stack_fold.cc      small segments of cold become large ones
//   stack_durable.cc   copies that a commit waits for
//   stack_budget.cc    what is borrowed of tiers that others share, and given back
//   stack_load.cc      promotion, Load, Prefetch
//   stack_hot.cc       what goes to device memory, and leaves it
//   stack_fill.cc      slots of device memory that clients fill themselves
//   stack_scrub.cc     warm blocks read back and summed
//   stack_pins.cc      TTL pins and the state file
//   stack_admin.cc     delete, flush, drop, shutdown, tick, statistics
//   stack_health.cc    what is wrong with the tiers, for people
//   stack_audit.cc     the books checked against each other
#pragma once
#include <absl/container/inlined_vector.h>

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/id_table.h"
#include "base/log_limit.h"
#include "base/process.h"
#include "base/units.h"
#include "catalog/writer.h"
#include "tiers/breaker.h"
#include "tiers/device_tier.h"
#include "tiers/host_tier.h"
#include "tiers/policy.h"
#include "tiers/stack_books.h"
#include "tiers/stack_holds.h"
#include "tiers/stack_jobs.h"
#include "tiers/stack_limits.h"
#include "tiers/stack_state.h"
#include "tiers/tier_stack.h"
#include "tiers/write_budget.h"

namespace thermocline {

/// Thread: one strand, see TierStack.
class StackCore final : public TierStack, private StackBooks {
 public:
  /// As TierStack::Open, over a cold tier of the caller's; nullptr: none.
  static absl::StatusOr<std::unique_ptr<StackCore>> OpenWith(StackOptions options,
                                                             std::unique_ptr<Tier> cold);
  ~StackCore() override;

  absl::StatusOr<ClientNumber> AddClient(int pid, uint64_t start_time,
                                         std::shared_ptr<ControlArea> shared) override;
  void RemoveClient(ClientNumber client, Departure how) override;
  void ProcessGone(int pid, uint64_t start_time) override;
  bool Awaits(int pid, uint64_t start_time) const override;
  void ExpireLeases(ClientNumber client) override;
  void EndGrace() override;
  std::vector<Misbehaviour> TakeMisbehaviours() override { return std::exchange(misbehaved_, {}); }
  absl::StatusOr<uint32_t> OpenSpace(const SpaceSpec& spec, bool may_add = true) override;
  Root RootOf(uint32_t space) const override { return spaces_.at(space).root; }
  void AwaitSaved(std::optional<uint32_t> space, DoneCallback done) override;
  std::vector<SpaceView> Spaces() const override;
  absl::StatusOr<LeaseView> Match(ClientNumber client, uint32_t space,
                                  std::span<const Name> names) override;
  absl::StatusOr<LeaseView> Adopt(ClientNumber client, uint32_t space, Place end, uint64_t id,
                                  const Sha256& digest, std::vector<Name>& names) override;
  absl::StatusOr<std::vector<BlockView>> LookUp(uint32_t space, std::span<const Name> keys,
                                                std::optional<uint16_t> read) override;
  void Load(ClientNumber client, uint64_t lease, ReadyCallback ready, DoneCallback done,
            bool hot_stays = false) override;
  void ExportSlab(uint64_t slab, SlabCallback done) override;
  absl::Status CheckLease(ClientNumber client, uint64_t lease) override {
    return LeaseOf(client, lease).status();
  }
  Held Hold(std::span<const BlockView> blocks) override { return holds_.Hold(blocks); }
  void LetGo(uint64_t number) override;
  void Reserve(ClientNumber client, uint32_t space, uint16_t part, uint32_t count,
               std::chrono::milliseconds wait, ReserveCallback done, uint32_t ahead = 0,
               uint64_t grant = 0) override;
  void ReserveOnDevice(ClientNumber client, uint32_t space, uint16_t part, uint32_t count,
                       std::chrono::milliseconds wait, ReserveCallback done,
                       uint64_t grant = 0) override;
  SlabPlace PlaceOnDevice(uint64_t offset) const override;
  void SumOnDevice(ClientNumber client, std::vector<uint64_t> offsets, SumsCallback done) override;
  uint32_t SlotsForMore(ClientNumber client, uint32_t space, uint16_t part, uint32_t put) override;
  absl::StatusOr<uint64_t> ReservedBytes(ClientNumber client, uint64_t offset) override;
  absl::StatusOr<LeaseView> Commit(ClientNumber client, uint64_t lease, std::span<const Name> names,
                                   std::span<const CommitItem> items) override;
  absl::StatusOr<LeaseView> Commit(ClientNumber client, const PinnedEnd& end,
                                   std::span<const Name> names,
                                   std::span<const CommitItem> items) override;
  Durability durability() const override { return options_.durability; }
  void AwaitDurable(const LeaseView& view, DoneCallback done) override;
  absl::Status CheckCommit(ClientNumber client, uint64_t lease, std::span<const Name> names,
                           std::span<const CommitItem> items) override;
  absl::Status CheckCommit(ClientNumber client, const PinnedEnd& end, std::span<const Name> names,
                           std::span<const CommitItem> items) override;
  absl::Status Abort(ClientNumber client, std::span<const uint64_t> offsets) override;
  std::vector<uint64_t> StillReserved(ClientNumber client, std::span<const uint64_t> grants,
                                      std::span<const GrantedSlot> slots) const override;
  absl::Status Release(ClientNumber client, uint64_t lease) override;
  void NameLease(ClientNumber client, uint64_t lease, uint64_t asked) override;
  void ReleaseNamed(ClientNumber client, std::span<const uint64_t> asked) override;
  absl::StatusOr<PinView> Pin(uint32_t space, std::span<const Name> names,
                              std::chrono::milliseconds ttl, TierKind tier) override;
  absl::Status Unpin(uint64_t pin) override;
  std::vector<PinView> Pins() const override;
  absl::StatusOr<PrefetchView> Prefetch(ClientNumber client, uint32_t space,
                                        std::span<const Name> names) override;
  absl::StatusOr<uint64_t> Delete(const Fingerprint& space, std::span<const Name> names) override;
  void SyncDeletions(DoneCallback done) override;
  void Flush(TierKind tier, FlushCallback done) override;
  void Check(FlushCallback done) override;
  void Suspect(std::span<const BlockRef> blocks) override;
  void DropArena(FlushCallback done) override;
  void Tick() override;
  void Shutdown(bool drain, DoneCallback done) override;
  StackStats Stats() override;
  int arena_fd() const override { return host_->arena().fd(); }
  int catalog_fd() const override { return memory_.fd(); }
  uint64_t arena_bytes() const override { return host_->arena().mapped_bytes(); }
  uint64_t epoch() const override { return host_->arena().epoch(); }
  std::span<std::byte> SlotPayload(uint64_t offset, uint64_t bytes) const override {
    return host_->Payload(offset, bytes);
  }

  /// Whether the books agree: every used slot is a block's, a reservation's, a promotion's or in
  /// quarantine, words and tiers tell the same, counters are what counting gives. Visits
  /// everything.
  absl::Status Audit() const;

 private:
  StackCore(StackOptions options, std::shared_ptr<HostTier> host, std::shared_ptr<Tier> cold,
            CatalogMemory memory, std::unique_ptr<Policy> warm_policy,
            std::unique_ptr<Policy> cold_policy);

  // ---- stack_open.cc
  class PolicyFeed;
  // Or of hot, where `is_hot`, or of cold, where `page` is 0: then `header` is a BlockRecord.
  using FoundBlock = HostTier::Left;
  struct FoundPart {
    const FoundBlock* warm = nullptr;
    const FoundBlock* hot = nullptr;
    const FoundBlock* cold = nullptr;
  };
  struct FoundPlace {  // as the records tell it
    const BlockHeader* header = nullptr;
    std::vector<Name> inner;
    uint32_t part_count = 0;  // up to the last that there is
    std::array<FoundPart, kMaxParts> parts;
  };
  absl::Status Recover(const StackState& state, const std::vector<BlockRecord>& cold);
  uint64_t RestorePlaces(std::span<const FoundBlock> found, const StackState& state);
  void Fetch(const FoundBlock& block) const;
  FoundPlace PlaceOf(std::span<const FoundBlock> blocks);
  std::vector<Name> InnerOf(const FoundBlock& block) const;
  bool RestorePlace(Space& space, const FoundPlace& found);
  std::optional<Place> RestorePath(Space& space, const FoundPlace& found);
  void Uproot(Place first);
  void ForgetPlace(const FoundPlace& place);
  void ForgetBlock(const FoundBlock& block);
  void ForgetSlot(uint64_t offset);
  Space* RestoreSpace(const Fingerprint& fingerprint, const StackState& state);
  void RestorePins(const StackState& state);

  // ---- stack_clients.cc
  absl::StatusOr<Client*> ClientOf(ClientNumber client);
  absl::StatusOr<Lease*> LeaseOf(ClientNumber client, uint64_t lease);
  absl::StatusOr<Space*> SpaceOf(uint32_t space);
  Space& AddSpace(const SpaceSpec& spec, Root root);
  absl::Status CheckFits(const SpaceSpec& spec) const;
  absl::Status MakeRoomForSpace();
  absl::Status CheckLeaseIsFree(const Client& client) const;
  LeaseView LeasePath(ClientNumber client, const Space& space, std::span<const Place> path);
  void EndLease(uint64_t lease);
  void SetLeasePlace(Lease& lease, Place place);
  uint32_t UsableBlocks(const Space& space, const std::vector<Place>& path) const;
  std::vector<Place> PathTo(Place place) const;
  std::vector<uint64_t> IdsOf(std::span<const Place> path) const;
  BlockView ViewOf(Place place, uint16_t part) const;
  Counters& CountersOf(TierKind tier) {
    return tier == TierKind::kHot    ? hot_counters_
           : tier == TierKind::kWarm ? warm_counters_
                                     : cold_counters_;
  }
  void TouchPath(std::span<const uint64_t> path);
  void NoteReuse(std::span<const uint64_t> path);
  void CountMisses(const Space& space, size_t asked, size_t found, size_t usable);

  // ---- stack_shared.cc
  absl::StatusOr<Lease> LeaseAt(ClientNumber client, const PinnedEnd& end);
  void NoteUses();
  void NoteUses(Client& client);
  void CheckShared();
  const char* WhatIsWrong(const ControlArea& area) const;
  void TouchShared(Client& client, uint64_t place_bits, bool is_match);
  void TouchPinned();
  void ForgetShared(Client& client);
  void RecallSlots();

  // ---- stack_commit.cc
  absl::StatusOr<uint64_t> CheckReserve(ClientNumber client, uint32_t space, uint16_t part,
                                        uint32_t count);
  absl::Status CheckCommit(const Lease& lease, std::span<const Name> names,
                           std::span<const CommitItem> items) const;
  absl::Status CheckSlot(const Lease& lease, const CommitItem& item) const;
  absl::StatusOr<LeaseView> CommitBehind(Lease& lease, std::span<const Name> names,
                                         std::span<const CommitItem> items);
  void SetDoomed(uint64_t id, Place place, bool doomed);
  absl::Status MakeRoomFor(Place at, std::span<const Name> names);
  Place FindOrAppend(Space& space, Place at, const Name& name);
  absl::StatusOr<Place> Append(Space& space, Place at, const Name& name, uint64_t id);
  void TellPlace(const Space& space, Place place, BlockRecord& record) const;
  /// Whether other bytes are hot under this name, and none are warm.
  static bool DiffersFromHot(Word word, const PartState& part, const CommitItem& item) {
    return word.warm_slot() == 0 && word.hot_slot() != 0 && part.checksum != item.checksum;
  }
  void Publish(const Space& space, Place place, const CommitItem& item);
  void ReturnReservations(uint32_t client, Departure how);
  void DropReservation(uint64_t offset);

  // ---- stack_movement.cc
  void SchedulePump();
  void Pump();
  void AddWaiter(Waiter waiter);
  void ServeWaiters(bool may_come);
  bool Serve(Waiter& waiter, bool may_come);
  uint64_t ReserveTarget(uint64_t slot_bytes) const;
  uint64_t SlotsAhead(uint64_t slot_bytes) const;
  uint64_t SlotsWanted(uint64_t slot_bytes) const;
  void KeepReserve();
  void TouchAhead();
  bool MayLeaveWarm(const PlaceState& state) const;
  static bool IsNewer(const PlaceState& state, uint64_t sequence);
  uint64_t FreeClean(const FreeGoal& goal);
  std::vector<Victim> ChooseVictims(const FreeGoal& goal);
  std::optional<Victim> VictimOf(uint64_t id, const FreeGoal& goal,
                                 const std::unordered_set<uint64_t>& dropped) const;
  bool StandsOnly(Place place, const std::unordered_set<uint64_t>& taken) const;
  uint64_t LetGo(std::span<const Victim> victims);
  void FreeMoving(std::span<const Movement> moves);
  void PlanWrites(const FreeGoal& goal);
  void PlanWrite(uint64_t id, Place place);
  void ClearChunkFor(uint64_t bytes);
  bool ClearChunk(const std::vector<uint64_t>& offsets);
  void ChangeWord(uint64_t id, Place place, uint32_t part, Word word);
  void PublishWord(Space& space, Place place, uint32_t part, Word word, uint64_t checksum);
  bool HasBytes(Place place) const;
  /// One of a block's places before the last, where its bytes are.
  bool IsInner(Place place) const;
  bool IsComplete(const Space& space, const PlaceState& state, Place place) const;
  void NoteIncomplete(uint64_t id);
  bool DropLeaf(Place place);
  void DropTails(std::vector<Place> firsts);
  void Forget(const Dropped& dropped);
  void DropOldest();

  // ---- stack_cold.cc
  bool ColdJobIsLate() const;
  bool cold_writable() const;
  void LookAtColdJob();
  bool MayEnterCold(uint64_t id, const PlaceState& state) const;
  void QueueErasure(uint64_t id, uint32_t part);
  uint64_t EvictCold(uint64_t bytes, uint64_t newest = UINT64_MAX);
  uint64_t DropColdTails(const std::vector<uint64_t>& ids);
  bool MakeColdRoom(uint64_t bytes);
  bool EvictSegment();
  std::optional<SegmentPlan> BestSegment(bool& keep_warm);
  SegmentPlan PlanOf(TierSegment segment) const;
  bool IsStuck(uint64_t sequence) const;
  bool HasColdCopy(BlockRef ref) const;
  /// Whether it has one that does not go at the moment.
  bool HasLastingCopy(BlockRef ref) const;
  bool IsToBeRead(BlockRef ref) const { return HasLastingCopy(ref) || IsHot(ref); }
  static bool IsOnDevice(Word word, const PartState& part) {
    return word.hot_slot() != 0 && !part.hot_spoiled;
  }
  static bool IsInMemory(Word word, const PartState& part) {
    return word.warm_slot() != 0 || IsOnDevice(word, part);
  }
  uint64_t BytesOf(BlockRef ref) const;
  uint64_t SegmentBytes() const;
  bool IsWarm(Place place) const;
  bool MayLeaveCold(const PlaceState& state, Place place,
                    const std::unordered_set<uint64_t>& taken) const;
  uint64_t ColdParts(Place place) const;
  bool LoseColdCopy(BlockRef ref);
  void NoteDamage(BlockRef ref, const absl::Status& why);
  void DropUnusableCopy(BlockRef ref);
  void RunColdJob();
  void TakeWrites(ColdJob& job);
  void CancelWrites();
  void FinishColdJob(ColdJob job);
  void NoteWrites(const absl::Status& status);
  void FinishErasures(const ColdJob& job);
  void FinishDrop(const SegmentDrop& drop, const absl::Status& status);
  void FinishWrite(const ColdWrite& write);
  void NoteStuck(uint64_t sequence, const absl::Status& why);
  PartState* PartOf(BlockRef ref);
  void ForgetLostCopies();
  void DropSpoiled(BlockRef ref, Place place);

  // ---- stack_fold.cc
  void FoldSegments();
  std::vector<uint64_t> SegmentsToFold() const;
  bool IsFolding(uint64_t sequence) const;
  void FinishFold(const absl::StatusOr<std::vector<uint64_t>>& unread);

  // ---- stack_durable.cc
  std::vector<BlockRef> NotInCold(Place end) const;
  void SetGroupTimer();
  bool GroupIsDue() const;
  void AdvanceDurable();
  std::string WhyNotDurable(bool all_there, bool is_noted) const;

  // ---- stack_budget.cc
  void WatchBudgets();
  bool Awaits(const BudgetAccount& account, bool comes, std::optional<Awaited>& unit) const;
  bool AwaitsChunk(bool somebody_waits);
  void GiveBackWarm();
  void CloseSomeChunk();
  std::vector<Movement> Movable(const std::vector<uint64_t>& offsets, uint64_t most_bytes);
  bool MoveOut(uint32_t chunk);
  uint64_t SlotsToMove(uint64_t slot_bytes) const;
  uint64_t ColdCapacity(const TierUsage& usage) const;
  bool GrowCold(uint64_t wanted_bytes);
  void GiveBackCold();

  // ---- stack_load.cc
  void StartPromotion(uint64_t id, uint16_t part);
  void ReadBlock(BlockRef ref, uint64_t offset, uint64_t bytes);
  void FinishPromotion(BlockRef ref, uint64_t offset,
                       absl::StatusOr<std::optional<BlockRecord>> result);
  absl::Status Judge(BlockRef ref, const absl::StatusOr<std::optional<BlockRecord>>& found) const;
  void WatchReads();
  void FailRead(std::string cause);
  bool IsLate(BlockRef ref) const;
  bool AllReadsAreLate() const;
  void EndPromotion(BlockRef ref);
  void AdvanceLoads();
  bool AdvanceLoad(LoadState& load);
  bool DeliverLoad(LoadState& load, const Lease& lease);
  bool StartReads(LoadState& load, const Lease& lease);
  /// For this client; 0: for nobody's session.
  uint32_t QueuePrefetch(uint32_t client, const Space& space, const std::vector<Place>& path,
                         uint32_t blocks);
  void ForgetPrefetches(uint32_t client);
  void AdvancePrefetches();

  // ---- stack_hot.cc
  void OpenHot();
  std::string HotState() const;
  bool IsHot(BlockRef ref) const;
  void AdvanceHot();
  void ProbeHot();
  std::vector<HotCopy> ChooseHot();
  void FinishHeating(const std::vector<HotCopy>& copies);
  void FailHot(const absl::Status& why);
  void NoteHotRead(BlockRef ref, const absl::Status& status);
  uint64_t EvictHot(uint64_t count, std::vector<BlockRef>& rising);
  bool FlushHot();
  void DropHot();
  void SettleHot();
  uint64_t LeaveHot(std::vector<Movement> moves);
  void AdvancePinning();
  void PinChunk(uint32_t chunk);
  void UnpinChunk(uint32_t chunk);
  void FinishPinning(uint32_t chunk, const absl::Status& status);
  void ForgetHotSlot(uint32_t page);
  void FreeHot(uint32_t page);
  bool IsInPlace(Place place, uint16_t part) const;

  // ---- stack_fill.cc
  static uint32_t PageOf(uint64_t device_slot);
  uint64_t FillBytes(uint64_t device_slot) const;
  void FreeSlot(uint64_t offset);
  void ServeFills();
  void TryFill(uint64_t number, FillWaiter& waiter);
  void FinishReserving(uint64_t number, const std::vector<uint32_t>& pages,
                       const absl::Status& status);
  void AnswerFill(uint64_t number, const absl::Status& why);
  void CancelFills(uint32_t client);
  void FinishSumming(const std::vector<FillSum>& sums, const absl::Status& read,
                     const SumsCallback& done);

  // ---- stack_scrub.cc
  void BeginScrubTick();
  void Scrub();
  bool MayScrubMore(uint64_t bytes) const;
  bool NextScrubChunk();
  std::optional<BlockRef> NextToScrub(uint64_t charged);
  std::optional<ScrubItem> ScrubItemOf(BlockRef ref) const;
  void FinishScrub(const std::vector<ScrubItem>& job);
  void NoteSpoiled(BlockRef ref, Place place);
  void DropWhatIsSpoiled();
  void ScrubCold();
  void EndCheck(absl::Status status);
  bool NextScrubSegment();
  void FinishScrubCold(const std::vector<ColdItem>& items, uint64_t jobs, uint64_t round);
  ColdScrub& BeginRound();
  void WatchCheck();

  // ---- stack_pins.cc
  void HoldPin(const TtlPin& pin, int by);
  bool HoldsWarm(const PlaceState& state) const;
  absl::Status CheckPinQuotas(const PinnedBytes& before) const;
  absl::Status RefusePin(const Space& space, TierKind tier, absl::Status why);
  StackState StateNow() const;
  void SaveState();
  void WriteState();
  void FinishStateWrite(const absl::Status& status);
  void WatchStateWrite();
  void AnswerSaved(uint64_t change, const absl::Status& status);
  int64_t UnixMs() const;
  void ExpirePins();
  void PromotePinned();

  // ---- stack_health.cc
  std::string ColdState() const;
  std::string WarmState() const;
  std::string ColdTrouble() const;
  void WatchHealth();
  bool IsAwaitingDisk() const;
  void WakeForWaiters();
  void TellHealth(TierKind tier, std::string state, std::string& told) const;

  // ---- stack_admin.cc
  void DropDoomed();
  void AnswerErased(uint64_t number, const absl::Status& status);
  void WatchErasures();
  void ExpireIncomplete(std::chrono::milliseconds ttl);
  void ReleaseQuarantine();
  void AdvanceFlushes();
  bool AdvanceFlush(FlushState& flush);
  uint64_t DropWarm();
  uint64_t KeptBlocks(TierKind tier) const;
  absl::Status AuditWords(uint64_t* hot_blocks, uint64_t* hot_bytes, uint64_t* warm_blocks,
                          uint64_t* slot_bytes) const;
  absl::Status AuditPins() const;

  template <class Function>
  void PostStrand(Function function);

  const StackOptions options_;
  const std::shared_ptr<HostTier> host_;  // shared with disk jobs that outlive the stack
  const std::shared_ptr<Tier> cold_;      // nullptr: off
  CatalogMemory memory_;
  Writer writer_;
  const std::unique_ptr<Policy> warm_policy_;
  const std::unique_ptr<Policy> cold_policy_;
  std::shared_ptr<DeviceTier> hot_;  // nullptr: off, or `hot_refusal_` says why
  std::unique_ptr<Policy> hot_policy_;
  std::string hot_refusal_;
  std::unique_ptr<PolicyFeed> feed_;  // of a restart
  const ProcessRef self_process_;
  std::shared_ptr<StackCore*> self_;  // what posted tasks hold weakly

  std::map<uint32_t, Space> spaces_;
  std::map<Fingerprint, uint32_t> space_numbers_;
  uint32_t last_space_ = 0;
  IdMap<PlaceState> places_;
  uint64_t last_id_ = 0;  // epoch << 32 | counter
  uint64_t last_sequence_ = 0;

  std::map<uint32_t, Client> clients_;
  uint32_t last_client_ = 0;
  std::vector<Misbehaviour> misbehaved_;
  std::unordered_map<uint64_t, Lease> leases_;
  uint64_t last_lease_ = 0;
  StackHolds holds_;
  std::map<uint64_t, Reservation> reservations_;  // by offset
  InHand in_hand_;                                // of those
  std::map<uint64_t, Quarantined> quarantine_;    // by offset
  std::vector<uint64_t> forgotten_;               // slots to free when the grace period ends
  std::vector<uint32_t> forgotten_hot_;           // likewise, by their pages
  std::map<uint64_t, TtlPin> pins_;
  PinnedBytes pinned_;
  LogLimit refused_pins_;
  uint64_t last_pin_ = 0;
  uint64_t last_promoted_pin_ = 0;

  bool pump_scheduled_ = false;
  bool progressing_ = false;  // the last pump freed slots, or a job that may do so is under way
  bool grace_ = false;
  bool touching_ = false;  // a chunk that comes next
  bool closing_ = false;
  bool wants_chunk_ = false;  // asked for by this pump
  bool wants_disk_ = false;
  std::optional<Awaited> awaited_chunk_, awaited_disk_;
  size_t chunks_looked_at_ = 0;  // where the last search for one to give back began
  SteadyTime chunk_closed_{};    // when the chunk to be given back was closed, or lost a block last
  bool draining_ = false;        // pins to warm hold nothing back any more
  uint64_t state_changes_ = 0;   // of the spaces and pins since it was opened
  uint64_t state_saved_ = 0;     // the last of them that the state file knows
  std::optional<StateWrite> state_write_;
  std::deque<SavedWait> saved_waits_;
  std::string state_refusal_;  // why the last write failed; "": it did not
  std::deque<Waiter> waiters_;
  SteadyTime ahead_until_{};           // clients are likely to hold slots in advance
  std::optional<SteadyTime> wake_at_;  // when the timer that comes first fires
  std::unordered_map<BlockRef, ColdRead, BlockRefHash> cold_reads_under_way_;
  uint32_t reads_ = 0;  // promotions begun and not ended, but for
  uint32_t late_hot_reads_ = 0;
  std::deque<LoadState> loads_;
  std::deque<QueuedPrefetch> prefetches_;
  std::vector<ColdWrite> planned_writes_;
  std::vector<BlockRef> erasures_;  // queued for the next job
  std::optional<SegmentDrop> segment_drop_;
  uint64_t room_from_ = 0;  // where the next search for room begins
  std::map<uint64_t, StuckSegment> stuck_;
  bool job_running_ = false;
  std::optional<uint64_t> dropping_;    // the segment that goes next or by that job
  std::vector<uint64_t> folding_;       // the segments of the fold that is under way
  uint64_t fold_room_ = 0;              // bytes that writes leave to it, or to one that is wanted
  bool writes_are_next_ = false;        // the last job made room
  bool cold_full_ = false;              // the last job found no room
  std::optional<uint64_t> full_since_;  // bytes that had gone to cold when it was full last
  std::string write_refusal_;           // why the last write to cold failed
  // States, as the log says last.
  std::string hot_told_ = "ok", warm_told_ = "ok", cold_told_ = "ok";
  Breaker hot_moves_;
  uint64_t pinner_ = 0;        // of the arena's chunks that are held
  bool pinning_ = false;       // or unpinning one
  SteadyTime pins_from_{};     // after one that failed
  bool pins_refused_ = false;  // the last one did
  bool hot_job_running_ = false;
  std::optional<SteadyTime> hot_full_until_;              // the last job found no room
  std::unordered_set<BlockRef, BlockRefHash> hot_going_;  // once nobody holds them
  DeviceFills fills_;
  Breaker cold_writes_;
  Breaker cold_reads_;
  mutable WriteBudget write_budget_;
  SteadyTime job_began_{}, fold_from_{};  // the next fold, after one that failed
  uint64_t cold_jobs_ = 0;
  uint64_t late_job_ = 0;  // the last one of which it was said
  ColdScrub cold_scrub_;
  LogLimit damage_limit_;
  std::deque<DurableWait> durable_waits_;
  std::vector<BlockRef> to_write_;  // for them, in the order of the commits
  SteadyTime group_since_{};        // when the first of these came
  bool group_timer_ = false;
  std::deque<FlushState> flushes_;
  std::map<uint64_t, ErasureWait> erasure_waits_;  // in the order of their deadlines
  uint64_t last_erasure_wait_ = 0;
  std::map<uint64_t, SteadyTime> incomplete_;  // places that lack bytes, since when
  std::set<uint64_t> doomed_;
  bool doomed_is_free_ = false;  // what kept one busy has ended

  std::array<std::atomic<uint64_t>, kMaxScrubItems> scrub_pins_{};
  uint32_t scrub_area_ = 0;
  std::vector<BlockRef> scrub_refs_;  // what is left of the chunk before scrub_chunk_
  uint32_t scrub_chunk_ = 0;
  uint64_t scrub_allowance_ = 0;    // bytes until the next tick
  uint64_t suspect_allowance_ = 0;  // likewise, of suspects
  std::unordered_set<BlockRef, BlockRefHash> suspects_;
  // Blocks that do not fit their checksums, and their slots' first pages, until they can be
  // dropped.
  std::unordered_map<BlockRef, uint32_t, BlockRefHash> spoiled_;
  bool scrub_first_round_ = true;
  bool scrub_running_ = false;

  StackStats stats_;
  Counters hot_counters_, warm_counters_, cold_counters_;
};

template <class Function>
void StackCore::PostStrand(Function function) {
  options_.strand(
      [weak = std::weak_ptr<StackCore*>(self_), function = std::move(function)]() mutable {
        if (const auto self = weak.lock()) function(**self);
      });
}

}  // namespace thermocline
