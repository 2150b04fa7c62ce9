// Blocks on their way up: promotion from cold into reserved slots, for a Load or a prefetch. Who
// waits for a block looks at its state, so that a promotion under way is joined by all.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "hashing/checksum.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

bool SamePlace(const BlockRecord& a, const BlockRecord& b) {
  return a.id == b.id && a.parent_id == b.parent_id && a.depth == b.depth && a.name == b.name &&
         a.space == b.space && a.inner == b.inner;
}

}  // namespace

// A read has failed, or is late.
void StackCore::FailRead(std::string cause) {
  if (!cold_reads_.Failed()) return;
  LogEvent(LogLevel::kWarning, "cold_reads_paused",
           {{"cause", std::move(cause)}, {"retry_ms", kColdPause.count()}});
}

void StackCore::StartPromotion(uint64_t id, uint16_t part) {
  PlaceState& state = places_.at(id);
  state.parts[part].reading = true;
  ++reads_;
  const bool is_hot = IsHot({id, part});
  const bool probes = !is_hot && !cold_reads_.is_closed();
  if (!is_hot) cold_reads_.Try();
  AddWaiter({.space = state.space,
             .bytes = spaces_.at(state.space).spec.parts[part].block_bytes,
             .count = 1,
             .deadline = options_.clock->Now() + options_.load_wait,
             .done = {},
             .promotion = {id, part},
             .probes = probes});
}

absl::StatusOr<std::optional<BlockRecord>> ReadWhole(Tier& tier, BlockRef ref,
                                                     std::span<std::byte> payload) {
  auto result = tier.Get(ref, payload);
  if (absl::IsInvalidArgument(result.status())) {  // of another size: no place of its has it
    return absl::DataLossError(result.status().message());
  }
  if (!result.ok() || !result->has_value()) return result;
  const BlockRecord& record = **result;
  if (VerifyRecord(record).ok() && record.payload_bytes == payload.size() &&
      Checksum(payload) == record.payload_checksum) {
    return result;
  }
  return absl::DataLossError("block " + std::to_string(ref.id) + " is not what its record says");
}

// Lands in the reserved slot itself.
void StackCore::ReadBlock(BlockRef ref, uint64_t offset, uint64_t bytes) {
  const auto start = std::make_shared<ReadStart>();
  const bool is_hot = IsHot(ref);
  const uint32_t page = is_hot ? writer_.word(*writer_.PlaceOf(ref.id), ref.part).hot_slot() : 0;
  if (is_hot) hot_moves_.Try();
  cold_reads_under_way_[ref] = {
      .offset = offset, .is_hot = is_hot, .asked = options_.clock->Now(), .start = start};
  WakeForWaiters();
  const Runner& run = is_hot ? options_.hot : options_.reads;
  run([cold = cold_, hot = hot_, page, host = host_, clock = options_.clock,
       strand = options_.strand, weak = std::weak_ptr<StackCore*>(self_), start, ref, offset,
       bytes] {
    start->at = clock->Now();
    const auto payload = host->Payload(offset, bytes);
    absl::StatusOr<std::optional<BlockRecord>> result;
    if (page != 0) {
      result = hot->ReadSlot(page, payload);
    } else {
      result = ReadWhole(*cold, ref, payload);
    }
    strand([weak, ref, offset, result = std::move(result)]() mutable {
      if (const auto self = weak.lock()) {
        (*self)->FinishPromotion(ref, offset, std::move(result));
      }
    });
  });
}

// Whoever waits for a late read goes on without; its slot is free once it has come back. It counts
// as one that failed for each deadline that the disk has it, and not while others are before it. A
// device that hangs costs the disk's reads nothing.
void StackCore::WatchReads() {
  const SteadyTime now = options_.clock->Now();
  for (auto& [ref, read] : cold_reads_under_way_) {
    const bool was_late =
        std::exchange(read.late, read.late || now >= read.since() + options_.read_deadline);
    if (read.is_hot && read.late && !was_late) {
      --reads_;
      ++late_hot_reads_;
    }
    if (!read.has_begun()) continue;
    if (now < std::max(read.since(), read.blamed) + options_.read_deadline) continue;
    read.blamed = now;
    if (read.is_hot) {
      FailHot(absl::DeadlineExceededError("a read takes too long"));
    } else {
      FailRead("reads take too long");
    }
  }
  ColdScrub& scrub = cold_scrub_;
  if (!scrub.running || scrub.late || !scrub.start) return;
  const SteadyTime since = scrub.start->at;
  if (since == ReadStart::kNotYet || now < since + options_.read_deadline) return;
  scrub.late = true;
  FailRead("a block takes too long to be read back");
}

