// How a stack makes room in its cold tier and keeps its segments few, over a disk that refuses, and
// what it makes of copies that the tier has lost by itself.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>

#include "base/file_util.h"
#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/stack_fixture.h"
#include "tests/tiers/test_blocks.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using ::testing::HasSubstr;

class StackRoomTest : public StackTest {
 protected:
  TierStats Cold() { return (*stack_)->Stats().tiers[1]; }
  // Blocks of their own, until the cold tier is full, every fourth of them pinned.
  void FillCold(uint64_t blocks) {
    for (uint64_t i = 0; i < blocks; ++i) {
      Write(TestNames({i + 1}));
      if (i % 4 == 0) {
        ASSERT_TRUE((*stack_)
                        ->Pin(space_, TestNames({i + 1}), std::chrono::hours(24), TierKind::kNone)
                        .ok());
      }
      if (i % 4 == 3) FlushTier(*stack_, TierKind::kWarm);
    }
  }
  void WriteForAWhile(uint64_t first, std::chrono::seconds time) {
    for (auto gone = std::chrono::seconds(0); gone < time; gone += std::chrono::seconds(1)) {
      Write(TestNames({first++}));
      (*stack_)->Tick();
      stack_->Settle();
      stack_->Advance(std::chrono::seconds(1));
    }
  }
  void CommitAndWait(const std::vector<Name>& names) {
    CommitDurably(names);
    stack_->Advance(milliseconds(20));
    stack_->Settle();
  }
};

TEST_F(StackRoomTest, ADiskThatRefusesToGiveRoomCostsNoBlock) {
  for (const bool keeps_only : {false, true}) {
    Use({.warm_blocks = 8, .cold_blocks = 32, .chunk_blocks = 8});
    FillCold(40);
    const TierStats before = Cold();
    ASSERT_GT(before.block_count, 20u);
    ASSERT_GT(before.evictions, 0u) << "it is full";
    const FaultRates faults = keeps_only ? FaultRates{.keep = 1} : FaultRates{.error = 1};
    stack_->SetFaults(faults);
    WriteForAWhile(1000, std::chrono::seconds(60));
    ExpectBooksAgree();
    if (keeps_only) {  // what cannot be read says nothing of writes
      EXPECT_THAT(Cold().state, ::testing::Not(HasSubstr("the last write failed")));
    }
    stack_->SetFaults({});
    EXPECT_GE(Cold().block_count, before.block_count);
    EXPECT_EQ(Cold().evictions, before.evictions);
    stack_->Advance(minutes(20));  // whatever seemed stuck
    WriteForAWhile(2000, std::chrono::seconds(60));
    EXPECT_GT(Cold().evictions, before.evictions);
    EXPECT_LE(Cold().used_bytes, Cold().capacity_bytes + kTestBlockBytes);
    for (uint64_t i = 0; i < 40; i += 4) {
      EXPECT_EQ(client_->Match(TestNames({i + 1})).depth, 1u) << "pinned " << i;
    }
    ExpectBooksAgree();
    client_.reset();
  }
}

// What stands behind a block that goes has come when it was to go already, and is to be written.
TEST_F(StackRoomTest, WhatIsCommittedBehindALeavingBlockStaysThere) {
  Use({.warm_blocks = 8, .cold_blocks = 16, .chunk_blocks = 8});
  for (uint64_t i = 1; i <= 12; ++i) {
    Write(TestNames({i}));
    if (i % 4 == 0) FlushTier(*stack_, TierKind::kWarm);
  }
  for (uint64_t i = 13; i <= 16; ++i) Write(TestNames({i}));
  const auto ignore = [](const absl::Status&, uint64_t, uint64_t) {};
  (*stack_)->Flush(TierKind::kWarm, ignore);
  StepStrand();
  ASSERT_EQ(stack_->disk_tasks(), 1u);
  ASSERT_EQ(client_->Match(TestNames({1})).depth, 0u) << "it leaves";
  EXPECT_FALSE((*stack_)->Pin(space_, TestNames({1}), std::chrono::hours(1), TierKind::kNone).ok());
  const auto names = TestNames({1, 99});
  const LeaseView lease = client_->Match({});
  std::vector<uint64_t> slots;
  (*stack_)->Reserve(
      client_->number(), space_, 0, 1, milliseconds(0),
      [&](absl::StatusOr<std::vector<uint64_t>> result) { slots = *std::move(result); });
  StepStrand();
  ASSERT_EQ(slots.size(), 1u);
  const CommitItem item = client_->Fill(slots[0], 1, 0, names);
  ASSERT_TRUE((*stack_)->Commit(client_->number(), lease.lease, names, {&item, 1}).ok());
  client_->Release(lease);
  (*stack_)->Flush(TierKind::kWarm, ignore);  // which plans its write
  stack_->Settle();
  EXPECT_GT(Cold().evictions, 0u);
  ExpectBooksAgree();
  Write(TestNames({1}));
  EXPECT_EQ(client_->Match(names).depth, 2u);
}

