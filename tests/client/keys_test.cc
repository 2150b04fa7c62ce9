// Batches of unordered keys against a real daemon: with the arena mapped, and by the same API
// without, where they travel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>

#include "tests/client/blocks.h"
#include "tests/client/two_tenants.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using ::testing::Each;
using ::testing::ElementsAre;

constexpr auto kNone = BlockTier::kNone;
constexpr auto kWarm = BlockTier::kWarm;
constexpr auto kCold = BlockTier::kCold;

SpaceSpec KeySpace(uint64_t block_bytes = 64 * 1024, uint32_t parts = 1) {
  SpaceSpec spec = TestSpace(block_bytes);
  spec.opaque_names = true;
  spec.key_bytes = 16;
  spec.parts.clear();
  for (uint32_t part = 0; part < parts; ++part) {
    spec.parts.push_back({.name = "part " + std::to_string(part), .block_bytes = block_bytes});
  }
  return spec;
}

std::string Key(uint32_t number) {
  std::string key = "key " + std::to_string(number);
  key.resize(16, '.');
  return key;
}

std::vector<std::string> Keys(const std::vector<uint32_t>& numbers) {
  std::vector<std::string> keys;
  for (const uint32_t number : numbers) keys.push_back(Key(number));
  return keys;
}

std::vector<std::byte> ContentOf(uint32_t number, uint32_t part, uint64_t bytes) {
  return Content(Prompt(static_cast<int32_t>(number), 1), 0, part, bytes);
}

/// Memory for the blocks of a batch.
struct Buffers {
  Buffers(size_t count, uint64_t bytes) : memory(count, std::vector<std::byte>(bytes)) {
    for (auto& buffer : memory) spans.push_back(buffer);
  }
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::span<std::byte>> spans;
};

/// Commits keys, each as a path of its own.
absl::Status PutKeys(const Space& space, const std::vector<uint32_t>& numbers) {
  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(NamesView()));
  for (const uint32_t number : numbers) {
    std::vector<Reservation> slots;
    for (uint32_t part = 0; part < space.spec().parts.size(); ++part) {
      TC_ASSIGN_OR_RETURN(auto slot, space.Reserve(1, part, std::chrono::seconds(30)));
      const auto content = ContentOf(number, part, slot[0].bytes().size());
      std::memcpy(slot[0].bytes().data(), content.data(), content.size());
      slots.push_back(std::move(slot[0]));
    }
    TC_RETURN_IF_ERROR(lease.Commit(Keys({number}), std::move(slots)));
    TC_RETURN_IF_ERROR(lease.Truncate(0));
  }
  return absl::OkStatus();
}

class KeysTest : public ::testing::TestWithParam<bool> {
 protected:
  KeysTest()
      : daemon_({.remote = GetParam()}),
        client_(daemon_.Connect()),
        space_(*client_->OpenSpace(KeySpace())) {}
  /// How each key was read; wrong bytes fail the test.
  std::vector<BlockTier> Read(const Space& space, const std::vector<uint32_t>& numbers,
                              uint32_t part = 0) {
    const uint64_t bytes = space.spec().parts[part].block_bytes;
    Buffers buffers(numbers.size(), bytes);
    const auto tiers = space.Read(Keys(numbers), buffers.spans, part);
    EXPECT_TRUE(tiers.ok()) << tiers.status();
    if (!tiers.ok()) return {};
    for (size_t i = 0; i < numbers.size(); ++i) {
      if ((*tiers)[i] == kNone) continue;
      EXPECT_TRUE(Holds(buffers.memory[i], ContentOf(numbers[i], part, bytes))) << numbers[i];
    }
    return *tiers;
  }
  DaemonProcess daemon_;
  std::unique_ptr<Client> client_;
  Space space_;
};

TEST_P(KeysTest, EachIsFoundAndReadWhateverTheOrder) {
  std::vector<uint32_t> all;
  for (uint32_t i = 0; i < 200; ++i) all.push_back(i);
  ASSERT_OK(PutKeys(space_, all));
  const std::vector<uint32_t> asked = {7, 300, 199, 7, 0, 301, 7};  // some twice, some absent
  const auto tiers = space_.LookUp(Keys(asked));
  ASSERT_OK(tiers.status());
  EXPECT_THAT(*tiers, ElementsAre(kWarm, kNone, kWarm, kWarm, kWarm, kNone, kWarm));
  EXPECT_EQ(Read(space_, asked), *tiers);
  std::shuffle(all.begin(), all.end(), std::mt19937_64(1));
  EXPECT_THAT(Read(space_, all), Each(kWarm));
  EXPECT_TRUE(space_.LookUp(NamesView())->empty());
  EXPECT_TRUE(Read(space_, {}).empty());
}

