// The disk tier: the conformance suite, plain and below a fault tier that does nothing, and what is
// its own: damage, foreign forms, a directory that cannot be used, a full disk.
#include "tiers/disk_tier.h"

#include <gmock/gmock.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/units.h"
#include "tests/tiers/tier_conformance.h"
#include "tiers/fault_tier.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Tier> MakeDisk(const std::string& directory, uint64_t block_bytes,
                               uint64_t blocks) {
  auto tier = DiskTier::Open(
      {.directory = directory, .capacity_bytes = blocks * (block_bytes + sizeof(BlockHeader))});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

std::unique_ptr<Tier> MakeFaultless(const std::string& directory, uint64_t block_bytes,
                                    uint64_t blocks) {
  return std::make_unique<FaultTier>(MakeDisk(directory, block_bytes, blocks), FaultRates{}, 1);
}

std::string NameOf(const ::testing::TestParamInfo<TierMaker>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Disk, TierConformance,
                         ::testing::Values(TierMaker{"Disk", true, MakeDisk},
                                           TierMaker{"FaultlessDisk", true, MakeFaultless}),
                         NameOf);

class DiskTierTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<DiskTier>> Open() {
    return DiskTier::Open({.directory = directory_.path(), .capacity_bytes = MiB});
  }
  absl::Status Put(Tier& tier, uint64_t id) {
    const auto payload = TestPayload(id, 0, 8192);
    return tier.Put(TestHeader(id, 0, payload), payload);
  }
  std::optional<BlockHeader> Get(Tier& tier, uint64_t id) {
    std::vector<std::byte> room(8192);
    const auto header = tier.Get({id, 0}, room);
    EXPECT_TRUE(header.ok()) << header.status();
    return header.ok() ? *header : std::nullopt;
  }
  std::vector<std::string> Quarantined() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      if (entry.path().filename().string().starts_with("quarantine-"))
        names.push_back(entry.path());
    }
    return names;
  }
  /// Calls `damage` with each file of the closed database whose name has `suffix` or prefix.
  int Damage(const std::string& mark, const std::function<void(std::filesystem::path)>& damage) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path() + "/store/db")) {
      if (entry.path().filename().string().find(mark) == std::string::npos) continue;
      damage(entry.path());
      ++count;
    }
    return count;
  }
  ScratchDirectory directory_;
};

void FlipByte(const std::filesystem::path& path, uint64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(byte ^ 0x40));
}

TEST_F(DiskTierTest, ItsFormIsNamed) {
  ASSERT_TRUE(Open().ok());
  std::ifstream file(directory_.path() + "/store/FORMAT");
  std::string format;
  file >> format;
  EXPECT_EQ(format, "rocksdb-kv.v1");
}

TEST_F(DiskTierTest, AnotherFormIsSetAsideAndSaidSo) {
  {
    auto tier = Open();
    ASSERT_TRUE(tier.ok());
    ASSERT_TRUE(Put(**tier, 1).ok());
  }
  std::ofstream(directory_.path() + "/store/FORMAT") << "segments.v7\n";
  auto tier = Open();
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_FALSE(Get(**tier, 1));
  EXPECT_EQ(Quarantined().size(), 1u);
  EXPECT_THAT((*tier)->State(), HasSubstr("quarantine-"));
}

TEST_F(DiskTierTest, AStoreThatAKillLeftUnnamedIsMadeAnew) {
  std::filesystem::create_directory(directory_.path() + "/store");
  std::ofstream(directory_.path() + "/store/FORMAT.tmp") << "ro";
  auto opened = DiskTier::Open({.directory = directory_.path(), .capacity_bytes = GiB});
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->State(), "ok");
}

TEST_F(DiskTierTest, AStoreWithoutAManifestIsSetAside) {
  {
    auto tier = Open();
    ASSERT_TRUE(tier.ok());
    ASSERT_TRUE(Put(**tier, 1).ok());
  }
  ASSERT_GT(Damage("MANIFEST", [](const auto& path) { FlipByte(path, 10); }), 0);
  auto tier = Open();
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_FALSE(Get(**tier, 1));
  EXPECT_EQ(Quarantined().size(), 1u);
  ASSERT_TRUE(Put(**tier, 2).ok());
  EXPECT_TRUE(Get(**tier, 2));
}

