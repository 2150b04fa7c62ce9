// Clients, spaces, and the leases that a match gives.
#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "tiers/stack_core.h"

namespace thermocline {

bool StackBooks::PlaceState::busy() const {
  return std::any_of(parts.begin(), parts.end(), [](const PartState& part) { return part.busy(); });
}

absl::StatusOr<ClientNumber> StackCore::AddClient(int pid, uint64_t start_time,
                                                  std::shared_ptr<ControlArea> shared) {
  if (closing_) return absl::UnavailableError("the daemon is shutting down");
  if (clients_.size() >= options_.max_clients) {
    return absl::ResourceExhaustedError("all of the " + std::to_string(options_.max_clients) +
                                        " clients are there; close a session first");
  }
  std::vector<std::atomic<uint64_t>> pins(options_.max_leases_per_client + 1);
  const uint32_t area = writer_.LendPins(pins);
  const uint32_t number = ++last_client_;
  Client client{.process = {pid, start_time},
                .pins = std::move(pins),
                .area = area,
                .reader = Reader(writer_.catalog(), client.pins),
                .shared = std::move(shared)};
  for (uint32_t pin = options_.max_leases_per_client; pin > 0; --pin) {
    client.free_pins.push_back(pin);
  }
  if (client.shared != nullptr) client.shared_area = writer_.LendPins(client.shared->pins);
  clients_.emplace(number, std::move(client));
  // Whoever has come back does not fill what it was granted before; a copy that was in the midst
  // of it is over by the time that a lease lasts. How long a device writes nobody knows.
  for (auto& [offset, slot] : quarantine_) {
    if (slot.process == ProcessRef{pid, start_time} && !slot.release_at && !IsDeviceSlot(offset)) {
      slot.release_at = options_.clock->Now() + options_.lease_time;
    }
  }
  return ClientNumber{number};
}

void StackCore::RemoveClient(ClientNumber number, Departure how) {
  const auto found = clients_.find(number.value);
  if (found == clients_.end()) return;
  ExpireLeases(number);
  ForgetPrefetches(number.value);
  for (Waiter& waiter : waiters_) {
    if (!waiter.done || waiter.client != number.value) continue;
    PostStrand([done = std::move(waiter.done)](StackCore&) {
      done(absl::CancelledError("the session has ended"));
    });
    waiter.count = 0;
  }
  std::erase_if(waiters_, [](const Waiter& waiter) { return waiter.count == 0; });
  CancelFills(number.value);
  ReturnReservations(number.value, options_.clients_fill ? how : Departure::kProcessGone);
  writer_.ForgetPins(found->second.area);
  ForgetShared(found->second);
  clients_.erase(found);
  SchedulePump();
}

void StackCore::ProcessGone(int pid, uint64_t start_time) {
  const ProcessRef process{pid, start_time};
  for (auto at = quarantine_.begin(); at != quarantine_.end();) {
    if (at->second.process == process) {
      FreeSlot(at->first);
      at = quarantine_.erase(at);
    } else {
      ++at;
    }
  }
  SchedulePump();
}

bool StackCore::Awaits(int pid, uint64_t start_time) const {
  return std::any_of(quarantine_.begin(), quarantine_.end(), [&](const auto& slot) {
    return slot.second.process == ProcessRef{pid, start_time};
  });
}

void StackCore::ExpireLeases(ClientNumber number) {
  const auto found = clients_.find(number.value);
  if (found == clients_.end()) return;
  const std::set<uint64_t> leases = found->second.leases;
  for (uint64_t lease : leases) EndLease(lease);
  if (!options_.clients_fill) {
    ReturnReservations(number.value, Departure::kProcessGone);
    SchedulePump();
  }
  if (found->second.shared == nullptr) return;
  for (std::atomic<uint64_t>& pin : found->second.shared->pins) pin.store(0);
  SchedulePump();
}

void StackCore::EndGrace() {
  grace_ = false;
  for (uint64_t offset : forgotten_) host_->Free(offset);
  forgotten_.clear();
  for (uint32_t page : forgotten_hot_) hot_->Free(page);
  forgotten_hot_.clear();
  const absl::Status punched = host_->PunchBeyondCapacity();
  if (!punched.ok()) {
    LogEvent(LogLevel::kWarning, "arena_not_cut", {{"cause", std::string(punched.message())}});
  }
  SchedulePump();
}

absl::StatusOr<StackCore::Client*> StackCore::ClientOf(ClientNumber client) {
  const auto found = clients_.find(client.value);
  if (found != clients_.end()) return &found->second;
  return absl::FailedPreconditionError("the session has ended; connect again");
}

absl::StatusOr<StackCore::Lease*> StackCore::LeaseOf(ClientNumber client, uint64_t lease) {
  const auto found = leases_.find(lease);
  if (found != leases_.end() && found->second.client == client.value) return &found->second;
  return absl::FailedPreconditionError("lease " + std::to_string(lease) +
                                       " has ended or is another session's; match again");
}

absl::StatusOr<StackCore::Space*> StackCore::SpaceOf(uint32_t space) {
  const auto found = spaces_.find(space);
  if (found != spaces_.end()) return &found->second;
  return absl::NotFoundError("space " + std::to_string(space) +
                             " is not open; open it in this epoch of the daemon");
}

absl::Status StackCore::CheckFits(const SpaceSpec& spec) const {
  const uint64_t capacity = options_.warm_capacity_bytes;
  // Of one that is shared only what was lent so far is the tier's own.
  const uint64_t cold_capacity = cold_ == nullptr || options_.cold_account
                                     ? options_.cold_capacity_bytes
                                     : cold_->Usage().capacity_bytes;
  std::set<uint64_t> sizes;
  for (const PartSpec& part : spec.parts) {
    const uint64_t slot = SlabAllocator::SlotBytes(part.block_bytes);
    sizes.insert(slot);
    if (slot > capacity || slot > options_.chunk_bytes) {
      return absl::InvalidArgumentError(
          "a block of part '" + part.name + "' takes " + FormatBytes(slot) + ", and " +
          (slot > capacity ? "warm_capacity is " + FormatBytes(capacity) + "; raise it"
                           : "a chunk of the arena is " + FormatBytes(options_.chunk_bytes)));
    }
    if (part.block_bytes < spec.block_tokens / kPlaceTokens * sizeof(Name)) {
      return absl::InvalidArgumentError(
          "a block of part '" + part.name + "' has " + FormatBytes(part.block_bytes) +
          ", less than the names of its " + std::to_string(spec.block_tokens) + " tokens");
    }
    const uint64_t stored = part.block_bytes + sizeof(BlockHeader) +
                            (spec.block_tokens / kPlaceTokens - 1) * sizeof(Name);
    if (cold_ != nullptr && stored > cold_capacity) {
      return absl::InvalidArgumentError("a block of part '" + part.name + "' takes " +
                                        FormatBytes(stored) + " on disk, and cold_capacity is " +
                                        FormatBytes(cold_capacity) +
                                        "; raise it, or turn the cold tier off with 0");
    }
  }
  const uint64_t chunks = host_->arena().chunk_count();
  if (sizes.size() <= chunks) return absl::OkStatus();
  return absl::InvalidArgumentError("blocks of " + std::to_string(sizes.size()) +
                                    " sizes need as many chunks of " +
                                    FormatBytes(options_.chunk_bytes) + ", and warm_capacity has " +
                                    std::to_string(chunks) + "; raise it");
}

absl::StatusOr<uint32_t> StackCore::OpenSpace(const SpaceSpec& spec, bool may_add) {
  TC_RETURN_IF_ERROR(spec.Validate());
  const auto found = space_numbers_.find(FingerprintOf(spec));
  if (found != space_numbers_.end()) return found->second;
  if (!may_add) {
    return absl::PermissionDeniedError(
        "this session may only read, and there is no such space yet; whoever may write opens it");
  }
  TC_RETURN_IF_ERROR(CheckFits(spec));
  TC_RETURN_IF_ERROR(MakeRoomForSpace());
  TC_ASSIGN_OR_RETURN(const Root root, writer_.AddRoot(last_space_ + 1));
  Space& space = AddSpace(spec, root);
  SaveState();
  space.change = state_changes_;
  return space.number;
}

// The oldest space that holds nothing and that nobody uses gives way.
absl::Status StackCore::MakeRoomForSpace() {
  if (spaces_.size() < options_.max_spaces) return absl::OkStatus();
  std::set<uint32_t> used;
  for (const auto& [number, lease] : leases_) used.insert(lease.space);
  for (const auto& [offset, reservation] : reservations_) used.insert(reservation.space);
  for (const Waiter& waiter : waiters_) used.insert(waiter.space);
  for (const auto& [number, waiter] : fills_.waiters) used.insert(waiter.space);
  for (const auto& [number, client] : clients_) {
    if (client.shared == nullptr) continue;
    for (const std::atomic<uint64_t>& pin : client.shared->pins) {
      const Place place = PlaceFromBits(pin.load(std::memory_order_relaxed));
      if (writer_.Contains(place)) used.insert(writer_.RootOf(place).tag);
    }
  }
  for (auto space = spaces_.begin(); space != spaces_.end(); ++space) {
    if (space->second.places > 0 || used.contains(space->first)) continue;
    TC_RETURN_IF_ERROR(writer_.RemoveRoot(space->second.root));
    space_numbers_.erase(space->second.fingerprint);
    spaces_.erase(space);
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      "there are " + std::to_string(spaces_.size()) +
      " spaces with blocks or leases already; delete some, or go on uncached");
}

StackCore::Space& StackCore::AddSpace(const SpaceSpec& spec, Root root) {
  const uint32_t number = ++last_space_;
  Space& space = spaces_[number];
  space.number = number;
  space.fingerprint = FingerprintOf(spec);
  space.spec = spec;
  space.root = root;
  space.block_places = spec.block_tokens / kPlaceTokens;
  for (const PartSpec& part : spec.parts) {
    space.window_blocks.push_back((part.window_tokens + spec.block_tokens - 1) / spec.block_tokens);
  }
  space_numbers_[space.fingerprint] = number;
  return space;
}

std::vector<SpaceView> StackCore::Spaces() const {
  std::vector<SpaceView> views;
  for (const auto& [number, space] : spaces_) {
    views.push_back(
        {number, space.fingerprint, space.spec, space.places, space.warm_bytes, space.cold_bytes});
  }
  return views;
}

absl::StatusOr<LeaseView> StackCore::Match(ClientNumber number, uint32_t space_number,
                                           std::span<const Name> names) {
  TC_ASSIGN_OR_RETURN(Client * client, ClientOf(number));
  TC_ASSIGN_OR_RETURN(Space * space, SpaceOf(space_number));
  if (names.size() > kMaxNamesPerCall) {
    return absl::InvalidArgumentError("a match of " + std::to_string(names.size()) +
                                      " names; the limit is " + std::to_string(kMaxNamesPerCall));
  }
  TC_RETURN_IF_ERROR(CheckLeaseIsFree(*client));
  const Reader::Match match =
      client->reader.MatchAndPin(space->root, names, client->free_pins.back(), {});
  std::vector<Place> path;
  if (match.depth > 0) path = PathTo(client->reader.PlaceAt(match.depth));
  path.resize(size_t{UsableBlocks(*space, path)} * space->block_places);
  ++stats_.lookups;
  CountMisses(*space, names.size(), match.depth, path.size());
  LeaseView view = LeasePath(number, *space, path);
  for (const BlockView& block : view.blocks) {
    ++CountersOf(block.tier).hits;
  }
  return view;
}

absl::StatusOr<LeaseView> StackCore::Adopt(ClientNumber number, uint32_t space_number, Place end,
                                           uint64_t id, const Sha256& digest,
                                           std::vector<Name>& names) {
  TC_ASSIGN_OR_RETURN(Client * client, ClientOf(number));
  TC_ASSIGN_OR_RETURN(Space * space, SpaceOf(space_number));
  TC_RETURN_IF_ERROR(CheckLeaseIsFree(*client));
  const bool is_there = writer_.Contains(end) && !writer_.IsRoot(end) && writer_.IdOf(end) == id &&
                        writer_.RootOf(end) == space->root;
  const std::vector<Place> path = is_there ? PathTo(end) : std::vector<Place>{};
  if (path.size() > kMaxNamesPerCall) {
    return absl::InvalidArgumentError("a path of " + std::to_string(path.size()) +
                                      " places; the limit is " + std::to_string(kMaxNamesPerCall));
  }
  std::vector<Name> all = is_there ? writer_.NamesOf(end) : std::vector<Name>{};
  if (!is_there || size_t{UsableBlocks(*space, path)} * space->block_places != path.size() ||
      Sha256OfPath(all) != digest) {
    return absl::NotFoundError("the path that was exported is not held any more; match it");
  }
  names = std::move(all);
  return LeasePath(number, *space, path);
}

absl::Status StackCore::CheckLeaseIsFree(const Client& client) const {
  if (!client.free_pins.empty()) return absl::OkStatus();
  return absl::ResourceExhaustedError("the session holds all of its " +
                                      std::to_string(options_.max_leases_per_client) +
                                      " leases; release some");
}

// A path of whole blocks, all of which can be used. REQUIRES: CheckLeaseIsFree.
LeaseView StackCore::LeasePath(ClientNumber number, const Space& space,
                               std::span<const Place> path) {
  Client& client = clients_.at(number.value);
  Lease& lease = leases_[++last_lease_];
  lease.number = last_lease_;
  lease.client = number.value;
  lease.space = space.number;
  lease.pin = client.free_pins.back();
  client.free_pins.pop_back();
  lease.path = IdsOf(path);
  SetLeasePlace(lease, path.empty() ? Writer::RootPlace(space.root) : path.back());
  client.leases.insert(lease.number);
  TouchPath(lease.path);
  NoteReuse(lease.path);

  LeaseView view{lease.number, static_cast<uint32_t>(path.size()), {}};
  const auto blocks = static_cast<uint32_t>(path.size() / space.block_places);
  for (uint32_t block = 0; block < blocks; ++block) {
    const Place place = path[size_t{block + 1} * space.block_places - 1];
    for (uint16_t part = 0; part < space.part_count(); ++part) {
      if (space.Needs(part, block, blocks)) view.blocks.push_back(ViewOf(place, part));
    }
  }
  return view;
}

void StackCore::CountMisses(const Space& space, size_t asked, size_t found, size_t usable) {
  const auto blocks = [&](size_t places) { return places / space.block_places; };
  const uint64_t absent = (blocks(asked) - blocks(found)) * space.part_count();
  const uint64_t incomplete = (blocks(found) - blocks(usable)) * space.part_count();
  stats_.misses_by_reason[static_cast<size_t>(MissReason::kAbsent)] += absent;
  stats_.misses_by_reason[static_cast<size_t>(MissReason::kIncomplete)] += incomplete;
}

// The deepest number of blocks of which everything that is needed is in some tier.
uint32_t StackCore::UsableBlocks(const Space& space, const std::vector<Place>& path) const {
  std::array<uint32_t, kMaxParts> in_a_row{};
  uint32_t best = 0;
  for (uint32_t block = 0; size_t{block + 1} * space.block_places <= path.size(); ++block) {
    const Place place = path[size_t{block + 1} * space.block_places - 1];
    const PlaceState& state = places_.at(writer_.IdOf(place));
    if (state.doomed) return best;
    bool usable = true;
    for (uint32_t part = 0; part < space.part_count(); ++part) {
      const Word word = writer_.word(place, part);
      const bool in_cold = word.cold_copy() && !state.parts[part].leaving;
      const bool readable = !word.moving() && (IsInMemory(word, state.parts[part]) || in_cold);
      in_a_row[part] = readable ? in_a_row[part] + 1 : 0;
      const uint32_t window = space.window_blocks[part];
      if (window == 0 && !readable) return best;
      if (window != 0 && in_a_row[part] < std::min(window, block + 1)) usable = false;
    }
    if (usable) best = block + 1;
  }
  return best;
}

std::vector<Place> StackCore::PathTo(Place place) const {
  std::vector<Place> path(writer_.Depth(place));
  for (size_t left = path.size(); left > 0; place = writer_.Parent(place)) path[--left] = place;
  return path;
}

std::vector<uint64_t> StackCore::IdsOf(std::span<const Place> path) const {
  std::vector<uint64_t> ids;
  ids.reserve(path.size());
  for (Place place : path) ids.push_back(writer_.IdOf(place));
  return ids;
}

BlockView StackCore::ViewOf(Place place, uint16_t part) const {
  const uint64_t id = writer_.IdOf(place);
  const PlaceState& state = places_.at(id);
  const Word word = writer_.word(place, part);
  BlockView view;
  view.depth = writer_.Depth(place) - 1;
  view.part = part;
  view.id = id;
  view.bytes = spaces_.at(state.space).spec.parts[part].block_bytes;
  view.checksum = state.parts[part].checksum;
  if (word.warm_slot() != 0) {
    view.tier = TierKind::kWarm;
    view.offset = uint64_t{word.warm_slot()} * kPageBytes;
    view.checked = word.checked();
  } else if (word.hot_slot() != 0) {
    view.tier = TierKind::kHot;
    if (IsInPlace(place, part)) {
      const DeviceTier::Location location = hot_->LocationOf(word.hot_slot());
      view.slab = location.slab;
      view.offset = location.offset;
    }
  } else if (word.cold_copy()) {
    view.tier = TierKind::kCold;
  }
  return view;
}

void StackCore::NoteReuse(std::span<const uint64_t> path) {
  if (!write_budget_.is_limited() && hot_ == nullptr) return;
  for (const uint64_t id : path) places_.at(id).reused = true;
}

void StackCore::TouchPath(std::span<const uint64_t> path) {
  hot_policy_->Touch(path);
  warm_policy_->Touch(path);
  cold_policy_->Touch(path);
}

void StackCore::SetLeasePlace(Lease& lease, Place place) {
  lease.place = place;
  const bool at_root = writer_.IsRoot(place);
  writer_.SetPin(clients_.at(lease.client).area, lease.pin, at_root ? Place{} : place);
}

absl::Status StackCore::Release(ClientNumber client, uint64_t lease) {
  TC_RETURN_IF_ERROR(LeaseOf(client, lease).status());
  EndLease(lease);
  return absl::OkStatus();
}

void StackCore::NameLease(ClientNumber client, uint64_t lease, uint64_t asked) {
  const auto named = LeaseOf(client, lease);
  TC_CHECK(named.ok());
  (*named)->asked = asked;
}

void StackCore::ReleaseNamed(ClientNumber client, std::span<const uint64_t> asked) {
  const auto found = clients_.find(client.value);
  if (found == clients_.end()) return;
  std::set<uint64_t> wanted(asked.begin(), asked.end());
  wanted.erase(0);  // those without a number
  const std::set<uint64_t> leases = found->second.leases;
  for (const uint64_t lease : leases) {
    if (wanted.contains(leases_.at(lease).asked)) EndLease(lease);
  }
}

void StackCore::LetGo(uint64_t number) {
  holds_.LetGo(number);
  SchedulePump();
}

void StackCore::EndLease(uint64_t number) {
  const auto found = leases_.find(number);
  if (found == leases_.end()) return;
  Client& client = clients_.at(found->second.client);
  writer_.SetPin(client.area, found->second.pin, Place{});
  client.free_pins.push_back(found->second.pin);
  client.leases.erase(number);
  leases_.erase(found);
  SchedulePump();
}

}  // namespace thermocline
