// Slots on their way in: reserve, commit, abort.
#include <algorithm>

#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr size_t kPlacesToDrop = 64;
// Filled, enqueued, summed and held for the next: what a client has in hand that puts without
// waiting.
constexpr uint64_t kPutsInHand = 6;

std::string WhereOf(const CommitItem& item) {
  return "commit of depth " + std::to_string(item.depth) + ", part " + std::to_string(item.part) +
         ": ";
}

}  // namespace

void StackCore::Reserve(ClientNumber number, uint32_t space_number, uint16_t part, uint32_t count,
                        std::chrono::milliseconds wait, ReserveCallback done, uint32_t ahead,
                        uint64_t grant) {
  const auto refuse = [&](absl::Status status) {
    PostStrand([done = std::move(done), status](StackCore&) { done(status); });
  };
  const auto bytes = CheckReserve(number, space_number, part, count);
  if (!bytes.ok()) return refuse(bytes.status());
  wait = std::max(wait, std::chrono::milliseconds(0));
  AddWaiter({.client = number.value,
             .space = space_number,
             .part = part,
             .bytes = *bytes,
             .count = count,
             .ahead = std::min(ahead, kMaxSlotsPerReserve),
             .grant = grant,
             .deadline = options_.clock->Now() + wait,
             .done = std::move(done)});
}

/// The bytes of each slot.
absl::StatusOr<uint64_t> StackCore::CheckReserve(ClientNumber number, uint32_t space_number,
                                                 uint16_t part, uint32_t count) {
  if (closing_) return absl::UnavailableError("the daemon is shutting down");
  TC_RETURN_IF_ERROR(ClientOf(number).status());
  TC_ASSIGN_OR_RETURN(const Space* space, SpaceOf(space_number));
  if (part >= space->part_count()) {
    return absl::InvalidArgumentError("part " + std::to_string(part) + " of a space with " +
                                      std::to_string(space->part_count()));
  }
  if (count == 0 || count > kMaxSlotsPerReserve) {
    return absl::InvalidArgumentError("asked for " + std::to_string(count) + " slots; from 1 to " +
                                      std::to_string(kMaxSlotsPerReserve) + " can be had");
  }
  if (waiters_.size() + fills_.waiters.size() >= kMaxWaiters) {
    return absl::ResourceExhaustedError("too many wait for slots already");
  }
  return space->spec.parts[part].block_bytes;
}

// What was put into a full arena makes as much leave, which is the client's; else nothing leaves
// for slots that nobody may need. Who held many when the arena became full uses them up.
uint32_t StackCore::SlotsForMore(ClientNumber number, uint32_t space_number, uint16_t part,
                                 uint32_t put) {
  const auto space = SpaceOf(space_number);
  if (!space.ok() || part >= (*space)->part_count()) return 0;
  const uint64_t slot_bytes = SlabAllocator::SlotBytes((*space)->spec.parts[part].block_bytes);
  const uint64_t reserve = ReserveTarget(slot_bytes);
  if (host_->FreeSlots(slot_bytes) > reserve) return 1;
  const auto left = [](uint64_t most, uint64_t in_hand) { return most - std::min(most, in_hand); };
  const uint64_t of_all = left(reserve / 2, in_hand_.OfAll(slot_bytes));
  const uint64_t of_this =
      left(std::min(2 * reserve, kPutsInHand * put), in_hand_.Of(number.value, slot_bytes));
  return static_cast<uint32_t>(std::min<uint64_t>(put, std::max(of_all, of_this)));
}

absl::StatusOr<uint64_t> StackCore::ReservedBytes(ClientNumber client, uint64_t offset) {
  const auto found = reservations_.find(offset);
  if (found != reservations_.end() && found->second.client == client.value) {
    return found->second.bytes;
  }
  return absl::FailedPreconditionError("offset " + std::to_string(offset) +
                                       " is no slot reserved by this session; reserve anew");
}

absl::Status StackCore::Abort(ClientNumber client, std::span<const uint64_t> offsets) {
  absl::Status status;
  for (uint64_t offset : offsets) {
    const auto bytes = ReservedBytes(client, offset);
    if (bytes.ok()) {
      DropReservation(offset);
      FreeSlot(offset);
    } else {
      status.Update(bytes.status());
    }
  }
  SchedulePump();
  return status;
}

