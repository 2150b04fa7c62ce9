// Puts without waiting: slots that were granted ahead, commits that are enqueued, and what becomes
// of both when somebody dies, falls silent or runs out of room.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <thread>

#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint64_t kBlockBytes = 64 * 1024;

class PutTest : public ::testing::Test {
 protected:
  explicit PutTest(DaemonProcess::Options options = {})
      : daemon_(std::move(options)),
        client_(daemon_.Connect()),
        space_(*client_->OpenSpace(TestSpace())) {}

  /// Enqueues the places [begin, end) of a prompt behind the lease.
  absl::Status Enqueue(Lease& lease, const std::vector<int32_t>& tokens, uint32_t begin,
                       uint32_t end, milliseconds timeout = kPatience) {
    std::vector<Reservation> slots;
    while (slots.size() < end - begin) {
      TC_ASSIGN_OR_RETURN(
          auto some,
          space_.Reserve(end - begin - static_cast<uint32_t>(slots.size()), 0, kPatience));
      for (Reservation& slot : some) slots.push_back(std::move(slot));
    }
    Fill(slots, tokens, begin);
    return lease.CommitAsync(Names(tokens, begin, end), std::move(slots), timeout);
  }
  /// With the places of a prompt from `begin` on.
  static void Fill(std::vector<Reservation>& slots, const std::vector<int32_t>& tokens,
                   uint32_t begin) {
    for (uint32_t i = 0; i < slots.size(); ++i) {
      const auto content = Content(tokens, begin + i, 0, kBlockBytes);
      std::memcpy(slots[i].bytes().data(), content.data(), content.size());
    }
  }
  /// Slots that were granted before anybody asked for them, and a daemon that does not answer any
  /// more. Puts 8 places of the prompt for that, and 8 more where a second or two went by, after
  /// which such slots go back.
  std::vector<Reservation> SlotsAhead(Lease& lease, const std::vector<int32_t>& tokens,
                                      size_t count, std::optional<Silence>& silence) {
    std::vector<Reservation> slots;
    EXPECT_TRUE(Eventually([&] {
      slots.clear();
      silence.reset();
      EXPECT_TRUE(Enqueue(lease, tokens, lease.depth(), lease.depth() + 8).ok());
      EXPECT_TRUE(lease.Settle().ok());
      silence.emplace(daemon_);
      while (slots.size() < count) {
        auto slot = space_.Reserve(1, 0, milliseconds(0), milliseconds(50));
        if (!slot.ok()) return false;
        slots.push_back(std::move(slot->at(0)));
      }
      return true;
    }));
    return slots;
  }
  static std::span<const int32_t> Names(const std::vector<int32_t>& tokens, uint32_t begin,
                                        uint32_t end) {
    return std::span(tokens).subspan(size_t{begin} * kPlaceTokens,
                                     size_t{end - begin} * kPlaceTokens);
  }
  uint32_t PlacesSeenByAnother(const std::vector<int32_t>& tokens) {
    const auto other = daemon_.Connect();
    const auto space = *other->OpenSpace(TestSpace());
    auto lease = space.Match(tokens);
    return lease.ok() ? RightPlaces(space, *lease, tokens) : 0;
  }
  /// Puts blocks one by one until the arena is full, and some more.
  void FillArena(const std::function<void(int32_t)>& look = [](int32_t) {}) {
    std::optional<Lease> last;
    for (int32_t i = 0; i < 2200; ++i) {
      const auto tokens = Prompt(i, 1);
      auto lease = space_.Match(tokens);
      ASSERT_OK(lease.status());
      auto slots = space_.Reserve(1, 0, kPatience);
      ASSERT_OK(slots.status());
      std::memset(slots->at(0).bytes().data(), i & 0xff, kBlockBytes);
      ASSERT_OK(lease->CommitAsync(tokens, *std::move(slots)));
      last = *std::move(lease);
      look(i);
    }
    ASSERT_OK(last->Settle());
  }
  bool NothingIsReserved() {
    return Eventually([&] { return client_->Stats()->reservations == 0; });
  }

  DaemonProcess daemon_;
  std::unique_ptr<Client> client_;
  Space space_;
};

TEST(StreamingCopyTest, CopiesEveryByteAndNoOther) {
  std::vector<std::byte> from(4096), to(4096);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 131 >> 3 | 1);
  for (const size_t to_at : {0, 1, 16, 63, 64}) {
    for (const size_t from_at : {0, 1, 17, 64}) {
      for (const size_t bytes : {0, 1, 15, 63, 64, 65, 127, 1000, 4000}) {
        std::fill(to.begin(), to.end(), std::byte{0});
        StreamingCopy(std::span(to).subspan(to_at, bytes), std::span(from).subspan(from_at, bytes));
        ASSERT_EQ(std::memcmp(to.data() + to_at, from.data() + from_at, bytes), 0);
        ASSERT_EQ(std::count(to.begin(), to.end(), std::byte{0}),
                  static_cast<ptrdiff_t>(to.size() - bytes));
      }
    }
  }
}

