// A daemon whose arena has huge pages of the machine's pool (huge_pages = "hugetlb"), and clients
// of it: in place, by copying, over a kill, and when the pool runs dry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"
#include "tests/huge_page_pool.h"
#include "tests/read_only_view.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;
using testing::HugePagePool;

constexpr uint64_t kBlockBytes = 1 << 20;
constexpr uint64_t kArenaPages = 65;  // 128 MiB and the header

class HugetlbTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::string> more = {},
             std::function<void(const std::string&)> prepare = {}) {
    char directory[] = "/dev/shm/tc-huge-XXXXXX";
    ASSERT_NE(::mkdtemp(directory), nullptr);
    scratch_ = directory;
    pool_.emplace(scratch_ + "/huge", kArenaPages);
    if (!pool_->why_not().empty()) GTEST_SKIP() << pool_->why_not();
    more.insert(more.end(),
                {"--huge-pages", "hugetlb", "--huge-page-dir", scratch_ + "/huge/arenas"});
    ASSERT_EQ(::mkdir((scratch_ + "/huge/arenas").c_str(), 0700), 0);
    daemon_.emplace(
        DaemonProcess::Options{.cold_capacity = "0", .more = std::move(more), .prepare = prepare});
    client_ = daemon_->Connect();
    space_ = *client_->OpenSpace(TestSpace(kBlockBytes));
  }
  ~HugetlbTest() override {
    space_.reset();
    client_.reset();
    daemon_.reset();
    pool_.reset();
    std::filesystem::remove_all(scratch_);
  }
  /// Leases a prompt of so many blocks, which it puts where they are not there.
  absl::StatusOr<Lease> Put(const std::vector<int32_t>& tokens, uint32_t blocks) {
    TC_ASSIGN_OR_RETURN(Lease lease, space_->Match(tokens));
    TC_RETURN_IF_ERROR(Extend(*space_, lease, tokens, blocks));
    return lease;
  }

  std::string scratch_;
  std::optional<HugePagePool> pool_;
  std::optional<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
  std::optional<Space> space_;
};

TEST_F(HugetlbTest, WhatIsPutIsFoundAndHandedOver) {
  Start();
  if (IsSkipped()) return;
  const auto tokens = Prompt(1, 70);  // in two chunks
  auto lease = Put(tokens, 70);
  ASSERT_OK(lease.status());
  EXPECT_EQ(RightPlaces(*space_, *lease, tokens), 70u);
  EXPECT_EQ(pool_->free() + 65, kArenaPages) << "both chunks, and the header";
  EXPECT_EQ(pool_->reserved(), 0u) << "clients reserve nothing";
  const auto other = daemon_->Connect();
  const Space theirs = *other->OpenSpace(TestSpace(kBlockBytes));
  auto exported = lease->Export();
  ASSERT_OK(exported.status());
  auto imported = theirs.Import(*exported);
  ASSERT_OK(imported.status());
  lease->Release();
  EXPECT_EQ(RightPlaces(theirs, *imported, tokens), 70u);
  EXPECT_TRUE(imported->StillValid());
  imported->Release();
  // Dropping it gives every page back but the header's.
  auto admin = AdminClient::Connect({.socket_path = daemon_->socket()});
  ASSERT_OK(admin.status());
  EXPECT_TRUE(Eventually([&] {
    return (*admin)->DropArena().ok() && pool_->free() == kArenaPages - 1;
  })) << pool_->free();
}

// A lease cannot outlive the daemon here, because private copies of the pages might not be had: it
// is told so, and what is written into slots meets no SIGBUS, though the pool is empty.
TEST_F(HugetlbTest, AKillIsToldAndLosesNothing) {
  Start();
  if (IsSkipped()) return;
  const auto tokens = Prompt(1, 70);
  auto lease = Put(tokens, 70);
  ASSERT_OK(lease.status());
  auto slots = space_->Reserve(1);
  ASSERT_OK(slots.status());
  const std::span<std::byte> slot = (*slots)[0].bytes();
  std::memset(slot.data(), 1, slot.size());
  EXPECT_EQ(pool_->free(), 0u);
  daemon_->Stop(SIGKILL);
  EXPECT_TRUE(Eventually([&] { return !client_->Connected() && !lease->StillValid(); }));
  std::memset(slot.data(), 2, slot.size());
  (void)RightPlaces(*space_, *lease, tokens);  // readable, if of no use
  daemon_->Start();
  ASSERT_OK(client_->Reconnect());
  auto again = space_->Match(tokens);
  ASSERT_OK(again.status());
  EXPECT_EQ(RightPlaces(*space_, *again, tokens), 70u);
  EXPECT_EQ(pool_->free(), 0u) << "the same pages";
}