std::vector<uint64_t> StackCore::StillReserved(ClientNumber client,
                                               std::span<const uint64_t> grants,
                                               std::span<const GrantedSlot> slots) const {
  std::vector<uint64_t> offsets;
  const std::set<uint64_t> wanted(grants.begin(), grants.end());
  for (const auto& [offset, slot] : reservations_) {
    if (wanted.empty()) break;
    if (slot.client == client.value && wanted.contains(slot.grant)) offsets.push_back(offset);
  }
  for (const GrantedSlot& slot : slots) {
    const auto found = reservations_.find(slot.offset);
    if (found == reservations_.end() || found->second.client != client.value) continue;
    if (slot.grant == 0 || found->second.grant == slot.grant) offsets.push_back(slot.offset);
  }
  return offsets;
}

void StackCore::ReturnReservations(uint32_t client, Departure how) {
  const ProcessRef process = clients_.at(client).process;
  // Of a remote one the daemon itself may be filling them, until it says that this process is gone.
  const bool may_be_filled = how != Departure::kProcessGone || process.pid == 0;
  Quarantined quarantined{process, {}};
  if (how == Departure::kGoodbye) {
    quarantined.release_at = options_.clock->Now() + options_.lease_time;
  }
  for (auto at = reservations_.begin(); at != reservations_.end();) {
    const auto [offset, slot] = *at++;
    if (slot.client != client) continue;
    if (may_be_filled) {
      // What runs on a device nobody can call back.
      quarantine_[offset] = IsDeviceSlot(offset) ? Quarantined{process, {}} : quarantined;
    } else {
      FreeSlot(offset);
    }
    DropReservation(offset);
  }
}

void StackCore::DropReservation(uint64_t offset) {
  const auto found = reservations_.find(offset);
  if (IsDeviceSlot(offset)) {
    --fills_.reserved;
  } else {
    in_hand_.Remove(found->second.client, SlabAllocator::SlotBytes(found->second.bytes));
  }
  reservations_.erase(found);
}

absl::Status StackCore::CheckSlot(const Lease& lease, const CommitItem& item) const {
  const auto found = reservations_.find(item.offset);
  const bool is_there = found != reservations_.end() && found->second.client == lease.client;
  if (!is_there || (item.grant != 0 && item.grant != found->second.grant)) {
    return absl::FailedPreconditionError(WhereOf(item) +
                                         "its slot is not reserved by this session");
  }
  if (found->second.space == lease.space && found->second.part == item.part) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(WhereOf(item) + "its slot was reserved for another part");
}

absl::Status StackCore::CheckCommit(const Lease& lease, std::span<const Name> names,
                                    std::span<const CommitItem> items) const {
  const Space& space = spaces_.at(lease.space);
  if (items.empty() || names.empty() || names.size() > kMaxNamesPerCall) {
    return absl::InvalidArgumentError("a commit of " + std::to_string(items.size()) +
                                      " blocks at " + std::to_string(names.size()) + " names");
  }
  std::set<uint64_t> offsets;
  std::set<std::pair<uint32_t, uint16_t>> blocks;
  for (const CommitItem& item : items) {
    TC_RETURN_IF_ERROR(CheckSlot(lease, item));
    const std::string where = WhereOf(item);
    const size_t depth = lease.path.size();
    if (item.depth < depth || item.depth - depth >= names.size()) {
      return absl::InvalidArgumentError(where + "the lease ends at " + std::to_string(depth) +
                                        " and " + std::to_string(names.size()) +
                                        " names were given; match again");
    }
    if ((item.depth + 1) % space.block_places != 0) {
      return absl::InvalidArgumentError(where + "no block of this space ends there");
    }
    if (!offsets.insert(item.offset).second || !blocks.insert({item.depth, item.part}).second) {
      return absl::InvalidArgumentError(where + "it is there twice");
    }
  }
  return absl::OkStatus();
}

absl::Status StackCore::CheckCommit(ClientNumber number, uint64_t lease_number,
                                    std::span<const Name> names,
                                    std::span<const CommitItem> items) {
  TC_ASSIGN_OR_RETURN(const Lease* lease, LeaseOf(number, lease_number));
  return CheckCommit(*lease, names, items);
}

absl::StatusOr<LeaseView> StackCore::Commit(ClientNumber number, uint64_t lease_number,
                                            std::span<const Name> names,
                                            std::span<const CommitItem> items) {
  TC_ASSIGN_OR_RETURN(Lease * lease, LeaseOf(number, lease_number));
  return CommitBehind(*lease, names, items);
}

