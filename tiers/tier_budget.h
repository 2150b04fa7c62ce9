// How a tier's capacity is divided among the stacks of several tenants. It is lent in units (a
// chunk of the arena; as much disk space), of which each tenant has a share, which is its own
// whenever it wants it, and a quota, which it never exceeds. What nobody uses anybody may borrow,
// up to its quota: memory does not lie idle because of a promise. What was promised comes back.
//
// One rule decides about all of it. A tenant's excess is what it holds beyond its share, and is
// negative below. When nothing is free, the one with the greatest excess owes a unit to the one
// that asks, if it is still no worse off than that one when it has given it. So whoever is below
// its share gets a unit from somebody above (the shares together are not more than there is), and
// what is borrowed evens out. Of several that ask the one with the least excess comes first, and a
// free unit is kept for it.
//
// Nobody is interrupted: who owes is told so, gives units back when they are empty, and those are
// then there for whoever asked. All that is owed follows from what is held and who asks, so there
// is nothing to go out of step.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"

namespace thermocline {

/// Thread: any.
class TierBudget {
 public:
  struct Limits {
    uint64_t share = 0;  // units
    uint64_t quota = 0;
  };
  /// REQUIRES: each share is at most its quota, and their sum at most the capacity.
  TierBudget(uint64_t capacity, std::vector<Limits> members);

  /// Who is told, on any thread and with no lock held, that it owes a unit or that one may have
  /// come free for it. nullptr: nobody.
  void SetWake(size_t member, std::function<void()> wake) TC_EXCLUDES(mutex_);

  /// One unit, if it is to be had now.
  [[nodiscard]] bool Take(size_t member) TC_EXCLUDES(mutex_);
  /// Units that it holds from an earlier life, whether they fit or not; what is too much it owes.
  void Adopt(size_t member, uint64_t units) TC_EXCLUDES(mutex_);
  void Give(size_t member, uint64_t units) TC_EXCLUDES(mutex_);
  /// Asks for one more unit, until one is taken or it is not wanted any more. Whether one will
  /// come.
  bool Want(size_t member) TC_EXCLUDES(mutex_);
  void Unwant(size_t member) TC_EXCLUDES(mutex_);

  uint64_t Held(size_t member) const TC_EXCLUDES(mutex_);
  /// How many units it could take now.
  uint64_t Spare(size_t member) const TC_EXCLUDES(mutex_);
  /// How many it is to give back.
  uint64_t Owed(size_t member) const TC_EXCLUDES(mutex_);
  bool IsBelowShare(size_t member) const TC_EXCLUDES(mutex_);

  uint64_t capacity() const { return capacity_; }
  Limits limits(size_t member) const { return limits_[member]; }

 private:
  struct Debts {
    std::vector<uint64_t> owed;  // by member
    std::vector<bool> served;    // by member: one that asks and will get a unit
  };
  int64_t Excess(size_t member) const TC_REQUIRES(mutex_);
  int64_t Free() const TC_REQUIRES(mutex_);
  uint64_t SpareOf(size_t member) const TC_REQUIRES(mutex_);
  Debts DebtsNow() const TC_REQUIRES(mutex_);
  /// Of those that owe, or ask; to be called with no lock held.
  std::vector<std::function<void()>> Wakes(bool owing) const TC_REQUIRES(mutex_);

  const uint64_t capacity_;
  const std::vector<Limits> limits_;
  mutable Mutex mutex_;
  std::vector<uint64_t> held_ TC_GUARDED_BY(mutex_);
  std::vector<bool> wants_ TC_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> wakes_ TC_GUARDED_BY(mutex_);
};

/// One member's side of a budget; one that is of no budget has everything and owes nothing.
/// Thread: any. Owner: shares the budget.
class BudgetAccount {
 public:
  BudgetAccount() = default;
  BudgetAccount(std::shared_ptr<TierBudget> budget, size_t member)
      : budget_(std::move(budget)), member_(member) {}

  explicit operator bool() const { return budget_ != nullptr; }
  void SetWake(std::function<void()> wake) const {
    if (budget_) budget_->SetWake(member_, std::move(wake));
  }
  [[nodiscard]] bool Take() const { return !budget_ || budget_->Take(member_); }
  void Adopt(uint64_t units) const {
    if (budget_) budget_->Adopt(member_, units);
  }
  void Give(uint64_t units) const {
    if (budget_) budget_->Give(member_, units);
  }
  bool Want() const { return budget_ && budget_->Want(member_); }
  void Unwant() const {
    if (budget_) budget_->Unwant(member_);
  }
  uint64_t Held() const { return budget_ ? budget_->Held(member_) : 0; }
  uint64_t Spare() const { return budget_ ? budget_->Spare(member_) : UINT64_MAX; }
  uint64_t Owed() const { return budget_ ? budget_->Owed(member_) : 0; }
  bool IsBelowShare() const { return budget_ && budget_->IsBelowShare(member_); }
  uint64_t share() const { return budget_ ? budget_->limits(member_).share : 0; }

 private:
  std::shared_ptr<TierBudget> budget_;
  size_t member_ = 0;
};

}  // namespace thermocline
