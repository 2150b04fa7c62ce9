// A disk that hangs, fails, is full, or has lost its keys: what it costs whom, and who is told.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/tiers/stack_medium_fixture.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

void WriteKey(const std::string& file, const std::string& line) {
  std::ofstream(file) << line << "\n";
  ASSERT_EQ(::chmod(file.c_str(), 0600), 0);
}

TEST_F(StackMediumTest, WhatWasErasedByItsKeyIsNoDamage) {
  ScratchDirectory directory;
  const std::string file = directory.path() + "/keys";
  WriteKey(file, "1 " + std::string(64, 'a'));
  Use({.keys = *KeySource::Open({.file = file})});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ(Tiers(1), 3u);
  WriteKey(file, "2 " + std::string(64, 'b'));
  ASSERT_TRUE(stack_->sizes().keys->Reload().ok());
  const LeaseView lease = client_->Match(names);
  EXPECT_EQ(client_->Load(lease, names), 0u);
  client_->Release(lease);
  (*stack_)->Tick();  // scrubs what is left
  stack_->Settle();
  EXPECT_EQ(Tiers(1), 0u);
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 0u);
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, ACheckCallsNoBlockDamagedOfWhichTheKeyIsGone) {
  ScratchDirectory directory;
  const std::string file = directory.path() + "/keys";
  WriteKey(file, "1 " + std::string(64, 'a'));
  Use({.scrub = false, .keys = *KeySource::Open({.file = file})});
  Write(TestNames({1, 2, 3}));
  FlushTier(*stack_, TierKind::kWarm);
  WriteKey(file, "2 " + std::string(64, 'b'));
  ASSERT_TRUE(stack_->sizes().keys->Reload().ok());
  bool done = false;
  (*stack_)->Check([&](absl::Status status, uint64_t blocks, uint64_t damaged) {
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(blocks, 3u);
    EXPECT_EQ(damaged, 0u);
    done = true;
  });
  stack_->SettleUntil(done);
  EXPECT_EQ(Tiers(1), 0u) << "they are given up all the same";
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, WithoutAnyKeyNothingIsReadAndNothingWritten) {
  ScratchDirectory directory;
  const std::string file = directory.path() + "/keys";
  WriteKey(file, "1 " + std::string(64, 'a'));
  Use({.keys = *KeySource::Open({.file = file})});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  std::filesystem::remove(file);
  ASSERT_TRUE(stack_->sizes().keys->Reload().ok());
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("its keys are gone"));
  LeaseView lease = client_->Match(names);
  EXPECT_EQ(client_->Load(lease, names), 0u);
  client_->Release(lease);
  Write(TestNames({10, 11}));
  FlushTier(*stack_, TierKind::kWarm);
  lease = client_->Match(TestNames({10, 11}));
  EXPECT_EQ(lease.depth, 2u) << "memory serves";
  for (const BlockView& block : lease.blocks) EXPECT_EQ(block.tier, TierKind::kWarm);
  client_->Release(lease);
  WriteKey(file, "2 " + std::string(64, 'b'));
  ASSERT_TRUE(stack_->sizes().keys->Reload().ok());
  stack_->Advance(kColdPause);
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok");
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 0u);
  lease = client_->Match(TestNames({10, 11}));
  EXPECT_EQ(client_->Load(lease, TestNames({10, 11})), 2u);
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, ACheckDoesNotWaitForADiskThatHangs) {
  Use({.warm_blocks = 32, .cold_blocks = 128, .chunk_blocks = 8, .own_threads = true});
  Write(TestNames({1, 2, 3}));
  FlushTier(*stack_, TierKind::kWarm);
  const auto strand_and_work = [&] {
    while (stack_->StepStrand() || stack_->StepWork()) continue;
  };
  std::vector<absl::Status> answers;
  uint64_t blocks = 0;
  const auto check = [&] {
    (*stack_)->Check([&](absl::Status status, uint64_t read, uint64_t) {
      answers.push_back(std::move(status));
      blocks = read;
    });
    strand_and_work();
  };
  check();
  ASSERT_EQ(stack_->disk_tasks(), 1u) << "its first reads hang";
  stack_->Advance(StackOptions().write_deadline + milliseconds(100));
  strand_and_work();
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(answers[0])) << answers[0];
  check();  // the next begins before they end
  EXPECT_EQ(answers.size(), 1u);
  stack_->Settle();
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_TRUE(answers[1].ok()) << answers[1];
  EXPECT_EQ(blocks, 3u) << "without those of the one before";
}