absl::StatusOr<LeaseView> StackCore::CommitBehind(Lease& lease, std::span<const Name> names,
                                                  std::span<const CommitItem> items) {
  TC_RETURN_IF_ERROR(CheckCommit(lease, names, items));
  Space& space = spaces_.at(lease.space);
  std::vector<const CommitItem*> sorted;
  for (const CommitItem& item : items) sorted.push_back(&item);
  std::sort(sorted.begin(), sorted.end(), [](const CommitItem* a, const CommitItem* b) {
    return a->depth != b->depth ? a->depth < b->depth : a->part < b->part;
  });
  const auto first_depth = static_cast<uint32_t>(lease.path.size());
  TC_RETURN_IF_ERROR(MakeRoomFor(lease.place, names.first(sorted.back()->depth - first_depth + 1)));
  std::vector<Place> committed;
  size_t next = 0;
  for (uint32_t depth = first_depth; depth <= sorted.back()->depth; ++depth) {
    const Place place = FindOrAppend(space, lease.place, names[depth - first_depth]);
    lease.path.push_back(writer_.IdOf(place));
    committed.push_back(place);
    for (; next < sorted.size() && sorted[next]->depth == depth; ++next) {
      Publish(space, place, *sorted[next]);
    }
    SetLeasePlace(lease, place);  // held from here on
    PlaceState& state = places_.at(lease.path.back());
    if (IsComplete(space, state, place)) {
      incomplete_.erase(lease.path.back());
    } else {
      NoteIncomplete(lease.path.back());
    }
  }
  TouchPath(lease.path);
  LeaseView view{lease.number, static_cast<uint32_t>(lease.path.size()), {}, lease.place};
  for (const CommitItem& item : items) {
    view.blocks.push_back(ViewOf(committed[item.depth - first_depth], item.part));
  }
  SchedulePump();
  return view;
}

// For all names that are not there yet, before the first is: a commit is done whole or not at all.
absl::Status StackCore::MakeRoomFor(Place at, std::span<const Name> names) {
  while (true) {
    Place end = at;
    size_t there = 0;
    for (; there < names.size(); ++there) {
      const auto next = writer_.FindNext(end, names[there]);
      if (!next) break;
      end = *next;
    }
    const size_t missing = names.size() - there;
    const size_t places = places_.size();
    if (missing > options_.max_places) {
      return absl::ResourceExhaustedError(
          "a commit of " + std::to_string(missing) + " new places, and the catalog takes " +
          std::to_string(options_.max_places) + "; nothing of it was published");
    }
    if (missing == 0 ||
        (places + missing <= options_.max_places && writer_.HasRoom(end, missing))) {
      return absl::OkStatus();
    }
    DropOldest();
    if (places_.size() < places) continue;
    return absl::ResourceExhaustedError("the catalog has no room for " + std::to_string(missing) +
                                        " places beside its " + std::to_string(places) +
                                        ", all in use; nothing of the commit was published");
  }
}

// Room for names: the oldest that can go, cold ones first.
void StackCore::DropOldest() {
  writer_.LookAtPins();
  const size_t places = places_.size();
  for (Policy* policy : {cold_policy_.get(), warm_policy_.get(), hot_policy_.get()}) {
    std::vector<Place> oldest;
    std::unordered_set<uint64_t> taken;
    policy->Victims([&](uint64_t id) {
      if (oldest.size() == kPlacesToDrop) return Policy::Answer::kStop;
      const PlaceState& state = places_.at(id);
      const Place place = *writer_.PlaceOf(id);
      const bool may_go = MayLeaveWarm(state) && state.pins == 0 && !writer_.LookedPinned(place);
      if (!may_go || !StandsOnly(place, taken)) return Policy::Answer::kSkip;
      taken.insert(id);
      oldest.push_back(place);
      return Policy::Answer::kTake;
    });
    DropTails(std::move(oldest));
    if (places_.size() < places) return;
  }
}

// REQUIRES: there is room.
Place StackCore::FindOrAppend(Space& space, Place at, const Name& name) {
  // What is committed behind a deleted place goes with it; a deleted place at a path that stands is
  // there again.
  const bool doomed = !writer_.IsRoot(at) && places_.at(writer_.IdOf(at)).doomed;
  if (const auto there = writer_.FindNext(at, name)) {
    SetDoomed(writer_.IdOf(*there), *there, doomed);
    return *there;
  }
  const uint64_t id = ++last_id_;
  const auto place = Append(space, at, name, id);
  TC_CHECK(place.ok());
  SetDoomed(id, *place, doomed);
  return *place;
}

