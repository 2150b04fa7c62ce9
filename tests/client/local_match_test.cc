// What a local client does without a message: the daemon is stopped (SIGSTOP) while it does it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <optional>

#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint64_t kBlockBytes = 64 * 1024;

class LocalMatchTest : public ::testing::Test {
 protected:
  LocalMatchTest() : client_(daemon_.Connect()), space_(*client_->OpenSpace(TestSpace())) {}
  void Put(const std::vector<int32_t>& tokens, uint32_t places) {
    auto lease = space_.Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(Extend(space_, *lease, tokens, places));
  }
  std::unique_ptr<AdminClient> Admin() {
    return *AdminClient::Connect({.socket_path = daemon_.socket()});
  }
  DaemonProcess daemon_;
  std::unique_ptr<Client> client_;
  Space space_;
};

TEST_F(LocalMatchTest, AWarmHitCostsNoMessage) {
  const auto tokens = Prompt(1, 40);
  Put(tokens, 40);
  const Silence silence(daemon_);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  EXPECT_EQ(lease->depth(), 40u);
  EXPECT_EQ(*lease->Load(), 40u);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 40u);
  EXPECT_EQ(lease->blocks().size(), 40u);
  EXPECT_EQ(lease->Find(39)->matched_tier, BlockTier::kWarm);
  EXPECT_NE(lease->Find(39)->id, 0u);
  EXPECT_TRUE(lease->StillValid());
  auto shorter = space_.Match(Prompt(1, 7));
  ASSERT_OK(shorter.status());
  EXPECT_EQ(shorter->depth(), 7u);
  auto nothing = space_.Match(Prompt(2, 7));
  ASSERT_OK(nothing.status());
  EXPECT_EQ(nothing->depth(), 0u);
  lease->Release();
  EXPECT_FALSE(lease->StillValid());
}

TEST_F(LocalMatchTest, WhatIsPinnedStaysWhereItIs) {
  const auto tokens = Prompt(1, 8);
  Put(tokens, 8);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_EQ(lease->depth(), 8u);
  const auto view = lease->View(5);
  const auto flushed = Admin()->Flush(BlockTier::kWarm);
  ASSERT_OK(flushed.status());
  EXPECT_EQ(flushed->kept, 8u);
  EXPECT_TRUE(Holds(view, Content(tokens, 5, 0, kBlockBytes)));
  EXPECT_TRUE(lease->StillValid());
  lease->Release();
  EXPECT_EQ(Admin()->Flush(BlockTier::kWarm)->kept, 0u);
  EXPECT_EQ(space_.Match(tokens)->Find(0)->matched_tier, BlockTier::kCold) << "asked by message";
}

TEST_F(LocalMatchTest, HitsAndMissesAreCountedExactly) {
  Put(Prompt(1, 8), 8);
  const auto before = client_->Stats();
  ASSERT_OK(before.status());
  for (int i = 0; i < 100; ++i) ASSERT_EQ(space_.Match(Prompt(1, 10))->depth(), 8u);
  auto other = daemon_.Connect();
  ASSERT_EQ(other->OpenSpace(TestSpace())->Match(Prompt(1, 3))->depth(), 3u);
  other.reset();  // what it counted is not forgotten with it
  ASSERT_TRUE(Eventually([&] { return client_->Stats()->sessions == 1; }));
  const auto after = client_->Stats();
  ASSERT_OK(after.status());
  EXPECT_EQ(after->lookups - before->lookups, 101u);
  EXPECT_EQ(after->tiers[0].hits - before->tiers[0].hits, 803u);
  EXPECT_EQ(after->misses - before->misses, 200u);
}

