// The tier stack over restarts and shutdowns: what is re-adopted, what is held back, what is
// durable.
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/file_util.h"
#include "base/units.h"
#include "tests/tiers/stack_fixture.h"
#include "tiers/stack_state.h"

namespace thermocline {
namespace {

// tests/tiers/golden/state.v1.json was written by this test with TC_WRITE_GOLDEN=1.
TEST(StackStateTest, AStateFileOfThisFormFromEarlierIsRead) {
  const std::string golden = TC_SOURCE_DIR "/tests/tiers/golden/state.v1.json";
  SpaceSpec named = TestSpec("named", 2);
  named.weights_sha256[0] = 1;
  named.parts[1].rank = 1;
  named.parts[1].window_tokens = 512;
  named.rope = "theta=10000";
  named.lora = "adapter \xc3\xa9";
  named.salt = "salt";
  named.tenant = "alice";
  SpaceSpec opaque = TestSpec("opaque");
  opaque.opaque_names = true;
  opaque.key_bytes = 16;
  const StackState state{.epoch = (uint64_t{1} << 32) - 1,
                         .spaces = {named, opaque},
                         .pins = {{.pin = 3,
                                   .place_id = ~uint64_t{0},
                                   .space = FingerprintOf(named),
                                   .depth = 5,
                                   .expires_unix_ms = 1'800'000'000'000,
                                   .tier = TierKind::kWarm}}};
  if (std::getenv("TC_WRITE_GOLDEN") != nullptr) std::ofstream(golden) << FormatState(state);
  const auto text = ReadFile(golden, MiB);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto read = ParseState(*text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->epoch, state.epoch);
  ASSERT_EQ(read->spaces.size(), 2u);
  EXPECT_EQ(FingerprintOf(read->spaces[0]), FingerprintOf(named));
  EXPECT_EQ(FingerprintOf(read->spaces[1]), FingerprintOf(opaque));
  ASSERT_EQ(read->pins.size(), 1u);
  EXPECT_EQ(read->pins[0].pin, 3u);
  EXPECT_EQ(read->pins[0].place_id, ~uint64_t{0});
  EXPECT_EQ(read->pins[0].space, FingerprintOf(named));
  EXPECT_EQ(read->pins[0].depth, 5u);
  EXPECT_EQ(read->pins[0].expires_unix_ms, 1'800'000'000'000);
  EXPECT_EQ(read->pins[0].tier, TierKind::kWarm);
}

TEST_F(StackTest, ARestartFindsWarmAndColdBlocksAndUncheckedOnesSaySo) {
  Use({});
  const auto cold = TestNames({1, 2, 3});
  Write(cold);
  FlushTier(*stack_, TierKind::kWarm);
  const auto warm = TestNames({1, 2, 9, 10});
  LeaseView lease = client_->Match(warm);
  EXPECT_EQ(client_->Extend(lease, warm), 4u);
  const uint64_t epoch = (*stack_)->epoch();
  Restart();
  EXPECT_GT((*stack_)->epoch(), epoch);
  const LeaseView found = client_->Match(warm);
  ASSERT_EQ(found.depth, 4u);
  EXPECT_EQ(found.blocks[0].tier, TierKind::kCold);
  EXPECT_EQ(found.blocks[3].tier, TierKind::kWarm);
  EXPECT_FALSE(found.blocks[3].checked);
  client_->ExpectLegal(found.blocks, warm);
  EXPECT_EQ(client_->Load(found, warm), 4u);
  EXPECT_EQ(client_->Match(cold).depth, 3u);
  ExpectBooksAgree();
}

TEST_F(StackTest, BlocksOfSeveralPlacesSurviveRestartsInBothTiers) {
  SpaceSpec spec = TestSpec();
  spec.block_tokens = 4 * kPlaceTokens;
  Use({.warm_blocks = 16, .cold_blocks = 16, .chunk_blocks = 8}, spec);
  const auto cold = TestNames({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  Write(cold);
  FlushTier(*stack_, TierKind::kWarm);
  const auto warm = TestNames({1, 2, 3, 4, 5, 6, 70, 80});  // parts from it inside a block
  LeaseView lease = client_->Match(warm);
  EXPECT_EQ(lease.depth, 4u);
  EXPECT_EQ(client_->Extend(lease, warm), 8u);
  const uint64_t places = (*stack_)->Stats().places;
  EXPECT_EQ(places, 14u);
  for (int round = 0; round < 3; ++round) {
    Restart();
    EXPECT_EQ((*stack_)->Stats().places, places);
    const LeaseView found = client_->Match(warm);
    ASSERT_EQ(found.depth, 8u);
    ASSERT_EQ(found.blocks.size(), 2u);
    EXPECT_EQ(found.blocks[1].tier, TierKind::kWarm);
    client_->ExpectLegal(found.blocks, warm);
    EXPECT_EQ(client_->Match(TestNames({1, 2, 3, 4, 5, 66, 70, 80})).depth, 4u) << "another name";
    EXPECT_EQ(client_->Match(TestNames({1, 2, 3})).depth, 0u) << "matches round down";
    ExpectBooksAgree();
  }
  const LeaseView found = client_->Match(cold);
  ASSERT_EQ(found.depth, 12u);
  EXPECT_EQ(found.blocks[2].tier, TierKind::kCold);
  EXPECT_EQ(client_->Load(found, cold), 3u);
  // What was adopted goes on as if it had been committed now.
  (*stack_)->EndGrace();
  const auto longer = TestNames({1, 2, 3, 4, 5, 6, 70, 80, 90, 91, 92, 93});
  LeaseView grown = client_->Match(longer);
  EXPECT_EQ(client_->Extend(grown, longer), 12u);
  Restart();
  EXPECT_EQ(client_->Match(longer).depth, 12u);
  (*stack_)->ExpireLeases(client_->number());
  (*stack_)->EndGrace();
  ASSERT_TRUE((*stack_)->Delete(FingerprintOf(spec), {}).ok());
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().places, 0u);
  EXPECT_EQ(Tiers(0) + Tiers(1), 0u);
  ExpectBooksAgree();
}

TEST_F(StackTest, BlocksOfSeveralPlacesLeaveWithTheirInnerPlacesWhereThereIsNoColdTier) {
  SpaceSpec spec = TestSpec();
  spec.block_tokens = 4 * kPlaceTokens;
  Use({.warm_blocks = 16, .cold_blocks = 0, .chunk_blocks = 8}, spec);
  Write(TestNames({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  Restart();  // the first block is the oldest now, and the last one has to go before it
  (*stack_)->EndGrace();
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm), std::pair(uint64_t{3}, uint64_t{0}));
  EXPECT_EQ((*stack_)->Stats().places, 0u);
  ExpectBooksAgree();
}

// As a slot that was held back for old leases, or a copy in cold that was not erased in time, can
// leave it: the earlier place had left the tree before the later came.
TEST_F(StackTest, OfTwoPlacesWithOneNameTheLaterOneComesBack) {
  Use({.warm_blocks = 16, .cold_blocks = 0, .chunk_blocks = 8});
  Write(TestNames({1, 2, 3}));
  Write(TestNames({1, 5}));
  const uint64_t later = client_->Match(TestNames({1, 5})).blocks[1].id;
  client_.reset();
  stack_->Close();
  {
    const auto arena = Arena::Open({.path = stack_->directory() + "/arena",
                                    .capacity_bytes = 16 * kTestBlockBytes,
                                    .chunk_bytes = 8 * kTestBlockBytes});
    ASSERT_TRUE(arena.ok()) << arena.status();
    auto headers = SlotHeaders::Open(*arena);
    ASSERT_TRUE(headers.ok()) << headers.status();
    uint32_t page = 0;
    for (const uint32_t chunk : headers->TakeOver()) {
      headers->VisitSlots(chunk, [&](uint32_t at, const SlotRecord& record) {
        if (record.block.id == later) page = at;
      });
    }
    ASSERT_NE(page, 0u);
    BlockRecord block = headers->Block(page);
    block.name = TestName(2);
    block.Seal();
    headers->SetFree(page);
    headers->SetCommitted(page, block);
  }
  stack_->Open();
  Connect();
  const LeaseView found = client_->Match(TestNames({1, 2, 3}));
  ASSERT_EQ(found.depth, 2u) << "what stood behind the earlier one has gone with it";
  EXPECT_EQ(found.blocks[1].id, later);
  EXPECT_EQ((*stack_)->Stats().places, 2u);
  EXPECT_EQ((*stack_)->Stats().tiers[0].used_bytes, 4 * kTestBlockBytes) << "may be read still";
  ExpectBooksAgree();
  (*stack_)->EndGrace();
  EXPECT_EQ((*stack_)->Stats().tiers[0].used_bytes, 2 * kTestBlockBytes);
  ExpectBooksAgree();
}

TEST_F(StackTest, ABlockSmallerThanItsNamesIsRefused) {
  Use({});
  SpaceSpec spec = TestSpec("long blocks");
  spec.block_tokens = 2048;
  const absl::Status status = (*stack_)->OpenSpace(spec).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("the names of its 2048 tokens"));
}

TEST_F(StackTest, NothingReadoptedIsEvictedInTheGracePeriod) {
  Use({.warm_blocks = 8, .cold_blocks = 64, .chunk_blocks = 8});
  const auto names = TestNames({1, 2, 3, 4, 5, 6});
  Write(names);
  Restart();
  EXPECT_EQ(client_->Reserve(2).size(), 2u);
  EXPECT_TRUE(client_->Reserve(1, 0, 500).empty());
  (*stack_)->EndGrace();
  EXPECT_EQ(client_->Reserve(1).size(), 1u);
  ExpectBooksAgree();
}

TEST_F(StackTest, NothingReadoptedIsDroppedWithTheArenaInTheGracePeriod) {
  Use({});
  const auto names = TestNames({1, 2});
  Write(names);
  Restart();
  const auto drop = [&] {
    uint64_t left = UINT64_MAX;
    (*stack_)->DropArena([&](absl::Status, uint64_t, uint64_t kept) { left = kept; });
    stack_->Settle();
    return left;
  };
  EXPECT_EQ(drop(), 2u);
  EXPECT_EQ(client_->Match(names).depth, 2u);
  (*stack_)->ExpireLeases(client_->number());
  (*stack_)->EndGrace();
  EXPECT_EQ(drop(), 0u);
  ExpectBooksAgree();
}

TEST_F(StackTest, WhatHasNoPlaceAfterARestartIsNotOverwrittenInTheGracePeriod) {
  Use({.warm_blocks = 8, .cold_blocks = 64, .chunk_blocks = 8});
  const auto names = TestNames({1, 2, 3, 4, 5, 6});
  Write(names);
  const std::vector<BlockView> read = client_->Match(names).blocks;  // a lease of the last epoch
  for (const char* name : {"/state.json", "/state.json.copy"}) {     // nobody knows the space
    std::filesystem::remove(stack_->directory() + name);
  }
  Restart();
  EXPECT_EQ(client_->Match(names).depth, 0u);
  EXPECT_EQ(client_->Reserve(8).size(), 2u);
  client_->ExpectLegal(read, names);
  ExpectBooksAgree();
  (*stack_)->EndGrace();
  EXPECT_EQ(client_->Reserve(6).size(), 6u);
  ExpectBooksAgree();
}

TEST_F(StackTest, ASpoiledReadoptedBlockIsReplacedByACommitAndNeverWrittenDown) {
  Use({.scrub = false});
  const auto names = TestNames({1, 2});
  Write(names);
  const BlockView block = client_->Match(names).blocks[1];
  const auto payload = (*stack_)->SlotPayload(block.offset, block.bytes);
  const_cast<std::byte*>(payload.data())[7] ^= std::byte{1};
  Restart();
  (*stack_)->EndGrace();
  LeaseView lease = client_->Match(TestNames({1}));
  ASSERT_EQ(client_->Extend(lease, names), 2u);
  client_->Release(lease);
  const LeaseView found = client_->Match(names);
  ASSERT_EQ(found.depth, 2u);
  EXPECT_TRUE(found.blocks[1].checked);
  client_->ExpectLegal(found.blocks, names);
  // Spoiled again and not replaced: the flush finds it.
  const auto again = (*stack_)->SlotPayload(found.blocks[1].offset, kTestBlockBytes);
  const_cast<std::byte*>(again.data())[9] ^= std::byte{1};
  client_->Release(found);
  (*stack_)->ExpireLeases(client_->number());
  FlushTier(*stack_, TierKind::kWarm);
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 1u);
  EXPECT_EQ(client_->Match(names).depth, 1u);
  ExpectBooksAgree();
}

TEST_F(StackTest, TheScrubberChecksWhatWasReadopted) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  Restart();
  for (const BlockView& block : client_->Match(names).blocks) EXPECT_FALSE(block.checked);
  stack_->Settle();
  for (const BlockView& block : client_->Match(names).blocks) EXPECT_TRUE(block.checked);
  (*stack_)->EndGrace();
  ExpectBooksAgree();
}

TEST_F(StackTest, TheScrubberFindsASpoiledBlockAndDropsItOnceNobodyReadsIt) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  LeaseView lease = client_->Match(names);
  const auto payload = (*stack_)->SlotPayload(lease.blocks[1].offset, kTestBlockBytes);
  const_cast<std::byte*>(payload.data())[9] ^= std::byte{1};
  const auto round = [&] {
    for (int i = 0; i < 3; ++i) {  // a round ends with a tick
      (*stack_)->Tick();
      stack_->Settle();
    }
  };
  round();
  LeaseView other = client_->Match(names);
  ASSERT_EQ(other.depth, 3u) << "it is leased";
  EXPECT_FALSE(other.blocks[1].checked) << "readers sum it themselves";
  EXPECT_TRUE(other.blocks[2].checked);
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 0u);
  client_->Release(lease);
  client_->Release(other);
  round();
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 1u);
  EXPECT_EQ(client_->Match(names).depth, 1u);
  ExpectBooksAgree();
}

