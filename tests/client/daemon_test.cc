// The client library against a real daemon on small capacities: with the arena mapped, and by the
// same API without, where every block travels.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

class DaemonTest : public ::testing::TestWithParam<bool> {
 protected:
  DaemonTest()
      : daemon_({.remote = GetParam()}),
        client_(daemon_.Connect()),
        space_(*client_->OpenSpace(TestSpace())) {}
  void Put(const std::vector<int32_t>& tokens, uint32_t places) {
    auto lease = space_.Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(lease->Load().status());
    ASSERT_OK(Extend(space_, *lease, tokens, places));
  }
  DaemonProcess daemon_;
  std::unique_ptr<Client> client_;
  Space space_;
};

TEST_P(DaemonTest, WhatIsPutIsMatchedAndViewedInPlace) {
  const auto tokens = Prompt(1, 8);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  EXPECT_EQ(lease->depth(), 0u);
  ASSERT_OK(Extend(space_, *lease, tokens, 8));
  EXPECT_EQ(lease->depth(), 8u);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 8u);
  EXPECT_TRUE(lease->StillValid());

  auto longer = tokens;
  longer.resize(longer.size() + 40, 7);
  auto other = daemon_.Connect();
  auto same = other->OpenSpace(TestSpace());
  ASSERT_OK(same.status());
  EXPECT_EQ(same->fingerprint(), space_.fingerprint());
  auto hit = same->Match(longer);
  ASSERT_OK(hit.status());
  EXPECT_EQ(hit->depth(), 8u);
  EXPECT_EQ(hit->blocks().size(), 8u);
  EXPECT_EQ(hit->Find(7)->matched_tier, BlockTier::kWarm);
  EXPECT_EQ(*hit->Load(), 8u);
  EXPECT_EQ(RightPlaces(*same, *hit, tokens), 8u);
  EXPECT_TRUE(hit->View(8).empty());

  auto elsewhere = other->OpenSpace(TestSpace(64 * 1024, "another model"));
  ASSERT_OK(elsewhere.status());
  EXPECT_EQ(elsewhere->Match(tokens)->depth(), 0u);
}

TEST_P(DaemonTest, ALeaseIsExportedToWhoeverCanTakeItOver) {
  const auto tokens = Prompt(4, 6);
  Put(tokens, 6);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  const auto exported = lease->Export();
  ASSERT_OK(exported.status());
  for (const bool remote : {false, true}) {
    const std::string address = "unix://" + daemon_.socket() + ".grpc";
    auto other = Client::Connect(
        {.socket_path = daemon_.socket(), .remote = {.address = remote ? address : ""}});
    ASSERT_OK(other.status());
    auto same = (*other)->OpenSpace(TestSpace());
    ASSERT_OK(same.status());
    auto taken = same->Import(*exported);
    ASSERT_OK(taken.status());
    EXPECT_EQ(taken->depth(), 6u);
    EXPECT_EQ(*taken->Load(), 6u);
    EXPECT_EQ(RightPlaces(*same, *taken, tokens), 6u);
    EXPECT_TRUE(taken->StillValid());
    ASSERT_OK(taken->Truncate(5));
    const uint32_t depth = remote ? 8 : 7;
    ASSERT_OK(Extend(*same, *taken, Prompt(4, depth), depth));  // it knows the names, too
    EXPECT_EQ(RightPlaces(*same, *taken, Prompt(4, depth)), depth);
  }
}

TEST_P(DaemonTest, WhoTakesALeaseOverHoldsItAlone) {
  const auto tokens = Prompt(5, 6);
  Put(tokens, 6);
  std::string exported;
  std::optional<Lease> taken;
  const auto other = daemon_.Connect();
  const auto same = other->OpenSpace(TestSpace());
  ASSERT_OK(same.status());
  {
    auto lease = space_.Match(tokens);
    ASSERT_OK(lease.status());
    exported = *lease->Export();
    auto imported = same->Import(exported);
    ASSERT_OK(imported.status());
    taken = *std::move(imported);
  }
  auto admin = AdminClient::Connect({.socket_path = daemon_.socket()});
  ASSERT_OK(admin.status());
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == 1; }));
  EXPECT_EQ((*admin)->Flush(BlockTier::kWarm)->kept, 6u);
  EXPECT_EQ(RightPlaces(*same, *taken, tokens), 6u);
  taken.reset();
  ASSERT_OK((*admin)->Delete(space_.fingerprint(), NamesView()).status());
  Put(Prompt(6, 6), 6);  // and something else stands there
  for (const bool remote : {false, true}) {
    const std::string address = "unix://" + daemon_.socket() + ".grpc";
    auto late = Client::Connect(
        {.socket_path = daemon_.socket(), .remote = {.address = remote ? address : ""}});
    ASSERT_OK(late.status());
    const absl::Status gone = (*late)->OpenSpace(TestSpace())->Import(exported).status();
    EXPECT_TRUE(absl::IsNotFound(gone)) << gone;
    const auto another = (*late)->OpenSpace(TestSpace(64 * 1024, "another model"));
    EXPECT_TRUE(absl::IsInvalidArgument(another->Import(exported).status()));
  }
}