TEST_F(StackMediumTest, ADeletionOnADiskThatHangsIsAnsweredLateAndDoneLater) {
  Use({.own_threads = true});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  std::vector<absl::Status> answers;
  const auto erase = [&](const std::vector<Name>& what) {
    ASSERT_TRUE((*stack_)->Delete(FingerprintOf(spec_), what).ok());
    (*stack_)->SyncDeletions([&](absl::Status status) { answers.push_back(std::move(status)); });
    while (stack_->StepStrand() || stack_->StepWork()) continue;
  };
  erase(TestNames({1, 2, 3}));
  EXPECT_EQ(stack_->disk_tasks(), 1u) << "the erasure hangs";
  erase(TestNames({1, 2}));
  EXPECT_TRUE(answers.empty());
  stack_->Advance(StackOptions().write_deadline + milliseconds(100));
  while (stack_->StepStrand() || stack_->StepWork()) continue;
  ASSERT_EQ(answers.size(), 2u);
  for (const absl::Status& answer : answers) EXPECT_TRUE(absl::IsUnavailable(answer)) << answer;
  stack_->Settle();
  EXPECT_EQ(answers.size(), 2u);
  EXPECT_EQ(Tiers(1), 1u);
  erase(TestNames({1}));
  stack_->Settle();
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_TRUE(answers[2].ok()) << answers[2];
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, AScrubberFeelsTheDiskAndHidesNothingOfIt) {
  Use({});
  const auto names = TestNames({1, 2, 3, 4, 5, 6, 7, 8});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  stack_->SetFaults({.error = 1});
  for (int tick = 0; tick < 2 * kReadFailures; ++tick) {
    (*stack_)->Tick();
    stack_->Settle();
  }
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("reads fail")) << "nobody else reads";
  stack_->SetFaults({});
  stack_->Advance(kColdPause);
  for (int tick = 0; tick < 3; ++tick) {  // a round ends with one
    (*stack_)->Tick();
    stack_->Settle();
  }
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok");
  EXPECT_EQ(Tiers(1), 8u);
  // One that began before the reads failed does not say that they are well again.
  BeginLoad(names);
  StepStrand();
  for (int tick = 0; tick < 3 && stack_->disk_tasks() < 9; ++tick) {
    (*stack_)->Tick();
    StepStrand();
  }
  ASSERT_EQ(stack_->disk_tasks(), 9u);
  stack_->SetFaults({.error = 1});
  for (int read = 0; read < 8; ++read) stack_->StepDisk(0);
  StepStrand();
  stack_->SetFaults({});
  stack_->Settle();
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("reads fail"));
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, APromotionWithoutASlotIsNoProbeOfTheDisk) {
  Use({.warm_blocks = 8, .cold_blocks = 64, .chunk_blocks = 8});
  const auto names = TestNames({1, 2, 3, 4, 5, 6});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  stack_->SetFaults({.error = 1});
  BeginLoad(names);
  stack_->Settle();
  ASSERT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("reads fail"));
  stack_->SetFaults({});
  const auto taken = client_->Reserve(8);
  ASSERT_EQ(taken.size(), 8u);
  stack_->Advance(kColdPause);
  const LeaseView lease = client_->Match(names);
  const uint64_t without = Misses(*stack_, MissReason::kNoSlot);
  EXPECT_EQ(client_->Load(lease, names), 0u) << "every slot is taken";
  EXPECT_GT(Misses(*stack_, MissReason::kNoSlot), without);
  ASSERT_TRUE((*stack_)->Abort(client_->number(), taken).ok());
  stack_->Settle();
  EXPECT_EQ(client_->Load(lease, names), 6u) << "at once";
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, ARefusedTimerIsSetByTheNextPump) {
  Use({.warm_blocks = 8, .cold_blocks = 0, .chunk_blocks = 8});
  const auto taken = client_->Reserve(8);
  ASSERT_EQ(taken.size(), 8u);
  stack_->Advance(std::chrono::seconds(1));
  stack_->Settle();
  const size_t timers = stack_->timers();
  stack_->refuse_timers = true;
  bool done = false;
  (*stack_)->Reserve(client_->number(), space_, 0, 1, milliseconds(50),
                     [&](absl::StatusOr<std::vector<uint64_t>>) { done = true; });
  stack_->Settle();
  EXPECT_EQ(stack_->timers(), timers);
  stack_->refuse_timers = false;
  ASSERT_TRUE((*stack_)->Abort(client_->number(), {}).ok());  // pumps
  stack_->Settle();
  EXPECT_GT(stack_->timers(), timers);
  stack_->Advance(milliseconds(100));
  stack_->Settle();
  EXPECT_TRUE(done);
}