TEST_P(KeysTest, ColdOnesAreReadToo) {
  ASSERT_OK(PutKeys(space_, {1, 2, 3}));
  auto admin = AdminClient::Connect({.socket_path = daemon_.socket()});
  ASSERT_OK((*admin)->Flush(BlockTier::kWarm).status());
  ASSERT_OK(PutKeys(space_, {4}));
  EXPECT_THAT(*space_.LookUp(Keys({4, 1, 9, 2})), ElementsAre(kWarm, kCold, kNone, kCold));
  EXPECT_THAT(Read(space_, {4, 1, 9, 2}), ElementsAre(kWarm, kCold, kNone, kCold));
  EXPECT_THAT(*space_.LookUp(Keys({1, 2, 3})), ElementsAre(kWarm, kWarm, kCold)) << "promoted";
}

TEST_P(KeysTest, AllPartsAreLookedUpAndOneIsRead) {
  const auto space = client_->OpenSpace(KeySpace(1 << 20, 3));
  ASSERT_OK(space.status());
  ASSERT_OK(PutKeys(*space, {1, 2}));
  EXPECT_THAT(*space->LookUp(Keys({2, 3, 1})), ElementsAre(kWarm, kNone, kWarm));
  for (uint32_t part = 0; part < 3; ++part) {
    EXPECT_THAT(Read(*space, {2, 3, 1}, part), ElementsAre(kWarm, kNone, kWarm));
  }
  EXPECT_THAT(*space_.LookUp(Keys({1, 2})), Each(kNone)) << "another space's";
}

TEST_P(KeysTest, WhatIsNotCopiedByTheDeadlineIsAMiss) {
  constexpr uint64_t kBytes = 1 << 20;
  constexpr milliseconds kTimeout{20};
  const auto space = client_->OpenSpace(KeySpace(kBytes));
  ASSERT_OK(space.status());
  ASSERT_OK(PutKeys(*space, {1}));
  ASSERT_THAT(Read(*space, {1}), Each(kWarm));
  // 4 GiB, which nobody copies in that time.
  const std::vector<uint32_t> asked(4000, 1);
  Buffers one(1, kBytes);
  const std::vector<std::span<std::byte>> buffers(asked.size(), one.spans[0]);
  const auto tiers = space->Read(Keys(asked), buffers, 0, kTimeout);
  ASSERT_OK(tiers.status());
  ASSERT_EQ(tiers->size(), asked.size());
  EXPECT_EQ(tiers->back(), kNone);
  const auto late = std::find(tiers->begin(), tiers->end(), kNone);
  EXPECT_TRUE(std::all_of(late, tiers->end(), [](BlockTier tier) { return tier == kNone; }));
  EXPECT_THAT(Read(*space, {1}), Each(kWarm)) << "of one that has time";
}

TEST_P(KeysTest, WhatDoesNotFitIsRefused) {
  Buffers buffers(2, 64 * 1024);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(space_.Read(Keys({1}), buffers.spans).status().code(), invalid);
  EXPECT_EQ(space_.Read(Keys({1, 2}), buffers.spans, 1).status().code(), invalid);
  Buffers small(2, 4096);
  EXPECT_EQ(space_.Read(Keys({1, 2}), small.spans).status().code(), invalid);
  EXPECT_EQ(space_.LookUp(std::vector<std::string>{"short"}).status().code(), invalid);
  EXPECT_EQ(space_.LookUp(Prompt(1, 2)).status().code(), invalid);
  const auto of_tokens = client_->OpenSpace(TestSpace());
  EXPECT_EQ(of_tokens->LookUp(Prompt(1, 2)).status().code(), invalid);
}