bool StackCore::IsLate(BlockRef ref) const {
  const auto read = cold_reads_under_way_.find(ref);
  return read != cold_reads_under_way_.end() && read->second.late;
}

bool StackCore::AllReadsAreLate() const {
  return std::count_if(cold_reads_under_way_.begin(), cold_reads_under_way_.end(),
                       [](const auto& read) { return read.second.late && !read.second.is_hot; }) >=
         kMaxReads;
}

void StackCore::EndPromotion(BlockRef ref) {
  places_.at(ref.id).parts[ref.part].reading = false;
  --reads_;
  doomed_is_free_ = true;
  SchedulePump();
}

// Of what was found for a place: DataLoss, too, for a block that is whole, but another's.
// REQUIRES: the place is here, and has such a part.
absl::Status StackCore::Judge(BlockRef ref,
                              const absl::StatusOr<std::optional<BlockRecord>>& found) const {
  if (!found.ok() || !found->has_value()) return found.status();
  const BlockRecord& record = **found;
  const PlaceState& state = places_.at(ref.id);
  BlockRecord due;
  TellPlace(spaces_.at(state.space), *writer_.PlaceOf(ref.id), due);
  if (record.part == ref.part && SamePlace(record, due) &&
      record.payload_checksum == state.parts[ref.part].checksum) {
    return absl::OkStatus();
  }
  return absl::DataLossError("block " + std::to_string(ref.id) + " is another place's");
}

void StackCore::FinishPromotion(BlockRef ref, uint64_t offset,
                                absl::StatusOr<std::optional<BlockRecord>> result) {
  const ColdRead read = cold_reads_under_way_.extract(ref).mapped();
  const bool is_damaged = absl::IsDataLoss(result.status());
  const bool is_sealed = absl::IsFailedPrecondition(result.status());
  const bool was_read = result.ok() || is_damaged || is_sealed;
  if (read.is_hot) {
    if (read.late) {
      --late_hot_reads_;
      ++reads_;
    }
    NoteHotRead(ref, result.status());
    if (!result.ok() && HasLastingCopy(ref)) return ReadBlock(ref, offset, BytesOf(ref));
  } else if (was_read && !read.late) {
    cold_reads_.Succeeded();
  } else if (!was_read) {
    FailRead(std::string(result.status().message()));
  }
  const auto place = writer_.PlaceOf(ref.id);
  TC_CHECK(place.has_value());  // busy places are not dropped
  const Word word = writer_.word(*place, ref.part);
  const absl::Status verdict = Judge(ref, result);
  const bool fits = verdict.ok() && result->has_value();
  if (fits && word.warm_slot() == 0 && !word.empty()) {
    host_->Commit(offset, **result);
    ChangeWord(ref.id, *place, ref.part,
               word.WithWarmSlot(static_cast<uint32_t>(offset / kPageBytes)).WithChecked(true));
    ++(read.is_hot ? hot_counters_.demotions : warm_counters_.promotions);
    warm_counters_.bytes_in += (*result)->payload_bytes;
    (read.is_hot ? hot_counters_ : cold_counters_).bytes_out += (*result)->payload_bytes;
    if (word.hot_slot() != 0) hot_going_.insert(ref);
  } else {
    host_->Free(offset);
  }
  EndPromotion(ref);
  if (fits || word.warm_slot() != 0) return;  // a commit may have been faster
  if (!was_read) {
    ++stats_.misses_by_reason[static_cast<size_t>(MissReason::kIoError)];
    LogEvent(LogLevel::kWarning, read.is_hot ? "hot_read_failed" : "cold_read_failed",
             {{"id", ref.id}, {"cause", std::string(result.status().message())}});
    return;
  }
  const MissReason reason = is_sealed ? MissReason::kAbsent : MissReason::kCorrupt;
  ++stats_.misses_by_reason[static_cast<size_t>(reason)];
  if (read.is_hot) return;
  if (absl::IsDataLoss(verdict)) NoteDamage(ref, verdict);
  if (HasColdCopy(ref)) DropUnusableCopy(ref);  // else it is known that the tier has lost it
}

