// A process that means to be forked: with gRPC's fork support on, a child gets a session of its
// own.
#include <gtest/gtest.h>

#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

// Before gRPC is first used.
const int kForkSupport = ::setenv("GRPC_ENABLE_FORK_SUPPORT", "1", 1);

constexpr int kForks = 10;

bool NothingHeld(Client& client) {
  const auto stats = client.Stats();
  return stats.ok() && stats->leases == 0 && stats->reservations == 0;
}

TEST(ForkTest, ChildrenReconnectAndTheParentGoesOn) {
  ASSERT_EQ(kForkSupport, 0);
  DaemonProcess daemon;
  const std::unique_ptr<Client> client = daemon.Connect();
  const Space space = *client->OpenSpace(TestSpace());
  const auto tokens = Prompt(14, 2);
  {
    auto lease = space.Match(tokens);
    ASSERT_TRUE(lease.ok() && Extend(space, *lease, tokens, 2).ok());
  }
  for (int round = 0; round < kForks; ++round) {
    // Until no release is on its way any more: the thread that carries them is out of gRPC.
    while (!NothingHeld(*client)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(20);
      if (space.Match(tokens).status().code() != absl::StatusCode::kFailedPrecondition) ::_exit(1);
      if (!client->Reconnect().ok()) ::_exit(2);
      auto lease = space.Match(tokens);
      if (!lease.ok() || !lease->Load().ok()) ::_exit(3);
      ::_exit(RightPlaces(space, *lease, tokens) == 2 && lease->StillValid() ? 0 : 4);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << "round " << round << ", signal " << WTERMSIG(status);
    ASSERT_EQ(WEXITSTATUS(status), 0) << "round " << round;
    auto lease = space.Match(tokens);
    ASSERT_TRUE(lease.ok());
    EXPECT_EQ(RightPlaces(space, *lease, tokens), 2u);
  }
}

}  // namespace
}  // namespace thermocline
