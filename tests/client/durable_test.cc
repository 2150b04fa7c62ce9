// durability = "ack": what a commit was answered for is there after a power loss, which a test can
// only come near to: the daemon is killed, and its memory taken away. That the disk itself keeps
// what it has synced, tests/tiers/log_crash_test.cc shows.
#include <gtest/gtest.h>

#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

constexpr uint32_t kPlaces = 12;

class DurableTest : public ::testing::TestWithParam<bool> {
 protected:
  DaemonProcess daemon_{{.more = {"--durability", "ack"}, .remote = GetParam()}};
};

TEST_P(DurableTest, WhatWasAnsweredIsThereWhenTheMemoryIsGone) {
  std::vector<std::vector<int32_t>> prompts;
  {
    auto client = daemon_.Connect();
    auto space = client->OpenSpace(TestSpace());
    ASSERT_OK(space.status());
    for (int32_t seed = 1; seed <= 8; ++seed) {
      prompts.push_back(Prompt(seed, kPlaces));
      auto lease = space->Match(prompts.back());
      ASSERT_OK(lease.status());
      ASSERT_OK(Extend(*space, *lease, prompts.back(), kPlaces));
      ASSERT_OK(lease->Settle());
    }
  }
  daemon_.Stop(SIGKILL);
  std::filesystem::remove_all(daemon_.directory() + "/arena");
  ::mkdir((daemon_.directory() + "/arena").c_str(), 0700);
  daemon_.Start();
  auto client = daemon_.Connect();
  auto space = client->OpenSpace(TestSpace());
  ASSERT_OK(space.status());
  for (const auto& prompt : prompts) {
    auto lease = space->Match(prompt);
    ASSERT_OK(lease.status());
    ASSERT_EQ(lease->depth(), kPlaces);
    ASSERT_OK(lease->Load().status());
    EXPECT_EQ(RightPlaces(*space, *lease, prompt), kPlaces);
  }
}

INSTANTIATE_TEST_SUITE_P(Map, DurableTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "without" : "with"; });

}  // namespace
}  // namespace thermocline