TEST_F(StackMediumTest, TimeInTheQueueIsNoFaultOfTheDisk) {
  Use({});
  const auto names = TestNames({1, 2, 3, 4, 5, 6, 7, 8});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  BeginLoad(names);
  StepStrand();
  stack_->Advance(StackOptions().read_deadline + milliseconds(20));
  StepStrand();
  EXPECT_TRUE(done_) << "its patience is over all the same";
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok") << "none of them has begun";
  stack_->Settle();
  const auto others = TestNames({11, 12, 13, 14});
  Write(others);
  FlushTier(*stack_, TierKind::kWarm);
  done_ = false;
  BeginLoad(others);
  StepStrand();
  stack_->Advance(StackOptions().read_deadline - milliseconds(1));
  // One after the other, each begins late and takes its time.
  stack_->during_read = [&] { stack_->Advance(milliseconds(100)); };
  ready_ = 0;
  stack_->StepDisk(0);
  StepStrand();
  EXPECT_EQ(ready_, 1u) << "from its start on";
  stack_->during_read = nullptr;
  stack_->Settle();
}

TEST_F(StackMediumTest, ReadsThatTheDiskHasForTooLongPauseThem) {
  Use({});
  const auto names = TestNames({1, 2, 3, 4, 5, 6});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  BeginLoad(names);
  StepStrand();
  stack_->during_read = [&] {
    stack_->Advance(StackOptions().read_deadline + milliseconds(20));
    StepStrand();  // meanwhile
  };
  for (int read = 0; read < kReadFailures; ++read) stack_->StepDisk(0);
  EXPECT_TRUE(done_);
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("reads fail or take longer"));
  stack_->during_read = nullptr;
  stack_->Settle();
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, WhileAJobHangsColdBlocksAreReadAndWarmOnesScrubbed) {
  Use({.warm_blocks = 16, .chunk_blocks = 16, .own_threads = true});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  Write(TestNames({10}));
  ASSERT_TRUE((*stack_)->Pin(space_, names, std::chrono::hours(1), TierKind::kNone).ok());
  StepStrand();
  ASSERT_EQ(stack_->disk_tasks(), 1u);
  BeginLoad(names);
  bool scrubbed = false;
  for (int tick = 0; tick < 3; ++tick) {
    (*stack_)->Tick();
    for (bool more = true; more;) {
      const bool worked = stack_->StepWork();
      scrubbed = scrubbed || worked;
      more = worked || stack_->StepStrand() || stack_->StepReads();
    }
  }
  EXPECT_TRUE(scrubbed);
  EXPECT_TRUE(done_);
  EXPECT_EQ(ready_, 3u);
  EXPECT_GT(stack_->disk_tasks(), 0u) << "it still hangs";
  stack_->Settle();
  ExpectBooksAgree();
}

TEST_F(StackMediumTest, WritesThatFailAreSaidForAsLongAsTheyDo) {
  Use({});
  stack_->SetFaults({.error = 1});
  Write(TestNames({1, 2}));
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_THAT((*stack_)->Stats().tiers[1].state,
              HasSubstr("the last write failed (injected fault in PutAll)"));
  stack_->SetFaults({});
  stack_->Advance(kColdPause);
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok");
}

TEST_F(StackMediumTest, ErasuresThatFailSayWhy) {
  Use({});
  Write(TestNames({1, 2}));
  FlushTier(*stack_, TierKind::kWarm);
  stack_->SetFaults({.error = 1});
  ASSERT_TRUE((*stack_)->Delete(FingerprintOf(spec_), TestNames({1, 2})).ok());
  stack_->Settle();
  EXPECT_THAT((*stack_)->Stats().tiers[1].state,
              HasSubstr("the last write failed (injected fault in Erase"));
}

