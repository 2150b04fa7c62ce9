// A stack with a hot tier above, and how blocks come there.
#pragma once
#include <algorithm>
#include <vector>

#include "tests/tiers/stack_fixture.h"

namespace thermocline {

inline const SteppedStack::Sizes kHotSizes{
    .warm_blocks = 16, .cold_blocks = 128, .chunk_blocks = 8, .hot_blocks = 16};

class StackHotTest : public StackTest {
 protected:
  void SetUp() override { Use(kHotSizes); }
  TierStats Hot() {
    for (const TierStats& tier : (*stack_)->Stats().tiers) {
      if (tier.tier == TierKind::kHot) return tier;
    }
    ADD_FAILURE() << "there is no hot tier";
    return {};
  }
  void UseAgain(const std::vector<Name>& names) { client_->Release(client_->Match(names)); }
  /// Writes until all that is older has left memory.
  void Fill() {
    for (int i = 0; i < 6; ++i) {
      Write(TestPath(1000 + ++filled_, 4));
      stack_->Settle();
    }
  }
  /// A path that is there, by being used again.
  std::vector<Name> WriteHot(uint64_t blocks = 4) {
    const auto names = TestPath(1, blocks);
    Write(names);
    UseAgain(names);
    Fill();
    return names;
  }
  uint64_t HotBlocksOf(const LeaseView& lease) {
    return static_cast<uint64_t>(
        std::count_if(lease.blocks.begin(), lease.blocks.end(),
                      [](const BlockView& block) { return block.tier == TierKind::kHot; }));
  }
  /// Loads a path to its end, every byte of it checked; how many of its blocks were hot.
  uint64_t LoadAll(const std::vector<Name>& names) {
    const LeaseView lease = client_->Match(names);
    EXPECT_EQ(lease.depth, names.size());
    const uint64_t hot = HotBlocksOf(lease);
    EXPECT_EQ(client_->Load(lease, names), names.size());
    client_->Release(lease);
    return hot;
  }
  /// Commits a path of one block whose bytes are not those that Write gives it.
  void WriteOtherBytes(const std::vector<Name>& names) {
    const auto slots = client_->Reserve(1);
    ASSERT_EQ(slots.size(), 1u);
    const auto bytes = (*stack_)->SlotPayload(slots[0], kTestBlockBytes);
    std::fill(bytes.begin(), bytes.end(), std::byte{9});
    const LeaseView root = client_->Match({});
    const std::vector<CommitItem> items = {{slots[0], 0, 0, Checksum(bytes)}};
    const auto view = (*stack_)->Commit(client_->number(), root.lease, names, items);
    ASSERT_TRUE(view.ok()) << view.status();
    ASSERT_EQ(view->blocks.size(), 1u);
    EXPECT_EQ(view->blocks[0].tier, TierKind::kWarm);
    EXPECT_EQ(view->blocks[0].checksum, Checksum(bytes));
    client_->Release(*view);
  }
  void Tick() {
    (*stack_)->Tick();
    stack_->Settle();
  }

  uint64_t filled_ = 0;
};

}  // namespace thermocline