TEST_P(DaemonTest, AReadCopiesWhatAViewShows) {
  for (const uint64_t bytes : {64 << 10, 1 << 20}) {
    const auto space = client_->OpenSpace(TestSpace(bytes));
    ASSERT_OK(space.status());
    const auto tokens = Prompt(18, 3);
    auto lease = space->Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(Extend(*space, *lease, tokens, 3));
    auto hit = space->Match(tokens);
    ASSERT_OK(hit.status());
    std::vector<std::byte> memory(bytes + 8);
    const auto to = std::span(memory).subspan(4, bytes);
    for (uint32_t place = 0; place < 3; ++place) {
      ASSERT_TRUE(hit->Read(place, to));
      EXPECT_TRUE(Holds(to, Content(tokens, place, 0, bytes)));
    }
    EXPECT_TRUE(hit->StillValid());
    EXPECT_FALSE(hit->Read(3, to));
    EXPECT_FALSE(hit->Read(0, memory)) << "of another size";
    hit->Release();
    EXPECT_FALSE(hit->Read(0, to));
    EXPECT_EQ(memory.front(), std::byte{0});
    EXPECT_EQ(memory.back(), std::byte{0});
  }
}

TEST_P(DaemonTest, ASaltMakesAnotherSpaceAndIsNotTold) {
  const auto tokens = Prompt(17, 3);
  Put(tokens, 3);
  SpaceSpec spec = TestSpace();
  spec.salt = "secret";
  auto salted = client_->OpenSpace(spec);
  ASSERT_OK(salted.status());
  EXPECT_FALSE(salted->fingerprint() == space_.fingerprint());
  EXPECT_EQ(salted->Match(tokens)->depth(), 0u);
  const auto spaces = client_->Spaces();
  ASSERT_OK(spaces.status());
  ASSERT_EQ(spaces->size(), 2u);
  for (const SpaceInfo& info : *spaces) {
    EXPECT_EQ(info.spec.salt + info.spec.tenant, "");
    EXPECT_EQ(info.spec.model, spec.model);
    EXPECT_EQ(info.spec.parts[0].block_bytes, spec.parts[0].block_bytes);
  }
}

TEST_P(DaemonTest, ADuplicateCommitViewsTheFirstBlock) {
  const auto tokens = Prompt(2, 3);
  auto mine = space_.Match(tokens), theirs = space_.Match(tokens);
  ASSERT_OK(mine.status());
  ASSERT_OK(theirs.status());
  ASSERT_OK(Extend(space_, *theirs, tokens, 3));
  ASSERT_OK(Extend(space_, *mine, tokens, 3));
  for (uint32_t place = 0; place < 3; ++place) {
    EXPECT_EQ(mine->Find(place)->id, theirs->Find(place)->id);
    EXPECT_EQ(mine->View(place).data(), theirs->View(place).data());
  }
  const auto stats = client_->Stats();
  ASSERT_OK(stats.status());
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->reservations == 0; }));
  EXPECT_EQ(stats->places, 3u);
}

TEST_P(DaemonTest, ATruncatedLeaseIsExtendedBehindItsNewEnd) {
  const auto tokens = Prompt(3, 6);
  Put(tokens, 6);
  auto branch = tokens;
  for (size_t i = 3 * kPlaceTokens; i < branch.size(); ++i) branch[i] += 1'000'000;
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_OK(lease->Truncate(3));
  EXPECT_EQ(lease->depth(), 3u);
  EXPECT_TRUE(lease->View(3).empty());
  ASSERT_OK(Extend(space_, *lease, branch, 6));
  EXPECT_EQ(RightPlaces(space_, *lease, branch), 6u);
  auto first = space_.Match(tokens);
  EXPECT_EQ(RightPlaces(space_, *first, tokens), 6u);
}

