// Delete, flush, drop, shutdown, and what is done every second.
#include <algorithm>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {

void StackCore::Tick() {
  CheckShared();
  TouchPinned();
  host_->RetryLending();
  host_->Mend();
  ExpirePins();
  TellHealth(TierKind::kWarm, WarmState(), warm_told_);
  if (options_.open_hot) TellHealth(TierKind::kHot, HotState(), hot_told_);
  if (cold_ != nullptr) TellHealth(TierKind::kCold, ColdState(), cold_told_);
  PromotePinned();
  SettleHot();
  ProbeHot();
  ReleaseQuarantine();
  ExpireIncomplete(options_.incomplete_ttl);
  DropDoomed();
  BeginScrubTick();
  ScrubCold();
  FoldSegments();
  LookAtColdJob();
  SchedulePump();
}

// Each process is asked after once, however many of its slots wait.
void StackCore::ReleaseQuarantine() {
  const SteadyTime now = options_.clock->Now();
  std::map<std::pair<int, uint64_t>, bool> gone;
  for (auto at = quarantine_.begin(); at != quarantine_.end();) {
    const ProcessRef process = at->second.process;
    const auto [asked, fresh] = gone.try_emplace({process.pid, process.start_time});
    if (fresh && process.pid != 0) {  // of a remote session ProcessGone tells
      asked->second = HasExited(process.pid, process.start_time);
    }
    if (asked->second || (at->second.release_at && now >= *at->second.release_at)) {
      FreeSlot(at->first);
      at = quarantine_.erase(at);
    } else {
      ++at;
    }
  }
}

// Of those that have been so for `ttl`, what nobody holds.
void StackCore::ExpireIncomplete(std::chrono::milliseconds ttl) {
  const SteadyTime now = options_.clock->Now();
  std::vector<Place> expired;
  std::erase_if(incomplete_, [&](const auto& entry) {
    if (now - entry.second < ttl) return false;
    const PlaceState& state = places_.at(entry.first);
    const Place place = *writer_.PlaceOf(entry.first);
    if (IsComplete(spaces_.at(state.space), state, place)) return true;
    if (MayLeaveWarm(state)) expired.push_back(place);
    return false;
  });
  DropTails(std::move(expired));
}

absl::StatusOr<uint64_t> StackCore::Delete(const Fingerprint& fingerprint,
                                           std::span<const Name> names) {
  const auto number = space_numbers_.find(fingerprint);
  if (number == space_numbers_.end()) {
    return absl::NotFoundError("space " + fingerprint.Hex() + " is not here");
  }
  const Space& space = spaces_.at(number->second);
  const Writer::Found found = writer_.Find(space.root, names);
  if (found.depth < names.size()) return 0;
  std::vector<Place> doomed;
  if (!writer_.IsRoot(found.place)) doomed.push_back(found.place);
  writer_.VisitSubtree(found.place, [&](Place place) { doomed.push_back(place); });
  for (Place place : doomed) {
    SetDoomed(writer_.IdOf(place), place, true);
  }
  const size_t unpinned = std::erase_if(pins_, [&](const auto& entry) {
    if (!doomed_.contains(entry.second.id)) return false;
    HoldPin(entry.second, -1);
    return true;
  });
  if (unpinned > 0) SaveState();
  DropDoomed();
  SchedulePump();
  return doomed.size();
}

void StackCore::DropDoomed() {
  std::vector<Place> firsts;
  for (const uint64_t id : doomed_) {
    if (MayLeaveWarm(places_.at(id))) firsts.push_back(*writer_.PlaceOf(id));
  }
  DropTails(std::move(firsts));
}

// A disk that hangs must not keep whoever waits: it goes on without them.
void StackCore::SyncDeletions(DoneCallback done) {
  const uint64_t number = ++last_erasure_wait_;
  erasure_waits_[number] = {.done = std::move(done),
                            .deadline = options_.clock->Now() + options_.write_deadline};
  const auto settled = [this, number](absl::Status, uint64_t, uint64_t) {
    if (cold_ == nullptr) {
      return PostStrand([number](StackCore& self) { self.AnswerErased(number, absl::OkStatus()); });
    }
    absl::Status status;
    if (!erasures_.empty()) {
      status = absl::UnavailableError("the cold tier cannot be written: " + cold_->State());
    }
    options_.disk([cold = cold_, strand = options_.strand, weak = std::weak_ptr<StackCore*>(self_),
                   number, status]() mutable {
      status.Update(cold->Sync());
      strand([weak, number, status] {
        if (const auto self = weak.lock()) (*self)->AnswerErased(number, status);
      });
    });
  };
  flushes_.push_front(
      {.tier = TierKind::kCold, .settle = true, .erasure_wait = number, .done = settled});
  SchedulePump();
}