// A commit that is to be on the disk is leased by whoever waits for it.
TEST_F(StackTest, ALeasedBlockThatCannotBeWrittenAsItIsSpoiledIsNotCheckedAnyMore) {
  Use({.durability = Durability::kAck, .scrub = false});
  CommitDurably(TestNames({1}));
  const LeaseView lease = client_->Match(TestNames({1}));
  ASSERT_EQ(lease.depth, 1u);
  ASSERT_TRUE(lease.blocks[0].checked);
  const auto payload = (*stack_)->SlotPayload(lease.blocks[0].offset, kTestBlockBytes);
  const_cast<std::byte*>(payload.data())[9] ^= std::byte{1};
  stack_->Advance(std::chrono::milliseconds(20));
  stack_->Settle();
  const LeaseView other = client_->Match(TestNames({1}));
  ASSERT_EQ(other.depth, 1u);
  EXPECT_FALSE(other.blocks[0].checked);
  client_->Release(lease);
  client_->Release(other);
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().corrupt_blocks, 1u);
  EXPECT_EQ(client_->Match(TestNames({1})).depth, 0u);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_FALSE(answers_[0].ok());
  ExpectBooksAgree();
}

// What the scrubber has listed may be gone, or its chunk be another size's, when it comes to it.
TEST_F(StackTest, TheScrubberOutlivesDroppedAndRecutChunks) {
  SpaceSpec larger = TestSpec();
  larger.model = "larger";
  larger.parts[0].block_bytes = 4 * kTestBlockBytes;
  Use({.warm_blocks = 16, .cold_blocks = 0, .chunk_blocks = 8});
  const auto other = (*stack_)->OpenSpace(larger);
  ASSERT_TRUE(other.ok()) << other.status();
  for (int round = 0; round < 4; ++round) {
    for (uint64_t path = 0; path < 8; ++path) Write(TestNames({path * 10 + 1, path * 10 + 2}));
    (*stack_)->Tick();  // lists a chunk, and takes less than all of it
    bool dropped = false;
    (*stack_)->DropArena([&](absl::Status status, uint64_t, uint64_t kept) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(kept, 0u) << "the scrubber's pins are no leases";
      dropped = true;
    });
    stack_->SettleUntil(dropped);
    TestClient recut(*stack_, *other);
    LeaseView lease = recut.Match(TestNames({7}));
    EXPECT_EQ(recut.Extend(lease, TestNames({7})), 1u);
    recut.Release(lease);
    (*stack_)->Tick();
    stack_->Settle();
    (*stack_)->RemoveClient(recut.number(), Departure::kProcessGone);
    FlushTier(*stack_, TierKind::kWarm);
  }
  ExpectBooksAgree();
}

