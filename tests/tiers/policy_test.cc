// The contract of a policy, run over every policy by name, and the order that is LRU's own.
#include "tiers/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "tests/tiers/scratch_directory.h"

namespace thermocline {
namespace {

using Answer = Policy::Answer;

class PolicyConformance : public ::testing::TestWithParam<std::string> {
 protected:
  PolicyConformance() : policy_(*MakePolicy(GetParam())) {}
  std::vector<uint64_t> Named(const std::set<uint64_t>& skipped = {}, size_t limit = SIZE_MAX) {
    std::vector<uint64_t> named;
    policy_->Victims([&](uint64_t id) {
      if (named.size() == limit) return Answer::kStop;
      if (skipped.contains(id)) return Answer::kSkip;
      named.push_back(id);
      return Answer::kTake;
    });
    return named;
  }
  std::unique_ptr<Policy> policy_;
};

TEST_P(PolicyConformance, EmptyNamesNobody) {
  EXPECT_TRUE(Named().empty());
  policy_->Remove(5);
  EXPECT_EQ(policy_->size(), 0u);
}

TEST_P(PolicyConformance, AChainGoesFromItsLeaf) {
  for (uint64_t id = 1; id <= 5; ++id) policy_->Insert(id, id - 1);
  EXPECT_EQ(Named(), (std::vector<uint64_t>{5, 4, 3, 2, 1}));
  EXPECT_EQ(Named({}, 2), (std::vector<uint64_t>{5, 4}));
  EXPECT_EQ(policy_->size(), 5u);
}

TEST_P(PolicyConformance, NobodyAboveASkippedPlaceIsNamed) {
  for (uint64_t id = 1; id <= 3; ++id) policy_->Insert(id, id - 1);
  for (uint64_t id = 11; id <= 13; ++id) policy_->Insert(id, id == 11 ? 2 : id - 1);
  const auto named = Named({3});
  EXPECT_EQ(std::set<uint64_t>(named.begin(), named.end()), (std::set<uint64_t>{11, 12, 13}));
}

TEST_P(PolicyConformance, AParentThatCameLaterWaitsForItsChildren) {
  policy_->Insert(2, 1);
  policy_->Insert(3, 1);
  policy_->Insert(1, 0);
  const auto named = Named();
  ASSERT_EQ(named.size(), 3u);
  EXPECT_EQ(named.back(), 1u);
  policy_->Remove(1);
  policy_->Insert(1, 0);
  EXPECT_EQ(Named({2}), (std::vector<uint64_t>{3}));
}

TEST_P(PolicyConformance, RandomForestsAreNamedWholeAndLeafFirst) {
  const uint64_t seed = TestSeed(21);
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::map<uint64_t, uint64_t> parent_of;  // every id that ever was
  std::set<uint64_t> members;
  for (uint64_t id = 1; id <= 60; ++id) parent_of[id] = random() % id;
  for (int step = 0; step < 3000; ++step) {
    const uint64_t id = 1 + random() % 60;
    switch (random() % 4) {
      case 0:
        if (members.insert(id).second) policy_->Insert(id, parent_of[id]);
        break;
      case 1:
        policy_->Remove(id);
        members.erase(id);
        break;
      case 2: {
        std::vector<uint64_t> path;
        for (uint64_t at = id; at != 0; at = parent_of[at]) path.insert(path.begin(), at);
        policy_->Touch(path);
        break;
      }
      default: {
        std::set<uint64_t> skipped;
        for (int i = 0; i < 3; ++i) skipped.insert(1 + random() % 60);
        std::set<uint64_t> gone;
        for (uint64_t victim : Named(skipped)) {
          ASSERT_TRUE(members.contains(victim));
          ASSERT_TRUE(gone.insert(victim).second) << "named twice";
          for (const auto& [child, parent] : parent_of) {
            ASSERT_TRUE(parent != victim || !members.contains(child) || gone.contains(child));
          }
        }
        for (uint64_t member : members) {  // whoever stays has a reason: a skipped one behind it
          if (gone.contains(member)) continue;
          bool held = skipped.contains(member);
          for (uint64_t other : members) {
            held = held || (parent_of[other] == member && !gone.contains(other));
          }
          ASSERT_TRUE(held) << member << " was not named at step " << step;
        }
      }
    }
    ASSERT_EQ(policy_->size(), members.size());
    ASSERT_EQ(policy_->Contains(id), members.contains(id));
  }
}

TEST_P(PolicyConformance, AFullBudgetAdmitsAllAndMoreOfItNothingLess) {
  for (uint64_t id = 1; id <= 20; ++id) policy_->Insert(id, id % 4 == 1 ? 0 : id - 1);
  policy_->Touch(std::vector<uint64_t>{1, 2, 3});
  policy_->Victims([&](uint64_t id) {
    for (const bool is_reused : {false, true}) {
      EXPECT_TRUE(policy_->Admits(id, is_reused, 1)) << id;
      bool admitted = false;
      for (int percent = 1; percent <= 100; ++percent) {
        const bool admits = policy_->Admits(id, is_reused, percent / 100.);
        EXPECT_TRUE(admits || !admitted) << id << " at " << percent;
        admitted = admits;
      }
    }
    return Answer::kTake;
  });
  EXPECT_EQ(policy_->size(), 20u);
}

INSTANTIATE_TEST_SUITE_P(All, PolicyConformance, ::testing::Values("lru"));

TEST(MakePolicyTest, AnUnknownNameIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(MakePolicy("fifo").status()));
}

TEST(LruPolicyTest, TheOldestLeafGoesFirst) {
  auto policy = *MakePolicy("lru");
  for (uint64_t id : {1, 2, 3}) policy->Insert(id, 0);
  policy->Insert(4, 1);
  std::vector<uint64_t> first;
  policy->Touch(std::vector<uint64_t>{1, 4});
  policy->Touch(std::vector<uint64_t>{2});
  policy->Victims([&](uint64_t id) {
    first.push_back(id);
    return Answer::kTake;
  });
  EXPECT_EQ(first, (std::vector<uint64_t>{3, 4, 1, 2}));
}

TEST(LruPolicyTest, AgreesWithASimpleModelOnFlatMembers) {
  const uint64_t seed = TestSeed(22);
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  auto policy = *MakePolicy("lru");
  std::vector<uint64_t> order;  // oldest first
  for (int step = 0; step < 2000; ++step) {
    const uint64_t id = 1 + random() % 20;
    const auto at = std::find(order.begin(), order.end(), id);
    if (at == order.end()) {
      policy->Insert(id, 0);
    } else {
      order.erase(at);
      policy->Touch(std::vector<uint64_t>{id});
    }
    order.push_back(id);
    if (order.size() == 15) {
      uint64_t victim = 0;
      policy->Victims([&](uint64_t named) {
        victim = named;
        return Answer::kStop;
      });
      ASSERT_EQ(victim, order.front());
      policy->Remove(victim);
      order.erase(order.begin());
    }
  }
}

TEST(LruPolicyTest, WithLittleBudgetOnlyWhatWasUsedAgainIsAdmitted) {
  auto policy = *MakePolicy("lru");
  for (uint64_t id : {1, 2}) policy->Insert(id, 0);
  EXPECT_TRUE(policy->Admits(1, false, .51));
  EXPECT_FALSE(policy->Admits(1, false, .5));
  EXPECT_TRUE(policy->Admits(2, true, .01));
}

}  // namespace
}  // namespace thermocline