// Readers see it by the words.
void StackCore::SetDoomed(uint64_t id, Place place, bool doomed) {
  PlaceState& state = places_.at(id);
  if (state.doomed == doomed) return;
  state.doomed = doomed;
  doomed ? (void)doomed_.insert(id) : (void)doomed_.erase(id);
  for (uint32_t part = 0; part < state.parts.size(); ++part) {
    const Word word = writer_.word(place, part);
    if (!word.empty()) ChangeWord(id, place, part, word);
  }
}

absl::StatusOr<Place> StackCore::Append(Space& space, Place at, const Name& name, uint64_t id) {
  TC_ASSIGN_OR_RETURN(const Place place, writer_.Append(at, name, id));
  PlaceState& state = places_.Add(id);
  state.space = space.number;
  state.parts.resize(space.part_count());
  ++space.places;
  return place;
}

// Where a block stands, as its record has it.
void StackCore::TellPlace(const Space& space, Place place, BlockRecord& record) const {
  record.id = writer_.IdOf(place);
  record.depth = writer_.Depth(place) - 1;
  record.name = writer_.NameOf(place);
  record.space = space.fingerprint;
  record.inner.resize(space.inner_count());
  for (uint32_t i = space.inner_count(); i > 0; --i) {
    place = writer_.Parent(place);
    record.inner[i - 1] = writer_.NameOf(place);
  }
  record.parent_id = writer_.IdOf(writer_.Parent(place));
}

// The block takes the offered slot, unless one is warm already. One that nobody has summed since a
// restart gives way to the new one, which was, unless somebody reads it.
void StackCore::Publish(const Space& space, Place place, const CommitItem& item) {
  const uint64_t id = writer_.IdOf(place);
  PartState& part = places_.at(id).parts[item.part];
  Word word = writer_.word(place, item.part);
  if (word.warm_slot() != 0 && !word.checked() && !part.busy() && !(grace_ && part.adopted)) {
    Movement move{.place = place, .part = item.part};
    if (writer_.BeginMove({&move, 1}) == 1) {
      ChangeWord(id, place, item.part, word.WithWarmSlot(0));
      host_->Free(uint64_t{word.warm_slot()} * kPageBytes);
      word = word.WithWarmSlot(0);
    }
  }
  const auto reservation = reservations_.find(item.offset);
  const bool on_device = IsDeviceSlot(item.offset);
  const bool is_spoiled = on_device && word.warm_slot() == 0 && part.hot_spoiled;
  if ((DiffersFromHot(word, part, item) || is_spoiled) && !part.busy()) {
    Movement move{.place = place, .part = item.part};
    if (writer_.BeginMove({&move, 1}) == 1) {
      FreeHot(word.hot_slot());
      word = word.WithHotSlot(0);
      ChangeWord(id, place, item.part, word);
      part.hot_spoiled = false;
    }
  }
  if (word.warm_slot() != 0 || DiffersFromHot(word, part, item) ||
      (on_device && word.hot_slot() != 0)) {
    if (!item.keep_slot) {
      FreeSlot(item.offset);
      DropReservation(item.offset);
    }
    ++stats_.duplicate_blocks;
    return;
  }
  if (word.cold_copy() && part.checksum != item.checksum) {
    ChangeWord(id, place, item.part, Word());  // other bytes under this name: the copy is stale
    QueueErasure(id, item.part);
    word = Word();
  }
  const uint64_t bytes = reservation->second.bytes;
  DropReservation(item.offset);
  BlockRecord record;
  TellPlace(space, place, record);
  record.part = item.part;
  record.payload_bytes = bytes;
  record.payload_checksum = item.checksum;
  record.sequence = ++last_sequence_;
  record.Seal();
  part.checksum = item.checksum;
  part.sequence = record.sequence;
  part.adopted = false;
  if (on_device) {
    fills_.bytes -= FillBytes(item.offset);
    hot_->Commit(PageOf(item.offset), record);
    ChangeWord(id, place, item.part, word.WithHotSlot(PageOf(item.offset)));
  } else {
    host_->Commit(item.offset, record);
    const auto page = static_cast<uint32_t>(item.offset / kPageBytes);
    ChangeWord(id, place, item.part, word.WithWarmSlot(page).WithChecked(true));
    if (word.hot_slot() != 0) hot_going_.insert({id, item.part});
  }
  ++stats_.committed_blocks;
  stats_.committed_bytes += bytes;
  (on_device ? hot_counters_ : warm_counters_).bytes_in += bytes;
}

}  // namespace thermocline