// Once: a late one has its answer.
void StackCore::AnswerErased(uint64_t number, const absl::Status& status) {
  const auto wait = erasure_waits_.extract(number);
  if (wait) wait.mapped().done(status);
}

void StackCore::WatchErasures() {
  const SteadyTime now = options_.clock->Now();
  while (!erasure_waits_.empty() && now >= erasure_waits_.begin()->second.deadline) {
    const uint64_t number = erasure_waits_.begin()->first;
    std::erase_if(flushes_, [&](const FlushState& flush) { return flush.erasure_wait == number; });
    AnswerErased(number,
                 absl::UnavailableError("the disk of " + options_.data_dir + " does not answer"));
  }
}

void StackCore::Flush(TierKind tier, FlushCallback done) {
  if (tier != TierKind::kWarm && tier != TierKind::kCold) {
    PostStrand([done = std::move(done)](StackCore&) {
      done(absl::InvalidArgumentError("there is the warm and the cold tier to flush"), 0, 0);
    });
    return;
  }
  flushes_.push_back({.tier = tier, .newest = last_sequence_, .done = std::move(done)});
  SchedulePump();
}

void StackCore::DropArena(FlushCallback done) {
  flushes_.push_back({.tier = TierKind::kWarm, .drop = true, .done = std::move(done)});
  SchedulePump();
}

// One after the other.
void StackCore::AdvanceFlushes() {
  while (!flushes_.empty() && AdvanceFlush(flushes_.front())) {
    const FlushState flush = std::move(flushes_.front());
    flushes_.pop_front();
    flush.done(absl::OkStatus(), flush.blocks, KeptBlocks(flush.tier));
  }
}

// Does what can be done now; true when nothing is left to do or to wait for. Only a pump between
// two jobs comes to an end, however many jobs others keep under way.
bool StackCore::AdvanceFlush(FlushState& flush) {
  if (scrub_running_) return false;  // what it has pinned is nobody's lease
  // What leaves the disk with its segment neither leaves memory nor is written, until it has left.
  const bool is_moving = job_running_ || (dropping_ && cold_writable());
  const auto is_older = [&](const ColdWrite& write) {
    return write.record.sequence <= flush.newest;
  };
  if (flush.tier == TierKind::kCold) {
    if (cold_ == nullptr) return true;
    if (!flush.settle) {
      ExpireIncomplete(std::chrono::milliseconds(0));  // what would keep others here
      // Until none goes: what goes may have been behind others by places without bytes.
      while (const uint64_t blocks = EvictCold(UINT64_MAX, flush.newest)) flush.blocks += blocks;
    }
    const bool deletes = std::any_of(doomed_.begin(), doomed_.end(), [&](uint64_t id) {
      return places_.contains(id) && places_.at(id).busy();  // on its way up or down
    });
    return (erasures_.empty() || !cold_writable()) && !is_moving && !(flush.settle && deletes) &&
           std::none_of(planned_writes_.begin(), planned_writes_.end(), is_older);
  }
  if (flush.drop) {
    if (is_moving || hot_job_running_ || !planned_writes_.empty()) return false;
    flush.blocks += DropWarm();
    DropHot();
    const absl::Status punched = host_->PunchEmptyChunks();
    if (!punched.ok()) {
      LogEvent(LogLevel::kWarning, "arena_not_punched",
               {{"cause", std::string(punched.message())}});
    }
    return host_->LeavingChunks() == 0;
  }
  if (!FlushHot()) return false;
  flush.blocks += FreeClean({0, UINT64_MAX, cold_ == nullptr, flush.newest});
  if (cold_full_) {  // of what stands above the blocks to be written: their tails have to go
    const uint64_t dropped = FreeClean({0, 1, true, flush.newest});
    flush.blocks += dropped;
    if (dropped > 0) SchedulePump();
    return dropped == 0 && !is_moving;
  }
  if (cold_writable()) PlanWrites({0, UINT64_MAX, false, flush.newest});
  return !is_moving && planned_writes_.size() < kMaxBatchBlocks &&
         std::none_of(planned_writes_.begin(), planned_writes_.end(), is_older);
}

uint64_t StackCore::DropWarm() {
  std::vector<uint64_t> ids;
  warm_policy_->Victims([&](uint64_t id) {
    ids.push_back(id);
    return Policy::Answer::kTake;
  });
  uint64_t blocks = 0;
  for (uint64_t id : ids) {
    const auto place = writer_.PlaceOf(id);
    if (!place || places_.at(id).busy()) continue;
    std::vector<Movement> moves;
    for (uint32_t part = 0; part < places_.at(id).parts.size(); ++part) {
      if (writer_.word(*place, part).warm_slot() == 0) continue;
      if (grace_ && places_.at(id).parts[part].adopted) continue;  // may be read by old leases
      moves.push_back({.place = *place, .part = part});
    }
    writer_.BeginMove(moves);
    for (const Movement& move : moves) {
      if (!move.granted) continue;
      host_->Free(uint64_t{move.before.warm_slot()} * kPageBytes);
      ChangeWord(id, *place, move.part, move.before.WithWarmSlot(0).WithChecked(false));
      ++blocks;
      if (!move.before.cold_copy() && move.before.hot_slot() == 0) ++warm_counters_.evictions;
    }
    if (!IsComplete(spaces_.at(places_.at(id).space), places_.at(id), *place)) NoteIncomplete(id);
    if (!HasBytes(*place)) DropLeaf(*place);
  }
  return blocks;
}