TEST_F(StackTest, PinsKeepTheirPathThroughRestartsAndExpire) {
  Use({.warm_blocks = 8, .cold_blocks = 8, .chunk_blocks = 8});
  const auto pinned = TestNames({1, 2, 3});
  Write(pinned);
  const auto pin = (*stack_)->Pin(space_, pinned, std::chrono::hours(1), TierKind::kNone);
  ASSERT_TRUE(pin.ok()) << pin.status();
  EXPECT_EQ(pin->depth, 3u);
  EXPECT_TRUE(absl::IsNotFound(
      (*stack_)->Pin(space_, TestNames({9}), std::chrono::hours(1), TierKind::kNone).status()));
  stack_->Settle();  // the pin is noted
  Restart();
  (*stack_)->EndGrace();
  ASSERT_EQ((*stack_)->Pins().size(), 1u);
  EXPECT_EQ((*stack_)->Pins()[0].pin, pin->pin);
  for (uint64_t i = 1; i < 8; ++i) Write(TestNames({100 * i, 100 * i + 1, 100 * i + 2}));
  EXPECT_EQ(client_->Match(pinned).depth, 3u);
  (*stack_)->ExpireLeases(client_->number());
  stack_->Advance(std::chrono::hours(2));
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_TRUE((*stack_)->Pins().empty());
  for (uint64_t i = 11; i < 18; ++i) Write(TestNames({100 * i, 100 * i + 1, 100 * i + 2}));
  EXPECT_LT(client_->Match(pinned).depth, 3u);
  Restart();
  EXPECT_TRUE((*stack_)->Pins().empty());
}