TEST_F(StackRoomTest, ASegmentThatStaysIsTriedAgainSoon) {
  Use({.warm_blocks = 8, .cold_blocks = 32, .chunk_blocks = 8});
  FillCold(40);
  stack_->SetFaults({.keep = 1});
  WriteForAWhile(1000, std::chrono::seconds(12));  // twice
  stack_->SetFaults({});
  stack_->Advance(std::chrono::seconds(61));
  const uint64_t evictions = Cold().evictions;
  WriteForAWhile(2000, std::chrono::seconds(20));
  EXPECT_GT(Cold().evictions, evictions);
  EXPECT_EQ(client_->Match(TestNames({2})).depth, 0u) << "the oldest went first";
}

TEST_F(StackRoomTest, WhatIsHeldByAWriteThatHangsMayBeDropped) {
  Use({.warm_blocks = 16, .chunk_blocks = 16, .durability = Durability::kAck});
  CommitDurably(TestNames({1}));
  stack_->Advance(milliseconds(20));
  StepStrand();
  ASSERT_EQ(stack_->disk_tasks(), 1u);
  for (uint64_t i = 2; i <= 12; ++i) CommitDurably(TestNames({i}));
  stack_->Advance(milliseconds(20));
  StepStrand();  // planned behind the job that hangs
  stack_->Advance(StackOptions().write_deadline);
  (*stack_)->Tick();
  StepStrand();
  EXPECT_EQ(answers_.size(), 12u);
  std::vector<uint64_t> slots;
  (*stack_)->Reserve(
      client_->number(), space_, 0, 12, milliseconds(5000),
      [&](absl::StatusOr<std::vector<uint64_t>> result) { slots = *std::move(result); });
  StepStrand();
  EXPECT_EQ(slots.size(), 12u);
  stack_->Settle();
  ExpectBooksAgree();
}

TEST_F(StackRoomTest, SmallSegmentsFoldAmongLargeOnes) {
  Use({.warm_blocks = 1024,
       .cold_blocks = 4096,
       .chunk_blocks = 1024,
       .durability = Durability::kAck});
  std::vector<Name> large;
  for (uint64_t round = 0; round < 8; ++round) {
    for (uint64_t i = 0; i < 10; ++i) CommitAndWait(TestPath(1000 * (round + 1) + i, 3));
    large.clear();
    for (uint64_t i = 0; i < 80; ++i) large.push_back(TestName(1000 * (round + 1) + 100 + i));
    CommitAndWait(large);
    (*stack_)->Tick();
    stack_->Settle();
  }
  ASSERT_EQ(answers_, std::vector<absl::Status>(88));
  for (int tick = 0; tick < 8; ++tick) {
    (*stack_)->Tick();
    stack_->Settle();
  }
  std::error_code error;
  size_t files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(stack_->directory() + "/store/db", error)) {
    files += entry.path().extension() == ".sst" ? 1 : 0;
  }
  EXPECT_LE(files, 8u + 2u + 36u) << "80 small segments and 8 large ones were written";
  EXPECT_EQ(Tiers(1), 80 * 3u + 8 * 80u);
  ExpectBooksAgree();
}

