#include "daemon/staging.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "tests/read_only_view.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

TEST(StagingTest, APieceLiesInsideOrIsNone) {
  const auto staging = Staging::Create(8192);
  ASSERT_TRUE(staging.ok()) << staging.status();
  EXPECT_EQ((*staging)->Piece(0, 8192)->size(), 8192u);
  EXPECT_EQ((*staging)->Piece(8192, 0)->size(), 0u);
  EXPECT_FALSE((*staging)->Piece(0, 8193));
  EXPECT_FALSE((*staging)->Piece(1, 8192));
  EXPECT_FALSE((*staging)->Piece(UINT64_MAX, 1));
  EXPECT_FALSE((*staging)->Piece(1, UINT64_MAX));
  EXPECT_FALSE((*staging)->Piece(UINT64_MAX, UINT64_MAX));
}

TEST(StagingTest, ItsClientCanWriteItAndNotCutIt) {
  const auto staging = Staging::Create(8192);
  ASSERT_TRUE(staging.ok()) << staging.status();
  const int fd = (*staging)->fd();
  ASSERT_EQ(::pwrite(fd, "bytes", 5, 4096), 5);
  EXPECT_EQ((*staging)->Piece(4096, 5)->front(), std::byte{'b'});
  EXPECT_NE(::ftruncate(fd, 4096), 0);
  EXPECT_NE(::ftruncate(fd, 16384), 0);
}

class ArenaViewTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char directory[] = "/tmp/tc-view-XXXXXX";
    ASSERT_NE(::mkdtemp(directory), nullptr);
    directory_ = directory;
    std::filesystem::create_directory(directory_ + "/arena");
    arena_.Reset(::open((directory_ + "/arena/a").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(arena_);
  }
  void TearDown() override {
    ::umount2((directory_ + "/view").c_str(), MNT_DETACH);
    std::filesystem::remove_all(directory_);
  }
  std::string directory_;
  UniqueFd arena_;
};

TEST_F(ArenaViewTest, OnlyTheSameFileOnAReadOnlyMountIsOne) {
  const auto error = [&](const std::string& path) {
    return std::string(OpenArenaView(path, arena_.get()).status().message());
  };
  EXPECT_THAT(error(directory_ + "/none/a"), HasSubstr("No such file"));
  EXPECT_THAT(error(directory_ + "/arena/a"), HasSubstr("can be opened for writing"));
  std::ofstream(directory_ + "/arena/b").put('b');
  EXPECT_THAT(error(directory_ + "/arena/b"), HasSubstr("is not the arena"));
  EXPECT_THAT(error(directory_ + "/arena/b"), HasSubstr("BindReadOnlyPaths"));
  if (!testing::MountReadOnly(directory_ + "/arena", directory_ + "/view")) {
    GTEST_SKIP() << "no read-only mount can be made here (not root?)";
  }
  const auto view = OpenArenaView(directory_ + "/view/a", arena_.get());
  ASSERT_TRUE(view.ok()) << view.status();
  const std::string again = "/proc/self/fd/" + std::to_string(view->get());
  EXPECT_EQ(::open(again.c_str(), O_RDWR | O_CLOEXEC), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, view->get(), 0), MAP_FAILED);
  EXPECT_THAT(error(directory_ + "/view/b"), HasSubstr("is not the arena"));
}

}  // namespace
}  // namespace thermocline