// RocksDB tells damage and locks alike as "IO error", with the path in its text.
TEST_F(DiskTierTest, DamageIsToldFromALockWhateverTheDirectoryIsCalled) {
  const std::string blocks = directory_.path() + "/kv-blocks-locked";
  std::filesystem::create_directory(blocks);
  const auto open = [&] { return DiskTier::Open({.directory = blocks, .capacity_bytes = MiB}); };
  { ASSERT_TRUE(open().ok()); }
  for (const auto& entry : std::filesystem::directory_iterator(blocks + "/store/db")) {
    if (entry.path().filename().string().starts_with("MANIFEST")) {
      std::filesystem::remove(entry.path());
    }
  }
  auto tier = open();
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_THAT((*tier)->State(), HasSubstr("quarantine-"));
  EXPECT_TRUE(absl::IsFailedPrecondition(open().status())) << open().status();
}

TEST_F(DiskTierTest, AFlippedByteOnDiskIsAMissNeverAWrongByte) {
  const uint64_t seed = TestSeed(5);
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr uint64_t kBlocks = 20;
  int misses = 0;
  for (int round = 0; round < 12; ++round) {
    std::filesystem::remove_all(directory_.path() + "/store");
    {
      auto tier = Open();
      ASSERT_TRUE(tier.ok()) << tier.status();
      for (uint64_t id = 1; id <= kBlocks; ++id) ASSERT_TRUE(Put(**tier, id).ok());
    }
    { ASSERT_TRUE(Open().ok()); }  // the log has become files
    ASSERT_GT(Damage(".sst",
                     [&](const auto& path) {
                       FlipByte(path, random() % std::filesystem::file_size(path));
                     }),
              0);
    auto tier = Open();
    ASSERT_TRUE(tier.ok()) << tier.status();
    for (uint64_t id = 1; id <= kBlocks; ++id) {
      std::vector<std::byte> room(8192);
      const auto header = (*tier)->Get({id, 0}, room);
      if (header.ok() && header->has_value()) {
        ASSERT_EQ(room, TestPayload(id, 0, 8192)) << "round " << round << " block " << id;
      } else {
        ++misses;
      }
    }
  }
  EXPECT_GT(misses, 0);
}

/// Bytes that this process has asked the kernel for.
uint64_t BytesRead() {
  std::ifstream file("/proc/self/io");
  std::string word;
  uint64_t bytes = 0;
  file >> word >> bytes;
  EXPECT_EQ(word, "rchar:");
  return bytes;
}

TEST_F(DiskTierTest, ABlockIsReadFromOneTableOfAllThatSpanItsKey) {
  constexpr uint64_t kTables = 3, kBlocks = 12;
  for (uint64_t table = 0; table < kTables; ++table) {
    auto tier = Open();  // writes what the log holds as a table
    ASSERT_TRUE(tier.ok()) << tier.status();
    for (uint64_t i = 0; i < kBlocks; ++i) {
      ASSERT_TRUE(Put(**tier, 1 + i * kTables + table).ok());
    }
  }
  auto tier = Open();
  ASSERT_TRUE(tier.ok()) << tier.status();
  const uint64_t before = BytesRead();
  for (uint64_t id = 1; id <= kTables * kBlocks; ++id) EXPECT_TRUE(Get(**tier, id)) << id;
  const uint64_t read = BytesRead() - before, stored = kTables * kBlocks * 8192;
  EXPECT_GE(read, stored) << "they are on disk";
  EXPECT_LE(read, stored * 3 / 2);
}

TEST_F(DiskTierTest, TheSameDirectoryCannotBeOpenedTwice) {
  auto tier = Open();
  ASSERT_TRUE(tier.ok());
  ASSERT_TRUE(Put(**tier, 1).ok());
  const auto second = Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another daemon"));
  EXPECT_TRUE(Get(**tier, 1));
}