TEST_F(PutTest, WhatIsEnqueuedIsPublishedInItsOrder) {
  const auto tokens = Prompt(1, 100);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  for (uint32_t place = 0; place < 100; place += 5) {
    ASSERT_OK(Enqueue(*lease, tokens, place, place + 5));
    EXPECT_EQ(lease->depth(), 0u) << "the end moves when it is settled";
  }
  ASSERT_OK(lease->Settle());
  EXPECT_TRUE(lease->Settled());
  EXPECT_EQ(lease->depth(), 100u);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 100u);
  EXPECT_EQ(PlacesSeenByAnother(tokens), 100u);
  EXPECT_TRUE(NothingIsReserved());
}

TEST_F(PutTest, NobodyWaitsForADaemonThatDoesNotAnswer) {
  constexpr milliseconds kTimeout = kPatience;
  const auto tokens = Prompt(1, 800);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  std::optional<Silence> silence;
  std::vector<Reservation> slots = SlotsAhead(*lease, tokens, 4, silence);
  const uint32_t end = lease->depth();
  const std::byte* bytes = nullptr;
  const auto begin = steady_clock::now();
  for (uint32_t i = 0; i < 4; ++i) {
    std::vector<Reservation> one;
    one.push_back(std::move(slots[i]));
    Fill(one, tokens, end + i);
    bytes = one[0].bytes().data();
    ASSERT_OK(lease->CommitAsync(Names(tokens, end + i, end + i + 1), std::move(one), kTimeout));
  }
  EXPECT_LT(steady_clock::now() - begin, kTimeout) << "nothing was waited for";
  EXPECT_FALSE(lease->Settled());
  const absl::Status late = lease->Settle(milliseconds(50));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_TRUE(Holds({bytes, kBlockBytes}, Content(tokens, end + 3, 0, kBlockBytes)));
  EXPECT_EQ(lease->depth(), end);
  silence.reset();
  ASSERT_OK(lease->Settle(kPatience));
  EXPECT_EQ(lease->depth(), end + 4);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), end + 4);
}

TEST_F(PutTest, ALeaseThatGoesIsPublishedAllTheSame) {
  const auto tokens = Prompt(1, 64);
  {
    auto lease = space_.Match(tokens);
    ASSERT_OK(lease.status());
    for (uint32_t place = 0; place < 64; ++place) {
      ASSERT_OK(Enqueue(*lease, tokens, place, place + 1));
    }
  }
  EXPECT_TRUE(Eventually([&] { return PlacesSeenByAnother(tokens) == 64; }));
  EXPECT_TRUE(NothingIsReserved());
  // Its pin protects nothing any more.
  auto admin = *AdminClient::Connect({.socket_path = daemon_.socket()});
  EXPECT_TRUE(Eventually([&] { return admin->Flush(BlockTier::kWarm)->kept == 0; }));
}

TEST_F(PutTest, AClientThatGoesHasWhatItEnqueuedPublished) {
  const auto tokens = Prompt(1, 32);
  {
    auto client = daemon_.Connect();
    std::swap(client, client_);
    space_ = *client_->OpenSpace(TestSpace());
    auto lease = space_.Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(Enqueue(*lease, tokens, 0, 32));
    std::swap(client, client_);
  }
  space_ = *client_->OpenSpace(TestSpace());
  EXPECT_EQ(PlacesSeenByAnother(tokens), 32u);
}

TEST_F(PutTest, ASlotThatAnotherWasFasterThanGoesBack) {
  const auto tokens = Prompt(1, 20);
  auto first = space_.Match(tokens);
  auto second = space_.Match(tokens);
  ASSERT_OK(first.status());
  ASSERT_OK(second.status());
  ASSERT_OK(Enqueue(*first, tokens, 0, 20));
  ASSERT_OK(Enqueue(*second, tokens, 0, 20));
  ASSERT_OK(second->Settle());
  ASSERT_OK(first->Settle());
  EXPECT_EQ(RightPlaces(space_, *second, tokens), 20u);
  EXPECT_EQ(first->View(7).data(), second->View(7).data());
  EXPECT_TRUE(NothingIsReserved());
}

