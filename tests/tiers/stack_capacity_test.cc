// That cold tiers keep to their capacity by the disk's own count, blocks of all files, at every
// moment: with large and with small blocks, while segments are folded and given up, beside a store
// that was set aside, and several together. The disk is looked at whenever a file is about to go,
// which is when it has most, and between what the stacks do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/file_system.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/disk_use.h"
#include "base/units.h"
#include "tests/tiers/stack_fixture.h"
#include "tiers/disk_aside.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kCapacity = 32 * MiB;
constexpr uint64_t kSegment = kCapacity / 16;
constexpr uint64_t kUnit = 8 * MiB;
constexpr uint64_t kCommitBytes = 448 * KiB;  // of which a small segment comes

constexpr int kWalks = 3;

uint64_t BlocksIn(uint64_t bytes) { return bytes / kTestBlockBytes; }

/// Looks before files go. RocksDB's own threads are not looked behind: what they do while a walk is
/// under way would be counted twice.
class WatchedDisk : public rocksdb::FileSystemWrapper {
 public:
  explicit WatchedDisk(std::function<void()> look)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), look_(std::move(look)) {}
  const char* Name() const override { return "WatchedDisk"; }
  rocksdb::IOStatus DeleteFile(const std::string& path, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override {
    if (std::this_thread::get_id() == owner_) look_();
    return FileSystemWrapper::DeleteFile(path, options, debug);
  }

 private:
  const std::thread::id owner_ = std::this_thread::get_id();
  const std::function<void()> look_;
};

/// A stack with a client that commits paths, each block of them once.
struct House {
  House(SteppedStack::Sizes sizes, uint64_t block_bytes) : stack(std::move(sizes)) {
    spec.parts[0].block_bytes = block_bytes;
    Connect();
  }
  void Connect() {
    space = *stack->OpenSpace(spec);
    client = std::make_unique<TestClient>(stack, space);
    stack.Settle();
  }
  /// Until `done` is set the answer has not come.
  void Commit(bool& done) {
    const auto count = static_cast<uint32_t>(kCommitBytes / spec.parts[0].block_bytes);
    const std::vector<Name> path = TestPath(++last_path, count);
    const LeaseView lease = client->Match({});
    const std::vector<uint64_t> slots = client->Reserve(count);
    ASSERT_EQ(slots.size(), count) << client->reserve_status;
    std::vector<CommitItem> items;
    for (uint32_t i = 0; i < count; ++i) items.push_back(client->Fill(slots[i], i, 0, path));
    const auto view = stack->Commit(client->number(), lease.lease, path, items);
    ASSERT_TRUE(view.ok()) << view.status();
    stack->AwaitDurable(*view, [&](absl::Status status) {
      EXPECT_TRUE(status.ok()) << status;
      done = true;
    });
    client->Release(lease);
  }
  uint64_t disk_bytes() const {
    uint64_t bytes = DiskBytes(stack.directory() + "/store");
    for (const std::string& store : aside()) bytes += DiskBytes(store);
    return bytes;
  }
  std::vector<std::string> aside() const { return StoresAside(stack.directory()); }
  TierStats cold() { return stack->Stats().tiers[1]; }

  SteppedStack stack;
  SpaceSpec spec = TestSpec();
  uint32_t space = 0;
  uint64_t last_path = 0;
  std::unique_ptr<TestClient> client;
};

class StackCapacityTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  House& Add(BudgetAccount account = {}) {
    SteppedStack::Sizes sizes{.warm_blocks = BlocksIn(kCapacity),
                              .cold_blocks = BlocksIn(kCapacity),
                              .chunk_blocks = BlocksIn(kUnit),
                              .max_places = 1 << 16,
                              .durability = Durability::kAck,
                              .file_system = disk_};
    sizes.cold_account = std::move(account);
    sizes.counts_all_files = true;
    houses_.push_back(std::make_unique<House>(std::move(sizes), GetParam()));
    return *houses_.back();
  }
  /// Also lets segments be folded.
  void Fill(House& house, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes; at += kCommitBytes) {
      bool done = false;
      house.Commit(done);
      ASSERT_FALSE(HasFailure()) << at;
      for (int seconds = 0; !done; ++seconds) {
        ASSERT_LT(seconds, 60);
        Tick();
      }
      Look();
      ASSERT_LE(house.cold().used_bytes, capacity()) << "by its own count: " << at;
      ASSERT_FALSE(HasFailure()) << at;
    }
  }
  /// A second of all of them.
  void Tick() {
    for (const auto& each : houses_) {
      each->stack.Advance(std::chrono::seconds(1));
      each->stack->Tick();
    }
    for (bool some = true; some;) {
      some = false;
      for (const auto& each : houses_) some = each->stack.Step() || some;
    }
  }
  /// A walk in which RocksDB's threads end one table and begin another counts both: the least of
  /// some.
  void Look() {
    uint64_t least = UINT64_MAX;
    for (int walk = 0; walk < kWalks && least > most_; ++walk) {
      uint64_t bytes = 0;
      for (const auto& house : houses_) bytes += house->disk_bytes();
      least = std::min(least, bytes);
    }
    most_ = std::max(most_, least);
  }
  /// As a damaged MANIFEST does.
  void LoseStore(House& house) {
    house.client.reset();
    house.stack.Close();
    std::filesystem::remove(house.stack.directory() + "/store/db/CURRENT");
    house.stack.Open();
    house.Connect();
    Look();
  }
  uint64_t capacity() const { return houses_[0]->cold().capacity_bytes; }

  std::vector<std::unique_ptr<House>> houses_;
  uint64_t most_ = 0;
  const std::shared_ptr<WatchedDisk> disk_ = std::make_shared<WatchedDisk>([this] { Look(); });
};

