// Blocks that stay where they are while somebody copies them outside the strand: each hold has pins
// of its own, which the writer respects as it does a reader's.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "catalog/writer.h"
#include "tiers/tier_stack.h"

namespace thermocline {

/// Thread: the stack's strand. Owner: borrows the writer.
class StackHolds {
 public:
  explicit StackHolds(Writer& writer) : writer_(writer) {}
  /// As TierStack::Hold.
  TierStack::Held Hold(std::span<const BlockView> blocks);
  void LetGo(uint64_t number);

 private:
  struct Pinned {
    std::vector<std::atomic<uint64_t>> pins;
    uint32_t area = 0;
  };
  Writer& writer_;
  std::map<uint64_t, Pinned> holds_;
  uint64_t last_ = 0;
};

}  // namespace thermocline