TEST_F(PutTest, ManyThreadsPutSideBySide) {
  constexpr int kThreads = 4;
  constexpr uint32_t kPlaces = 150;
  std::vector<std::thread> threads;
  std::array<absl::Status, kThreads> outcome;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      outcome[t] = [&]() -> absl::Status {
        const auto tokens = Prompt(t + 1, kPlaces);
        TC_ASSIGN_OR_RETURN(Lease lease, space_.Match(tokens));
        for (uint32_t place = 0; place < kPlaces; place += 3) {
          TC_RETURN_IF_ERROR(Enqueue(lease, tokens, place, place + 3));
          if (place % 30 == 0) TC_RETURN_IF_ERROR(lease.Settle());
        }
        return lease.Settle();
      }();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < kThreads; ++t) {
    EXPECT_TRUE(outcome[t].ok()) << outcome[t];
    EXPECT_EQ(PlacesSeenByAnother(Prompt(t + 1, kPlaces)), kPlaces);
  }
  EXPECT_TRUE(NothingIsReserved());
}

TEST_F(PutTest, ADaemonThatDiesIsNotWaitedFor) {
  const auto tokens = Prompt(1, 800);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  {
    std::optional<Silence> silence;
    std::vector<Reservation> slots = SlotsAhead(*lease, tokens, 4, silence);
    Fill(slots, tokens, lease->depth());
    ASSERT_OK(
        lease->CommitAsync(Names(tokens, lease->depth(), lease->depth() + 4), std::move(slots)));
    daemon_.Stop(SIGKILL);
  }
  const auto begin = steady_clock::now();
  EXPECT_FALSE(lease->Settle(kPatience).ok());
  EXPECT_LT(steady_clock::now() - begin, kPatience / 2);
  daemon_.Start();
  ASSERT_TRUE(Eventually([&] { return client_->Reconnect().ok(); }));
  auto again = space_.Match(tokens);
  ASSERT_OK(again.status());
  EXPECT_GE(RightPlaces(space_, *again, tokens), 8u);
}

TEST_F(PutTest, SlotsGrantedAheadComeBackFromAClientThatDoesNothing) {
  const auto tokens = Prompt(1, 8);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_OK(Enqueue(*lease, tokens, 0, 8));
  ASSERT_OK(lease->Settle());
  EXPECT_GT(client_->Stats()->reservations, 0u);
  EXPECT_TRUE(NothingIsReserved());
}

TEST_F(PutTest, AnArenaFullOfReservedSlotsTakesNoneAhead) {
  // 128 MiB hold 2,048 blocks.
  auto all = space_.Reserve(1500);
  ASSERT_OK(all.status());
  EXPECT_EQ(all->size(), 1500u);
  const auto other = daemon_.Connect();
  const auto theirs = *other->OpenSpace(TestSpace());
  auto rest = theirs.Reserve(500, 0, kPatience);
  ASSERT_OK(rest.status());
  EXPECT_EQ(rest->size(), 500u) << "what the first held ahead came back";
}

// The daemon comes to each call about when its caller gives up.
TEST_F(PutTest, WhatIsGrantedTooLateComesBack) {
  for (int round = 0; round < 20; ++round) {
    {
      const Silence silence(daemon_);
      std::vector<std::thread> threads;
      for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] {
          // Held, should it come in time.
          (void)space_.Reserve(2, 0, milliseconds(0), milliseconds(10 + 3 * i));
        });
      }
      std::this_thread::sleep_for(milliseconds(10 + round % 10));
      ::kill(daemon_.pid(), SIGCONT);
      for (std::thread& thread : threads) thread.join();
    }
  }
  EXPECT_TRUE(NothingIsReserved());
  auto lease = space_.Match(Prompt(1, 4));
  ASSERT_OK(lease.status());
  ASSERT_OK(Enqueue(*lease, Prompt(1, 4), 0, 4));
  ASSERT_OK(lease->Settle());
}

// 128 MiB hold 2,048 blocks, of which 64 are kept free.
TEST_F(PutTest, OfAFullArenaSlotsAreGrantedAheadToo) {
  constexpr uint32_t kAhead = 3;
  FillArena();
  EXPECT_TRUE(Eventually([&] {
    (void)space_.Reserve(kAhead, 0, kPatience);
    std::this_thread::sleep_for(milliseconds(100));  // what was asked for comes
    const Silence silence(daemon_);
    for (uint32_t i = 0; i < kAhead; ++i) {
      if (!space_.Reserve(1, 0, milliseconds(0), milliseconds(50)).ok()) return false;
    }
    return true;
  }));
  const auto blocks = client_->Stats()->tiers.at(0).blocks;
  EXPECT_LE(blocks, 2048u - 32);
  EXPECT_GE(blocks, 2048u - 64 - 32 - 2 * kAhead) << "little is kept free, or in hand";
}

// 128 MiB hold 2,048 blocks, of which 64 are kept free.
class NoDiskPutTest : public PutTest {
 protected:
  NoDiskPutTest() : PutTest({.cold_capacity = "0"}) {}
};