TEST_F(HugetlbTest, AStoppedDaemonKeepsThemAndAnotherKindIsRefused) {
  Start();
  if (IsSkipped()) return;
  const auto tokens = Prompt(1, 40);
  ASSERT_OK(Put(tokens, 40).status());
  daemon_->Stop();
  const auto run = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {kDaemonBinary,
                                          "--socket",
                                          daemon_->socket(),
                                          "--data-dir",
                                          daemon_->directory() + "/data",
                                          "--arena-dir",
                                          daemon_->directory() + "/arena",
                                          "--warm-capacity",
                                          "128MiB",
                                          "--cold-capacity",
                                          "0",
                                          "--http",
                                          "off",
                                          "--huge-page-dir",
                                          scratch_ + "/huge/arenas"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const std::string log = scratch_ + "/log";
    const int to = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const pid_t pid = Spawn(arguments, to, to, to);
    ::close(to);
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_NE(status, 0);
    std::ostringstream text;
    text << std::ifstream(log).rdbuf();
    return text.str();
  };
  EXPECT_THAT(run({"--huge-pages", "none"}), HasSubstr("pages of another kind"));
  EXPECT_THAT(run({"--huge-pages", "hugetlb", "--huge-page-dir", daemon_->directory() + "/no"}),
              HasSubstr("mount -t hugetlbfs"));
  EXPECT_THAT(run({"--huge-pages", "hugetlb", "--warm-capacity", "256MiB"}),
              HasSubstr("vm.nr_hugepages"));
  daemon_->Start();
  ASSERT_OK(client_->Reconnect());
  auto again = space_->Match(tokens);
  ASSERT_OK(again.status());
  EXPECT_EQ(RightPlaces(*space_, *again, tokens), 40u);
}

// Somebody else takes what is left of the pool: puts go on with the chunk that is there.
TEST_F(HugetlbTest, APoolThatRunsDryIsNoHarm) {
  Start();
  if (IsSkipped()) return;
  ASSERT_OK(Put(Prompt(1, 10), 10).status());
  const int other = ::open((scratch_ + "/huge/other").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  // The second chunk may have been touched ahead by now.
  ::fallocate(other, 0, 0, static_cast<off_t>(32 * testing::kHugePageBytes));
  for (int32_t seed = 1; seed <= 8; ++seed) {
    const auto tokens = Prompt(seed, 20);
    auto lease = Put(tokens, 20);
    ASSERT_OK(lease.status());
    ASSERT_EQ(RightPlaces(*space_, *lease, tokens), 20u);
  }
  ::close(other);
}

TEST_F(HugetlbTest, WhereClientsMayNotWriteTheDaemonCopies) {
  std::string view;
  Start({"--commit", "copy", "--staging", "8MiB", "--arena-view", "DIRECTORY/view"},
        [&](const std::string& directory) {
          view = directory + "/view";
          if (!testing::MountReadOnly(scratch_ + "/huge/arenas", view)) view.clear();
        });
  if (IsSkipped()) return;
  const auto tokens = Prompt(1, 30);
  {
    auto lease = space_->Match(tokens);
    ASSERT_OK(lease.status());
    for (uint32_t depth = 5; depth <= 30; depth += 5) {
      ASSERT_OK(Extend(*space_, *lease, tokens, depth));
    }
    EXPECT_EQ(RightPlaces(*space_, *lease, tokens), 30u);
    daemon_->Stop(SIGKILL);
    EXPECT_TRUE(Eventually([&] { return !client_->Connected() && !lease->StillValid(); }));
  }
  daemon_->Start();
  ASSERT_OK(client_->Reconnect());
  auto again = space_->Match(tokens);
  ASSERT_OK(again.status());
  EXPECT_EQ(RightPlaces(*space_, *again, tokens), 30u);
  again->Release();
  space_.reset();
  client_.reset();
  daemon_->Stop();
  ::umount2(view.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace thermocline
