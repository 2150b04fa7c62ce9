// A tenant whose processes do not trust each other (commit = "copy"): clients fill memory of their
// own, and no descriptor that they hold can write in the arena.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "proto/shm_layout.h"
#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"
#include "tests/read_only_view.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kBlockBytes = 64 * 1024;

class CopyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char probe[] = "/dev/shm/tc-probe-XXXXXX";
    ASSERT_NE(::mkdtemp(probe), nullptr);
    const bool mounts = testing::MountReadOnly(probe, probe);
    ::umount2(probe, MNT_DETACH);
    ::rmdir(probe);
    if (!mounts) GTEST_SKIP() << "no read-only mount can be made here (not root?)";
    daemon_.emplace(DaemonProcess::Options{
        .more = {"--commit", "copy", "--staging", "1MiB", "--arena-view", "DIRECTORY/view"},
        .prepare = [this](const std::string& directory) {
          view_ = directory + "/view";
          TC_CHECK(testing::MountReadOnly(directory + "/arena", view_));
        }});
    client_ = daemon_->Connect();
    space_ = *client_->OpenSpace(TestSpace());
  }
  void TearDown() override {
    if (!view_.empty()) ::umount2(view_.c_str(), MNT_DETACH);
  }

  std::string view_;
  std::optional<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
  std::optional<Space> space_;
};

TEST_F(CopyTest, WhatIsPutIsFoundByOthers) {
  const auto tokens = Prompt(1, 40);
  auto lease = space_->Match(tokens);
  ASSERT_OK(lease.status());
  for (const uint32_t depth : {1u, 16u, 30u, 40u}) {
    ASSERT_OK(Extend(*space_, *lease, tokens, depth));
    EXPECT_EQ(RightPlaces(*space_, *lease, tokens), depth);
  }
  const auto other = daemon_->Connect();
  const Space theirs = *other->OpenSpace(TestSpace());
  auto found = theirs.Match(tokens);
  ASSERT_OK(found.status());
  EXPECT_EQ(RightPlaces(theirs, *found, tokens), 40u);
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->reservations == 0; }));
}

TEST_F(CopyTest, NoDescriptorOfAClientWritesInTheArena) {
  size_t arenas = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone);
    if (gone || target.extension() != ".arena") continue;
    ++arenas;
    EXPECT_EQ(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC), -1) << target;
    EXPECT_EQ(errno, EROFS);
  }
  EXPECT_GT(arenas, 0u);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(".arena") == std::string::npos) continue;
    EXPECT_THAT(line, ::testing::HasSubstr(" r--s "));
  }
}

TEST_F(CopyTest, WhatIsWrittenAfterTheCommitChangesNothing) {
  const auto tokens = Prompt(1, 1);
  auto lease = space_->Match(tokens);
  ASSERT_OK(lease.status());
  auto slots = space_->Reserve(1);
  ASSERT_OK(slots.status());
  const std::span<std::byte> bytes = (*slots)[0].bytes();
  const auto content = Content(tokens, 0, 0, kBlockBytes);
  std::memcpy(bytes.data(), content.data(), content.size());
  ASSERT_OK(lease->Commit(tokens, *std::move(slots)));
  std::memset(bytes.data(), 0xee, bytes.size());
  EXPECT_EQ(RightPlaces(*space_, *lease, tokens), 1u);
  EXPECT_NE(lease->View(0).data(), bytes.data());
}

TEST_F(CopyTest, StagingMemoryThatIsFullIsToldAndComesBack) {
  // 1 MiB holds 16 blocks.
  const auto tokens = Prompt(1, 32);
  auto lease = space_->Match(tokens);
  ASSERT_OK(lease.status());
  auto slots = space_->Reserve(20);
  ASSERT_OK(slots.status());
  ASSERT_EQ(slots->size(), 16u);
  EXPECT_TRUE(absl::IsResourceExhausted(space_->Reserve(1).status()));
  for (uint32_t i = 0; i < 16; ++i) {
    const auto content = Content(tokens, i, 0, kBlockBytes);
    std::memcpy((*slots)[i].bytes().data(), content.data(), content.size());
  }
  ASSERT_OK(lease->CommitAsync(std::span<const int32_t>(tokens).first(16 * kPlaceTokens),
                               *std::move(slots)));
  EXPECT_TRUE(absl::IsResourceExhausted(space_->Reserve(1).status())) << "until it is settled";
  ASSERT_OK(lease->Settle());
  ASSERT_OK(Extend(*space_, *lease, tokens, 32));
  EXPECT_EQ(RightPlaces(*space_, *lease, tokens), 32u);
  // A lease that goes gives its staging memory back as well.
  for (int32_t seed = 2; seed < 10; ++seed) {
    auto another = space_->Match(Prompt(seed, 16));
    ASSERT_OK(another.status());
    ASSERT_TRUE(Eventually([&] { return Extend(*space_, *another, Prompt(seed, 16), 16).ok(); }));
  }
}

