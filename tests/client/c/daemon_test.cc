// Runs the C99 program of this folder against a real daemon, and asks what the daemon still holds
// for it afterwards.
#include <gtest/gtest.h>

#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

TEST(CTest, AProgramInC99FindsWhatTheHeaderPromises) {
  DaemonProcess daemon;
  const pid_t pid = Spawn({TC_BUILD_DIR "/bin/client_c_program", daemon.socket()}, 0, 1, 2);
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  const auto stats = daemon.Connect()->Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->leases, 0u);
  EXPECT_EQ(stats->reservations, 0u);
  EXPECT_EQ(stats->corrupt_blocks, 0u);
}

}  // namespace
}  // namespace thermocline
