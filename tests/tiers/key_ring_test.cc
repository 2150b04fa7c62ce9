#include "tiers/key_ring.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <stop_token>
#include <string>
#include <thread>

#include "base/file_util.h"
#include "tests/tiers/scratch_directory.h"
#include "tiers/key_command.h"

namespace thermocline {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kA(64, 'a');
const std::string kB = "0123456789abcdefABCDEF9876543210" + std::string(32, '7');

TEST(KeyRingTest, TheHighestNumberSealsAndAllOpen) {
  const auto ring = KeyRing::Parse("# since May\n\n 9\t" + kB + " # new\r\n2 " + kA, "keys");
  ASSERT_TRUE(ring.ok()) << ring.status();
  EXPECT_EQ(ring->newest().number, 9u);
  EXPECT_EQ(ring->newest().bytes[0], 0x01);
  EXPECT_EQ(ring->newest().bytes[10], 0xef);
  ASSERT_NE(ring->Find(2), nullptr);
  EXPECT_EQ(ring->Find(2)->bytes[31], 0xaa);
  EXPECT_EQ(ring->Find(1), nullptr);
  EXPECT_EQ(ring->keys().size(), 2u);
}

TEST(KeyRingTest, WhatIsWrongIsSaidWithoutTheKey) {
  struct Case {
    std::string text;
    std::string what;
  };
  std::string many;
  for (int i = 1; i <= 65; ++i) many += std::to_string(i) + " " + kA + "\n";
  const Case cases[] = {
      {"", "has no key"},
      {"# nothing\n", "has no key"},
      {"\n" + kA, "keys:2: a line is a number"},
      {"0 " + kA, "from 1 to"},
      {"-1 " + kA, "from 1 to"},
      {"4294967296 " + kA, "from 1 to"},
      {"1" + kA, "from 1 to"},
      {"1 ", "a number"},
      {"1 " + kA.substr(1), "64 hexadecimal"},
      {"1 " + kA + "a", "64 hexadecimal"},
      {"1 " + kA.substr(1) + "g", "64 hexadecimal"},
      {"1 +" + kA.substr(1), "64 hexadecimal"},
      {"1 " + kA.substr(2) + "-a", "64 hexadecimal"},
      {"1 " + kA.substr(1) + " a", "64 hexadecimal"},
      {"1 " + kA + "\n1 " + kB, "keys:2: there is a key 1 already"},
      {many, "keys:65: more than 64"},
  };
  for (const Case& c : cases) {
    const auto ring = KeyRing::Parse(c.text, "keys");
    EXPECT_EQ(ring.status().code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(ring.status().message()),
                AllOf(HasSubstr(c.what), Not(HasSubstr("aaaa"))));
  }
}

class KeySourceTest : public testing::Test {
 protected:
  void Write(const std::string& text, mode_t mode = 0600) {
    ASSERT_TRUE(WriteFileAtomically(file_, text, mode).ok());
  }
  /// What `script`, run by a shell, gives.
  absl::StatusOr<std::shared_ptr<KeySource>> FromScript(const std::string& script) {
    const std::string path = directory_.path() + "/command";
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    ::chmod(path.c_str(), 0700);
    return KeySource::Open({.command = path + " one  two"});
  }
  absl::StatusOr<size_t> Run(const std::string& script, std::chrono::milliseconds patience) {
    const std::string path = directory_.path() + "/command";
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    ::chmod(path.c_str(), 0700);
    return RunKeyCommand(path, room_, patience);
  }

