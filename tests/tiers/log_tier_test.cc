// The log tier: the conformance suite, plain and below a fault tier that does nothing, and what is
// its own.
#include "tiers/log_tier.h"

#include <gmock/gmock.h>

#include "base/units.h"
#include "tests/tiers/tier_conformance.h"
#include "tiers/fault_tier.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kAddedBytes = 2048;  // of the medium, to a segment of one block

std::unique_ptr<Tier> MakeLog(const std::string& directory, uint64_t block_bytes, uint64_t blocks) {
  auto tier =
      LogTier::Open({.directory = directory,
                     .capacity_bytes = blocks * (block_bytes + sizeof(BlockHeader) + kAddedBytes)});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

std::unique_ptr<Tier> MakeFaultless(const std::string& directory, uint64_t block_bytes,
                                    uint64_t blocks) {
  return std::make_unique<FaultTier>(MakeLog(directory, block_bytes, blocks), FaultRates{}, 1);
}

std::string NameOf(const ::testing::TestParamInfo<TierMaker>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Log, TierConformance,
                         ::testing::Values(TierMaker{"Log", true, MakeLog, true},
                                           TierMaker{"FaultlessLog", true, MakeFaultless, true}),
                         NameOf);

}  // namespace
}  // namespace thermocline
