// A process that means to be forked: with gRPC's fork support on, a child gets a session of its
// own. And one that the kernel answers no system call.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <iterator>

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
      ::alarm(120);
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

// What was enqueued before a fork is the parent's: the child neither waits for it, nor gives any of
// it back.
TEST(ForkTest, PutsThatAreNotSettledStayTheParents) {
  DaemonProcess daemon;
  const std::unique_ptr<Client> client = daemon.Connect();
  const Space space = *client->OpenSpace(TestSpace());
  const auto tokens = Prompt(15, 6);
  auto lease = space.Match(tokens);
  ASSERT_TRUE(lease.ok()) << lease.status();
  const auto names = [&](uint32_t place) {
    return std::span(tokens).subspan(size_t{place} * kPlaceTokens, kPlaceTokens);
  };
  auto slots = space.Reserve(6);
  ASSERT_TRUE(slots.ok()) << slots.status();
  ASSERT_EQ(slots->size(), 6u);
  {
    const Silence silence(daemon);
    for (uint32_t place = 0; place < 5; ++place) {
      std::vector<Reservation> one;
      one.push_back(std::move(slots->at(place)));
      const auto content = Content(tokens, place, 0, one[0].bytes().size());
      std::memcpy(one[0].bytes().data(), content.data(), content.size());
      ASSERT_TRUE(lease->CommitAsync(names(place), std::move(one)).ok());
    }
    ASSERT_FALSE(lease->Settled());
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(120);
      if (lease->Settle().code() != absl::StatusCode::kFailedPrecondition) ::_exit(1);
      if (lease->depth() != 0) ::_exit(2);
      std::vector<Reservation> last;
      last.push_back(std::move(slots->at(5)));
      if (lease->CommitAsync(names(5), std::move(last)).ok()) ::_exit(3);
      { const Lease gone = *std::move(lease); }
      slots->clear();
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  ASSERT_TRUE(lease->Settle().ok());
  EXPECT_EQ(lease->depth(), 5u);
  std::vector<Reservation> last;
  last.push_back(std::move(slots->at(5)));
  const auto content = Content(tokens, 5, 0, last[0].bytes().size());
  std::memcpy(last[0].bytes().data(), content.data(), content.size());
  ASSERT_TRUE(lease->Commit(names(5), std::move(last)).ok()) << "the child gave nothing back";
  EXPECT_EQ(RightPlaces(space, *lease, tokens), 6u);
  lease->Release();
  slots->clear();
  EXPECT_TRUE(Eventually([&] { return NothingHeld(*client); }));
}

/// For this thread, from now on: any other system call ends the process.
bool AllowOnlyWrite() {
  sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog program = {.len = std::size(rules), .filter = rules};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(SystemCallTest, AWarmHitMakesNone) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer's allocator makes some of its own";
#endif
  DaemonProcess daemon;
  const auto tokens = Prompt(16, 64);
  {
    const std::unique_ptr<Client> client = daemon.Connect();
    const Space space = *client->OpenSpace(TestSpace());
    auto lease = space.Match(tokens);
    ASSERT_TRUE(lease.ok() && Extend(space, *lease, tokens, 64).ok());
  }
  int done[2];
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(120);
    const std::unique_ptr<Client> client = daemon.Connect();
    const Space space = *client->OpenSpace(TestSpace());
    const auto hits = [&] {
      auto lease = space.Match(tokens);
      return lease.ok() && lease->depth() == 64 && !lease->View(63).empty() && lease->StillValid();
    };
    char all = hits() ? 1 : 0;  // what is made once is made now
    if (!AllowOnlyWrite()) ::_exit(1);
    for (int i = 0; i < 1000; ++i) all = hits() ? all : 0;
    (void)!::write(done[1], &all, 1);
    for (;;) continue;  // it cannot even end
  }
  ::close(done[1]);
  char all = 0;
  EXPECT_EQ(::read(done[0], &all, 1), 1) << "it made a system call";
  EXPECT_EQ(all, 1);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(done[0]);
}

}  // namespace
}  // namespace thermocline