TEST_F(StackMediumTest, ATierFullOfPinnedBlocksSaysSo) {
  Use({.warm_blocks = 16, .cold_blocks = 8, .chunk_blocks = 16});
  for (uint64_t i = 1; i <= 24; ++i) {
    Write(TestNames({i}));
    if (i <= 10) {
      ASSERT_TRUE(
          (*stack_)->Pin(space_, TestNames({i}), std::chrono::hours(1), TierKind::kNone).ok());
    }
    FlushTier(*stack_, TierKind::kWarm);
  }
  EXPECT_THAT((*stack_)->Stats().tiers[1].state, HasSubstr("raise cold_capacity"));
  while (!(*stack_)->Pins().empty()) {
    ASSERT_TRUE((*stack_)->Unpin((*stack_)->Pins()[0].pin).ok());
  }
  for (uint64_t i = 30; i < 34; ++i) Write(TestNames({i}));
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ((*stack_)->Stats().tiers[1].state, "ok");
}

class StackPrefetchTest : public StackMediumTest {
 protected:
  static constexpr uint64_t kBlocks = 40;

  void SetUp() override {
    Use({.warm_blocks = 128, .cold_blocks = 256, .chunk_blocks = 128});
    for (uint64_t i = 1; i <= kBlocks; ++i) names_.push_back(TestName(i));
    Write(names_);
    FlushTier(*stack_, TierKind::kWarm);
    ASSERT_EQ(Tiers(0), 0u);
  }
  void EndAfterThreeReads(ClientNumber gone) {
    StepStrand();
    for (int read = 0; read < 3; ++read) stack_->StepDisk(0);
    StepStrand();
    const uint64_t before = Tiers(0);
    (*stack_)->RemoveClient(gone, Departure::kProcessGone);
    stack_->Settle();
    EXPECT_LE(Tiers(0), before + kMaxReadsPerLoad) << "what was under way";
  }

  std::vector<Name> names_;
};

TEST_F(StackPrefetchTest, WhatASessionAskedForEndsWithItAndAnothersGoesOn) {
  const ClientNumber gone = *(*stack_)->AddClient(TestClient::kPid, 2, nullptr);
  ASSERT_EQ((*stack_)->Prefetch(gone, space_, names_)->promoting_blocks, kBlocks);
  EndAfterThreeReads(gone);
  ASSERT_LT(Tiers(0), kBlocks);
  EXPECT_TRUE(absl::IsFailedPrecondition((*stack_)->Prefetch(gone, space_, names_).status()));
  EXPECT_EQ((*stack_)->Prefetch(client_->number(), space_, names_)->matched_depth, kBlocks);
  stack_->Settle();
  EXPECT_EQ(Tiers(0), kBlocks);
  ExpectBooksAgree();
}

TEST_F(StackPrefetchTest, ALeaseThatIsReleasedEndsItsLoad) {
  const LeaseView lease = client_->Match(names_);
  uint32_t next = 0;
  (*stack_)->Load(
      client_->number(), lease.lease,
      [&](std::vector<BlockView> blocks) {
        for (const BlockView& block : blocks) EXPECT_EQ(block.depth, next++) << "in prefix order";
        return true;
      },
      [&](absl::Status status) {
        EXPECT_TRUE(absl::IsCancelled(status)) << status;
        done_ = true;
      });
  StepStrand();
  while (stack_->disk_tasks() > 5) stack_->StepDisk(stack_->disk_tasks() - 1);  // the last first
  StepStrand();
  for (int read = 0; read < 3; ++read) stack_->StepDisk(0);
  StepStrand();
  EXPECT_GT(next, 0u);
  const uint64_t before = Tiers(0);
  client_->Release(lease);
  stack_->Settle();
  EXPECT_TRUE(done_);
  EXPECT_LE(Tiers(0), before + kMaxReadsPerLoad);
  EXPECT_LT(Tiers(0), kBlocks);
  ExpectBooksAgree();
}