  ScratchDirectory directory_;
  const std::string file_ = directory_.path() + "/keys";
  std::array<std::byte, 4096> room_{};
};

TEST_F(KeySourceTest, AFileThatOthersMayUseIsRefused) {
  for (const mode_t mode : {0640, 0604, 0660, 0644, 0610}) {
    Write("1 " + kA, mode);
    const auto source = KeySource::Open({.file = file_});
    EXPECT_TRUE(absl::IsPermissionDenied(source.status())) << source.status();
    EXPECT_THAT(std::string(source.status().message()), HasSubstr("chmod 600"));
  }
  Write("1 " + kA, 0400);
  EXPECT_TRUE(KeySource::Open({.file = file_}).ok());
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_EQ(::chown(file_.c_str(), 12345, 0), 0);
  EXPECT_THAT(std::string(KeySource::Open({.file = file_}).status().message()),
              HasSubstr("belongs to user 12345"));
}

TEST_F(KeySourceTest, WhatIsNoSuchFileIsRefused) {
  EXPECT_TRUE(absl::IsNotFound(KeySource::Open({.file = file_}).status()));
  EXPECT_FALSE(KeySource::Open({.file = directory_.path()}).ok());
  ASSERT_EQ(::mkfifo(file_.c_str(), 0600), 0);
  EXPECT_FALSE(KeySource::Open({.file = file_}).ok());  // and does not hang
  ::unlink(file_.c_str());
  Write("1 " + kA + "\n" + std::string(kMaxKeyTextBytes, '#'));
  EXPECT_TRUE(absl::IsResourceExhausted(KeySource::Open({.file = file_}).status()));
}

TEST_F(KeySourceTest, AReloadTakesUpNewKeysAndKeepsTheOldOnesOfAFileThatIsWrong) {
  Write("1 " + kA);
  const auto source = KeySource::Open({.file = file_});
  ASSERT_TRUE(source.ok()) << source.status();
  const auto before = (*source)->ring();
  Write("1 " + kA + "\n2 " + kB);
  ASSERT_TRUE((*source)->Reload().ok());
  EXPECT_EQ((*source)->ring()->newest().number, 2u);
  EXPECT_EQ(before->newest().number, 1u);  // for who was sealing with it
  Write("nonsense");
  EXPECT_FALSE((*source)->Reload().ok());
  EXPECT_EQ((*source)->ring()->newest().number, 2u);
}

TEST_F(KeySourceTest, AFileThatIsGoneLeavesNoKeyAndOnePutThereIsTakenUp) {
  Write("1 " + kA);
  const auto source = KeySource::Open({.file = file_});
  ASSERT_TRUE(source.ok()) << source.status();
  ::unlink(file_.c_str());
  ASSERT_TRUE((*source)->Reload().ok());
  EXPECT_TRUE((*source)->ring()->empty());
  EXPECT_EQ((*source)->ring()->Find(1), nullptr);
  Write("1 " + kB);
  ASSERT_TRUE((*source)->Reload().ok());
  EXPECT_EQ((*source)->ring()->newest().number, 1u);
}

TEST_F(KeySourceTest, AProgramThatIsGoneLeavesTheKeys) {
  const auto source = FromScript("echo 1 " + kA);
  ASSERT_TRUE(source.ok()) << source.status();
  ::unlink((directory_.path() + "/command").c_str());
  EXPECT_FALSE((*source)->Reload().ok());
  EXPECT_FALSE((*source)->ring()->empty());
}

TEST_F(KeySourceTest, ACommandGetsItsArgumentsAndNothingElse) {
  ASSERT_TRUE(FromScript("[ $# = 2 ] && [ \"$2\" = two ] && echo 3 " + kA).ok());
  // No descriptor but the three, of which the first has nothing; no signal blocked (of the shell it
  // is while it waits).
  const int inherited = ::open("/dev/null", O_RDONLY);  // not close-on-exec
  ::dup2(inherited, 77);
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  const auto bytes =
      Run("[ -z \"$(cat)\" ] || exit 4\n"
          "[ -e /proc/$$/fd/77 ] && exit 5\n"
          "grep -q 'SigBlk:.0*$' /proc/self/status || exit 6\n"
          "echo ok",
          std::chrono::seconds(20));
  ::pthread_sigmask(SIG_UNBLOCK, &all, nullptr);
  ::close(77);
  ::close(inherited);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, 3u);
}

TEST_F(KeySourceTest, ACommandThatFailsOrIsNoneIsRefused) {
  EXPECT_THAT(std::string(FromScript("echo 1 " + kA + "; exit 3").status().message()),
              AllOf(HasSubstr("code 3"), Not(HasSubstr("aaaa"))));
  EXPECT_THAT(std::string(FromScript("kill -9 $$").status().message()), HasSubstr("signal 9"));
  EXPECT_TRUE(absl::IsNotFound(KeySource::Open({.command = "/nonexistent/x"}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(KeySource::Open({.command = "true"}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(KeySource::Open({.command = "  "}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(FromScript("echo nonsense").status()));
}

TEST_F(KeySourceTest, ACommandIsEndedWhenItIsToStop) {
  const auto source = FromScript("[ -e " + directory_.path() + "/slow ] && sleep 60; echo 1 " + kA);
  ASSERT_TRUE(source.ok()) << source.status();
  std::ofstream(directory_.path() + "/slow") << "x";
  std::stop_source stop;
  std::jthread stopping([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    stop.request_stop();
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(absl::IsCancelled((*source)->Reload(stop.get_token())));
  EXPECT_LT(std::chrono::steady_clock::now() - start, kKeyCommandPatience);
  EXPECT_FALSE((*source)->ring()->empty());
}

TEST_F(KeySourceTest, ACommandThatPrintsTooMuchOrTakesTooLongIsEnded) {
  using std::chrono::milliseconds;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(absl::IsResourceExhausted(
      Run("while :; do echo 0123456789; done", milliseconds(20000)).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(Run("sleep 60", milliseconds(300)).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      Run("exec >&-; sleep 60", milliseconds(300)).status()));  // nothing more comes, yet it runs
  // With what it started.
  const std::string pid_file = directory_.path() + "/pid";
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      Run("sleep 60 & echo $! >" + pid_file + "; wait", milliseconds(3000)).status()));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
  const auto pid = ReadFile(pid_file, 100);
  ASSERT_TRUE(pid.ok());
  const auto gone = [&] { return ::kill(std::stoi(*pid), 0) != 0 && errno == ESRCH; };
  const auto is_zombie = [&] {
    const auto stat = ReadFile("/proc/" + std::to_string(std::stoi(*pid)) + "/stat", 4096);
    return stat.ok() && stat->find(") Z") != std::string::npos;
  };
  for (int i = 0; i < 1200 && !gone() && !is_zombie(); ++i) ::usleep(50'000);
  EXPECT_TRUE(gone() || is_zombie());
  // To the byte.
  EXPECT_EQ(*Run("head -c 4096 /dev/zero", milliseconds(20000)), 4096u);
  EXPECT_FALSE(Run("head -c 4097 /dev/zero", milliseconds(20000)).ok());
}

}  // namespace
}  // namespace thermocline
