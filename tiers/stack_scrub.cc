// The scrubber: reads warm blocks back and sums them. At first those that nobody has checked since
// they were adopted, as fast as one job after the other goes, so that readers need not sum them;
// from then on all of them, slowly, in turn. A pin of its own keeps each where it is meanwhile.
// What a client says is damaged comes first, at a rate of its own, as the client may be wrong.
// Cold blocks are read back too, segment by segment, at a rate of their own.
#include <algorithm>

#include "base/log.h"
#include "hashing/checksum.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

// Of one job, but one block at least: what it pins cannot give way meanwhile.
constexpr uint64_t kMaxScrubBytes = 8 * MiB;
constexpr uint64_t kMaxScrubShare = 16;  // of the warm tier
constexpr uint64_t kSuspectBytesPerTick = 8 * MiB;
// A small block costs what it takes to come to it, whatever it holds.
constexpr uint64_t kLeastScrubCharge = 64 * KiB;
constexpr uint64_t kMostSavedTicks = 64;  // until there is enough for a large block

}  // namespace

void StackCore::BeginScrubTick() {
  scrub_allowance_ = options_.scrub_bytes_per_tick;
  suspect_allowance_ = kSuspectBytesPerTick;
  DropWhatIsSpoiled();
  Scrub();
}

void StackCore::Suspect(std::span<const BlockRef> blocks) {
  for (const BlockRef ref : blocks) {
    if (suspects_.size() >= kMaxSuspects) break;  // the scrubber comes to them
    if (!spoiled_.contains(ref) && ScrubItemOf(ref)) suspects_.insert(ref);
  }
  Scrub();
}

void StackCore::Scrub() {
  if (scrub_running_ || closing_) return;
  if (!flushes_.empty()) return;  // they would take what it pins for leased
  auto job = std::make_shared<std::vector<ScrubItem>>();
  const uint64_t most = std::min(kMaxScrubBytes, options_.warm_capacity_bytes / kMaxScrubShare);
  uint64_t bytes = 0, charged = 0;
  while (job->size() < kMaxScrubItems && bytes < most) {
    const bool is_suspect = !suspects_.empty() && suspect_allowance_ > 0;
    std::optional<BlockRef> ref;
    if (is_suspect) {
      ref = suspects_.extract(suspects_.begin()).value();
    } else {
      ref = NextToScrub(charged);
      if (!ref) break;
    }
    const auto item = ScrubItemOf(*ref);
    if (!item || (!is_suspect && scrub_first_round_ && item->is_checked)) continue;
    writer_.SetPin(scrub_area_, static_cast<uint32_t>(job->size()), *writer_.PlaceOf(item->ref.id));
    bytes += item->bytes;
    const uint64_t charge = std::max(item->bytes, kLeastScrubCharge);
    if (is_suspect) {
      suspect_allowance_ -= std::min(charge, suspect_allowance_);
    } else {
      charged += charge;
    }
    job->push_back(*item);
  }
  if (job->empty()) return;
  scrub_allowance_ -= std::min(charged, scrub_allowance_);
  scrub_running_ = true;
  options_.work(
      [host = host_, job, strand = options_.strand, weak = std::weak_ptr<StackCore*>(self_)] {
        for (ScrubItem& item : *job) {
          item.right = Checksum(host->Payload(item.offset, item.bytes)) == item.checksum;
        }
        strand([job, weak] {
          if (const auto self = weak.lock()) (*self)->FinishScrub(*job);
        });
      });
}

// In turn. nullopt when the rate allows no more, or a round is over.
std::optional<BlockRef> StackCore::NextToScrub(uint64_t charged) {
  if (options_.scrub_bytes_per_tick == 0 || !MayScrubMore(charged)) return std::nullopt;
  while (scrub_refs_.empty()) {
    if (!NextScrubChunk()) return std::nullopt;
  }
  const BlockRef ref = scrub_refs_.back();
  scrub_refs_.pop_back();
  return ref;
}

// Of the first round everything, of the others what the rate allows until the next tick.
bool StackCore::MayScrubMore(uint64_t bytes) const {
  return scrub_first_round_ || bytes < scrub_allowance_;
}

// False at the end of a round.
bool StackCore::NextScrubChunk() {
  if (scrub_chunk_ == host_->arena().chunk_count()) {
    scrub_chunk_ = 0;
    scrub_first_round_ = false;
    return false;
  }
  // By what they hold, as the chunk may be another's by the time that it comes to them.
  for (const uint64_t offset : host_->UsedOffsets(scrub_chunk_++)) {
    const BlockHeader header = host_->HeaderAt(offset);
    scrub_refs_.push_back({header.id, header.part});
  }
  return true;
}

