// The warm tier on pages of hugetlbfs, which the machine has few of: what is refused when they are
// not there, at the start and later, and that nothing is lost by it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "catalog/arena_places.h"
#include "tests/catalog/arena_testing.h"
#include "tests/huge_page_pool.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/host_tier.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;
using testing::HugePagePool;
using testing::kHugePageBytes;

constexpr uint64_t kChunk = 8 * MiB;
constexpr uint64_t kChunkPages = kChunk / kHugePageBytes;
constexpr uint64_t kBlockBytes = 1 * MiB;

struct TestBlock {
  explicit TestBlock(uint64_t id)
      : payload(TestPayload(id, 0, kBlockBytes)), record(TestHeader(id, 0, payload)) {}
  const std::vector<std::byte> payload;
  const BlockRecord record;
};

class HugetlbTest : public ::testing::Test {
 protected:
  void UsePool(uint64_t pages, const std::string& options = "") {
    pool_.emplace(directory_.path() + "/huge", pages, options);
  }
  ArenaOptions Options(uint64_t capacity_bytes = 2 * kChunk) const {
    return {.path = directory_.path() + "/huge/arena",
            .metadata_path = directory_.path() + "/arena.meta",
            .capacity_bytes = capacity_bytes,
            .chunk_bytes = kChunk,
            .capacity_option = "warm_capacity",
            .huge_pages = HugePages::kHugetlb};
  }
  absl::StatusOr<std::unique_ptr<HostTier>> OpenTier(uint64_t capacity_bytes = 2 * kChunk,
                                                     BudgetAccount account = {}) const {
    return HostTier::Open({.arena_path = Options().path,
                           .metadata_path = Options().metadata_path,
                           .capacity_bytes = capacity_bytes,
                           .chunk_bytes = kChunk,
                           .capacity_option = "warm_capacity",
                           .huge_pages = HugePages::kHugetlb,
                           .account = std::move(account)});
  }

  ShmDirectory directory_;
  std::optional<HugePagePool> pool_;
};

#define TC_NEEDS_HUGE_PAGES() \
  if (!pool_->why_not().empty()) GTEST_SKIP() << pool_->why_not()

TEST_F(HugetlbTest, AFileSystemWithoutThemIsRefused) {
  ASSERT_EQ(mkdir((directory_.path() + "/huge").c_str(), 0700), 0);
  const absl::Status status = Arena::Open(Options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("mount -t hugetlbfs"));
  EXPECT_FALSE(std::filesystem::exists(Options().path)) << "nothing is left";
}

TEST_F(HugetlbTest, OneThatNobodyAskedForIsRefused) {
  UsePool(1);
  TC_NEEDS_HUGE_PAGES();
  ArenaOptions options = Options();
  options.huge_pages = HugePages::kNone;
  const absl::Status status = Arena::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("huge_page_dir"));
  options = Options();
  options.chunk_bytes = MiB;
  EXPECT_THAT(std::string(Arena::Open(options).status().message()), HasSubstr("pagesize=2M"));
}

