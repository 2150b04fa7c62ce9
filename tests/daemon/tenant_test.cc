// Tenants side by side in this process: what one does to the executors and strands that all share,
// or to its own, and what the others notice of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <future>
#include <latch>

#include "base/clock.h"
#include "daemon/metrics.h"
#include "daemon/tenant_figures.h"
#include "tests/daemon/daemon_process.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class TenantTest : public ::testing::Test {
 protected:
  /// A tenant with the thread of its strand.
  struct Home {
    std::unique_ptr<Executor> strand;
    std::unique_ptr<Tenant> tenant;
    std::function<void(Task)> reads;  // as its stack sees the threads that read the disk
  };

  void Open(const std::string& name) {
    Home& home = homes_.emplace_back();
    home.strand = std::make_unique<Executor>(
        Executor::Options{.name = "tc-strand", .queue_limit = kStrandLimit});
    Tenant::Options options{.name = name};
    options.stack.arena_path = place_.arena_dir + "/" + name + ".arena";
    options.stack.data_dir = place_.data_dir + "/" + name;
    options.stack.warm_capacity_bytes = 16 << 20;
    std::filesystem::create_directories(options.stack.data_dir);
    auto tenant =
        Tenant::Open(std::move(options), {*home.strand, disk_, reads_, workers_, metrics_},
                     [&home](StackOptions stack) {
                       home.reads = stack.reads;
                       return TierStack::Open(std::move(stack));
                     });
    ASSERT_TRUE(tenant.ok()) << tenant.status();
    home.tenant = *std::move(tenant);
  }
  void SetUp() override {
    std::filesystem::create_directories(place_.arena_dir);
    Open("alice");
    Open("bob");
  }
  void TearDown() override {
    for (Home& home : homes_) {
      std::promise<void> down;
      home.tenant->Shutdown(false, [&](const absl::Status&) { down.set_value(); });
      down.get_future().wait();
    }
    workers_.Stop();
    for (Home& home : homes_) EXPECT_TRUE(home.tenant->Close(milliseconds(10'000)));
    disk_.Stop();
    reads_.Stop();
    for (Home& home : homes_) home.strand->Stop();
  }
  Tenant& tenant(size_t i) { return *homes_[i].tenant; }
  TenantFigures AllFigures() {
    return TenantFigures({homes_[0].tenant.get(), homes_[1].tenant.get()});
  }

  /// Its strand does nothing until the latch goes.
  void Hold(Tenant& tenant, std::latch& go) {
    std::latch held(1);
    tenant.PostCompletion([&](TenantView&) {
      held.count_down();
      go.wait();
    });
    held.wait();
  }
  void WaitFor(Tenant& tenant) {
    std::latch done(1);
    tenant.PostCompletion([&](TenantView&) { done.count_down(); });
    done.wait();
  }
  /// How many tasks of a flood of `flood` run before one of `other` that was posted last.
  template <typename Post>
  static int RunBefore(Post flood, Post other) {
    std::latch go(1), begun(1), done(1);
    std::atomic<int> flooded = 0;
    int before = -1;
    flood([&] {
      begun.count_down();
      go.wait();
    });
    begun.wait();
    for (int i = 0; i < 1000; ++i) flood([&] { ++flooded; });
    other([&] {
      before = flooded;
      done.count_down();
    });
    go.count_down();
    done.wait();
    while (flooded < 1000) std::this_thread::yield();
    return before;
  }

  static constexpr size_t kStrandLimit = 64;
  static constexpr milliseconds kPatience{60'000};
  testing::DaemonPlace place_;
  DaemonMetrics metrics_{"test"};
  Executor disk_{{.name = "tc-disk"}};
  Executor reads_{{.name = "tc-read"}};
  Executor workers_{{.name = "tc-worker"}};
  std::deque<Home> homes_;
};

TEST_F(TenantTest, AFloodOfCommitsDelaysAnothersByOneTask) {
  const auto to = [](Tenant& tenant) {
    return std::function<void(Task)>(
        [&tenant](Task task) { ASSERT_TRUE(tenant.workers().Post(std::move(task))); });
  };
  EXPECT_LE(RunBefore(to(tenant(0)), to(tenant(1))), 1);
}

TEST_F(TenantTest, AFloodOfLoadsDelaysAnothersByOneTask) {
  EXPECT_LE(RunBefore(homes_[0].reads, homes_[1].reads), 1);
}

TEST_F(TenantTest, WhatIsRepeatedGoesOnWhenThereAreTooManyTimers) {
  auto times = std::make_shared<std::atomic<int>>(0);  // it goes on until the shutdown
  tenant(0).Repeat(milliseconds(1), [&, times](TenantView&) {
    while (tenant(0).PostAfter(std::chrono::hours(1), [](TenantView&) {})) continue;
    ++*times;
  });
  EXPECT_TRUE(testing::Eventually([&] { return *times >= 3; }));
}

TEST_F(TenantTest, AStrandThatGoesOnIsNotStuckHoweverMuchWaitsThere) {
  std::latch go(1);
  Hold(tenant(0), go);
  const SteadyTime held = tenant(0).went_on_at();
  std::latch before(1), after(1);
  tenant(0).PostCompletion([&](TenantView&) {
    before.count_down();
    after.wait();
  });
  EXPECT_EQ(tenant(0).went_on_at(), held) << "it hangs";
  go.count_down();
  before.wait();
  EXPECT_GT(tenant(0).went_on_at(), held);
  after.count_down();
  WaitFor(tenant(0));
}

TEST_F(TenantTest, RequestsThatAreNotAnsweredHaveSoMuchRoom) {
  std::shared_ptr<void> half = tenant(0).TakeRoom(kMaxRequestBytes / 2);
  const std::shared_ptr<void> rest = tenant(0).TakeRoom(kMaxRequestBytes / 2);
  EXPECT_TRUE(half != nullptr && rest != nullptr);
  EXPECT_EQ(tenant(0).TakeRoom(1), nullptr);
  EXPECT_NE(tenant(1).TakeRoom(1), nullptr) << "another's is its own";
  half.reset();
  EXPECT_NE(tenant(0).TakeRoom(kMaxRequestBytes / 2), nullptr);
}

TEST_F(TenantTest, OneWithoutItsViewOfTheArenaDoesNotOpen) {
  Executor strand{{.name = "tc-strand"}};
  Tenant::Options options{.name = "carol", .arena_view = "/nowhere"};
  options.stack.arena_path = place_.arena_dir + "/carol.arena";
  options.stack.data_dir = place_.data_dir + "/carol";
  options.stack.warm_capacity_bytes = 16 << 20;
  std::filesystem::create_directories(options.stack.data_dir);
  EXPECT_FALSE(
      Tenant::Open(std::move(options), {strand, disk_, reads_, workers_, metrics_}, TierStack::Open)
          .ok());
  strand.Stop();
}

TEST_F(TenantTest, WhatIsWrongIsSaidWithTheTenantsName) {
  SpaceSpec spec;
  spec.model = "test";
  spec.kv_dtype = "f32";
  spec.layers = spec.kv_heads = 1;
  spec.head_dim = 8;
  spec.layout = "lkht.v1";
  spec.parts.push_back({.name = "all", .block_bytes = 4096});
  for (size_t i = 0; i < 2; ++i) {
    const std::string state = place_.data_dir + "/" + tenant(i).name() + "/state.json";
    std::filesystem::remove(state);
    std::filesystem::create_directories(state + "/in the way");
    tenant(i).PostCompletion(
        [&](TenantView& view) { ASSERT_TRUE(view.stack->OpenSpace(spec).ok()); });
  }
  TenantFigures all = AllFigures();
  std::string warm;
  EXPECT_TRUE(testing::Eventually([&] {
    warm = all.Ask(kPatience).sum.tiers.at(0).state;
    return warm.find("tenant alice: spaces and pins cannot be noted") != std::string::npos &&
           warm.find("; tenant bob: spaces and pins cannot be noted") != std::string::npos;
  })) << warm;
}

TEST_F(TenantTest, OneThatIsStuckIsNamedAndHidesNothingOfTheOthers) {
  TenantFigures all = AllFigures();
  for (int i = 0; i < 2; ++i) {
    tenant(0).PostCompletion(
        [](TenantView& view) { ASSERT_TRUE(view.stack->AddClient(1, 1, nullptr).ok()); });
  }
  TenantFigures::Figures figures = all.Ask(kPatience);
  EXPECT_THAT(figures.silent, IsEmpty());
  EXPECT_EQ(figures.sum.clients, 2u);
  EXPECT_EQ(figures.sum.tiers.size(), 1u);

  std::latch go(1);
  Hold(tenant(0), go);
  tenant(1).PostCompletion(
      [](TenantView& view) { ASSERT_TRUE(view.stack->AddClient(1, 1, nullptr).ok()); });
  EXPECT_TRUE(testing::Eventually([&] {
    figures = all.Ask(milliseconds(1000));
    return figures.silent == std::vector<std::string>{"alice"};
  }));
  EXPECT_EQ(figures.sum.clients, 3u) << "two that it told of before, and one that the other has";
  const auto begin = Clock::Real().Now();
  figures = all.Ask(std::chrono::hours(1));
  EXPECT_LT(Clock::Real().Now() - begin, std::chrono::minutes(1)) << "it is not waited for again";
  EXPECT_THAT(figures.silent, ElementsAre("alice"));

  go.count_down();
  WaitFor(tenant(0));
  WaitFor(tenant(1));
  figures = all.Ask(kPatience);
  EXPECT_THAT(figures.silent, IsEmpty());
  EXPECT_EQ(figures.sum.clients, 3u);
}

TEST_F(TenantTest, AllAreWaitedForAtOnce) {
  constexpr milliseconds kWait{1000};
  std::latch go(1);
  Hold(tenant(0), go);
  Hold(tenant(1), go);
  EXPECT_TRUE(testing::Eventually([&] {  // a machine may be late, but not always
    const auto begin = Clock::Real().Now();
    EXPECT_THAT(AllFigures().Ask(kWait).silent, ElementsAre("alice", "bob"));
    return Clock::Real().Now() - begin < 2 * kWait;
  })) << "one after the other";
  go.count_down();
  WaitFor(tenant(0));
  WaitFor(tenant(1));
  // A strand that takes no question is as silent, and is asked again the next time.
  std::latch again(1);
  Hold(tenant(0), again);
  while (tenant(0).Post([](TenantView&) {})) continue;
  TenantFigures all = AllFigures();
  EXPECT_THAT(all.Ask(kPatience).silent, ElementsAre("alice"));
  again.count_down();
  WaitFor(tenant(0));
  EXPECT_THAT(all.Ask(kPatience).silent, IsEmpty());
}

}  // namespace
}  // namespace thermocline