// What the tier itself has found, it counts and tells.
void StackCore::NoteDamage(BlockRef ref, const absl::Status& why) {
  ++stats_.corrupt_blocks;
  cold_->TellDamage();
  if (const auto left_out = damage_limit_.Admit()) {  // a whole segment, perhaps
    LogEvent(LogLevel::kWarning, "cold_block_dropped",
             {{"id", ref.id}, {"part", ref.part}, {"reason", why}, {"left_out", *left_out}});
  }
}

void StackCore::DropUnusableCopy(BlockRef ref) {
  const Place place = *writer_.PlaceOf(ref.id);
  LoseColdCopy(ref);
  if (writer_.word(place, ref.part).empty()) NoteIncomplete(ref.id);
  if (!HasBytes(place)) DropLeaf(place);
}

void StackCore::Load(ClientNumber client, uint64_t lease_number, ReadyCallback ready,
                     DoneCallback done, bool hot_stays) {
  const auto lease = LeaseOf(client, lease_number);
  if (!lease.ok() || closing_) {
    const absl::Status status =
        closing_ ? absl::UnavailableError("the daemon is shutting down") : lease.status();
    PostStrand([done = std::move(done), status](StackCore&) { done(status); });
    return;
  }
  // A client that has stopped waiting for one may come with the next before that was noticed.
  const auto earlier = std::find_if(loads_.begin(), loads_.end(), [&](const LoadState& other) {
    return other.lease == lease_number;
  });
  if (earlier != loads_.end()) {
    PostStrand([done = std::move(earlier->done)](StackCore&) {
      done(absl::CancelledError("another load of the lease took this one's place"));
    });
    loads_.erase(earlier);
  }
  LoadState load{.lease = lease_number,
                 .ready = std::move(ready),
                 .done = std::move(done),
                 .hot_stays = hot_stays};
  const Space& space = spaces_.at((*lease)->space);
  const auto blocks = static_cast<uint32_t>((*lease)->path.size() / space.block_places);
  for (uint32_t block = 0; block < blocks; ++block) {
    for (uint16_t part = 0; part < space.part_count(); ++part) {
      if (!space.Needs(part, block, blocks)) continue;
      load.items.emplace_back((block + 1) * space.block_places - 1, part);
    }
  }
  loads_.push_back(std::move(load));
  SchedulePump();
}

void StackCore::AdvanceLoads() {
  std::deque<LoadState> loads = std::move(loads_);
  loads_.clear();
  for (LoadState& load : loads) {
    if (!AdvanceLoad(load)) loads_.push_back(std::move(load));
  }
}

// True when it is over.
bool StackCore::AdvanceLoad(LoadState& load) {
  auto lease = leases_.find(load.lease);
  const bool wanted = lease == leases_.end() || DeliverLoad(load, lease->second);
  lease = leases_.find(load.lease);  // the callback may have released it
  if (!wanted || lease == leases_.end()) {
    load.done(absl::CancelledError(wanted ? "the lease has ended" : "the caller has gone"));
    return true;
  }
  const bool ended = StartReads(load, lease->second);
  if (!ended && load.next_deliver < load.items.size()) return false;
  load.done(absl::OkStatus());
  return true;
}

// False when nobody waits for the rest.
bool StackCore::DeliverLoad(LoadState& load, const Lease& lease) {
  std::vector<BlockView> ready;
  for (; load.next_deliver < load.items.size(); ++load.next_deliver) {
    const auto [depth, part] = load.items[load.next_deliver];
    const Place place = *writer_.PlaceOf(lease.path[depth]);
    const bool is_ready =
        writer_.word(place, part).readable_warm() || (load.hot_stays && IsInPlace(place, part));
    if (!is_ready) break;
    ready.push_back(ViewOf(place, part));
  }
  load.next_start = std::max(load.next_start, load.next_deliver);
  return ready.empty() || load.ready(std::move(ready));
}

