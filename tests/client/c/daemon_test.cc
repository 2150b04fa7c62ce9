// Runs the C99 program of this folder against a real daemon, and asks what the daemon still holds
// for it afterwards.
#include <gtest/gtest.h>

#include "tests/client/tls_daemon.h"

namespace thermocline {
namespace {

void ExpectToBeAsTheHeaderSays(const DaemonProcess& daemon, const RemoteOptions& remote) {
  std::vector<std::string> arguments = {TC_BUILD_DIR "/bin/client_c_program", daemon.socket()};
  if (!remote.address.empty()) {
    arguments.insert(arguments.end(), {remote.address, remote.ca_file, remote.certificate_file,
                                       remote.key_file, remote.token_file});
  }
  const pid_t pid = Spawn(arguments, 0, 1, 2);
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

TEST(CTest, AProgramInC99FindsWhatTheHeaderPromises) {
  const DaemonProcess daemon;
  ExpectToBeAsTheHeaderSays(daemon, {});
}

TEST(CTest, AndOverTls) {
  const auto tls = TlsDaemon::Start();
  if (tls == nullptr) GTEST_SKIP() << "needs the program openssl";
  ExpectToBeAsTheHeaderSays(tls->daemon(), tls->remote());
}

}  // namespace
}  // namespace thermocline