uint64_t StackCore::KeptBlocks(TierKind tier) const {
  if (tier == TierKind::kWarm) return host_->Usage().block_count;
  return cold_ == nullptr ? 0 : cold_->Usage().block_count;
}

// Whatever was answered as deleted is erased before the end.
void StackCore::Shutdown(bool drain, DoneCallback done) {
  closing_ = true;
  draining_ = drain;
  const auto finish = [this, done = std::move(done)](absl::Status drained) {
    SyncDeletions([this, done, drained](const absl::Status& synced) {
      AwaitSaved({}, [done, drained, synced](absl::Status saved) {
        absl::Status status = drained;
        status.Update(std::move(saved));
        status.Update(synced);
        done(status);
      });
    });
  };
  if (!drain) return finish(absl::OkStatus());
  Flush(TierKind::kWarm, [this, finish](absl::Status, uint64_t blocks, uint64_t kept) {
    LogEvent(LogLevel::kInfo, "warm_tier_drained", {{"blocks", blocks}, {"kept", kept}});
    if (kept > 0) {
      return finish(absl::UnavailableError(
          std::to_string(kept) + " blocks could not leave for the cold tier (" +
          (cold_ == nullptr ? "it is off" : cold_->State()) +
          (grace_ ? ", and clients of the last daemon may still read some" : "") +
          "); they stay in " + host_->arena().path() + " for the next daemon"));
    }
    DropArena([finish](absl::Status, uint64_t, uint64_t) { finish(absl::OkStatus()); });
  });
}

StackStats StackCore::Stats() {
  NoteUses();
  StackStats stats = stats_;
  stats.epoch = epoch();
  stats.clients = clients_.size();
  stats.leases = leases_.size();
  for (const auto& [number, client] : clients_) {
    if (client.shared == nullptr) continue;
    stats.leases += static_cast<uint64_t>(
        std::count_if(std::begin(client.shared->pins), std::end(client.shared->pins),
                      [](const std::atomic<uint64_t>& pin) { return pin.load() != 0; }));
  }
  stats.reserved_slots = reservations_.size();
  stats.quarantined_slots = quarantine_.size();
  stats.spaces = spaces_.size();
  stats.places = places_.size();
  stats.pins = pins_.size();
  stats.pinned_bytes = host_->HeldBytes();
  stats.misses = 0;
  for (uint64_t count : stats.misses_by_reason) stats.misses += count;
  const auto add = [&](TierKind kind, const Tier& tier, const Counters& counters, uint64_t capacity,
                       const BudgetAccount& account, uint64_t pinned, std::string state) {
    const TierUsage usage = tier.Usage();
    const uint64_t unit = options_.chunk_bytes;
    stats.tiers.push_back({.tier = kind,
                           .capacity_bytes = capacity,
                           .share_bytes = account ? account.share() * unit : capacity,
                           .lent_bytes = account ? account.Held() * unit : capacity,
                           .used_bytes = usage.used_bytes,
                           .ttl_pinned_bytes = pinned,
                           .block_count = usage.block_count,
                           .hits = counters.hits,
                           .evictions = counters.evictions,
                           .promotions = counters.promotions,
                           .demotions = counters.demotions,
                           .bytes_in = counters.bytes_in,
                           .bytes_out = counters.bytes_out,
                           .kept_bytes = usage.kept_bytes,
                           .state = std::move(state)});
  };
  add(TierKind::kWarm, *host_, warm_counters_, host_->arena().capacity_bytes(),
      options_.warm_account, pinned_.warm, WarmState());
  if (cold_ != nullptr) {
    stats.corrupt_blocks += cold_->Usage().corrupt_count;
    add(TierKind::kCold, *cold_, cold_counters_, options_.cold_capacity_bytes,
        options_.cold_account, pinned_.cold, ColdState());
  }
  if (hot_ != nullptr) {
    add(TierKind::kHot, *hot_, hot_counters_, hot_->Usage().capacity_bytes, {}, 0, HotState());
  } else if (options_.open_hot) {
    stats.tiers.push_back({.tier = TierKind::kHot, .state = hot_refusal_});
  }
  return stats;
}

}  // namespace thermocline