TEST_F(DiskTierTest, ADirectoryThatCannotBeWrittenIsRefusedWithAdvice) {
  if (::geteuid() == 0) {
    const auto tier = DiskTier::Open({.directory = "/proc/self", .capacity_bytes = MiB});
    ASSERT_FALSE(tier.ok());
    EXPECT_THAT(std::string(tier.status().message()), HasSubstr("/proc/self"));
    return;
  }
  std::filesystem::permissions(
      directory_.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  const auto tier = Open();
  EXPECT_TRUE(absl::IsPermissionDenied(tier.status())) << tier.status();
  std::filesystem::permissions(directory_.path(), std::filesystem::perms::owner_all);
}

TEST_F(DiskTierTest, AFullDiskRefusesWritesKeepsReadingAndRecovers) {
  const std::string mount = directory_.path() + "/small";
  std::filesystem::create_directory(mount);
  if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=24m") != 0) {
    GTEST_SKIP() << "a small file system cannot be mounted here";
  }
  {
    auto opened = DiskTier::Open({.directory = mount, .capacity_bytes = GiB});
    ASSERT_TRUE(opened.ok()) << opened.status();
    DiskTier& tier = **opened;
    uint64_t id = 1;
    absl::Status status;
    for (; id < 10000; ++id) {
      if (!(status = Put(tier, id)).ok()) break;
    }
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_FALSE(Get(tier, id));
    EXPECT_TRUE(Get(tier, id - 1));
    EXPECT_TRUE(Get(tier, 1));
    EXPECT_FALSE(tier.Sync().ok());  // and the process lives
    EXPECT_FALSE(Put(tier, id).ok());
    EXPECT_FALSE(tier.Sync().ok());
  }
  {
    auto again = DiskTier::Open({.directory = mount, .capacity_bytes = GiB});
    EXPECT_TRUE(again.ok() || absl::IsResourceExhausted(again.status())) << again.status();
  }
  ::umount2(mount.c_str(), MNT_DETACH);
}

TEST_F(DiskTierTest, AFullDiskThatIsFreedTakesWritesAgainWithoutARestart) {
  const std::string mount = directory_.path() + "/small";
  std::filesystem::create_directory(mount);
  if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=64m") != 0) {
    GTEST_SKIP() << "a small file system cannot be mounted here";
  }
  {
    auto opened = DiskTier::Open({.directory = mount, .capacity_bytes = GiB});
    ASSERT_TRUE(opened.ok()) << opened.status();
    DiskTier& tier = **opened;
    std::ofstream(mount + "/others") << std::string(48 * MiB, 'x');
    uint64_t id = 1;
    while (Put(tier, id).ok()) ASSERT_LT(++id, 10000u);
    std::filesystem::remove(mount + "/others");
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!Put(tier, id).ok() && std::chrono::steady_clock::now() < patience) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    ASSERT_TRUE(Put(tier, id + 1).ok()) << tier.State();
    EXPECT_EQ(tier.State(), "ok");
    EXPECT_TRUE(tier.Sync().ok()) << tier.Sync();
    for (uint64_t each = 1; each <= id + 1; ++each) EXPECT_TRUE(Get(tier, each)) << each;
  }
  {
    auto again = DiskTier::Open({.directory = mount, .capacity_bytes = GiB});
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(Get(**again, 1));
  }
  ::umount2(mount.c_str(), MNT_DETACH);
}

TEST(FaultTierTest, EveryFaultHappensAndNoneWithoutARate) {
  ScratchDirectory directory;
  FaultTier tier(MakeDisk(directory.path(), 8192, 1000), {.lose = 0.5}, 3);
  int lost = 0;
  std::vector<std::byte> room(8192);
  for (uint64_t id = 1; id <= 100; ++id) {
    const auto payload = TestPayload(id, 0, 8192);
    ASSERT_TRUE(tier.Put(TestHeader(id, 0, payload), payload).ok());
    lost += (*tier.Get({id, 0}, room)).has_value() ? 0 : 1;
  }
  EXPECT_GT(lost, 20);
  EXPECT_LT(lost, 80);
  tier.SetRates({});
  const auto payload = TestPayload(1, 0, 8192);
  const auto header = TestHeader(1, 0, payload);
  ASSERT_TRUE(tier.Put(header, payload).ok());
  const uint64_t before = tier.fault_count();
  ASSERT_TRUE((*tier.Get({1, 0}, room)).has_value());
  EXPECT_EQ(room, payload);
  EXPECT_EQ(tier.fault_count(), before);
  tier.SetRates({.flip = 1});
  ASSERT_TRUE((*tier.Get({1, 0}, room)).has_value());
  EXPECT_NE(room, payload);
  tier.SetRates({.truncate = 1});
  std::fill(room.begin(), room.end(), std::byte{0});
  ASSERT_TRUE((*tier.Get({1, 0}, room)).has_value());
  EXPECT_NE(room, payload);
  tier.SetRates({.error = 1});
  EXPECT_TRUE(absl::IsUnavailable(tier.Get({1, 0}, room).status()));
  EXPECT_TRUE(absl::IsUnavailable(tier.Put(header, payload)));
  EXPECT_TRUE(absl::IsUnavailable(tier.Erase({1, 0})));
}

}  // namespace
}  // namespace thermocline