TEST_F(LocalMatchTest, AnEvictionGoesByWhatWasMatchedWithoutAMessage) {
  // 128 MiB of warm memory hold 2,048 blocks.
  for (int32_t seed = 1; seed <= 8; ++seed) Put(Prompt(seed, 200), 200);
  for (int32_t seed : {1, 2}) ASSERT_EQ(space_.Match(Prompt(seed, 200))->depth(), 200u);
  Put(Prompt(9, 600), 600);
  EXPECT_EQ(space_.Match(Prompt(1, 200))->Find(199)->matched_tier, BlockTier::kWarm);
  EXPECT_EQ(space_.Match(Prompt(2, 200))->Find(199)->matched_tier, BlockTier::kWarm);
  EXPECT_EQ(space_.Match(Prompt(3, 200))->Find(199)->matched_tier, BlockTier::kCold);
}

TEST_F(LocalMatchTest, ACommitMovesThePinBehindWhatItHasPublished) {
  const auto tokens = Prompt(1, 30);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  for (const uint32_t depth : {1u, 2u, 10u, 30u}) {
    ASSERT_OK(Extend(space_, *lease, tokens, depth));
    EXPECT_EQ(lease->depth(), depth);
    EXPECT_EQ(RightPlaces(space_, *lease, tokens), depth);
  }
  EXPECT_EQ(Admin()->Flush(BlockTier::kWarm)->kept, 30u);
  ASSERT_OK(lease->Truncate(5));
  ASSERT_OK(Extend(space_, *lease, tokens, 6));  // is there already
  EXPECT_EQ(lease->depth(), 6u);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 6u);
  EXPECT_EQ(Admin()->Flush(BlockTier::kWarm)->kept, 6u);
  EXPECT_TRUE(lease->StillValid());
}

TEST_F(LocalMatchTest, AnExportedLeaseIsHeldByTwo) {
  const auto tokens = Prompt(1, 40);
  Put(tokens, 40);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  const auto exported = lease->Export();
  ASSERT_OK(exported.status());
  EXPECT_LT(exported->size(), 100u) << "no prompt travels";
  const auto other = daemon_.Connect();
  const Space theirs = *other->OpenSpace(TestSpace());
  auto imported = [&] {
    const Silence silence(daemon_);  // and no message
    return theirs.Import(*exported);
  }();
  ASSERT_OK(imported.status());
  lease->Release();
  EXPECT_EQ(Admin()->Flush(BlockTier::kWarm)->kept, 40u);
  EXPECT_EQ(RightPlaces(theirs, *imported, tokens), 40u);
  ASSERT_OK(imported->Truncate(30));
  ASSERT_OK(Extend(theirs, *imported, Prompt(1, 50), 50));  // it knows the names, too
  EXPECT_EQ(RightPlaces(theirs, *imported, Prompt(1, 50)), 50u);
  EXPECT_TRUE(imported->StillValid());
}

TEST_F(LocalMatchTest, WhatIsExportedAndLetGoOfIsNotFound) {
  const auto tokens = Prompt(1, 8);
  Put(tokens, 8);
  std::string exported;
  {
    auto lease = space_.Match(tokens);
    ASSERT_OK(lease.status());
    exported = *lease->Export();
  }
  ASSERT_OK(space_.Import(exported).status());
  ASSERT_OK(Admin()->Delete(space_.fingerprint(), NamesView()).status());
  Put(Prompt(2, 8), 8);  // and something else stands there
  EXPECT_TRUE(absl::IsNotFound(space_.Import(exported).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(space_.Import("garbage").status()));
  const Space another = *client_->OpenSpace(TestSpace(kBlockBytes, "another model"));
  EXPECT_TRUE(absl::IsInvalidArgument(another.Import(exported).status()));
  auto nothing = space_.Match(Prompt(3, 2));
  ASSERT_OK(nothing.status());
  const auto of_nothing = space_.Import(*nothing->Export());
  ASSERT_OK(of_nothing.status());
  EXPECT_EQ(of_nothing->depth(), 0u);
  daemon_.Stop();
  daemon_.Start();
  ASSERT_TRUE(Eventually([&] { return client_->Reconnect().ok(); }));
  EXPECT_TRUE(absl::IsNotFound(space_.Import(exported).status())) << "of an earlier epoch";
}

TEST_F(LocalMatchTest, MoreLeasesThanPinsAreHadByMessage) {
  Put(Prompt(1, 2), 2);
  std::vector<Lease> leases;
  for (int i = 0; i < 150; ++i) {
    auto lease = space_.Match(Prompt(1, 2));
    ASSERT_OK(lease.status());
    ASSERT_EQ(lease->depth(), 2u);
    ASSERT_EQ(RightPlaces(space_, *lease, Prompt(1, 2)), 2u);
    leases.push_back(*std::move(lease));
  }
  EXPECT_EQ(client_->Stats()->leases, 150u);
  leases.clear();
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == 0; }));
}

