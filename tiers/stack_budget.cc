// What a stack borrows of its tiers' capacities when several tenants share them, and how it gives
// units back (tiers/tier_budget.h).
//
// Of warm memory a chunk is given back. Where the blocks lie that the policy would part with first
// has nothing to do with chunks, so the stack does not evict a chunk's blocks: it grants nothing
// more there, lets the policy make as much room as is needed, wherever that is, and moves what is
// left in the chunk into it, by the one movement rule. What somebody is reading or filling is
// waited out; another chunk is tried when that takes long.
//
// Of disk space a unit is given back as soon as so little is used.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr uint64_t kMoveBytes = 8 * MiB;  // copied by one pump, which nobody waits for longer
constexpr size_t kChunksLookedAt = 16;    // in search of one that can be emptied
constexpr std::chrono::seconds kClearPatience{2};
constexpr std::chrono::seconds kUnitPatience{5};

uint64_t OffsetOf(Word word) { return uint64_t{word.warm_slot()} * kPageBytes; }

}  // namespace

void StackCore::WatchBudgets() {
  const auto wake = [strand = options_.strand, weak = std::weak_ptr<StackCore*>(self_)] {
    strand([weak] {
      const auto self = weak.lock();
      if (!self) return;
      (*self)->host_->RetryLending();
      (*self)->SchedulePump();
    });
  };
  options_.warm_account.SetWake(wake);
  options_.cold_account.SetWake(wake);
}

/// Whether to wait for a unit of which the account says whether it `comes`. What does not come in
/// time, because its lender's clients hold on to it, is not waited for: then its own blocks go.
bool StackCore::Awaits(const BudgetAccount& account, bool comes,
                       std::optional<Awaited>& unit) const {
  const SteadyTime now = options_.clock->Now();
  const uint64_t held = account.Held();
  if (!unit || !comes || held != unit->beyond) unit = {held, now};
  return comes && now - unit->since < kUnitPatience;
}

// ---- warm

/// Asks for a chunk when the reserve has run low, and says whether to wait for it: what is within
/// the share comes, and its own blocks need not go for it. What is borrowed is asked for only when
/// somebody waits, and is not waited for.
bool StackCore::AwaitsChunk(bool somebody_waits) {
  const BudgetAccount& account = options_.warm_account;
  const bool below_share = account.IsBelowShare();
  if (!below_share && !somebody_waits) return false;
  wants_chunk_ = true;
  const bool comes = account.Want() && below_share && host_->State() == "ok";
  return Awaits(account, comes, awaited_chunk_);
}

void StackCore::GiveBackWarm() {
  const BudgetAccount& account = options_.warm_account;
  if (!account) return;
  const auto owes = [&] { return account.Owed() > host_->LeavingChunks(); };
  while (owes() && host_->GiveBackChunk()) continue;
  if (!owes()) {
    host_->ReopenChunk();
    return;
  }
  if (!host_->closed_chunk() || options_.clock->Now() - chunk_closed_ > kClearPatience) {
    CloseSomeChunk();
  }
  const std::optional<uint32_t> chunk = host_->closed_chunk();
  if (!chunk) return;
  if (MoveOut(*chunk)) {
    chunk_closed_ = options_.clock->Now();
    SchedulePump();
  }
  RecallSlots();
}

/// The one with the fewest bytes in use that can be emptied whole, else that can be emptied most;
/// not the one that was tried last, if there is another.
void StackCore::CloseSomeChunk() {
  const std::optional<uint32_t> last = host_->closed_chunk();
  host_->ReopenChunk();
  std::vector<uint32_t> chunks = host_->LentChunks();
  std::erase_if(chunks, [&](uint32_t chunk) { return chunk == last && chunks.size() > 1; });
  if (chunks.size() > kChunksLookedAt) {  // others each time
    chunks_looked_at_ = (chunks_looked_at_ + kChunksLookedAt) % chunks.size();
    std::rotate(chunks.begin(), chunks.begin() + static_cast<ptrdiff_t>(chunks_looked_at_),
                chunks.end());
    chunks.resize(kChunksLookedAt);
  }
  std::optional<uint32_t> best;
  size_t least_held_up = SIZE_MAX;
  writer_.LookAtPins();
  for (const uint32_t chunk : chunks) {
    const std::vector<uint64_t> used = host_->UsedOffsets(chunk);
    const size_t held_up = used.size() - Movable(used, UINT64_MAX).size();
    if (held_up >= least_held_up) continue;
    least_held_up = held_up;
    best = chunk;
    if (held_up == 0) break;
  }
  if (!best) return;
  host_->CloseChunk(*best);
  chunk_closed_ = options_.clock->Now();
}