TEST_F(NoDiskPutTest, WhoHeldMuchBeforeTheArenaWasFullHoldsLittleOfIt) {
  constexpr uint32_t kMuch = 128;
  (void)space_.Reserve(kMuch, 0, kPatience);
  FillArena([&](int32_t i) {
    if (i == 100) {
      EXPECT_GE(client_->Stats()->reservations, kMuch / 2) << "it is of no use as yet";
    }
  });
  EXPECT_LE(client_->Stats()->reservations, 64u / 2 + 8) << "half of them, and some were missed";
}

TEST_F(NoDiskPutTest, WhoHoldsMuchTakesNoGrantFromAnother) {
  const auto holder = daemon_.Connect();
  const auto theirs = *holder->OpenSpace(TestSpace());
  const auto held = theirs.Reserve(200, 0, kPatience);
  ASSERT_OK(held.status());
  const auto reserved = [&] { return client_->Stats()->reservations; };
  ASSERT_TRUE(Eventually([&] { return reserved() == held->size(); })) << "none ahead";
  FillArena();
  EXPECT_GT(reserved(), held->size()) << "in hand for the next";
}

class SmallArenaPutTest : public PutTest {
 protected:
  SmallArenaPutTest() : PutTest({.warm_capacity = "4MiB", .cold_capacity = "0"}) {}
};

// 4 MiB hold 64 blocks, of which 3 are kept free.
TEST_F(SmallArenaPutTest, WhatWasPutDoesNotLeaveForSlotsThatNobodyNeedsYet) {
  constexpr uint32_t kPuts = 44;
  const auto tokens = Prompt(1, kPuts);
  {
    auto lease = space_.Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(Enqueue(*lease, tokens, 0, kPuts / 2));
    ASSERT_OK(Enqueue(*lease, tokens, kPuts / 2, kPuts));
    ASSERT_OK(lease->Settle());
  }
  const auto other = daemon_.Connect();
  ASSERT_OK(other->OpenSpace(TestSpace())->Reserve(2, 0, kPatience).status());
  EXPECT_EQ(PlacesSeenByAnother(tokens), kPuts);
}

class SmallCatalogPutTest : public PutTest {
 protected:
  SmallCatalogPutTest() : PutTest({.more = {"--max-places", "1024"}}) {}
};

TEST_F(SmallCatalogPutTest, WhatComesBehindARefusedCommitIsRefused) {
  const auto tokens = Prompt(1, 1100);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  for (uint32_t place = 0; place < 1100; place += 100) {
    ASSERT_OK(Enqueue(*lease, tokens, place, place + 100));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(lease->Settle()));
  EXPECT_EQ(lease->depth(), 1000u);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 1000u);
  EXPECT_TRUE(NothingIsReserved());
  ASSERT_OK(lease->Truncate(10));
  ASSERT_OK(Enqueue(*lease, tokens, 10, 12));  // are there
  ASSERT_OK(lease->Settle());
  EXPECT_EQ(lease->depth(), 12u);
}

TEST_F(PutTest, WhatAStoppedClientHoldsInAdvanceIsUsedByOthersAndNeverByIt) {
  int to_child[2], from_child[2];
  ASSERT_EQ(::pipe2(to_child, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(from_child, O_CLOEXEC), 0);
  const pid_t child = Spawn({TC_BUILD_DIR "/bin/client_probe", daemon_.socket(), "", "put"},
                            to_child[0], from_child[1], 2);
  ::close(from_child[1]);
  char answer = 0;
  ASSERT_EQ(::read(from_child[0], &answer, 1), 1);
  ::kill(child, SIGSTOP);
  EXPECT_GT(client_->Stats()->reservations, 0u) << "it was stopped too late";
  EXPECT_TRUE(NothingIsReserved());
  constexpr uint32_t kPlaces = 1900;  // of 2048
  const auto tokens = Prompt(7, kPlaces);
  auto lease = space_.Match(tokens);
  ASSERT_TRUE(lease.ok()) << lease.status();
  for (uint32_t places = 100; places <= kPlaces; places += 100) {
    ASSERT_OK(Extend(space_, *lease, tokens, places));
  }
  ::kill(child, SIGCONT);
  ASSERT_EQ(::write(to_child[1], "?", 1), 1);
  ASSERT_EQ(::read(from_child[0], &answer, 1), 1) << "what it puts now is wrong";
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), kPlaces);
  EXPECT_TRUE(lease->StillValid());
  lease->Release();
  EXPECT_TRUE(NothingIsReserved());
  for (const int fd : {to_child[0], to_child[1], from_child[0]}) ::close(fd);
}

}  // namespace
}  // namespace thermocline