TEST_F(StackPrefetchTest, AClientThatGoesEndsItsLoad) {
  const ClientNumber gone = *(*stack_)->AddClient(TestClient::kPid, 2, nullptr);
  const auto lease = (*stack_)->Match(gone, space_, names_);
  ASSERT_TRUE(lease.ok()) << lease.status();
  (*stack_)->Load(
      gone, lease->lease, [](std::vector<BlockView>) { return true; },
      [&](absl::Status status) {
        EXPECT_TRUE(absl::IsCancelled(status)) << status;
        done_ = true;
      });
  EndAfterThreeReads(gone);
  EXPECT_TRUE(done_);
  ExpectBooksAgree();
}

/// Paths on disk that together are four times what memory holds.
class StackCrowdTest : public StackMediumTest {
 protected:
  static constexpr uint32_t kWarm = 8, kPaths = 4;

  struct Run {
    LeaseView lease;
    size_t ready = 0;
    bool done = false;
  };
  void SetUp() override {
    Use({.warm_blocks = kWarm, .cold_blocks = 64, .chunk_blocks = kWarm});
    for (uint64_t path = 0; path < kPaths; ++path) {
      Write(TestPath(path + 1, kWarm));
      FlushTier(*stack_, TierKind::kWarm);
    }
  }
  void Begin(uint64_t path) {
    Run& run = runs_[path];
    run.lease = client_->Match(TestPath(path + 1, kWarm));
    ASSERT_EQ(run.lease.depth, kWarm);
    (*stack_)->Load(
        client_->number(), run.lease.lease,
        [this, &run, path](std::vector<BlockView> blocks) {
          client_->ExpectLegal(blocks, TestPath(path + 1, kWarm));
          run.ready += blocks.size();
          return true;
        },
        [&run](absl::Status status) {
          EXPECT_TRUE(status.ok()) << status;
          run.done = true;
        });
  }

  Run runs_[kPaths];
};

TEST_F(StackCrowdTest, WhereEverySlotIsLeasedALoadEndsWithoutAReadOfTheDisk) {
  Begin(0);
  stack_->Settle();
  ASSERT_EQ(runs_[0].ready, kWarm);
  int reads = 0;
  stack_->during_read = [&] { ++reads; };
  Begin(1);
  stack_->Settle();
  EXPECT_TRUE(runs_[1].done) << "nothing is about to come free";
  EXPECT_EQ(runs_[1].ready, 0u);
  EXPECT_EQ(reads, 0);
  client_->Release(runs_[0].lease);
  EXPECT_EQ(client_->Load(runs_[1].lease, TestPath(2, kWarm)), kWarm) << "it is as good as before";
  ExpectBooksAgree();
}

TEST_F(StackCrowdTest, LoadsThatLeaseEverySlotAllEndAndOneMayGoOnWhenOthersLetGo) {
  for (uint64_t path = 0; path < kPaths; ++path) Begin(path);
  size_t ready = 0;
  for (const Run& run : runs_) {
    stack_->SettleUntil(run.done);
    ready += run.ready;
  }
  EXPECT_EQ(ready, kWarm) << "each slot is one's, and stays it";
  EXPECT_GT(Misses(*stack_, MissReason::kNoSlot), 0u);
  for (uint64_t path = 0; path + 1 < kPaths; ++path) client_->Release(runs_[path].lease);
  stack_->Settle();
  EXPECT_EQ(client_->Load(runs_[kPaths - 1].lease, TestPath(kPaths, kWarm)), kWarm);
  ExpectBooksAgree();
}

TEST_F(StackPrefetchTest, OneSessionCannotFillTheQueue) {
  uint64_t queued = 0;
  for (int call = 0; call < 200; ++call) {  // nothing is read meanwhile
    queued += (*stack_)->Prefetch(client_->number(), space_, names_)->promoting_blocks;
  }
  EXPECT_EQ(queued, kMaxPrefetchesPerClient);
  const ClientNumber other = *(*stack_)->AddClient(TestClient::kPid, 2, nullptr);
  EXPECT_EQ((*stack_)->Prefetch(other, space_, names_)->promoting_blocks, kBlocks);
  stack_->Settle();
  EXPECT_EQ(Tiers(0), kBlocks);
  EXPECT_GT((*stack_)->Prefetch(client_->number(), space_, names_)->matched_depth, 0u);
}

}  // namespace
}  // namespace thermocline