// Behind a path that is cold a commit goes by message, and its caller may give up. What it staged
// comes back, and so does the slot.
TEST_F(CopyTest, WhatACommitWithoutAnAnswerHadStagedComesBack) {
  constexpr uint32_t kPieces = 16;  // all of the staging memory
  const auto first = Prompt(1, 1);
  {
    auto lease = space_->Match(first);
    ASSERT_OK(lease.status());
    ASSERT_OK(Extend(*space_, *lease, first, 1));
  }
  const auto admin = *AdminClient::Connect({.socket_path = daemon_->socket()});
  ASSERT_TRUE(Eventually([&] { return admin->Flush(BlockTier::kWarm)->kept == 0; }));
  std::vector<Lease> leases;
  std::vector<Reservation> slots;
  for (uint32_t i = 0; i < kPieces; ++i) {
    auto lease = space_->Match(first);
    ASSERT_OK(lease.status());
    ASSERT_EQ(lease->depth(), 1u);
    ASSERT_EQ(lease->blocks()[0].tier, BlockTier::kCold);
    leases.push_back(*std::move(lease));
    auto slot = space_->Reserve(1, 0, kPatience);
    ASSERT_OK(slot.status());
    slots.push_back(std::move(slot->at(0)));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(space_->Reserve(1).status()));
  {
    const Silence silence(*daemon_);
    for (uint32_t i = 0; i < kPieces; ++i) {
      std::vector<Reservation> one;
      one.push_back(std::move(slots[i]));
      const auto next = Prompt(static_cast<int32_t>(100 + i), 1);
      const absl::Status status = leases[i].Commit(next, std::move(one), milliseconds(20));
      EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    }
  }
  leases.clear();
  EXPECT_TRUE(Eventually([&] {
    auto all = space_->Reserve(kPieces, 0, milliseconds(1000));
    return all.ok() && all->size() == kPieces;
  }));
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->reservations == 0; }));
}

/// The control area of this process's only session, which tells itself by its magic.
ControlArea* OwnControlArea() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    char mode[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, mode) != 3) continue;
    if (end - begin < kControlAreaBytes || std::strcmp(mode, "rw-s") != 0) continue;
    auto* const area = reinterpret_cast<ControlArea*>(begin);
    if (area->magic.load() == kControlAreaMagic) return area;
  }
  return nullptr;
}

// After a silence the generation is raised twice, and between the two slots may be granted anew.
TEST_F(CopyTest, SlotsGrantedAfterALeaseHasLapsedComeBack) {
  ControlArea* const area = OwnControlArea();
  ASSERT_NE(area, nullptr);
  for (int32_t round = 0; round < 4; ++round) {
    const auto tokens = Prompt(round, 12);
    auto lease = space_->Match(tokens);
    ASSERT_OK(lease.status());
    auto slot = space_->Reserve(1, 0, kPatience);
    ASSERT_OK(slot.status());
    ASSERT_OK(Extend(*space_, *lease, tokens, 12));
    EXPECT_GT(client_->Stats()->reservations, 1u) << "some ahead, too";
    area->lease_generation += 1;
    // The next beat sees it; the slot in hand goes back like those ahead.
  }
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->reservations == 0; }));
}

TEST_F(CopyTest, AnArenaThatWasFilledInPlaceIsNotCopiedInto) {
  daemon_->Stop();
  std::ofstream(daemon_->directory() + "/arena/default.arena").put('a');
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const int log = ::open(daemon_->log_path().c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  const pid_t pid =
      Spawn({kDaemonBinary, "--socket", daemon_->socket(), "--data-dir",
             daemon_->directory() + "/data", "--arena-dir", daemon_->directory() + "/arena",
             "--http", "off", "--commit", "copy", "--arena-view", view_},
            null, log, log);
  ::close(null);
  ::close(log);
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 0);
  EXPECT_THAT(daemon_->Log(), ::testing::HasSubstr("was filled in place"));
  std::filesystem::remove(daemon_->directory() + "/arena/default.arena");
  daemon_->Start();
}

TEST_F(CopyTest, ARestartedDaemonServesWhatWasCopied) {
  const auto tokens = Prompt(1, 8);
  auto lease = space_->Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_OK(Extend(*space_, *lease, tokens, 8));
  daemon_->Stop(SIGKILL);
  daemon_->Start();
  ASSERT_TRUE(Eventually([&] { return client_->Reconnect().ok(); }));
  auto again = space_->Match(tokens);
  ASSERT_OK(again.status());
  EXPECT_EQ(RightPlaces(*space_, *again, tokens), 8u);
}

}  // namespace
}  // namespace thermocline