TEST_F(LocalMatchTest, WhatIsDeletedIsFoundNoMoreAndReadToTheEnd) {
  const auto tokens = Prompt(1, 4);
  Put(tokens, 4);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_OK(Admin()->Delete(space_.fingerprint(), tokens).status());
  EXPECT_EQ(space_.Match(tokens)->depth(), 3u);
  EXPECT_EQ(RightPlaces(space_, *lease, tokens), 4u);
  EXPECT_TRUE(lease->StillValid());
  lease->Release();
  Put(tokens, 4);
  EXPECT_EQ(space_.Match(tokens)->depth(), 4u) << "committed anew";
}

class FlippedByteTest : public ::testing::Test {
 protected:
  /// A daemon that was killed and started again: of its arena no block is checked, and in that at
  /// depth 3 a byte is wrong.
  void Start(const std::string& scrub_rate) {
    daemon_.emplace(DaemonProcess::Options{.more = {"--scrub-rate=" + scrub_rate}});
    client_ = daemon_->Connect();
    {
      const Space space = *client_->OpenSpace(TestSpace());
      auto lease = space.Match(tokens_);
      ASSERT_OK(lease.status());
      ASSERT_OK(Extend(space, *lease, tokens_, 6));
    }
    daemon_->Stop(SIGKILL);
    std::string arena;
    for (const auto& file : std::filesystem::recursive_directory_iterator(daemon_->directory())) {
      if (file.path().extension() == ".arena") arena = file.path();
    }
    ASSERT_FALSE(arena.empty());
    const auto content = Content(tokens_, 3, 0, kBlockBytes);
    std::ifstream in(arena, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(in), {});
    const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(content.data()), 64));
    ASSERT_NE(at, std::string::npos);
    std::fstream out(arena, std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(static_cast<std::streamoff>(at + 5000));
    out.put(static_cast<char>(bytes[at + 5000] ^ 1));
    out.close();
    daemon_->Start();
    ASSERT_OK(client_->Reconnect());
  }
  bool IsCounted() {
    return Eventually([&] { return client_->Stats()->corrupt_blocks == 1; });
  }

  const std::vector<int32_t> tokens_ = Prompt(1, 6);
  std::optional<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
};

TEST_F(FlippedByteTest, TheReaderThatMeetsItUncheckedSeesAndReportsIt) {
  Start("0");
  {
    const Space space = *client_->OpenSpace(TestSpace());
    auto lease = space.Match(tokens_);
    ASSERT_OK(lease.status());
    EXPECT_TRUE(Holds(lease->View(2), Content(tokens_, 2, 0, kBlockBytes)));
    EXPECT_TRUE(lease->View(3).empty());
    EXPECT_EQ(lease->depth(), 3u);
  }  // what is leased stays, damaged or not
  EXPECT_TRUE(IsCounted());
}

TEST_F(FlippedByteTest, TheScrubberFindsItWhereNobodyReads) {
  Start("8MiB");
  EXPECT_TRUE(IsCounted());
}