TEST_F(StackTest, ShutdownDrainsOrKeeps) {
  Use({});
  Write(TestNames({1, 2}));
  bool done = false;
  (*stack_)->Shutdown(true, [&](absl::Status status) {
    EXPECT_TRUE(status.ok()) << status;
    done = true;
  });
  stack_->SettleUntil(done);
  EXPECT_EQ(Tiers(0), 0u);
  EXPECT_EQ(Tiers(1), 2u);
  Restart();
  EXPECT_EQ(client_->Match(TestNames({1, 2})).depth, 2u);
  LeaseView lease = client_->Match({});
  client_->Extend(lease, TestNames({5}));
  done = false;
  (*stack_)->Shutdown(false, [&](absl::Status) { done = true; });
  stack_->SettleUntil(done);
  EXPECT_TRUE(client_->Reserve(1).empty());
  EXPECT_TRUE(absl::IsUnavailable(client_->reserve_status));
  Restart();
  EXPECT_EQ(client_->Match(TestNames({5})).depth, 1u);
}

TEST_F(StackTest, AnyByteOfTheStateFileMayBeWrong) {
  Use({});
  Write(TestNames({1}));
  const std::string path = stack_->directory() + "/state.json";
  const uint64_t bytes = std::filesystem::file_size(path);
  for (uint64_t at = 0; at < bytes; at += bytes / 16) {
    stack_->Close();
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(byte ^ 1));
    file.close();
    stack_->Open();
    Connect();
    EXPECT_TRUE(std::filesystem::remove(path + ".damaged")) << "byte " << at;
    EXPECT_EQ(client_->Match(TestNames({1})).depth, 1u) << "byte " << at;
    client_.reset();
  }
  stack_->Close();
  std::filesystem::remove(path);
  stack_->Open();
  Connect();
  EXPECT_EQ(client_->Match(TestNames({1})).depth, 1u) << "the copy is enough";
}