// nullopt for what is not there any more, or was never (a slot that somebody fills).
std::optional<ScrubItem> StackCore::ScrubItemOf(BlockRef ref) const {
  const auto place = writer_.PlaceOf(ref.id);
  if (!place || ref.part >= places_.at(ref.id).parts.size()) return std::nullopt;
  const Word word = writer_.word(*place, ref.part);
  if (!word.readable_warm()) return std::nullopt;
  const PlaceState& state = places_.at(ref.id);
  return ScrubItem{.ref = ref,
                   .offset = uint64_t{word.warm_slot()} * kPageBytes,
                   .bytes = spaces_.at(state.space).spec.parts[ref.part].block_bytes,
                   .checksum = state.parts[ref.part].checksum,
                   .is_checked = word.checked()};
}

void StackCore::FinishScrub(const std::vector<ScrubItem>& job) {
  scrub_running_ = false;
  for (uint32_t pin = 0; pin < job.size(); ++pin) writer_.SetPin(scrub_area_, pin, Place{});
  for (const ScrubItem& item : job) {
    const auto place = writer_.PlaceOf(item.ref.id);
    if (!place) continue;
    const Word word = writer_.word(*place, item.ref.part);
    if (!word.readable_warm() || uint64_t{word.warm_slot()} * kPageBytes != item.offset) continue;
    if (!item.right) {
      NoteSpoiled(item.ref, *place);
    } else if (!word.checked()) {
      ChangeWord(item.ref.id, *place, item.ref.part, word.WithChecked(true));
    }
  }
  DropWhatIsSpoiled();
  SchedulePump();
  Scrub();
}

// From here on readers sum what did not fit, for as long as it is there.
void StackCore::NoteSpoiled(BlockRef ref, Place place) {
  const Word word = writer_.word(place, ref.part);
  if (!word.readable_warm()) return;
  if (word.checked()) ChangeWord(ref.id, place, ref.part, word.WithChecked(false));
  if (spoiled_.size() < kMaxSuspects) spoiled_[ref] = word.warm_slot();
}

// What is leased, or was in the last epoch, stays until it is not.
void StackCore::DropWhatIsSpoiled() {
  const auto lies_there = [this](BlockRef ref, uint32_t slot) {
    const auto place = writer_.PlaceOf(ref.id);
    if (!place) return false;
    const Word word = writer_.word(*place, ref.part);
    return word.readable_warm() && !word.checked() && word.warm_slot() == slot;
  };
  for (auto at = spoiled_.begin(); at != spoiled_.end();) {
    const auto [ref, slot] = *at;
    if (lies_there(ref, slot)) {
      const PlaceState& state = places_.at(ref.id);
      const bool stays = state.busy() || (grace_ && state.parts[ref.part].adopted);
      if (!stays) DropSpoiled(ref, *writer_.PlaceOf(ref.id));
    }
    at = lies_there(ref, slot) ? std::next(at) : spoiled_.erase(at);
  }
}

// ---- cold

void StackCore::Check(FlushCallback done) {
  const absl::Status audit = Audit();
  if (!audit.ok() || cold_ == nullptr || closing_ || cold_scrub_.checked) {
    absl::Status status = audit;
    if (closing_) status.Update(absl::UnavailableError("the daemon is shutting down"));
    if (cold_scrub_.checked) status.Update(absl::UnavailableError("another check is under way"));
    return PostStrand([done = std::move(done), status](StackCore&) { done(status, 0, 0); });
  }
  BeginRound().checked = std::move(done);
  SchedulePump();
}

// From the first segment on; what is under way goes on.
ColdScrub& StackCore::BeginRound() {
  ColdScrub fresh{.running = cold_scrub_.running,
                  .start = cold_scrub_.start,
                  .late = cold_scrub_.late,
                  .probes = cold_scrub_.probes,
                  .round = cold_scrub_.round + 1,
                  .moved = options_.clock->Now()};
  return cold_scrub_ = std::move(fresh);
}

void StackCore::EndCheck(absl::Status status) {
  const FlushCallback done = std::move(cold_scrub_.checked);
  const uint64_t blocks = cold_scrub_.blocks, damaged = cold_scrub_.damaged;
  if (cold_scrub_.sealed > 0) {
    LogEvent(LogLevel::kInfo, "cold_blocks_without_key",
             {{"blocks", cold_scrub_.sealed}, {"data_dir", options_.data_dir}});
  }
  BeginRound();
  done(std::move(status), blocks, damaged);
}

// A job or a read that hangs is not waited for.
void StackCore::WatchCheck() {
  if (!cold_scrub_.checked) return;
  if (options_.clock->Now() < cold_scrub_.moved + options_.write_deadline) return;
  EndCheck(absl::UnavailableError("the disk of " + options_.data_dir + " does not answer"));
}

