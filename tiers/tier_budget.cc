#include "tiers/tier_budget.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace thermocline {

TierBudget::TierBudget(uint64_t capacity, std::vector<Limits> members)
    : capacity_(capacity),
      limits_(std::move(members)),
      held_(limits_.size()),
      wants_(limits_.size()),
      wakes_(limits_.size()) {
  uint64_t shares = 0;
  for (const Limits& limits : limits_) {
    TC_CHECK(limits.share <= limits.quota);
    shares += limits.share;
  }
  TC_CHECK(shares <= capacity_);
}

void TierBudget::SetWake(size_t member, std::function<void()> wake) {
  MutexLock lock(mutex_);
  wakes_[member] = std::move(wake);
}

bool TierBudget::Take(size_t member) {
  MutexLock lock(mutex_);
  if (SpareOf(member) == 0) return false;
  ++held_[member];
  wants_[member] = false;
  return true;
}

void TierBudget::Adopt(size_t member, uint64_t units) {
  MutexLock lock(mutex_);
  held_[member] += units;
}

void TierBudget::Give(size_t member, uint64_t units) {
  std::vector<std::function<void()>> wakes;
  {
    MutexLock lock(mutex_);
    TC_CHECK(units <= held_[member]);
    held_[member] -= units;
    wakes = Wakes(false);
  }
  for (const auto& wake : wakes) wake();
}

bool TierBudget::Want(size_t member) {
  std::vector<std::function<void()>> wakes;
  bool comes = false;
  {
    MutexLock lock(mutex_);
    if (held_[member] >= limits_[member].quota) return false;
    const bool is_new = !wants_[member];
    wants_[member] = true;
    comes = DebtsNow().served[member];
    // Where nothing can come there is nothing to ask for: the next attempt asks anew.
    if (!comes) wants_[member] = false;
    if (comes && is_new) wakes = Wakes(true);
  }
  for (const auto& wake : wakes) wake();
  return comes;
}

void TierBudget::Unwant(size_t member) {
  std::vector<std::function<void()>> wakes;
  {
    MutexLock lock(mutex_);
    if (!wants_[member]) return;
    wants_[member] = false;
    wakes = Wakes(false);
  }
  for (const auto& wake : wakes) wake();
}

uint64_t TierBudget::Held(size_t member) const {
  MutexLock lock(mutex_);
  return held_[member];
}

uint64_t TierBudget::Spare(size_t member) const {
  MutexLock lock(mutex_);
  return SpareOf(member);
}

uint64_t TierBudget::Owed(size_t member) const {
  MutexLock lock(mutex_);
  return DebtsNow().owed[member];
}

bool TierBudget::IsBelowShare(size_t member) const {
  MutexLock lock(mutex_);
  return Excess(member) < 0;
}

int64_t TierBudget::Excess(size_t member) const {
  return static_cast<int64_t>(held_[member]) - static_cast<int64_t>(limits_[member].share);
}

int64_t TierBudget::Free() const {
  const uint64_t held = std::accumulate(held_.begin(), held_.end(), uint64_t{0});
  return static_cast<int64_t>(capacity_) - static_cast<int64_t>(held);
}

uint64_t TierBudget::SpareOf(size_t member) const {
  int64_t free = Free();
  for (size_t other = 0; other < limits_.size(); ++other) {
    if (other != member && wants_[other] && Excess(other) < Excess(member)) --free;
  }
  const uint64_t quota = limits_[member].quota;
  const uint64_t left = quota - std::min(held_[member], quota);
  return std::min(left, static_cast<uint64_t>(std::max<int64_t>(free, 0)));
}

TierBudget::Debts TierBudget::DebtsNow() const {
  Debts debts{std::vector<uint64_t>(limits_.size()), std::vector<bool>(limits_.size())};
  std::vector<int64_t> excess(limits_.size());
  std::vector<size_t> asking;
  int64_t free = Free();
  const auto owe = [&](size_t member) {
    ++debts.owed[member];
    --excess[member];
    ++free;
  };
  for (size_t member = 0; member < limits_.size(); ++member) {
    excess[member] = Excess(member);
    for (uint64_t over = held_[member]; over > limits_[member].quota; --over) owe(member);
    if (wants_[member]) asking.push_back(member);
  }
  std::stable_sort(asking.begin(), asking.end(),
                   [&](size_t a, size_t b) { return excess[a] < excess[b]; });
  const auto richest = [&] {
    return static_cast<size_t>(std::max_element(excess.begin(), excess.end()) - excess.begin());
  };
  while (free < 0) owe(richest());  // more was adopted than there is
  for (const size_t member : asking) {
    if (free <= 0) {
      const size_t lender = richest();
      if (excess[lender] < 1 || excess[lender] < excess[member] + 2) continue;
      owe(lender);
    }
    --free;
    debts.served[member] = true;
  }
  return debts;
}

std::vector<std::function<void()>> TierBudget::Wakes(bool owing) const {
  std::vector<std::function<void()>> wakes;
  const Debts debts = owing ? DebtsNow() : Debts{};
  for (size_t member = 0; member < limits_.size(); ++member) {
    const bool concerned = owing ? debts.owed[member] > 0 : static_cast<bool>(wants_[member]);
    if (concerned && wakes_[member]) wakes.push_back(wakes_[member]);
  }
  return wakes;
}

}  // namespace thermocline