TEST_P(DaemonTest, NamesAndSlotsThatDoNotFitAreRefused) {
  auto lease = space_.Match(Prompt(4, 2));
  ASSERT_OK(lease.status());
  EXPECT_EQ(lease->Commit(Prompt(4, 2), *space_.Reserve(1)).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(space_.Match(std::vector<std::string>{"key"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(space_.Reserve(1, 1).status().code(), absl::StatusCode::kInvalidArgument);
  SpaceSpec wrong = TestSpace();
  wrong.block_tokens = 17;
  EXPECT_EQ(client_->OpenSpace(wrong).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->reservations == 0; }));
}

TEST_P(DaemonTest, AFullArenaRefusesAndGivesWhatIsGivenBack) {
  std::vector<Reservation> held;
  absl::Status last;
  while (last.ok() && held.size() < 5000) {
    auto more = space_.Reserve(64);
    last = more.status();
    if (!more.ok()) break;
    for (Reservation& slot : *more) held.push_back(std::move(slot));
  }
  EXPECT_EQ(last.code(), absl::StatusCode::kResourceExhausted) << last;
  EXPECT_GE(held.size(), 1000u);
  EXPECT_LE(held.size(), 2048u);
  held.clear();
  EXPECT_TRUE(space_.Reserve(64).ok());
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->reservations == 0; }));
}

TEST_P(DaemonTest, ColdBlocksComeBackInPrefixOrder) {
  const auto tokens = Prompt(5, 40);
  Put(tokens, 40);
  auto admin = AdminClient::Connect({.socket_path = daemon_.socket()});
  ASSERT_OK(admin.status());
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == 0; }));
  const auto flushed = (*admin)->Flush(BlockTier::kWarm);
  ASSERT_OK(flushed.status());
  EXPECT_EQ(flushed->blocks, 40u);

  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  EXPECT_EQ(lease->depth(), 40u);
  EXPECT_EQ(lease->Find(0)->matched_tier, BlockTier::kCold);
  EXPECT_TRUE(lease->View(0).empty());
  uint32_t ready = 0;
  const auto loaded = lease->Load([&](uint32_t places) {
    EXPECT_GT(places, ready);
    for (; ready < places; ++ready) {
      EXPECT_TRUE(Holds(lease->View(ready), Content(tokens, ready, 0, 64 * 1024))) << ready;
    }
  });
  ASSERT_OK(loaded.status());
  EXPECT_EQ(*loaded, 40u);
  EXPECT_EQ(ready, 40u);
  EXPECT_EQ(lease->Find(0)->matched_tier, BlockTier::kCold);
  EXPECT_EQ(lease->Find(0)->tier, BlockTier::kWarm);
  EXPECT_TRUE(lease->StillValid());
}

TEST_P(DaemonTest, AFlushSeesWhatThisProcessHasReleased) {
  const auto tokens = Prompt(11, 8);
  Put(tokens, 8);
  auto admin = AdminClient::Connect({.socket_path = daemon_.socket()});
  ASSERT_OK(admin.status());
  for (int round = 0; round < 20; ++round) {
    {
      auto lease = space_.Match(tokens);
      ASSERT_OK(lease.status());
      const auto loaded = lease->Load();
      ASSERT_OK(loaded.status());
      ASSERT_EQ(*loaded, 8u);
    }
    const auto flushed = (*admin)->Flush(BlockTier::kWarm);
    ASSERT_OK(flushed.status());
    ASSERT_EQ(flushed->kept, 0u) << "round " << round;
  }
}

TEST_P(DaemonTest, EveryPartIsThereAndWindowsOnlyWhereTheyReach) {
  SpaceSpec spec = TestSpace(16 * 1024, "hybrid");
  spec.parts.push_back({.name = "window", .block_bytes = 8 * 1024, .window_tokens = 64});
  auto space = client_->OpenSpace(spec);
  ASSERT_OK(space.status());
  const auto tokens = Prompt(6, 20);
  auto lease = space->Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_OK(Extend(*space, *lease, tokens, 20));
  EXPECT_EQ(RightPlaces(*space, *lease, tokens), 20u);
  auto again = space->Match(tokens);
  ASSERT_OK(again.status());
  ASSERT_EQ(*again->Load(), 20u);
  EXPECT_EQ(RightPlaces(*space, *again, tokens), 20u);
  EXPECT_NE(again->Find(19, 1), nullptr);
  ASSERT_OK(again->Truncate(10));
  ASSERT_EQ(*again->Load(), 10u);
  EXPECT_NE(again->Find(9, 1), nullptr);
  EXPECT_EQ(RightPlaces(*space, *again, tokens), 10u);
}