// Keeps a few reads ahead of what was delivered. True when the next block cannot be had: it is
// nowhere, or was read in vain.
bool StackCore::StartReads(LoadState& load, const Lease& lease) {
  uint32_t under_way = 0;
  for (size_t i = load.next_deliver; i < load.items.size(); ++i) {
    const auto [depth, part] = load.items[i];
    const uint64_t id = lease.path[depth];
    const Place place = *writer_.PlaceOf(id);
    const Word word = writer_.word(place, part);
    const bool reading = places_.at(id).parts[part].reading;
    if (reading) ++under_way;
    if (i == load.next_deliver && IsLate({id, part})) {
      ++stats_.misses_by_reason[static_cast<size_t>(MissReason::kLate)];
      return true;
    }
    if (reading || word.readable_warm() || (load.hot_stays && IsInPlace(place, part))) {
      load.next_start = std::max(load.next_start, i + 1);
      continue;
    }
    const bool in_vain = i < load.next_start || !(cold_reads_.Allows() || IsHot({id, part})) ||
                         (reads_ >= kMaxReads && AllReadsAreLate());
    if (in_vain || !IsToBeRead({id, part})) return i == load.next_deliver;
    if (under_way >= kMaxReadsPerLoad || reads_ >= kMaxReads) return false;
    StartPromotion(id, part);
    load.next_start = i + 1;
    ++under_way;
  }
  return false;
}

uint32_t StackCore::QueuePrefetch(uint32_t client, const Space& space,
                                  const std::vector<Place>& path, uint32_t blocks) {
  size_t nobodys = 0;
  size_t& waiting = client == 0 ? nobodys : clients_.at(client).prefetches;
  const size_t most = client == 0 ? kMaxPrefetches : kMaxPrefetchesPerClient;
  uint32_t queued = 0;
  for (uint32_t block = 0; block < blocks; ++block) {
    const Place place = path[size_t{block + 1} * space.block_places - 1];
    for (uint16_t part = 0; part < space.part_count(); ++part) {
      const Word word = writer_.word(place, part);
      if (!space.Needs(part, block, blocks) || word.warm_slot() != 0) continue;
      if (word.hot_slot() == 0 && !word.cold_copy()) continue;
      if (prefetches_.size() >= kMaxPrefetches || waiting >= most) return queued;
      prefetches_.push_back({{writer_.IdOf(place), part}, client});
      ++waiting;
      ++queued;
    }
  }
  if (queued > 0) SchedulePump();
  return queued;
}

// With the reads that the loads leave over.
void StackCore::AdvancePrefetches() {
  while (!prefetches_.empty() && reads_ < kMaxReadsPerLoad && !closing_ && cold_reads_.Allows()) {
    const auto [ref, client] = prefetches_.front();
    prefetches_.pop_front();
    if (client != 0) --clients_.at(client).prefetches;
    const auto place = writer_.PlaceOf(ref.id);
    if (!place) continue;
    if (writer_.word(*place, ref.part).warm_slot() != 0 || !IsToBeRead(ref)) continue;
    if (!places_.at(ref.id).parts[ref.part].reading) StartPromotion(ref.id, ref.part);
  }
}

void StackCore::ForgetPrefetches(uint32_t client) {
  std::erase_if(prefetches_,
                [&](const QueuedPrefetch& prefetch) { return prefetch.client == client; });
}

absl::StatusOr<StackCore::PrefetchView> StackCore::Prefetch(ClientNumber client,
                                                            uint32_t space_number,
                                                            std::span<const Name> names) {
  TC_RETURN_IF_ERROR(ClientOf(client).status());
  TC_ASSIGN_OR_RETURN(const Space* space, SpaceOf(space_number));
  const Writer::Found found = writer_.Find(space->root, names);
  const std::vector<Place> path = PathTo(found.place);
  const uint32_t blocks = UsableBlocks(*space, path);
  TouchPath(IdsOf(path));
  return PrefetchView{blocks * space->block_places,
                      QueuePrefetch(client.value, *space, path, blocks)};
}

}  // namespace thermocline
