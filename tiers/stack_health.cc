// What is wrong with the tiers, in words for people: in statistics and /readyz for as long as it
// lasts, and in the log when it begins and when it is over. And the timer by which a pump sees in
// time that something takes too long.
#include <algorithm>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

// Timers go off on a grid and soon, so that a stack has few of them whoever waits for how long, and
// because clients let go of what they lease without a message.
constexpr std::chrono::milliseconds kWakeGrid{10};
constexpr std::chrono::milliseconds kLongestWake{100};

}  // namespace

std::string StackCore::ColdState() const {
  const std::string state = cold_->State(), trouble = ColdTrouble();
  if (trouble.empty()) return state;
  return state == "ok" ? trouble : trouble + "; " + state;
}

// "" when there is none that the tier itself does not know of.
std::string StackCore::ColdTrouble() const {
  const std::string dropped = "; what has to leave memory is dropped meanwhile";
  const std::string advice = ": look at the disk of " + options_.data_dir;
  const auto& keys = options_.cold_envelope.keys;
  if (keys != nullptr && keys->ring()->empty()) {
    return "its keys are gone: what they had encrypted is lost" + dropped +
           "; for new ones write a key file and send SIGHUP";
  }
  if (!cold_reads_.is_closed()) {
    return "reads fail or take longer than " + std::to_string(options_.read_deadline.count()) +
           " ms; cold blocks are misses meanwhile" + advice;
  }
  if (ColdJobIsLate()) {
    return "a write takes longer than " + std::to_string(options_.write_deadline.count()) + " ms" +
           dropped + advice;
  }
  if (!cold_writes_.is_closed()) {
    return "the last write failed (" + write_refusal_ + ")" + dropped + advice;
  }
  if (!full_since_) return "";
  return "it is full of blocks in use, or of segments that cannot be given up" + dropped +
         ": raise cold_capacity";
}

std::string StackCore::WarmState() const {
  const std::string state = host_->State();
  const bool hangs = state_write_ && options_.clock->Now() >= state_write_->deadline;
  if (state != "ok" || (state_refusal_.empty() && !hangs)) return state;
  return "spaces and pins cannot be noted (" +
         (hangs ? "the disk does not answer" : state_refusal_) +
         "): the next daemon will not know new ones, nor their blocks; look at the disk of " +
         options_.data_dir;
}

// A pump may find room where the one before found none: full is what took nothing since.
void StackCore::WatchHealth() {
  if (full_since_ && cold_counters_.bytes_in > *full_since_) full_since_.reset();
  if (cold_full_) full_since_ = cold_counters_.bytes_in;
}

void StackCore::TellHealth(TierKind tier, std::string state, std::string& told) const {
  if (state == told) return;
  const bool is_over = state == "ok", begins = told == "ok";
  told = std::move(state);
  if (!is_over && !begins) return;
  LogEvent(is_over ? LogLevel::kInfo : LogLevel::kWarning,
           is_over ? "tier_recovered" : "tier_degraded",
           {{"tenant", options_.name}, {"tier", TierKindName(tier)}, {"state", told}});
}

// Whether the disk has been given something that is waited for only so long.
bool StackCore::IsAwaitingDisk() const {
  return !cold_reads_under_way_.empty() || state_write_ || cold_scrub_.checked ||
         !erasure_waits_.empty();
}

// One timer for all, set again while anybody waits, for the disk too. An earlier deadline sets
// another, which leaves kLongestWake / kWakeGrid at most.
void StackCore::WakeForWaiters() {
  if (waiters_.empty() && fills_.waiters.empty() && !IsAwaitingDisk()) return;
  const SteadyTime now = options_.clock->Now();
  SteadyTime first = now + kLongestWake;
  for (const Waiter& waiter : waiters_) first = std::min(first, waiter.deadline);
  for (const auto& [number, waiter] : fills_.waiters) {
    if (waiter.deadline > now) first = std::min(first, waiter.deadline);
  }
  for (const auto& [ref, read] : cold_reads_under_way_) {
    if (!read.late) first = std::min(first, read.since() + options_.read_deadline);
  }
  first += kWakeGrid - first.time_since_epoch() % kWakeGrid;
  if (wake_at_ && *wake_at_ <= first) return;
  wake_at_ = first;
  const bool taken =
      options_.strand_at(first - now, [weak = std::weak_ptr<StackCore*>(self_), first] {
        const auto self = weak.lock();
        if (!self) return;
        if ((*self)->wake_at_ == first) (*self)->wake_at_.reset();
        (*self)->SchedulePump();
      });
  if (!taken) wake_at_.reset();  // the next pump tries again, with Tick at the latest
}

}  // namespace thermocline