INSTANTIATE_TEST_SUITE_P(BlockBytes, StackCapacityTest, ::testing::Values(4 * KiB, 64 * KiB));

TEST_P(StackCapacityTest, AFullTierIsFullAndNoMoreThanASegmentLarger) {
  House& house = Add();
  Fill(house, kCapacity / 2 * 3);
  EXPECT_GT(house.cold().evictions, 0u);
  EXPECT_GT(house.cold().kept_bytes, 0u) << "folded";
  EXPECT_LE(most_, capacity() + kSegment);
  EXPECT_GT(most_, capacity() / 10 * 8) << "what is kept free for files of other kinds";
  house.client.reset();
  house.stack.Restart();
  house.Connect();
  Look();
  Fill(house, kCapacity / 4);
  EXPECT_LE(most_, capacity() + kSegment);
}

TEST_P(StackCapacityTest, OfStoresSetAsideTheNewestStaysUntilItsRoomIsNeeded) {
  House& house = Add();
  Fill(house, kCapacity / 4);
  LoseStore(house);
  ASSERT_EQ(house.aside().size(), 1u);
  EXPECT_THAT(house.cold().state, ::testing::HasSubstr(house.aside()[0]));
  const std::string older = house.aside()[0];
  EXPECT_GT(house.cold().used_bytes, kCapacity / 4) << "it counts";
  Fill(house, kCapacity / 8);
  LoseStore(house);
  ASSERT_EQ(house.aside().size(), 1u);
  EXPECT_NE(house.aside()[0], older);
  Fill(house, kCapacity / 8);
  EXPECT_EQ(house.aside().size(), 1u) << "there is room";
  EXPECT_EQ(house.cold().evictions, 0u);
  Fill(house, kCapacity);
  EXPECT_TRUE(house.aside().empty()) << "before blocks";
  EXPECT_THAT(house.cold().state, ::testing::HasSubstr("removed"));
  EXPECT_LE(most_, capacity() + kSegment);
}

TEST_P(StackCapacityTest, AStoreSetAsideThatDoesNotFitGoesAtOnce) {
  House& house = Add();
  Fill(house, kCapacity / 2);
  house.stack.sizes().cold_blocks = BlocksIn(kCapacity / 2);
  LoseStore(house);
  EXPECT_TRUE(house.aside().empty());
  EXPECT_THAT(house.cold().state, ::testing::HasSubstr("removed"));
  most_ = 0;
  Fill(house, kCapacity);
  EXPECT_LE(most_, capacity() + kSegment / 2);
}

TEST_P(StackCapacityTest, TenantsKeepToTheirCapacityTogether) {
  constexpr uint64_t kUnits = kCapacity / kUnit;
  const auto make = [&] {
    return std::make_shared<TierBudget>(kUnits,
                                        std::vector<TierBudget::Limits>{{2, kUnits}, {2, kUnits}});
  };
  const auto budget = make();
  House& first = Add(BudgetAccount(budget, 0));
  House& second = Add(BudgetAccount(budget, 1));
  EXPECT_EQ(budget->Held(0), 1u) << "for RocksDB's own files";
  EXPECT_EQ(budget->Held(1), 1u);
  Fill(first, kCapacity / 2 * 3);
  EXPECT_EQ(budget->Held(0), kUnits - 1) << "what nobody uses is borrowed";
  Fill(second, kCapacity);
  EXPECT_EQ(budget->Held(0), 2u);
  EXPECT_EQ(budget->Held(1), 2u);
  const auto next = make();  // in the daemon's next life
  second.stack.sizes().cold_account = BudgetAccount(next, 1);
  second.client.reset();
  second.stack.Restart();
  second.Connect();
  first.stack.sizes().cold_account = BudgetAccount(next, 0);
  LoseStore(first);
  EXPECT_EQ(next->Held(0), 2u) << "with what was set aside";
  EXPECT_EQ(next->Held(1), 2u);
  EXPECT_EQ(first.aside().size(), 1u);
  Fill(first, kCapacity);
  EXPECT_TRUE(first.aside().empty());
  EXPECT_EQ(next->Held(0), 2u);
  EXPECT_LE(most_, kCapacity + 2 * kSegment) << "a segment each, if both make room";
}

}  // namespace
}  // namespace thermocline
