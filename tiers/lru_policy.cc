#include "tiers/lru_policy.h"

#include "base/check.h"

namespace thermocline {

absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(const std::string& name) {
  if (name == "lru") return std::make_unique<LruPolicy>();
  return absl::InvalidArgumentError("policy '" + name + "' is not known; there is 'lru'");
}

// Entry 0 is the head of the circular list: its younger neighbour is the oldest member.
LruPolicy::LruPolicy() : entries_(1) {}

void LruPolicy::Reserve(size_t members) {
  index_of_.Reserve(members);
  entries_.reserve(members + 1);
}

void LruPolicy::Insert(uint64_t id, uint64_t parent) {
  TC_CHECK(id != 0 && id != parent);
  const Index above = parent == 0 ? 0 : EntryOf(parent);
  const Index index = EntryOf(id);
  Entry& entry = entries_[index];
  TC_CHECK(!entry.member);
  entry.member = true;
  entry.parent = above;
  if (above != 0) ++entries_[above].children;
  ++member_count_;
  const bool below_member = above != 0 && entries_[above].member && entry.children == 0;
  Link(index, below_member ? above : 0);
}

void LruPolicy::Remove(uint64_t id) {
  if (!Contains(id)) return;
  const Index index = *index_of_.Find(id);
  Entry& entry = entries_[index];
  Unlink(index);
  entry.member = false;
  --member_count_;
  const Index above = entry.parent;
  entry.parent = 0;
  if (above != 0) {
    --entries_[above].children;
    Release(above);
  }
  Release(index);
}

bool LruPolicy::Contains(uint64_t id) const {
  const Index* const found = index_of_.Find(id);
  return found != nullptr && entries_[*found].member;
}

void LruPolicy::Touch(std::span<const uint64_t> path) {
  for (size_t i = path.size(); i-- > 0;) {
    const Index* const found = index_of_.Find(path[i]);
    if (found == nullptr || !entries_[*found].member) continue;
    Unlink(*found);
    Link(*found, 0);
  }
}

void LruPolicy::Victims(const std::function<Answer(uint64_t id)>& visit) {
  ++walk_;
  for (Index at = entries_[0].younger; at != 0; at = entries_[at].younger) {
    InThisWalk(at).passed = true;
    // Up from here as far as everything behind has been taken and the list has been passed: a
    // parent that is older than its last child is named right after it.
    for (Index index = at; index != 0;) {
      const Entry& entry = InThisWalk(index);
      if (!entry.member || !entry.passed || entry.taken < entry.children) break;
      const Answer answer = visit(entry.id);
      if (answer == Answer::kStop) return;
      if (answer == Answer::kSkip) break;
      index = entry.parent;
      if (index != 0) ++InThisWalk(index).taken;
    }
  }
}

LruPolicy::Entry& LruPolicy::InThisWalk(Index index) {
  Entry& entry = entries_[index];
  if (entry.walk != walk_) {
    entry.walk = walk_;
    entry.taken = 0;
    entry.passed = false;
  }
  return entry;
}

LruPolicy::Index LruPolicy::EntryOf(uint64_t id) {
  const auto [found, fresh] = index_of_.Insert(id, 0);
  if (!fresh) return *found;
  if (free_.empty()) {
    *found = static_cast<Index>(entries_.size());
    entries_.emplace_back();
  } else {
    *found = free_.back();
    free_.pop_back();
    entries_[*found] = Entry{};
  }
  entries_[*found].id = id;
  return *found;
}

// Forgets an entry that is neither a member nor anybody's parent.
void LruPolicy::Release(Index index) {
  const Entry& entry = entries_[index];
  if (entry.member || entry.children > 0) return;
  index_of_.Erase(entry.id);
  free_.push_back(index);
}

void LruPolicy::Link(Index index, Index older_than) {
  Entry& entry = entries_[index];
  entry.younger = older_than;
  entry.older = entries_[older_than].older;
  entries_[entry.older].younger = index;
  entries_[older_than].older = index;
}

void LruPolicy::Unlink(Index index) {
  const Entry& entry = entries_[index];
  entries_[entry.older].younger = entry.younger;
  entries_[entry.younger].older = entry.older;
}

}  // namespace thermocline