TEST_F(HugetlbTest, TooFewAtTheStartAreRefused) {
  UsePool(2 * kChunkPages);  // one short: the header has a page, too
  TC_NEEDS_HUGE_PAGES();
  const absl::Status status = Arena::Open(Options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has room for 16 MiB where 18 MiB"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("vm.nr_hugepages"));
  if (!pool_->SetPages(2 * kChunkPages + 1)) GTEST_SKIP() << "the kernel sets no more apart";
  EXPECT_TRUE(Arena::Open(Options()).ok());
  ASSERT_TRUE(pool_->SetPages(1)) << "of an arena that nothing was lent from, the header stays";
  ArenaOptions tiny = Options(MiB);
  EXPECT_THAT(std::string(Arena::Open(tiny).status().message()), HasSubstr("raise warm_capacity"));
}

TEST_F(HugetlbTest, AMountWithALimitSaysSo) {
  UsePool(32, "size=8M");
  TC_NEEDS_HUGE_PAGES();
  EXPECT_THAT(std::string(Arena::Open(Options()).status().message()),
              HasSubstr("has room for 8 MiB where 18 MiB"));
}

TEST_F(HugetlbTest, WhatIsLentIsOnHugePagesAndGoesBackToThePool) {
  UsePool(32);
  TC_NEEDS_HUGE_PAGES();
  Arena arena = Arena::Open(Options(2 * kChunk - MiB)).value();
  EXPECT_EQ(arena.capacity_bytes(), 2 * kChunk - kHugePageBytes) << "whole pages";
  EXPECT_EQ(pool_->reserved(), 0u) << "mapping takes nothing";
  EXPECT_EQ(pool_->free(), 31u);
  ASSERT_TRUE(arena.PopulateChunk(0).ok());
  ASSERT_TRUE(arena.PopulateChunk(1).ok());
  EXPECT_EQ(pool_->free(), 31 - 2 * kChunkPages + 1);
  std::byte* const first = arena.data(kArenaDataOffset / kPageBytes);
  std::memset(first, 1, arena.capacity_bytes());
  // As a client of a tenant that copies maps it.
  const UniqueFd fd(open(arena.path().c_str(), O_RDONLY | O_CLOEXEC));
  void* view =
      mmap(nullptr, arena.mapped_bytes(), PROT_READ, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  ASSERT_NE(view, MAP_FAILED);
  const std::byte* const seen = static_cast<const std::byte*>(view) + kArenaDataOffset;
  EXPECT_EQ(std::memcmp(seen, first, arena.capacity_bytes()), 0);
  EXPECT_EQ(pool_->reserved(), 0u);
  ASSERT_TRUE(arena.PunchChunk(1).ok());
  EXPECT_EQ(pool_->free(), 31 - kChunkPages);
  EXPECT_EQ(seen[0], std::byte{1});
  EXPECT_EQ(munmap(view, arena.mapped_bytes()), 0);
}

// Somebody takes pages after the daemon has looked.
TEST_F(HugetlbTest, TooFewLaterAreRefusedAndNothingIsLost) {
  UsePool(1 + 2 * kChunkPages);
  TC_NEEDS_HUGE_PAGES();
  const auto tier = OpenTier().value();
  const UniqueFd other(open((directory_.path() + "/huge/other").c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_EQ(fallocate(other.get(), 0, 0, 2 * kHugePageBytes), 0);
  uint64_t id = 0;
  for (; id < kChunk / kBlockBytes; ++id) {
    const TestBlock block(id + 1);
    ASSERT_TRUE(tier->Put(block.record, block.payload).ok());
  }
  EXPECT_EQ(tier->State(), "ok");
  EXPECT_EQ(pool_->free(), 2u);
  const TestBlock next(id + 1);
  EXPECT_EQ(tier->Put(next.record, next.payload).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(tier->State(), HasSubstr("serves from the 8 MiB that it has"));
  EXPECT_THAT(tier->State(), HasSubstr("no huge page is left"));
  EXPECT_EQ(pool_->free(), 2u) << "half a chunk went back";
  std::vector<std::byte> read(kBlockBytes);
  for (uint64_t i = 0; i < id; ++i) {
    ASSERT_TRUE(tier->Get({i + 1, 0}, read).value().has_value());
    ASSERT_EQ(read, TestBlock(i + 1).payload);
  }
  // Touching ahead meets the same, and leaves nothing either.
  tier->TouchChunk(1);
  EXPECT_EQ(pool_->free(), 2u);
  ASSERT_EQ(ftruncate(other.get(), 0), 0);
  tier->RetryLending();
  EXPECT_TRUE(tier->Put(next.record, next.payload).ok());
  EXPECT_EQ(tier->State(), "ok");
}

TEST_F(HugetlbTest, WhatAKilledProcessLeftIsAdopted) {
  UsePool(1 + 2 * kChunkPages);
  TC_NEEDS_HUGE_PAGES();
  constexpr uint64_t kBlocks = 9;  // in two chunks
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto tier = OpenTier();
    for (uint64_t id = 1; id <= kBlocks; ++id) {
      const TestBlock block(id);
      if (!tier.ok() || !(*tier)->Put(block.record, block.payload).ok()) _exit(1);
    }
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(pool_->free(), 0u);
  const auto tier = OpenTier().value();
  EXPECT_EQ(tier->TakeLeft().size(), kBlocks);
  std::vector<std::byte> read(kBlockBytes);
  for (uint64_t id = 1; id <= kBlocks; ++id) {
    ASSERT_TRUE(tier->Get({id, 0}, read).value().has_value());
    EXPECT_EQ(read, TestBlock(id).payload);
  }
  ASSERT_TRUE(tier->Erase({kBlocks, 0}).ok());
  ASSERT_TRUE(tier->PunchEmptyChunks().ok());
  EXPECT_EQ(pool_->free(), kChunkPages);
}

// Two arenas of one pool that is as large as what may be lent: chunks go from one to the other.
TEST_F(HugetlbTest, AChunkGoesToAnotherTenant) {
  UsePool(2 + 2 * kChunkPages);
  TC_NEEDS_HUGE_PAGES();
  const auto budget = std::make_shared<TierBudget>(
      2, std::vector<TierBudget::Limits>{{.share = 0, .quota = 2}, {.share = 1, .quota = 2}});
  const auto first = OpenTier(2 * kChunk, BudgetAccount(budget, 0)).value();
  const auto second = HostTier::Open({.arena_path = directory_.path() + "/huge/second",
                                      .metadata_path = directory_.path() + "/second.meta",
                                      .capacity_bytes = 2 * kChunk,
                                      .chunk_bytes = kChunk,
                                      .capacity_option = "warm_capacity",
                                      .huge_pages = HugePages::kHugetlb,
                                      .account = BudgetAccount(budget, 1)})
                          .value();
  const uint64_t in_chunk = kChunk / kBlockBytes;
  for (uint64_t id = 1; id <= 2 * in_chunk; ++id) {
    const TestBlock block(id);
    ASSERT_TRUE(first->Put(block.record, block.payload).ok());
  }
  EXPECT_EQ(pool_->free(), 0u);
  const TestBlock block(100);
  EXPECT_FALSE(second->Put(block.record, block.payload).ok());
  for (uint64_t id = in_chunk + 1; id <= 2 * in_chunk; ++id) {
    ASSERT_TRUE(first->Erase({id, 0}).ok());
  }
  ASSERT_TRUE(first->GiveBackChunk());
  EXPECT_EQ(pool_->free(), kChunkPages);
  second->RetryLending();
  EXPECT_TRUE(second->Put(block.record, block.payload).ok());
  std::vector<std::byte> read(kBlockBytes);
  EXPECT_TRUE(first->Get({1, 0}, read).value().has_value());
  EXPECT_TRUE(second->Get({100, 0}, read).value().has_value());
}

TEST(HugetlbPoolTest, WhatIsFreeIsWhatNobodyHasReserved) {
  const ShmDirectory pools;
  const std::string pool = pools.path() + "/hugepages-2048kB";
  ASSERT_EQ(mkdir(pool.c_str(), 0700), 0);
  const auto write = [&](const char* file, int pages) {
    std::ofstream(pool + "/" + file) << pages << "\n";
  };
  write("free_hugepages", 10);
  write("resv_hugepages", 3);
  EXPECT_EQ(FreeHugetlbBytes(kHugePageBytes, pools.path()), 7 * kHugePageBytes);
  write("nr_overcommit_hugepages", 5);
  write("surplus_hugepages", 1);
  EXPECT_EQ(FreeHugetlbBytes(kHugePageBytes, pools.path()), 11 * kHugePageBytes);
  write("resv_hugepages", 30);
  EXPECT_EQ(FreeHugetlbBytes(kHugePageBytes, pools.path()), 0u);
  EXPECT_EQ(FreeHugetlbBytes(GiB, pools.path()), 0u) << "no such pages";
}

}  // namespace
}  // namespace thermocline
