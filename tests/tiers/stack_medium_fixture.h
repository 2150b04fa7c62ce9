// For tests of a cold medium in trouble, whose disk is stepped by hand.
#pragma once
#include "tests/tiers/stack_fixture.h"

namespace thermocline {

inline uint64_t Misses(SteppedStack& stack, MissReason reason) {
  return stack->Stats().misses_by_reason[static_cast<size_t>(reason)];
}

class StackMediumTest : public StackTest {
 protected:
  // Of `names` in cold, which is left to do by hand.
  void BeginLoad(const std::vector<Name>& names) {
    (*stack_)->Load(
        client_->number(), client_->Match(names).lease,
        [this](std::vector<BlockView> blocks) {
          ready_ += blocks.size();
          return true;
        },
        [this](absl::Status status) {
          EXPECT_TRUE(status.ok()) << status;
          done_ = true;
        });
  }

  size_t ready_ = 0;
  bool done_ = false;
};

}  // namespace thermocline