TEST_P(DaemonTest, AKilledDaemonIsFoundAgainWithItsWarmBlocks) {
  const auto tokens = Prompt(7, 10);
  Put(tokens, 10);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_EQ(*lease->Load(), 10u);
  auto slots = space_.Reserve(1);
  ASSERT_OK(slots.status());
  daemon_.Stop(SIGKILL);

  const auto start = steady_clock::now();
  const absl::Status gone = client_->Stats().status();
  EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(gone.message()), HasSubstr(daemon_.socket()));
  if (!GetParam()) {
    EXPECT_THAT(std::string(gone.message()),
                HasSubstr("thermoclined --socket " + daemon_.socket()));
  }
  EXPECT_LT(steady_clock::now() - start, DaemonProcess::kCallTimeout);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 10u);  // mapped, readable and good for a while
  EXPECT_TRUE(lease->StillValid());
  EXPECT_EQ(lease->Load().status().code(), absl::StatusCode::kFailedPrecondition);

  daemon_.Start();
  ASSERT_OK(client_->Reconnect());
  EXPECT_FALSE(lease->StillValid());
  EXPECT_EQ(lease->Commit(Prompt(9, 1), *std::move(slots)).code(),
            absl::StatusCode::kFailedPrecondition);
  auto again = space_.Match(tokens);
  ASSERT_OK(again.status());
  EXPECT_EQ(again->depth(), 10u);
  EXPECT_EQ(again->Find(0)->matched_tier, BlockTier::kWarm);
  ASSERT_EQ(*again->Load(), 10u);
  EXPECT_EQ(RightPlaces(space_, *again, tokens), 10u);
  EXPECT_TRUE(again->StillValid());
}

TEST_P(DaemonTest, BlocksOf64TokensSurviveAKillInBothTiers) {
  SpaceSpec spec = TestSpace();
  spec.block_tokens = 64;
  const auto tokens = Prompt(19, 14);
  auto space = client_->OpenSpace(spec);
  ASSERT_OK(space.status());
  {
    auto lease = space->Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(Extend(*space, *lease, tokens, 12));
  }
  const auto expect_blocks = [&](BlockTier tier) {
    daemon_.Stop(SIGKILL);
    daemon_.Start();
    ASSERT_OK(client_->Reconnect());
    auto lease = space->Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_EQ(lease->depth(), 12u);
    ASSERT_EQ(lease->blocks().size(), 3u);
    EXPECT_EQ(lease->Find(3)->matched_tier, tier);
    const auto loaded = lease->Load();
    ASSERT_OK(loaded.status());
    ASSERT_EQ(*loaded, 12u);
    for (const uint32_t depth : {3u, 7u, 11u}) {
      EXPECT_TRUE(Holds(lease->View(depth), Content(tokens, depth, 0, 64 * 1024))) << depth;
    }
    EXPECT_TRUE(lease->StillValid());
  };
  expect_blocks(BlockTier::kWarm);
  auto admin = AdminClient::Connect({.socket_path = daemon_.socket()});
  ASSERT_OK(admin.status());
  // What a restarted daemon found stays until its old clients are back or have had their time.
  EXPECT_TRUE(Eventually([&] { return (*admin)->Flush(BlockTier::kWarm)->kept == 0; }));
  expect_blocks(BlockTier::kCold);
}

TEST_P(DaemonTest, TheNextCallReconnectsByItself) {
  const auto tokens = Prompt(8, 4);
  Put(tokens, 4);
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == 0; }));
  daemon_.Stop();
  EXPECT_FALSE(client_->Stats().ok());
  daemon_.Start();
  EXPECT_TRUE(Eventually([&] {
    auto lease = space_.Match(tokens);
    return lease.ok() && lease->Load().ok() && RightPlaces(space_, *lease, tokens) == 4;
  }));
}

TEST_P(DaemonTest, PinsSurviveARestart) {
  const auto tokens = Prompt(10, 5);
  Put(tokens, 5);
  const auto pin = space_.Pin(tokens, std::chrono::hours(1));
  ASSERT_OK(pin.status());
  EXPECT_EQ(pin->depth, 5u);
  EXPECT_EQ(space_.Pin(Prompt(99, 2), milliseconds(1000)).status().code(),
            absl::StatusCode::kNotFound);
  daemon_.Stop(SIGKILL);
  daemon_.Start();
  ASSERT_OK(client_->Reconnect());
  const auto pins = client_->Pins();
  ASSERT_OK(pins.status());
  ASSERT_EQ(pins->size(), 1u);
  EXPECT_EQ((*pins)[0].depth, 5u);
  EXPECT_EQ((*pins)[0].space, space_.fingerprint());
  ASSERT_OK(client_->Unpin((*pins)[0].pin));
  EXPECT_EQ(client_->Unpin((*pins)[0].pin).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(client_->Pins()->empty());
}

TEST_P(DaemonTest, AForkedChildIsDeadUntilItReconnects) {
  const auto tokens = Prompt(11, 2);
  Put(tokens, 2);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  auto slots = space_.Reserve(1);
  ASSERT_OK(slots.status());
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(120);
    int failed = 0;
    if (client_->Stats().status().code() != absl::StatusCode::kFailedPrecondition) failed |= 1;
    if (lease->StillValid() || !lease->View(0).empty()) failed |= 2;
    if (!(*slots)[0].bytes().empty()) failed |= 4;
    // gRPC's threads are not here, and it was not told that it would be forked (fork_test.cc).
    const absl::Status again = client_->Reconnect();
    if (again.code() != absl::StatusCode::kFailedPrecondition) failed |= 16;
    if (again.message().find("GRPC_ENABLE_FORK_SUPPORT=1") == std::string::npos) failed |= 32;
    if (space_.Match(tokens).status().code() != absl::StatusCode::kFailedPrecondition) failed |= 8;
    lease->Release();
    { Lease dropped = *std::move(lease); }
    slots->clear();
    client_.reset();
    ::_exit(failed);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(lease->StillValid());
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 2u);
  EXPECT_TRUE(client_->Stats().ok());
}

