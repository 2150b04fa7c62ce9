// The host tier: the conformance suite, plain and below a fault tier that does nothing, and what is
// its own: slots filled in place, what a killed daemon leaves, slots of another size.
#include "tiers/host_tier.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/process.h"
#include "base/units.h"
#include "tests/tiers/living_process.h"
#include "tests/tiers/tier_conformance.h"
#include "tiers/fault_tier.h"

namespace thermocline {
namespace {

std::unique_ptr<HostTier> OpenHost(const std::string& directory, uint64_t capacity_bytes,
                                   uint64_t chunk_bytes) {
  auto tier = HostTier::Open({.arena_path = directory + "/arena",
                              .capacity_bytes = capacity_bytes,
                              .chunk_bytes = chunk_bytes,
                              .capacity_option = "warm_capacity"});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

std::unique_ptr<Tier> MakeHost(const std::string& directory, uint64_t block_bytes,
                               uint64_t blocks) {
  return OpenHost(directory, (blocks + 1) * block_bytes, 4 * block_bytes);
}

std::unique_ptr<Tier> MakeFaultless(const std::string& directory, uint64_t block_bytes,
                                    uint64_t blocks) {
  return std::make_unique<FaultTier>(MakeHost(directory, block_bytes, blocks), FaultRates{}, 1);
}

std::string NameOf(const ::testing::TestParamInfo<TierMaker>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Host, TierConformance,
                         ::testing::Values(TierMaker{"Host", true, MakeHost},
                                           TierMaker{"FaultlessHost", true, MakeFaultless}),
                         NameOf);

class HostTierTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBytes = 8192;
  HostTierTest() : self_{::getpid(), *ProcessStartTime(::getpid())} { Reopen(); }
  void Reopen() {
    tier_.reset();
    tier_ = OpenHost(directory_.path(), 64 * KiB, 32 * KiB);
  }
  uint64_t CommitInPlace(uint64_t id, uint64_t bytes = kBytes) {
    const uint64_t offset = tier_->Reserve(bytes, self_)->value();
    const auto payload = TestPayload(id, 0, bytes);
    std::copy(payload.begin(), payload.end(), tier_->Payload(offset, bytes).begin());
    tier_->Commit(offset, TestHeader(id, 0, payload));
    return offset;
  }
  ScratchDirectory directory_;
  const ProcessRef self_;
  std::unique_ptr<HostTier> tier_;
};

TEST_F(HostTierTest, ABlockFilledInPlaceIsABlockOfTheTier) {
  const uint64_t offset = CommitInPlace(1);
  std::vector<std::byte> room(kBytes);
  ASSERT_TRUE(tier_->Get({1, 0}, room)->has_value());
  EXPECT_EQ(room, TestPayload(1, 0, kBytes));
  EXPECT_EQ(tier_->HeaderAt(offset).id, 1u);
  tier_->Free(offset);
  EXPECT_FALSE(tier_->Get({1, 0}, room)->has_value());
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
}

TEST_F(HostTierTest, SlotsRunOutAndComeBack) {
  std::vector<uint64_t> offsets;
  while (const auto offset = *tier_->Reserve(kBytes, self_)) offsets.push_back(*offset);
  EXPECT_EQ(offsets.size(), 8u);
  EXPECT_EQ(tier_->FreeSlots(kBytes), 0u);
  tier_->Free(offsets[3]);
  EXPECT_EQ(*tier_->Reserve(kBytes, self_), offsets[3]);
}

TEST_F(HostTierTest, TheChunkThatComesNextIsTouchedAhead) {
  const auto memory = [&] {
    struct stat file;
    EXPECT_EQ(::stat(tier_->arena().path().c_str(), &file), 0);
    return static_cast<uint64_t>(file.st_blocks) * 512;
  };
  EXPECT_EQ(tier_->ChunkToTouch(), std::nullopt) << "nobody uses the arena yet";
  const auto used = *tier_->Reserve(kBytes, self_);
  ASSERT_TRUE(used.has_value());
  const auto next = tier_->ChunkToTouch();
  ASSERT_TRUE(next.has_value());
  const uint64_t before = memory();
  tier_->TouchChunk(*next);
  EXPECT_EQ(memory() - before, tier_->arena().chunk_bytes());
  EXPECT_EQ(tier_->ChunkToTouch(), std::nullopt);
  tier_->Free(*used);
  ASSERT_TRUE(tier_->PunchEmptyChunks().ok());
  EXPECT_EQ(memory() + tier_->arena().chunk_bytes(), before) << "the one in use, too";
}

TEST(SharedHostTierTest, NoChunkInUseStandsInForOneThatAnotherTook) {
  ScratchDirectory directory;
  const auto budget = std::make_shared<TierBudget>(
      2, std::vector<TierBudget::Limits>{{.share = 0, .quota = 2}, {.share = 0, .quota = 2}});
  auto tier = HostTier::Open({.arena_path = directory.path() + "/arena",
                              .capacity_bytes = 64 * KiB,
                              .chunk_bytes = 32 * KiB,
                              .capacity_option = "warm_capacity",
                              .account = BudgetAccount(budget, 0)});
  ASSERT_TRUE(tier.ok()) << tier.status();
  const ProcessRef self{::getpid(), *ProcessStartTime(::getpid())};
  (*tier)->TouchChunk(0);
  const uint64_t offset = (*tier)->Reserve(8192, self)->value();  // of the chunk touched ahead
  const auto payload = TestPayload(1, 0, 8192);
  std::copy(payload.begin(), payload.end(), (*tier)->Payload(offset, 8192).begin());
  (*tier)->Commit(offset, TestHeader(1, 0, payload));
  ASSERT_TRUE(budget->Take(1));
  (*tier)->TouchChunk(1);
  std::vector<std::byte> room(8192);
  ASSERT_TRUE((*tier)->Get({1, 0}, room)->has_value());
  EXPECT_EQ(room, payload);
  EXPECT_EQ(budget->Held(0), 1u);
}

TEST_F(HostTierTest, ABlockLargerThanAChunkIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(tier_->Reserve(64 * KiB, self_).status()));
}

TEST_F(HostTierTest, AnotherSizeGetsAChunkOnceItIsEmpty) {
  std::vector<uint64_t> offsets;
  for (uint64_t id = 1; id <= 8; ++id) offsets.push_back(CommitInPlace(id));
  EXPECT_EQ(*tier_->Reserve(16 * KiB, self_), std::nullopt);
  tier_->Free(offsets[7]);
  const auto chunks = tier_->ChunksToClearFor(16 * KiB);
  ASSERT_EQ(chunks.size(), 2u);
  const auto clear = tier_->UsedOffsets(chunks[0]);
  EXPECT_EQ(clear.size(), 3u);
  for (uint64_t offset : clear) tier_->Free(offset);
  EXPECT_EQ(tier_->FreeSlots(16 * KiB), 2u);
  EXPECT_TRUE(tier_->Reserve(16 * KiB, self_)->has_value());
}

TEST_F(HostTierTest, AfterARestartOwnGrantsAreFreeAndPayloadsAreNotLookedAt) {
  const uint64_t kept = CommitInPlace(1);
  const uint64_t spoiled = CommitInPlace(2);
  ASSERT_TRUE(tier_->Reserve(kBytes, self_)->has_value());  // never committed
  tier_->Payload(spoiled, kBytes)[5] ^= std::byte{1};
  const uint64_t epoch = tier_->arena().epoch();
  Reopen();
  EXPECT_GT(tier_->arena().epoch(), epoch);
  EXPECT_EQ(tier_->Usage().block_count, 2u);
  EXPECT_EQ(tier_->Usage().used_bytes, 2 * kBytes);
  EXPECT_TRUE(tier_->left_granted().empty());
  EXPECT_EQ(tier_->HeaderAt(kept).id, 1u);
  std::vector<std::byte> room(kBytes);
  EXPECT_TRUE(tier_->Get({1, 0}, room)->has_value());
  EXPECT_FALSE(tier_->Get({2, 0}, room)->has_value()) << "spoiled, and summed at the first use";
  EXPECT_EQ(tier_->Usage().corrupt_count, 1u);
}

TEST_F(HostTierTest, AChunkThatLostPagesHasThemAgainAfterARestart) {
  const uint64_t offset = CommitInPlace(1);
  const int fd = tier_->arena().fd();
  struct stat before;
  ASSERT_EQ(::fstat(fd, &before), 0);
  ASSERT_EQ(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                        kBytes),
            0);
  Reopen();
  struct stat after;
  ASSERT_EQ(::fstat(tier_->arena().fd(), &after), 0);
  EXPECT_EQ(after.st_blocks, before.st_blocks);
  std::vector<std::byte> room(kBytes);
  EXPECT_FALSE(tier_->Get({1, 0}, room)->has_value()) << "its bytes are zeros";
}

