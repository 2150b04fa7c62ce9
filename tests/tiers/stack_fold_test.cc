// How a stack makes large segments of small ones in its cold tier: in nobody's way, in a full tier
// too, and whatever of them cannot be read.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;

class StackFoldTest : public StackTest {
 protected:
  static constexpr uint64_t kBlocks = 8;  // of a commit, and so of a small segment

  void UseAck(uint64_t cold_blocks = 1024) {
    Use({.warm_blocks = 256,
         .cold_blocks = cold_blocks,
         .chunk_blocks = 256,
         .durability = Durability::kAck,
         .scrub = false,
         .file_system = files_});
  }
  TierStats Cold() { return (*stack_)->Stats().tiers[1]; }
  void CommitSome(int commits) {
    for (int i = 0; i < commits; ++i) {
      CommitDurably(TestPath(++last_path_, kBlocks));
      stack_->Advance(milliseconds(20));
      stack_->Settle();
      ASSERT_TRUE(answers_.back().ok()) << answers_.back();
    }
  }
  void Tick() {
    (*stack_)->Tick();
    stack_->Settle();
  }
  std::vector<std::string> Files() {
    std::vector<std::string> names;
    for (const auto& entry :
         std::filesystem::directory_iterator(stack_->directory() + "/store/db")) {
      if (entry.path().extension() == ".sst") names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  const std::shared_ptr<FaultyFileSystem> files_ = std::make_shared<FaultyFileSystem>();
  uint64_t last_path_ = 0;
};

TEST_F(StackFoldTest, ABadSectorKeepsItsSegmentSmallAndNoOther) {
  UseAck(4096);
  CommitSome(20);
  files_->FailReadsAt(Files().at(7), 3000);
  Tick();
  EXPECT_LE(Files().size(), 3u) << "the bad one, a large one, and one of entries";
  EXPECT_EQ(Cold().state, "ok") << "what cannot be read says nothing of writes";
  EXPECT_GT(files_->bad_reads(), 0u);
  CommitSome(20);
  Tick();  // it is tried once more
  const uint64_t twice = files_->bad_reads();
  for (int i = 0; i < 3; ++i) {
    CommitSome(20);
    Tick();
  }
  EXPECT_EQ(files_->bad_reads(), twice) << "then it is left alone for a while";
  EXPECT_EQ(Cold().state, "ok");
  files_->FailReadsAt("", 0);
  stack_->Advance(std::chrono::hours(1));
  CommitSome(20);
  Tick();
  EXPECT_EQ(Cold().block_count, last_path_ * kBlocks);
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 0u);
  ExpectBooksAgree();
  client_.reset();
  stack_->RestartWithoutMemory();
  Connect();
  for (uint64_t path = 1; path <= last_path_; ++path) {
    const LeaseView lease = client_->Match(TestPath(path, kBlocks));
    EXPECT_EQ(lease.depth, kBlocks) << path;
    client_->Release(lease);
  }
}

TEST_F(StackFoldTest, InAFullTierSegmentsFoldAndNobodyWaitsForThat) {
  UseAck();
  CommitSome(150);  // a sixth more than there is room for
  const uint64_t evictions = Cold().evictions;
  ASSERT_GT(evictions, 0u);
  bool folds = false;
  for (int rounds = 0; rounds < 200 && !folds; ++rounds) {
    CommitSome(1);
    (*stack_)->Tick();
    folds = stack_->disk_tasks() == 2;  // the scrub of cold, and then
    if (!folds) stack_->Settle();
  }
  ASSERT_TRUE(folds);
  const uint64_t kept = Cold().kept_bytes;
  const auto run_others = [&] {
    for (StepStrand(); stack_->disk_tasks() > 1; StepStrand()) ASSERT_TRUE(stack_->StepDisk(1));
  };
  ASSERT_TRUE(stack_->StepDisk(0));
  StepStrand();
  ASSERT_EQ(stack_->disk_tasks(), 1u);
  // More than the fold leaves room for, so that segments go for it.
  const uint64_t before = Cold().evictions;
  for (int i = 0; i < 20; ++i) {
    CommitDurably(TestPath(++last_path_, kBlocks));
    stack_->Advance(milliseconds(20));
    run_others();
    ASSERT_EQ(answers_.size(), last_path_) << "before the fold has begun";
    ASSERT_TRUE(answers_.back().ok()) << answers_.back();
    ExpectBooksAgree();
  }
  EXPECT_GT(Cold().evictions, before);
  EXPECT_EQ(Cold().kept_bytes, kept);
  stack_->Settle();
  EXPECT_GT(Cold().kept_bytes, kept);
  EXPECT_LE(Cold().used_bytes, Cold().capacity_bytes);
  ExpectBooksAgree();
  for (uint64_t path = last_path_ - 19; path <= last_path_; ++path) {
    const LeaseView lease = client_->Match(TestPath(path, kBlocks));
    EXPECT_EQ(lease.depth, kBlocks) << path;
    client_->Release(lease);
  }
  for (int tick = 0; tick < 20; ++tick) {
    CommitSome(5);
    Tick();
  }
  ExpectBooksAgree();
  EXPECT_LE(Files().size(), 40u) << "128 small ones fit";
}

TEST_F(StackFoldTest, AFoldThatCannotBeWrittenIsTriedAgainLater) {
  UseAck(4096);
  CommitSome(20);
  const auto small = Files().size();
  (*stack_)->Tick();
  files_->FailAfter(0, FaultyFileSystem::kNever, /*full=*/true);
  while (stack_->disk_tasks() > 0) ASSERT_TRUE(stack_->StepDisk(0));
  files_->Heal();
  stack_->Settle();
  EXPECT_EQ(Files().size(), small);
  EXPECT_EQ(Cold().state, "ok") << "who is waited for finds out by itself";
  CommitSome(1);
  Tick();
  EXPECT_GT(Files().size(), small) << "not at once";
  stack_->Advance(std::chrono::minutes(1));
  Tick();
  EXPECT_LE(Files().size(), 3u);
  EXPECT_EQ(Cold().block_count, last_path_ * kBlocks);
  ExpectBooksAgree();
}

}  // namespace
}  // namespace thermocline