TEST_F(StackRoomTest, EightMebibytesAreWrittenWithoutWaitingForOthers) {
  SpaceSpec spec = TestSpec();
  spec.parts[0].block_bytes = 1 * MiB;
  Use({.warm_blocks = 4096,
       .cold_blocks = 16384,
       .chunk_blocks = 4096,
       .durability = Durability::kAck},
      spec);
  CommitDurably(TestNames({1, 2, 3}));
  EXPECT_EQ(stack_->disk_tasks(), 0u);
  CommitDurably(TestNames({4, 5, 6, 7, 8}));
  EXPECT_EQ(stack_->disk_tasks(), 1u);
  stack_->Settle();
  EXPECT_EQ(answers_, std::vector<absl::Status>(2));
}

TEST_F(StackRoomTest, ADeletionWaitingDoesNotLiftTheWriteBudget) {
  const uint64_t block = kTestBlockBytes + sizeof(BlockHeader);
  Use({.warm_blocks = 8,
       .cold_blocks = 64,
       .chunk_blocks = 8,
       .cold_write_bytes_per_day = 24 * 8 * block});
  Write(TestNames({1, 2, 3, 4}));
  stack_->Settle();
  for (uint64_t i = 10; i < 26; ++i) {
    (*stack_)->SyncDeletions([](absl::Status status) { EXPECT_TRUE(status.ok()) << status; });
    LeaseView lease = client_->Match(TestNames({i}));
    std::vector<uint64_t> slots;
    (*stack_)->Reserve(client_->number(), space_, 0, 1, milliseconds(1000),
                       [&](absl::StatusOr<std::vector<uint64_t>> result) {
                         if (result.ok()) slots = *std::move(result);
                       });
    stack_->Settle();
    ASSERT_EQ(slots.size(), 1u);
    const std::vector<CommitItem> items = {client_->Fill(slots[0], 0, 0, TestNames({i}))};
    ASSERT_TRUE((*stack_)->Commit(client_->number(), lease.lease, TestNames({i}), items).ok());
    client_->Release(lease);
  }
  stack_->Settle();
  EXPECT_LE(Tiers(1), 5u);
}

TEST_F(StackRoomTest, WithoutNeedNoSegmentIsWrittenAnewForALittle) {
  Use({.warm_blocks = 64, .cold_blocks = 512, .chunk_blocks = 64});
  // Of the oldest nine all but one are pinned, of the others half.
  for (uint64_t segment = 0; segment < 12; ++segment) {
    for (uint64_t i = 0; i < 38; ++i) {
      const auto names = TestNames({100 * (segment + 1) + i});
      Write(names);
      const bool is_pinned = segment < 9 ? i > 0 : i % 2 == 0;
      if (!is_pinned) continue;
      ASSERT_TRUE((*stack_)->Pin(space_, names, std::chrono::hours(1), TierKind::kNone).ok());
    }
    FlushTier(*stack_, TierKind::kWarm);
  }
  for (uint64_t i = 0; i < 38; ++i) Write(TestNames({5000 + i}));
  FlushTier(*stack_, TierKind::kWarm);
  for (uint64_t segment = 0; segment < 9; ++segment) {
    EXPECT_EQ(client_->Match(TestNames({100 * (segment + 1)})).depth, 1u)
        << "for it alone 37 would be written";
  }
  EXPECT_GT(Cold().evictions, 0u);
  EXPECT_LE(Cold().kept_bytes, 3 * 19 * (kTestBlockBytes + 512)) << "half of three others";
  ExpectBooksAgree();
}

TEST_F(StackRoomTest, ManyErasuresTakeTurnsWithWrites) {
  Use({.warm_blocks = 2048, .cold_blocks = 16384, .chunk_blocks = 2048, .max_places = 16384});
  for (uint64_t round = 0; round < 6; ++round) {
    std::vector<Name> names;
    for (uint64_t i = 0; i < 1500; ++i) names.push_back(TestName(10000 * (round + 1) + i));
    Write(names);
    FlushTier(*stack_, TierKind::kWarm);
  }
  ASSERT_EQ(Tiers(1), 9000u);
  Write(TestNames({1, 2, 3}));
  for (uint64_t round = 0; round < 6; ++round) {
    ASSERT_TRUE((*stack_)->Delete(FingerprintOf(spec_), TestNames({10000 * (round + 1)})).ok());
  }
  bool flushed = false;
  (*stack_)->Flush(TierKind::kWarm, [&](absl::Status, uint64_t, uint64_t) { flushed = true; });
  std::vector<uint64_t> left;
  while (stack_->disk_tasks() > 0 || stack_->Step()) {
    StepStrand();
    if (stack_->StepDisk(0)) left.push_back(Tiers(1));
    StepStrand();
  }
  EXPECT_TRUE(flushed);
  EXPECT_THAT(left, ::testing::ElementsAre(9000u - 4096, 9003u - 4096, 9003u - 2 * 4096, 3u));
  ExpectBooksAgree();
}

