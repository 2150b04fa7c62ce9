// A tenant that has all the memory that it may have waits, or is refused; the others do not.
#include <gtest/gtest.h>

#include <atomic>

#include "tests/client/blocks.h"
#include "tests/client/two_tenants.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint64_t kBlockBytes = 1 << 20;

TEST(TenantWaitTest, WhoIsAtItsQuotaWaitsAndAnotherGoesOn) {
  // One chunk of 64 MiB; there is room for three more.
  const TwoTenants tenants("warm_quota = \"64MiB\"\n", "256MiB");
  const auto space = tenants.bob->OpenSpace(TestSpace(kBlockBytes));
  ASSERT_OK(space.status());
  std::vector<Reservation> all;
  while (true) {
    auto slots = space->Reserve(16);
    if (!slots.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(slots.status())) << slots.status();
      break;
    }
    for (Reservation& slot : *slots) all.push_back(std::move(slot));
  }
  EXPECT_GE(all.size(), 32u);
  EXPECT_LE(all.size(), 64u) << "beyond its quota";

  const auto start = steady_clock::now();
  const auto refused = space->Reserve(1, 0, milliseconds(1000));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_GE(steady_clock::now() - start, milliseconds(800)) << "most of its deadline";

  const auto another = tenants.alice->OpenSpace(TestSpace(kBlockBytes));
  ASSERT_OK(another.status());
  std::atomic<bool> answered{false};
  absl::StatusOr<std::vector<Reservation>> waited = absl::UnknownError("");
  std::thread waiting([&] {
    waited = space->Reserve(1, 0, kPatience);
    answered = true;
  });
  for (int32_t seed = 1; seed <= 10; ++seed) {
    const auto tokens = Prompt(seed, 2);
    auto lease = another->Match(tokens);
    ASSERT_OK(lease.status());
    ASSERT_OK(Extend(*another, *lease, tokens, 2));
    EXPECT_EQ(RightPlaces(*another, *lease, tokens), 2u);
  }
  EXPECT_FALSE(answered) << "bob waits still";
  all.clear();  // what it gives back itself ends the wait
  waiting.join();
  ASSERT_OK(waited.status());
  EXPECT_EQ(waited->size(), 1u);
}

}  // namespace
}  // namespace thermocline