TEST_F(HostTierTest, ASlotOfALivingProcessOfTheLastEpochIsHeld) {
  LivingProcess child;
  const ProcessRef other{child.pid(), *ProcessStartTime(child.pid())};
  const uint64_t offset = tier_->Reserve(kBytes, other)->value();
  Reopen();
  ASSERT_EQ(tier_->left_granted().size(), 1u);
  EXPECT_EQ(tier_->left_granted()[0].offset, offset);
  EXPECT_EQ(tier_->left_granted()[0].owner, other);
  EXPECT_EQ(tier_->FreeSlots(kBytes), 7u);
  child.End();
  Reopen();
  EXPECT_TRUE(tier_->left_granted().empty());
  EXPECT_EQ(tier_->FreeSlots(kBytes), 8u);
}

TEST_F(HostTierTest, OfTwoCopiesOfABlockTheLaterOneIsKept) {
  const uint64_t offset = CommitInPlace(1);
  BlockHeader twin = tier_->HeaderAt(offset);
  twin.part = 1;
  twin.Seal();
  const uint64_t second = tier_->Reserve(kBytes, self_)->value();
  tier_->Commit(second, twin);
  tier_.reset();
  {  // as a kill in the midst of a replacement could leave it
    auto arena = Arena::Open({.path = directory_.path() + "/arena",
                              .capacity_bytes = 64 * KiB,
                              .chunk_bytes = 32 * KiB});
    ASSERT_TRUE(arena.ok()) << arena.status();
    auto headers = SlotHeaders::Open(*arena);
    ASSERT_TRUE(headers.ok());
    twin.part = 0;
    twin.sequence += 1000;
    twin.Seal();
    headers->SetFree(static_cast<uint32_t>(second / kPageBytes));
    headers->SetCommitted(static_cast<uint32_t>(second / kPageBytes), twin);
  }
  Reopen();
  EXPECT_EQ(tier_->Usage().block_count, 1u);
  EXPECT_EQ(tier_->Usage().used_bytes, kBytes);
  EXPECT_EQ(tier_->HeaderAt(second).sequence, twin.sequence);
}

TEST_F(HostTierTest, EmptyChunksGiveTheirMemoryBack) {
  const uint64_t offset = CommitInPlace(1);
  tier_->Free(offset);
  ASSERT_TRUE(tier_->PunchEmptyChunks().ok());
  const auto payload = tier_->Payload(offset, kBytes);
  EXPECT_TRUE(std::all_of(payload.begin(), payload.end(),
                          [](std::byte byte) { return byte == std::byte{0}; }));
  EXPECT_EQ(tier_->FreeSlots(kBytes), 8u);
  CommitInPlace(2);
}

}  // namespace
}  // namespace thermocline
