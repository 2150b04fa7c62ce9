// Who goes first, and what of it is worth a write: the contract of an eviction policy over the
// blocks of one tier. It knows places by id and who stands behind whom; what may not go at the
// moment (leased, pinned, on the move) it learns from the answers of the one who asks. One
// conformance suite runs over every policy (tests/tiers/policy_test.cc).
//
// A member is a place that has bytes in the tier. Members form a forest: the parent of a member may
// be no member itself (its bytes are elsewhere), and is then remembered by its id only.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace thermocline {

/// Thread: one.
class Policy {
 public:
  virtual ~Policy() = default;

  /// Room for so many members in all.
  virtual void Reserve(size_t members) = 0;
  /// This one will be inserted soon.
  virtual void Prefetch(uint64_t id) const = 0;
  /// A new member, just used. `parent` 0: it stands at a root.
  /// REQUIRES: `id` is no member.
  virtual void Insert(uint64_t id, uint64_t parent) = 0;
  /// Absent is fine; what stands behind it stays.
  virtual void Remove(uint64_t id) = 0;
  virtual bool Contains(uint64_t id) const = 0;
  /// The path from a root to where a use ended, root first. Ids that are no members are skipped.
  virtual void Touch(std::span<const uint64_t> path) = 0;

  enum class Answer { kTake, kSkip, kStop };
  /// Names members in the order in which they should go, each at most once, and none before all
  /// members that stand right behind it were named and taken. kTake: it goes (the caller removes it
  /// when it is gone); kSkip: it may not go now, so nobody above it is named either.
  /// REQUIRES: `visit` calls none of the others but Admits.
  virtual void Victims(const std::function<Answer(uint64_t id)>& visit) = 0;

  /// Whether a member that must leave may be written to the tier below, whose medium wears and has
  /// a budget of writes (tiers/write_budget.h). `budget_left` in (0, 1]: the share of its most that
  /// is there; `is_reused`: it was used again since it came. Here: everything while more than half
  /// is there, then only what was used again (second touch). A policy may prefer otherwise, but
  /// takes everything of a full budget, and with more of it nothing less. May be asked by a
  /// `visit`.
  virtual bool Admits(uint64_t /*id*/, bool is_reused, double budget_left) const {
    return is_reused || budget_left > .5;
  }

  virtual size_t size() const = 0;
};

/// Errors: InvalidArgument for a name that is not "lru".
absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(const std::string& name);

}  // namespace thermocline