TEST_P(DaemonTest, DeleteAndDropForget) {
  const auto tokens = Prompt(12, 6);
  Put(tokens, 6);
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == 0; }));
  auto admin = AdminClient::Connect({.socket_path = daemon_.socket()});
  ASSERT_OK(admin.status());
  const std::span<const int32_t> head(tokens.data(), 4 * kPlaceTokens);
  EXPECT_EQ(*(*admin)->Delete(space_.fingerprint(), head), 3u);
  EXPECT_EQ(space_.Match(tokens)->depth(), 3u);
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == 0; }));
  EXPECT_EQ((*admin)->Fsck()->blocks, 0u);
  EXPECT_EQ(*(*admin)->DropArena(), 3u);
  EXPECT_EQ(space_.Match(tokens)->depth(), 0u);
  Put(tokens, 6);
  EXPECT_TRUE(Eventually([&] { return (*admin)->Flush(BlockTier::kWarm)->kept == 0; }));
  const auto checked = (*admin)->Fsck();
  ASSERT_OK(checked.status());
  EXPECT_EQ(checked->blocks, 6u);
  EXPECT_EQ(checked->damaged, 0u);
}

TEST_P(DaemonTest, ManyThreadsShareOneClient) {
  std::atomic<uint32_t> wrong{0}, put{0}, hits{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 30; ++round) {
        const uint32_t places = 1 + static_cast<uint32_t>((round * 7 + t * 3) % 12);
        const auto tokens = Prompt(20 + round % 3, places);
        auto lease = space_.Match(tokens);
        if (!lease.ok() || !lease->Load().ok()) continue;
        hits += lease->depth();
        const uint32_t depth = lease->depth();
        const bool right = RightPlaces(space_, *lease, tokens) == depth;
        if (!right && lease->StillValid()) ++wrong;
        if (depth < places && Extend(space_, *lease, tokens, places).ok()) ++put;
        if (RightPlaces(space_, *lease, tokens) != lease->depth() && lease->StillValid()) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_GT(put.load(), 0u);
  EXPECT_GT(hits.load(), 0u);
  EXPECT_TRUE(Eventually([&] {
    const auto stats = client_->Stats();
    return stats.ok() && stats->leases == 0 && stats->reservations == 0;
  }));
}

TEST_P(DaemonTest, AStoppedClientFindsItsLeaseEnded) {
  const auto tokens = Prompt(13, 2);
  Put(tokens, 2);
  int to_child[2], from_child[2];
  ASSERT_EQ(::pipe2(to_child, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(from_child, O_CLOEXEC), 0);
  const pid_t child =
      Spawn({TC_BUILD_DIR "/bin/client_probe", daemon_.socket(), daemon_.remote_address()},
            to_child[0], from_child[1], 2);
  ::close(from_child[1]);
  char answer = 0;
  ASSERT_EQ(::read(from_child[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'v');  // matched, and valid
  ::kill(child, SIGSTOP);
  std::this_thread::sleep_for(milliseconds(12'500));
  ::kill(child, SIGCONT);
  ASSERT_EQ(::write(to_child[1], "?", 1), 1);
  ASSERT_EQ(::read(from_child[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'e');  // ended
  ASSERT_EQ(::read(from_child[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'v');  // a new match is good
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  for (const int fd : {to_child[0], to_child[1], from_child[0]}) ::close(fd);
}

INSTANTIATE_TEST_SUITE_P(Map, DaemonTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "without" : "with"; });

}  // namespace
}  // namespace thermocline