// ---- copies that the tier has lost

class StackLossTest : public StackRoomTest {
 protected:
  void UseFaulty(Durability durability, uint64_t warm_blocks = 64) {
    files_ = std::make_shared<FaultyFileSystem>();
    Use({.warm_blocks = warm_blocks,
         .cold_blocks = 4096,
         .chunk_blocks = warm_blocks,
         .durability = durability,
         .file_system = files_});
  }
  // Of a block that is in cold: a write of entries fails, so that the store has to be opened anew.
  void FailToErase(const std::vector<Name>& names) {
    files_->FailAfter(0);
    ASSERT_EQ(*(*stack_)->Delete(FingerprintOf(spec_), names), 1u);
    stack_->Settle();
    EXPECT_THAT(Cold().state, HasSubstr("reads only"));
  }
  // As when the disk forgets it behind the daemon's back.
  void SpoilStore() {
    ASSERT_TRUE(WriteFileAtomically(stack_->directory() + "/store/db/CURRENT", "no file\n").ok());
  }
  // The first block of one.
  void SpoilSegment() {
    for (const auto& entry :
         std::filesystem::directory_iterator(stack_->directory() + "/store/db")) {
      if (entry.path().extension() != ".sst") continue;
      const int file = ::open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
      const std::string wrong(64, 'x');
      ASSERT_EQ(::pwrite(file, wrong.data(), wrong.size(), 1000), 64);
      ::close(file);
      return;
    }
  }

  std::shared_ptr<FaultyFileSystem> files_;
};

TEST_F(StackLossTest, WhatAReopenedStoreHasLostIsWrittenAgainBeforeACommitIsAnswered) {
  UseFaulty(Durability::kAck);
  CommitAndWait(TestNames({1, 2}));
  CommitAndWait(TestNames({5}));
  ASSERT_EQ(answers_, std::vector<absl::Status>(2));
  FailToErase(TestNames({5}));
  SpoilStore();
  files_->Heal();
  stack_->Advance(kColdPause);
  CommitAndWait(TestNames({1, 2, 3}));
  stack_->Advance(kColdPause);
  stack_->Settle();
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_TRUE(answers_[2].ok()) << answers_[2];
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 2u);
  ExpectBooksAgree();
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  EXPECT_EQ(client_->Match(TestNames({1, 2, 3})).depth, 3u) << "as was answered";
}

TEST_F(StackLossTest, CopiesThatAreLostCostNoWarmBlock) {
  UseFaulty(Durability::kWriteBack);
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  Write(TestNames({5}));
  Write(TestNames({9}));
  FlushTier(*stack_, TierKind::kWarm);
  const LeaseView lease = client_->Match(names);
  ASSERT_EQ(client_->Load(lease, names), 3u);
  client_->Release(lease);
  FailToErase(TestNames({5}));
  SpoilStore();
  files_->Heal();
  stack_->Advance(kColdPause);
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ(Cold().block_count, 0u) << "opened anew without a write";
  EXPECT_EQ(client_->Match(TestNames({9})).depth, 0u) << "it was in cold only";
  FlushTier(*stack_, TierKind::kWarm);
  const LeaseView again = client_->Match(names);
  ASSERT_EQ(again.depth, 3u);
  EXPECT_EQ(client_->Load(again, names), 3u);
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 4u);
  ExpectBooksAgree();
}