TEST_P(KeysTest, WhatGoesMeanwhileIsAMissAndNeverAnothersBytes) {
  // A chunk holds 1,024 blocks; there is no disk: whatever is put, something else goes.
  constexpr uint32_t kKeys = 2048;
  const DaemonProcess small({.warm_capacity = "64MiB", .cold_capacity = "0", .remote = GetParam()});
  const auto client = small.Connect();
  const auto space = client->OpenSpace(KeySpace());
  ASSERT_OK(space.status());
  std::vector<uint32_t> first(1100);
  std::iota(first.begin(), first.end(), 0);
  ASSERT_OK(PutKeys(*space, first));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    const auto own = small.Connect();
    const auto same = own->OpenSpace(KeySpace());
    for (uint32_t i = 1100; !stop; ++i) PutKeys(*same, {i % kKeys}).IgnoreError();
  });
  std::mt19937_64 random(7);
  size_t had = 0, missed = 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto took = [&] { return std::chrono::steady_clock::now() - begin; };
  while (took() < milliseconds(1000) ||
         ((had < 100 || missed < 100) && took() < milliseconds(60'000))) {
    std::vector<uint32_t> asked;
    for (int i = 0; i < 64; ++i) asked.push_back(static_cast<uint32_t>(random() % kKeys));
    for (const BlockTier tier : Read(*space, asked)) ++(tier == kNone ? missed : had);
  }
  stop = true;
  writer.join();
  std::printf("%zu had, %zu missed\n", had, missed);
  EXPECT_GE(had, 100u);
  EXPECT_GE(missed, 100u);
}

TEST_P(KeysTest, HitsAndMissesAreCounted) {
  ASSERT_OK(PutKeys(space_, {1, 2, 3}));
  const auto before = client_->Stats();
  ASSERT_EQ(Read(space_, {1, 2, 3, 4, 5}).size(), 5u);
  ASSERT_OK(space_.LookUp(Keys({1, 2, 3, 4, 5})).status());
  const auto after = client_->Stats();
  ASSERT_OK(after.status());
  EXPECT_EQ(after->lookups - before->lookups, 1u) << "to look whether is no use";
  EXPECT_EQ(after->tiers[0].hits - before->tiers[0].hits, 3u);
  EXPECT_EQ(after->misses - before->misses, 2u);
}

INSTANTIATE_TEST_SUITE_P(With, KeysTest, ::testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Messages" : "TheMap"; });

TEST(LocalKeysTest, WarmOnesCostNoMessage) {
  DaemonProcess daemon;
  const auto client = daemon.Connect();
  const auto space = client->OpenSpace(KeySpace());
  ASSERT_OK(space.status());
  ASSERT_OK(PutKeys(*space, {1, 2, 3}));
  const Silence silence(daemon);
  EXPECT_THAT(*space->LookUp(Keys({3, 9, 1})), ElementsAre(kWarm, kNone, kWarm));
  Buffers buffers(3, 64 * 1024);
  EXPECT_THAT(*space->Read(Keys({3, 9, 1}), buffers.spans), ElementsAre(kWarm, kNone, kWarm));
  EXPECT_TRUE(Holds(buffers.memory[2], ContentOf(1, 0, 64 * 1024)));
}

TEST(LocalKeysTest, AfterTheDaemonsDeathNothingIsRead) {
  DaemonProcess daemon;
  const auto client = daemon.Connect();
  const auto space = client->OpenSpace(KeySpace());
  ASSERT_OK(PutKeys(*space, {1, 2}));
  daemon.Stop(SIGKILL);
  Buffers buffers(2, 64 * 1024);
  ASSERT_TRUE(Eventually([&] { return !space->Read(Keys({1, 2}), buffers.spans).ok(); }));
  daemon.Start();
  ASSERT_TRUE(Eventually([&] {
    const auto tiers = space->Read(Keys({1, 2}), buffers.spans);
    return tiers.ok() && *tiers == std::vector<BlockTier>{kWarm, kWarm};
  })) << "what was adopted is found again";
  EXPECT_TRUE(Holds(buffers.memory[1], ContentOf(2, 0, 64 * 1024))) << "summed by the client";
}

TEST(TenantKeysTest, AnothersKeysAreNotThere) {
  const TwoTenants tenants;
  const auto local = tenants.daemon.Connect();
  ASSERT_OK(PutKeys(*tenants.alice->OpenSpace(KeySpace()), {1, 2}));
  EXPECT_THAT(*tenants.alice->OpenSpace(KeySpace())->LookUp(Keys({1, 2})), Each(kWarm));
  Buffers buffers(2, 64 * 1024);
  for (Client* other : {tenants.bob.get(), local.get()}) {
    const auto space = other->OpenSpace(KeySpace());
    ASSERT_OK(space.status());
    EXPECT_THAT(*space->LookUp(Keys({1, 2})), Each(kNone));
    EXPECT_THAT(*space->Read(Keys({1, 2}), buffers.spans), Each(kNone));
  }
}

}  // namespace
}  // namespace thermocline