/// Of the blocks in these slots those that nobody seemed to read, write or check, up to so many
/// bytes. REQUIRES: somebody has looked at the pins.
std::vector<Movement> StackCore::Movable(const std::vector<uint64_t>& offsets,
                                         uint64_t most_bytes) {
  std::vector<Movement> moves;
  uint64_t bytes = 0;
  for (const uint64_t offset : offsets) {
    const BlockHeader header = host_->HeaderAt(offset);
    const auto place = writer_.PlaceOf(header.id);
    if (!place) continue;
    const PlaceState& state = places_.at(header.id);
    if (header.part >= state.parts.size()) continue;
    const PartState& part = state.parts[header.part];
    const Word word = writer_.word(*place, header.part);
    if (word.warm_slot() == 0 || OffsetOf(word) != offset || part.busy()) continue;
    if (grace_ && part.adopted) continue;  // leases of the last epoch
    if (writer_.LookedPinned(*place)) continue;
    const uint64_t slot_bytes = host_->SlotBytesAt(offset);
    if (!moves.empty() && bytes + slot_bytes > most_bytes) break;
    bytes += slot_bytes;
    moves.push_back({.place = *place, .part = header.part, .before = word});
  }
  return moves;
}

/// Some of the chunk's blocks go to free slots elsewhere. The bytes are copied before the words
/// move, so that readers find them missing for a moment only. Whether any went.
bool StackCore::MoveOut(uint32_t chunk) {
  writer_.LookAtPins();
  std::vector<Movement> moves = Movable(host_->UsedOffsets(chunk), kMoveBytes);
  std::vector<uint64_t> targets;
  for (const Movement& move : moves) {
    const Space& space = spaces_.at(places_.at(writer_.IdOf(move.place)).space);
    const uint64_t bytes = space.spec.parts[move.part].block_bytes;
    const auto target = host_->Reserve(bytes, self_process_, space.inner_count());
    if (!target.ok() || !target->has_value()) break;  // room is made by KeepReserve
    std::memcpy(host_->Payload(**target, bytes).data(),
                host_->Payload(OffsetOf(move.before), bytes).data(), bytes);
    targets.push_back(**target);
  }
  moves.resize(targets.size());
  writer_.BeginMove(moves);
  bool moved = false;
  for (size_t i = 0; i < moves.size(); ++i) {
    const Movement& move = moves[i];
    if (!move.granted) {
      host_->Free(targets[i]);
      continue;
    }
    const uint64_t id = writer_.IdOf(move.place);
    host_->Relocate(OffsetOf(move.before), targets[i]);
    ChangeWord(id, move.place, move.part,
               move.before.WithWarmSlot(static_cast<uint32_t>(targets[i] / kPageBytes)));
    places_.at(id).parts[move.part].adopted = false;
    moved = true;
  }
  return moved;
}

/// How many slots of this size the blocks of the chunk that is being emptied need elsewhere.
uint64_t StackCore::SlotsToMove(uint64_t slot_bytes) const {
  const std::optional<uint32_t> chunk = host_->closed_chunk();
  if (!chunk) return 0;
  const std::vector<uint64_t> used = host_->UsedOffsets(*chunk);
  return used.empty() || host_->SlotBytesAt(used[0]) != slot_bytes ? 0 : used.size();
}

// ---- cold

/// What the cold tier may hold: less than it has while it owes.
uint64_t StackCore::ColdCapacity(const TierUsage& usage) const {
  const uint64_t owed = options_.cold_account.Owed() * options_.chunk_bytes;
  return usage.capacity_bytes - std::min(owed, usage.capacity_bytes);
}

/// Borrows until so much has room, if it can. Otherwise whether more is about to come that is its
/// own: then nothing need go.
bool StackCore::GrowCold(uint64_t wanted_bytes) {
  const BudgetAccount& account = options_.cold_account;
  if (!account) return false;
  const auto has_room = [&] {
    const TierUsage usage = cold_->Usage();
    return usage.used_bytes + wanted_bytes <= ColdCapacity(usage);
  };
  while (!has_room()) {
    if (account.Owed() == 0 && account.Take()) continue;
    wants_disk_ = true;
    return Awaits(account, account.Want() && account.IsBelowShare(), awaited_disk_);
  }
  return false;
}

void StackCore::GiveBackCold() {
  const BudgetAccount& account = options_.cold_account;
  if (!account || cold_ == nullptr) return;
  const uint64_t owed = account.Owed();
  if (owed > 0 && !job_running_) {
    const TierUsage usage = cold_->Usage();
    const uint64_t needed = RoundUp(usage.used_bytes, options_.chunk_bytes);
    const uint64_t unused =
        (usage.capacity_bytes - std::min(needed, usage.capacity_bytes)) / options_.chunk_bytes;
    if (const uint64_t given = std::min(owed, unused); given > 0) account.Give(given);
  }
  if (!std::exchange(wants_disk_, false)) account.Unwant();
}

}  // namespace thermocline
