// Where a session socket lies, and who is at its other end.
#include "daemon/session_socket.h"

#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/tiers/scratch_directory.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

TEST(PeerUserTest, HasAllOfItsGroupsHoweverMany) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can take groups";
  for (const size_t count : {size_t{0}, size_t{32}, size_t{33}, size_t{1000}}) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::vector<gid_t> groups(count);
      for (size_t i = 0; i < count; ++i) groups[i] = static_cast<gid_t>(50'000 + i);
      int ends[2];
      if (::setgroups(count, groups.data()) != 0) ::_exit(2);
      if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) ::_exit(3);
      groups.insert(groups.begin(), ::getegid());
      const auto user = UserOf(ends[0]);
      ::_exit(user.ok() && user->gids == groups ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0) << count;
  }
}

TEST(SocketClaimTest, APathIsClaimedOnce) {
  const ScratchDirectory directory;
  const std::string path = directory.path() + "/t.sock";
  const auto refusal = [](const std::string& at) {
    return std::string(ClaimSocketPath(at).status().message());
  };
  {
    const auto first = ClaimSocketPath(path);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_THAT(refusal(path), HasSubstr("in use by pid " + std::to_string(::getpid())));
  }
  std::ofstream(path) << "a file";
  EXPECT_THAT(refusal(path), HasSubstr("is not a socket"));
  std::filesystem::remove(path);
  {  // the socket of a dead process: bound, nobody listens
    const UniqueFd dead = *ListenAt({.lock = {}, .path = path});
  }
  ASSERT_TRUE(std::filesystem::exists(path));
  EXPECT_TRUE(ClaimSocketPath(path).ok());
  const UniqueFd alive = *ListenAt({.lock = {}, .path = path});  // without our lock
  EXPECT_THAT(refusal(path), HasSubstr("in use by pid"));
  EXPECT_THAT(refusal("/tmp/" + std::string(120, 'x')), HasSubstr("a unix socket takes 107"));
}

}  // namespace
}  // namespace thermocline