TEST_F(StackTest, ADamagedStateFileIsSetAside) {
  Use({});
  Write(TestNames({1}));
  stack_->Close();
  for (const char* name : {"/state.json", "/state.json.copy"}) {
    std::ofstream(stack_->directory() + name) << "{\"format\": 3";
  }
  stack_->Open();
  Connect();
  EXPECT_TRUE(std::filesystem::exists(stack_->directory() + "/state.json.damaged"));
  EXPECT_TRUE(std::filesystem::exists(stack_->directory() + "/state.json.copy.damaged"));
  EXPECT_EQ(client_->Match(TestNames({1})).depth, 0u);
  (*stack_)->EndGrace();
  EXPECT_EQ((*stack_)->Stats().tiers[0].used_bytes, 0u);
  ExpectBooksAgree();
}

TEST_F(StackTest, WhatIsDeletedIsOffTheDiskWhenThatIsAnswered) {
  Use({});
  const auto names = TestNames({1, 2, 3});
  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  const auto cold_blocks = [&] { return (*stack_)->Stats().tiers[1].block_count; };
  ASSERT_EQ(cold_blocks(), 3u);
  ASSERT_EQ(*(*stack_)->Delete(FingerprintOf(spec_), {}), 3u);
  std::optional<absl::Status> answer;
  const auto note = [&](absl::Status status) { answer = std::move(status); };
  (*stack_)->SyncDeletions(note);
  while (stack_->StepStrand()) continue;
  EXPECT_FALSE(answer) << "nothing has come to the disk yet";
  stack_->Settle();
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->ok()) << *answer;
  EXPECT_EQ(cold_blocks(), 0u);

  Write(names);
  FlushTier(*stack_, TierKind::kWarm);
  ASSERT_EQ(*(*stack_)->Delete(FingerprintOf(spec_), {}), 3u);
  stack_->SetFaults({.error = 1});
  answer.reset();
  (*stack_)->SyncDeletions(note);
  stack_->Settle();
  ASSERT_TRUE(answer);
  EXPECT_TRUE(absl::IsUnavailable(*answer)) << *answer;
}

TEST_F(StackTest, ADeletionThatWaitsForAHungDiskIsAnsweredLateAndOnce) {
  Use({});
  Write(TestNames({1, 2, 3}));
  FlushTier(*stack_, TierKind::kWarm);
  ASSERT_EQ(*(*stack_)->Delete(FingerprintOf(spec_), {}), 3u);
  std::vector<absl::Status> answers;
  (*stack_)->SyncDeletions([&](absl::Status status) { answers.push_back(std::move(status)); });
  while (stack_->StepStrand()) continue;
  stack_->Advance(StackOptions().write_deadline);
  while (stack_->StepStrand()) continue;
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(answers[0])) << answers[0];
  stack_->Settle();
  EXPECT_EQ(answers.size(), 1u);
  EXPECT_EQ((*stack_)->Stats().tiers[1].block_count, 0u);
}

}  // namespace
}  // namespace thermocline
