// The server with several tenants in this process, whose stacks are opened through a test's hands.
#include "daemon/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <latch>
#include <map>
#include <nlohmann/json.hpp>

#include "base/mutex.h"
#include "base/options.h"
#include "tests/daemon/http_get.h"

namespace thermocline {
namespace {

using testing::Eventually;
using testing::Get;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class ServerTest : public ::testing::Test {
 protected:
  void Start(const Tenant::Opener& opener) {
    {
      std::ofstream(place_.root + "/config") << "[[tenant]]\nname = \"alice\"\n"
                                                "[[tenant]]\nname = \"bob\"\n";
    }
    const auto loaded = LoadOptions(
        DaemonOptionTable(),
        {.arguments = {"--config=" + place_.root + "/config", "--socket=" + place_.socket,
                       "--data-dir=" + place_.data_dir, "--arena-dir=" + place_.arena_dir,
                       "--warm-capacity=192MiB", "--cold-capacity=0", "--worker-threads=2",
                       "--http=127.0.0.1:0"}});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const auto options = ResolveDaemonOptions(loaded->options);
    ASSERT_TRUE(options.ok()) << options.status();
    auto server = Server::Start(*options, opener);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    if (server_ == nullptr) return;
    EXPECT_TRUE(server_->Shutdown().ok());
  }
  /// "alice" of ".../alice.arena".
  static std::string NameOf(const StackOptions& stack) {
    return std::filesystem::path(stack.arena_path).stem().string();
  }
  Json Readiness() {
    const std::string answer = Get(place_, "/readyz");
    return Json::parse(answer.substr(answer.find("\r\n\r\n") + 4), nullptr, false);
  }

  testing::DaemonPlace place_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, TenantsAdoptSideBySideAndNoneGoesOnBeforeTheLast) {
  std::atomic<int> opening = 0, most = 0, opened = 0;
  std::vector<int> opened_before;  // one's next task
  Mutex mutex;
  Start([&](StackOptions options) {
    const int now = ++opening;
    if (now > most) most = now;
    Eventually([&] { return most >= 2; });
    options.strand([&] {
      MutexLock lock(mutex);
      opened_before.push_back(opened);
    });
    auto stack = TierStack::Open(std::move(options));
    --opening;
    ++opened;
    return stack;
  });
  EXPECT_EQ(most, 2) << "as many as there are workers";
  EXPECT_TRUE(Eventually([&] {
    MutexLock lock(mutex);
    return opened_before.size() == 3;
  }));
  EXPECT_EQ(opened_before, std::vector<int>(3, 3));
}

TEST_F(ServerTest, ATenantThatHangsIsNamedAndTheOthersAreServed) {
  std::map<std::string, Runner> strands;
  Mutex mutex;
  Start([&](StackOptions options) {
    {
      MutexLock lock(mutex);
      strands[NameOf(options)] = options.strand;
    }
    return TierStack::Open(std::move(options));
  });
  EXPECT_EQ(Readiness()["status"], "ready");
  const auto hold = [&](const std::string& tenant, std::latch& go) {
    std::latch held(1);
    strands[tenant]([&] {
      held.count_down();
      go.wait();
    });
    held.wait();
  };
  std::latch go(1);
  hold("alice", go);
  const Json degraded = Readiness();
  EXPECT_EQ(degraded["status"], "degraded");
  EXPECT_EQ(degraded["degradations"].size(), 1u);
  EXPECT_EQ(degraded["degradations"][0]["tenant"], "alice");
  std::string metrics = Get(place_, "/metrics");
  EXPECT_THAT(metrics, HasSubstr("\nthermocline_ready 1\n"));
  EXPECT_THAT(metrics, HasSubstr("\nthermocline_silent_tenants 1\n"));
  EXPECT_THAT(metrics, HasSubstr("thermocline_tier_capacity_bytes{tier=\"warm\"} 201326592\n"));
  hold("bob", go);
  hold("default", go);
  EXPECT_THAT(Get(place_, "/readyz"), HasSubstr("503"));
  EXPECT_EQ(Readiness()["status"], "overloaded");
  EXPECT_THAT(Get(place_, "/metrics"), HasSubstr("\nthermocline_ready 0\n"));
  go.count_down();
  EXPECT_TRUE(Eventually([&] { return Readiness()["status"] == "ready"; }));
}

}  // namespace
}  // namespace thermocline