TEST_F(LocalMatchTest, AClientThatVerifiesAlwaysSeesWhatWasSpoiledAfterTheCheck) {
  const auto tokens = Prompt(1, 4);
  Put(tokens, 4);
  auto lease = space_.Match(tokens);
  ASSERT_OK(lease.status());
  const std::span<const std::byte> view = lease->View(2);
  ASSERT_FALSE(view.empty());
  const_cast<std::byte&>(view[77]) ^= std::byte{1};  // clients of one tenant can
  auto careful = Client::Connect({.socket_path = daemon_.socket(), .verify_always = true});
  ASSERT_OK(careful.status());
  auto seen = (*careful)->OpenSpace(TestSpace())->Match(tokens);
  ASSERT_OK(seen.status());
  EXPECT_TRUE(Holds(seen->View(1), Content(tokens, 1, 0, kBlockBytes)));
  EXPECT_TRUE(seen->View(2).empty());
  EXPECT_EQ(seen->depth(), 2u);
}

TEST(ReportTest, ADamagedBlockThatAClientMeetsIsDroppedByTheDaemonAndPutAnew) {
  DaemonProcess daemon({.cold_capacity = "0", .more = {"--scrub-rate=0"}});
  const auto client = daemon.Connect();
  const auto space = client->OpenSpace(TestSpace());
  ASSERT_OK(space.status());
  const auto tokens = Prompt(1, 4);
  {
    auto lease = space->Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(Extend(*space, *lease, tokens, 4));
    const_cast<std::byte&>(lease->View(2)[77]) ^= std::byte{1};
  }
  auto careful = Client::Connect({.socket_path = daemon.socket(), .verify_always = true});
  ASSERT_OK(careful.status());
  const auto same = (*careful)->OpenSpace(TestSpace());
  EXPECT_EQ(*same->Match(tokens)->Load(), 2u) << "it is met, and reported";
  EXPECT_TRUE(Eventually([&] { return client->Stats()->corrupt_blocks == 1; }));
  EXPECT_TRUE(Eventually([&] { return space->Match(tokens)->depth() == 2; }))
      << "others miss it, who would have trusted the daemon's check";
  auto lease = same->Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_EQ(lease->depth(), 2u);
  ASSERT_OK(Extend(*same, *lease, tokens, 4));
  auto mended = space->Match(tokens);
  ASSERT_OK(mended.status());
  EXPECT_EQ(RightPlaces(*space, *mended, tokens), 4u);
  EXPECT_EQ(client->Stats()->corrupt_blocks, 1u);
}

TEST_F(LocalMatchTest, WindowsAndWholeBlocksHoldInSharedMemoryToo) {
  SpaceSpec spec = TestSpace(kBlockBytes, "hybrid");
  spec.block_tokens = 32;
  spec.parts.push_back({.name = "window", .block_bytes = kBlockBytes, .window_tokens = 64});
  auto hybrid = client_->OpenSpace(spec);
  ASSERT_OK(hybrid.status());
  const auto tokens = Prompt(1, 12);
  auto lease = hybrid->Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_OK(Extend(*hybrid, *lease, tokens, 12));
  const Silence silence(daemon_);
  auto longer = tokens;
  longer.resize(longer.size() + 16, 5);
  auto hit = hybrid->Match(longer);
  ASSERT_OK(hit.status());
  EXPECT_EQ(hit->depth(), 12u);
  EXPECT_EQ(hit->blocks().size(), 6u + 2u);
  EXPECT_EQ(hit->Find(7, 1), nullptr) << "outside the window";
  EXPECT_NE(hit->Find(9, 1), nullptr);
  EXPECT_EQ(RightPlaces(*hybrid, *hit, tokens), 12u);
  auto odd = hybrid->Match(Prompt(1, 7));
  ASSERT_OK(odd.status());
  EXPECT_EQ(odd->depth(), 6u) << "rounded down to a block";
}

}  // namespace
}  // namespace thermocline