void StackCore::ScrubCold() {
  ColdScrub& scrub = cold_scrub_;
  const uint64_t rate = options_.cold_scrub_bytes_per_tick;
  if (cold_ == nullptr || scrub.running || (rate == 0 && !scrub.checked)) return;
  if (closing_ || !cold_reads_.Allows()) {
    if (!scrub.checked) return;
    return EndCheck(absl::UnavailableError("the cold tier is not read: " + ColdState()));
  }
  if (job_running_) return;  // what it writes or erases is not to be told from damage
  scrub.allowance =
      std::min(scrub.allowance + rate, std::max(rate * kMostSavedTicks, uint64_t{kMaxPartBytes}));
  if (scrub.checked) scrub.allowance = kMaxPartBytes;  // of one job
  while (scrub.refs.empty()) {
    if (!NextScrubSegment()) return scrub.checked ? EndCheck(absl::OkStatus()) : void();
    if (!scrub.checked) break;
  }
  auto items = std::make_shared<std::vector<ColdItem>>();
  while (!scrub.refs.empty() && items->size() < kMaxScrubItems) {
    const BlockRef ref = scrub.refs.back();
    const uint64_t bytes = HasColdCopy(ref) ? BytesOf(ref) : 0;
    if (std::max(bytes, kLeastScrubCharge) > scrub.allowance) break;
    scrub.refs.pop_back();
    if (bytes == 0) continue;
    scrub.allowance -= std::max(bytes, kLeastScrubCharge);
    ColdItem& item = items->emplace_back();
    item.ref = ref;
    item.bytes = bytes;
  }
  scrub.blocks += items->size();
  if (items->empty()) return scrub.checked ? SchedulePump() : void();
  const auto start = std::make_shared<ReadStart>();
  scrub.running = true;
  scrub.start = start;
  scrub.late = false;
  scrub.probes = !cold_reads_.is_closed();
  cold_reads_.Try();
  options_.disk([cold = cold_, items, strand = options_.strand, jobs = cold_jobs_,
                 round = scrub.round, clock = options_.clock, start,
                 weak = std::weak_ptr<StackCore*>(self_)] {
    std::vector<std::byte> payload;
    for (ColdItem& item : *items) {
      payload.resize(item.bytes);
      start->at = clock->Now();
      item.found = ReadWhole(*cold, item.ref, payload);
    }
    strand([items, jobs, round, weak] {
      if (const auto self = weak.lock()) (*self)->FinishScrubCold(*items, jobs, round);
    });
  });
}

// False behind the last one; then the next is the first.
bool StackCore::NextScrubSegment() {
  auto segment = cold_->SegmentFrom(cold_scrub_.next);
  cold_scrub_.next = segment ? segment->sequence + 1 : 0;
  if (segment) cold_scrub_.refs = std::move(segment->blocks);
  return segment.has_value();
}

// What could not be read whole may lack if the tier has been written since: it is read once more.
void StackCore::FinishScrubCold(const std::vector<ColdItem>& items, uint64_t jobs, uint64_t round) {
  cold_scrub_.running = false;
  const bool is_tallied = round == cold_scrub_.round;
  if (is_tallied) cold_scrub_.moved = options_.clock->Now();
  uint64_t unread = 0;
  for (const ColdItem& item : items) {
    const bool is_ours = HasColdCopy(item.ref);
    const absl::Status verdict = is_ours ? Judge(item.ref, item.found) : item.found.status();
    const bool is_sealed =
        absl::IsFailedPrecondition(verdict) || cold_scrub_.keyless.contains(item.ref);
    const bool is_damaged = absl::IsDataLoss(verdict);
    const bool is_gone = verdict.ok() && !item.found->has_value();
    const bool is_wrong = is_gone || is_damaged || is_sealed;
    if (!verdict.ok() && !is_wrong) ++unread;
    if (!is_wrong || !is_ours) continue;
    if (jobs != cold_jobs_ || places_.at(item.ref.id).busy()) {
      if (!is_tallied) continue;  // the next round comes to it
      if (is_sealed) cold_scrub_.keyless.insert(item.ref);
      cold_scrub_.refs.push_back(item.ref);
      --cold_scrub_.blocks;
      continue;
    }
    if (is_damaged) NoteDamage(item.ref, verdict);
    DropUnusableCopy(item.ref);
    if (is_tallied) ++(is_sealed ? cold_scrub_.sealed : cold_scrub_.damaged);
  }
  // Success says something of the disk only when nothing else is read.
  if (unread > 0) FailRead("blocks cannot be read back");
  if (unread == 0 && cold_scrub_.probes && !cold_scrub_.late) cold_reads_.Succeeded();
  if (is_tallied && cold_scrub_.checked && unread > 0) {
    return EndCheck(absl::UnavailableError(std::to_string(unread) +
                                           " blocks cannot be read: look at the disk of " +
                                           options_.data_dir));
  }
  if (cold_scrub_.checked) SchedulePump();
}

}  // namespace thermocline
