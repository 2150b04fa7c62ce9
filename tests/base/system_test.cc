// Clock, files, processes.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/file_util.h"
#include "base/process.h"
#include "base/version.h"

namespace thermocline {
namespace {

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "/thermocline_file_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override {
    ::unlink((directory_ + "/f").c_str());
    ::rmdir((directory_ + "/a/b").c_str());
    ::rmdir((directory_ + "/a").c_str());
    EXPECT_EQ(::rmdir(directory_.c_str()), 0) << "something was left behind";
  }
  std::string directory_;
};

TEST(ClockTest, AManualClockMovesWhenTold) {
  ManualClock clock;
  const SteadyTime steady = clock.Now();
  const WallTime wall = clock.WallNow();
  EXPECT_EQ(clock.Now(), steady);
  clock.Advance(std::chrono::seconds(5));
  EXPECT_EQ(clock.Now() - steady, std::chrono::seconds(5));
  EXPECT_EQ(clock.WallNow() - wall, std::chrono::seconds(5));
  const SteadyTime earlier = Clock::Real().Now();
  EXPECT_GE(Clock::Real().Now(), earlier);
}

TEST_F(FileTest, AFileIsReplacedWholeWithItsMode) {
  const std::string path = directory_ + "/f";
  ASSERT_TRUE(WriteFileAtomically(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomically(path, std::string(300'000, 'x'), 0640).ok());
  EXPECT_EQ(ReadFile(path, 300'000)->size(), 300'000u);
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST_F(FileTest, ReadingIsBoundedAndErrorsNameThePath) {
  const std::string path = directory_ + "/f";
  ASSERT_TRUE(WriteFileAtomically(path, "12345").ok());
  EXPECT_EQ(ReadFile(path, 4).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(ReadFile("/proc/self/status", 1 << 20).ok());
  const auto missing = ReadFile(directory_ + "/none", 10);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(missing.status().message()).find("/none"), std::string::npos);
  EXPECT_FALSE(ReadFile(directory_, 10).ok());
  EXPECT_FALSE(WriteFileAtomically(directory_ + "/none/f", "x").ok());
}

TEST_F(FileTest, AFailedWriteLeavesTheOldFileAndNoOther) {
  const std::string path = directory_ + "/f";
  ASSERT_TRUE(WriteFileAtomically(path, "old").ok());
  signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 1000, .rlim_max = RLIM_INFINITY};
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_FALSE(WriteFileAtomically(path, std::string(5000, 'n')).ok());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(*ReadFile(path, 10), "old");
}

TEST_F(FileTest, DirectoriesAreMadeWithTheirParents) {
  ASSERT_TRUE(MakeDirectories(directory_ + "/a/b", 0700).ok());
  ASSERT_TRUE(MakeDirectories(directory_ + "/a/b", 0700).ok());
  struct stat info {};
  ASSERT_EQ(::stat((directory_ + "/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  ASSERT_TRUE(WriteFileAtomically(directory_ + "/f", "").ok());
  EXPECT_EQ(MakeDirectories(directory_ + "/f/x").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(MakeDirectories("/proc/thermocline").ok());
  EXPECT_FALSE(MakeDirectories("").ok());
}

TEST(ProcessTest, AChildIsKnownByItsStartTimeAndSeenToEnd) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte;
    ::close(pipe_fds[1]);
    _exit(static_cast<int>(::read(pipe_fds[0], &byte, 1)));
  }
  const auto start = ProcessStartTime(child);
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_GE(*start, *ProcessStartTime(::getpid()));
  const auto pidfd = OpenPidFd(child, *start);
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  EXPECT_FALSE(HasExited(*pidfd));
  EXPECT_FALSE(HasExited(child, *start));
  EXPECT_TRUE(HasExited(child, *start + 1)) << "a namesake";
  EXPECT_EQ(OpenPidFd(child, *start + 1).status().code(), absl::StatusCode::kNotFound);
  ::close(pipe_fds[0]);
  ::close(pipe_fds[1]);
  siginfo_t ended;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(ProcessStartTime(child).ok()) << "a zombie";
  EXPECT_TRUE(HasExited(child, *start));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(HasExited(*pidfd));
  EXPECT_TRUE(HasExited(child, *start));
  EXPECT_EQ(ProcessStartTime(child).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenPidFd(child).status().code(), absl::StatusCode::kNotFound);
}

TEST(VersionTest, IsTheProjects) { EXPECT_NE(Version().find('.'), std::string_view::npos); }

}  // namespace
}  // namespace thermocline