TEST_F(StackLossTest, ATierThatCannotBeOpenedIsProbedThoughNobodyWrites) {
  UseFaulty(Durability::kWriteBack);
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  SpoilSegment();
  files_->FailAfter(0);
  const LeaseView first = client_->Match(names);
  EXPECT_LT(client_->Load(first, names), 3u) << "one is dropped, which cannot be noted";
  client_->Release(first);
  EXPECT_THAT(Cold().state, HasSubstr("reads only"));
  for (int i = 0; i < 3; ++i) {
    stack_->Advance(kColdPause);
    (*stack_)->Tick();
    stack_->Settle();
  }
  EXPECT_NE(Cold().state, "ok");
  files_->Heal();
  stack_->Advance(kColdPause);
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_THAT(Cold().state, HasSubstr("did not verify of late"));
  EXPECT_THAT(Cold().state, ::testing::Not(HasSubstr("reads only")));
  Write(TestNames({4}));
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ(client_->Match(TestNames({4})).depth, 1u);
  ExpectBooksAgree();
}

TEST_F(StackLossTest, ADamagedBlockThatADroppedSegmentKeptIsWrittenAgain) {
  UseFaulty(Durability::kAck, 256);
  for (uint64_t i = 1; i <= 16; ++i) CommitAndWait(TestPath(i, 8));
  ASSERT_EQ(answers_, std::vector<absl::Status>(16));
  SpoilSegment();
  (*stack_)->Tick();  // folds
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 1u);
  EXPECT_EQ(Tiers(1), 127u);
  for (uint64_t i = 1; i <= 16; ++i) CommitAndWait(TestPath(i, 9));
  ASSERT_EQ(answers_, std::vector<absl::Status>(32));
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  for (uint64_t i = 1; i <= 16; ++i) {
    EXPECT_EQ(client_->Match(TestPath(i, 9)).depth, 9u) << i;
  }
}

TEST_F(StackLossTest, ABlockThatIsLargerThanItsPlaceIsDroppedAndNotAskedForAgain) {
  ScratchDirectory directory;
  auto tier = LogTier::Open({.directory = directory.path(), .capacity_bytes = 1 * MiB});
  ASSERT_TRUE(tier.ok()) << tier.status();
  const auto payload = TestPayload(1, 0, 2 * kTestBlockBytes);
  ASSERT_TRUE((*tier)->Put(TestHeader(1, 0, payload), payload).ok());
  std::vector<std::byte> room(kTestBlockBytes);
  const auto found = (*tier)->Get({1, 0}, room);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(found->has_value());
  EXPECT_EQ((*tier)->Usage().block_count, 0u);
  EXPECT_EQ((*tier)->Usage().corrupt_count, 1u);
}

TEST_F(StackLossTest, WhyErasuresAreRefusedIsSaid) {
  UseFaulty(Durability::kWriteBack);
  Write(TestNames({5}));
  FlushTier(*stack_, TierKind::kWarm);
  const std::string path = stack_->directory() + "/log";
  ASSERT_TRUE(SetUpLog({.file = path}).ok());
  FailToErase(TestNames({5}));
  ASSERT_TRUE(SetUpLog({}).ok());
  const auto log = ReadFile(path, 1 * MiB);
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_THAT(*log, HasSubstr("cold_tier_refused cause=\"cold tier: write entries: IO error"));
}

TEST_F(StackLossTest, ARecordOfAPartThatItsPlaceDoesNotHaveIsErased) {
  Use({.warm_blocks = 8, .chunk_blocks = 8});
  Write(TestNames({1}));
  FlushTier(*stack_, TierKind::kWarm);
  client_.reset();
  stack_->Close();
  {
    auto tier = LogTier::Open({.directory = stack_->directory(), .capacity_bytes = 1 * MiB});
    ASSERT_TRUE(tier.ok()) << tier.status();
    BlockRecord record;
    ASSERT_TRUE((*tier)
                    ->ForEach([&](const BlockRecord& found) {
                      record = found;
                      return false;
                    })
                    .ok());
    std::vector<std::byte> payload(kTestBlockBytes);
    ASSERT_TRUE((*tier)->Get({record.id, record.part}, payload).ok());
    record.part = kMaxParts - 1;
    record.parent_id = 77;  // of another place
    record.depth = 1;
    record.Seal();
    const absl::Status put = (*tier)->Put(record, payload);
    ASSERT_TRUE(put.ok()) << put;
  }
  stack_->Open();
  Connect();
  stack_->Settle();
  EXPECT_EQ(Tiers(1), 1u);
  EXPECT_EQ(client_->Match(TestNames({1})).depth, 1u);
  ExpectBooksAgree();
}

}  // namespace
}  // namespace thermocline
