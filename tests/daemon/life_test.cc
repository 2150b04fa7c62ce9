// The daemon's life and what stands in its way: starts that are refused with advice, ends by
// signal, restarts that find what was there; its HTTP side.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "base/metric_table.h"
#include "tests/daemon/http_get.h"

namespace thermocline {
namespace {

using testing::DaemonPlace;
using testing::DaemonProcess;
using testing::Eventually;
using testing::Get;
using ::testing::HasSubstr;
using testing::HoldsFill;
using testing::HttpGet;
using testing::LoadLease;
using testing::MatchTokens;
using ::testing::Not;
using testing::OpenTestSpace;
using testing::PutTokens;
using testing::RawClient;
using testing::ReleaseLease;
using testing::StatsOf;
using testing::TestSpace;

constexpr uint64_t kBlockBytes = 64 * 1024;

/// A daemon that must not come up: its exit code and what it says.
struct Refusal {
  int exit_code;
  std::string log;
};
Refusal Refused(const DaemonPlace& place, const std::vector<std::string>& more = {},
                const std::function<void()>& in_child = {}) {
  DaemonProcess daemon(place, more, in_child);
  EXPECT_TRUE(Eventually([&] { return !daemon.running(); })) << daemon.log();
  return {daemon.running() ? -1 : daemon.Wait(), daemon.log()};
}

/// Beats for a client, so that its leases last however long the daemon's disk takes.
class Heart {
 public:
  explicit Heart(RawClient& client)
      : thread_([&client](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            client.session.Beat();
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
          }
        }) {}

 private:
  std::jthread thread_;
};

/// A tmpfs of its own; nothing where this process may not mount.
class TinyTmpfs {
 public:
  explicit TinyTmpfs(const std::string& path, const char* size) : path_(path) {
    std::filesystem::create_directories(path);
    mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, size) == 0;
  }
  ~TinyTmpfs() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool Grow(const char* size) const {
    return ::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, size) == 0;
  }

 private:
  const std::string path_;
  bool mounted_ = false;
};

TEST(DaemonStart, SecondDaemonIsRefusedWhateverItShares) {
  DaemonPlace first, second;
  DaemonProcess daemon(first);
  ASSERT_TRUE(daemon.Ready());
  const std::string pid = std::to_string(daemon.pid());
  const auto refused = [&](const std::string& socket, const std::string& data,
                           const std::string& arena) {
    DaemonPlace place;
    const Refusal refusal =
        Refused(place, {"--socket=" + socket, "--data-dir=" + data, "--arena-dir=" + arena});
    EXPECT_EQ(refusal.exit_code, 1);
    EXPECT_THAT(refusal.log, HasSubstr(pid));
    return refusal.log;
  };
  EXPECT_THAT(refused(first.socket, second.data_dir, second.arena_dir), HasSubstr("socket path"));
  EXPECT_THAT(refused(second.socket, first.data_dir, second.arena_dir),
              HasSubstr("data directory"));
  EXPECT_THAT(refused(second.socket, second.data_dir, first.arena_dir), HasSubstr("arena"));
  RawClient client(first);
  EXPECT_TRUE(client.session.welcomed()) << "the first one did not mind";
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(DaemonStart, KilledDaemonIsNotInTheWay) {
  DaemonPlace place;
  {
    DaemonProcess daemon(place);
    ASSERT_TRUE(daemon.Ready());
    EXPECT_EQ(daemon.Stop(SIGKILL), 128 + SIGKILL);
  }
  EXPECT_TRUE(std::filesystem::exists(place.socket));
  DaemonProcess daemon(place);
  ASSERT_TRUE(daemon.Ready());
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(DaemonStart, FileInPlaceOfTheSocketIsLeftAlone) {
  DaemonPlace place;
  std::filesystem::create_directories(place.root + "/run");
  std::ofstream(place.socket) << "precious";
  const Refusal refusal = Refused(place);
  EXPECT_EQ(refusal.exit_code, 1);
  EXPECT_THAT(refusal.log, HasSubstr("is not a socket"));
  EXPECT_EQ(std::filesystem::file_size(place.socket), 8u);
}

TEST(DaemonStart, ConfigurationErrorsAreUsageErrors) {
  DaemonPlace place;
  EXPECT_THAT(Refused(place, {"--warm-capasity=1GiB"}).log, HasSubstr("--warm-capacity"));
  EXPECT_EQ(Refused(place, {"--warm-capacity=lots"}).exit_code, 2);
  const std::string config = place.root + "/t.toml";
  std::ofstream(config) << "# a comment\nwarm_capasity = \"1GiB\"\n";
  const Refusal typo = Refused(place, {"--config=" + config});
  EXPECT_EQ(typo.exit_code, 2);
  EXPECT_THAT(typo.log, HasSubstr(config + ":2"));
  EXPECT_THAT(typo.log, HasSubstr("warm_capacity"));
  const Refusal tcp = Refused(place, {"--grpc-listen=127.0.0.1:0"});
  EXPECT_EQ(tcp.exit_code, 2);
  EXPECT_THAT(tcp.log, HasSubstr("--insecure"));
  EXPECT_EQ(Refused(place, {"--http=nonsense"}).exit_code, 2);
  EXPECT_EQ(Refused(place, {"--check-config"}).exit_code, 0);
  EXPECT_EQ(Refused(place, {"--check-config", "--http=nonsense"}).exit_code, 2);
  EXPECT_THAT(Refused(place, {"--print-config"}).log, HasSubstr("warm_capacity"));
  EXPECT_THAT(Refused(place, {"--help"}).log, HasSubstr("--shutdown"));
  EXPECT_EQ(Refused(place, {"--version"}).exit_code, 0);
}

TEST(DaemonStart, UnwritableDataDirectoryIsNamed) {
  DaemonPlace place;
  std::ofstream(place.root + "/file") << "x";
  const Refusal file = Refused(place, {"--data-dir=" + place.root + "/file"});
  EXPECT_EQ(file.exit_code, 1);
  EXPECT_THAT(file.log, HasSubstr("--data-dir"));
  if (::geteuid() != 0) GTEST_SKIP() << "a read-only file system takes root to mount";
  const TinyTmpfs read_only(place.root + "/ro", "size=1m");
  if (!read_only.mounted()) GTEST_SKIP() << "mount is not permitted here";
  ASSERT_EQ(::mount("", (place.root + "/ro").c_str(), "", MS_REMOUNT | MS_RDONLY, nullptr), 0);
  const Refusal refusal = Refused(place, {"--data-dir=" + place.root + "/ro/data"});
  EXPECT_EQ(refusal.exit_code, 1);
  EXPECT_THAT(refusal.log, HasSubstr("Read-only file system"));
  EXPECT_THAT(refusal.log, HasSubstr("--data-dir"));
}

TEST(DaemonStart, TooSmallTmpfsIsRefusedWithTheOptionToChange) {
  DaemonPlace place;
  const TinyTmpfs tiny(place.root + "/tiny", "size=4m");
  if (!tiny.mounted()) GTEST_SKIP() << "mount is not permitted here";
  const Refusal refusal = Refused(place, {"--arena-dir=" + place.root + "/tiny"});
  EXPECT_EQ(refusal.exit_code, 1);
  EXPECT_THAT(refusal.log, HasSubstr("warm"));
}

TEST(DaemonStart, FullDataDirectoryLeavesTheMemoryServing) {
  DaemonPlace place;
  const TinyTmpfs tiny(place.root + "/tiny", "size=3m");
  if (!tiny.mounted()) GTEST_SKIP() << "mount is not permitted here";
  DaemonProcess daemon(place, {"--data-dir=" + place.root + "/tiny/data"});
  ASSERT_TRUE(daemon.Ready());
  RawClient client(place);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  for (int32_t seed = 1; seed <= 40; ++seed) {  // 20 MiB into a warm tier of 16
    client.session.Beat();
    ReleaseLease(client, PutTokens(client, space, 8, seed, kBlockBytes));
  }
  const v1::MatchResponse match = MatchTokens(client, space, 8, 40);
  EXPECT_EQ(match.depth(), 8u);
  for (const v1::Block& block : match.blocks()) EXPECT_TRUE(HoldsFill(client, block, 40));
  const std::string ready = Get(place, "/readyz");
  EXPECT_THAT(ready, HasSubstr("200 OK")) << "degraded is not unready";
  EXPECT_THAT(ready, HasSubstr("\"status\": \"degraded\""));
  EXPECT_THAT(ready, HasSubstr("No space left on device")) << "the cause";
  EXPECT_THAT(Get(place, "/metrics"), HasSubstr("thermocline_tier_degraded{tier=\"cold\"} 1\n"));
  const auto told = [&](const char* event) {
    const std::string log = daemon.log();
    int lines = 0;
    for (size_t at = 0; (at = log.find(event, at)) != std::string::npos; ++at) ++lines;
    return lines;
  };
  EXPECT_TRUE(Eventually([&] { return told(" tier_degraded ") > 0; })) << daemon.log();
  ASSERT_TRUE(tiny.Grow("size=64m"));
  int32_t seed = 100;
  EXPECT_TRUE(Eventually([&] {
    client.session.Beat();
    ReleaseLease(client, PutTokens(client, space, 8, ++seed, kBlockBytes));
    return Get(place, "/readyz").find("\"status\": \"ready\"") != std::string::npos;
  })) << Get(place, "/readyz");
  EXPECT_TRUE(Eventually([&] { return told(" tier_recovered ") > 0; })) << daemon.log();
  EXPECT_EQ(told(" tier_degraded "), 1) << daemon.log();
  EXPECT_EQ(told(" tier_recovered "), 1) << daemon.log();
  EXPECT_TRUE(daemon.running()) << daemon.log();
}

TEST(DaemonStart, AnArenaOfAnotherLayoutIsDiscarded) {
  DaemonPlace place;
  {
    DaemonProcess daemon(place);
    ASSERT_TRUE(daemon.Ready());
    RawClient client(place);
    const Heart heart(client);
    PutTokens(client, OpenTestSpace(client, TestSpace(kBlockBytes)), 4, 1, kBlockBytes);
    EXPECT_EQ(daemon.Stop(), 0);
  }
  {
    std::fstream arena(place.arena_dir + "/default.arena",
                       std::ios::in | std::ios::out | std::ios::binary);
    arena.seekp(8);
    const uint32_t other = 999;
    arena.write(reinterpret_cast<const char*>(&other), sizeof other);
    ASSERT_TRUE(arena.good());
  }
  DaemonProcess daemon(place);
  ASSERT_TRUE(daemon.Ready()) << daemon.log();
  EXPECT_THAT(daemon.log(), HasSubstr("arena_discarded"));
  EXPECT_THAT(daemon.log(), HasSubstr("layout version 999"));
  RawClient client(place);
  const Heart heart(client);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  EXPECT_EQ(MatchTokens(client, space, 4, 1).depth(), 0u);
  PutTokens(client, space, 4, 1, kBlockBytes);
  EXPECT_EQ(MatchTokens(client, space, 4, 1).depth(), 4u);
}

class DaemonEnd : public ::testing::TestWithParam<const char*> {};

TEST_P(DaemonEnd, WhatWasCommittedIsThereAgain) {
  const std::string how = GetParam();
  DaemonPlace place;
  {
    DaemonProcess daemon(place, {how == "drain" ? "--shutdown=drain" : "--shutdown=keep"});
    ASSERT_TRUE(daemon.Ready());
    RawClient client(place);
    const Heart heart(client);
    const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
    PutTokens(client, space, 16, 1, kBlockBytes);  // its lease is not released
    EXPECT_EQ(daemon.Stop(how == "kill" ? SIGKILL : SIGTERM), how == "kill" ? 128 + SIGKILL : 0)
        << daemon.log();
    if (how != "kill") {
      const auto frame = testing::ReceiveFrame(client.session.socket.get());
      ASSERT_TRUE(frame);
      EXPECT_EQ(frame->kind, FrameKind::kGoodbye);
    }
    EXPECT_EQ(client.session.control->lease_until_ns.load() == 0, how == "drain")
        << "drained bytes may not be trusted any more";
  }
  DaemonProcess daemon(place);
  ASSERT_TRUE(daemon.Ready());
  EXPECT_EQ(daemon.log().find("grace_started") != std::string::npos, true)
      << "this process had a session in the last epoch and lives";
  RawClient client(place);
  const Heart heart(client);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  const v1::MatchResponse match = MatchTokens(client, space, 16, 1);
  ASSERT_EQ(match.depth(), 16u);
  for (const v1::Block& block : match.blocks()) {
    EXPECT_EQ(block.tier(), how == "drain" ? v1::TIER_COLD : v1::TIER_WARM);
    if (block.tier() == v1::TIER_WARM) {
      EXPECT_TRUE(HoldsFill(client, block, 1));
    }
  }
  EXPECT_TRUE(Eventually([&] { return daemon.log().find("grace_ended") != std::string::npos; }));
  for (const v1::Block& block : LoadLease(client, match.lease())) {
    EXPECT_TRUE(HoldsFill(client, block, 1));
  }
  EXPECT_EQ(daemon.Stop(SIGINT), 0) << daemon.log();
}
INSTANTIATE_TEST_SUITE_P(How, DaemonEnd, ::testing::Values("keep", "drain", "kill"),
                         [](const auto& info) { return std::string(info.param); });

TEST(DaemonHttp, MetricsParseAndEveryMetricIsThere) {
  DaemonPlace place;
  DaemonProcess daemon(place);
  ASSERT_TRUE(daemon.Ready());
  RawClient client(place);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  PutTokens(client, space, 4, 1, kBlockBytes);
  MatchTokens(client, space, 6, 1);
  MatchTokens(client, space + 7 - 7, 4, 2);
  const std::string answer = Get(place, "/metrics");
  EXPECT_THAT(answer, HasSubstr("text/plain; version=0.0.4"));
  std::set<std::string> names;
  std::istringstream lines(answer.substr(answer.find("\r\n\r\n") + 4));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# TYPE ", 0) == 0) {
      names.insert(line.substr(7, line.find(' ', 7) - 7));
    } else if (!line.empty() && line[0] != '#') {
      const size_t space_at = line.rfind(' ');
      ASSERT_NE(space_at, std::string::npos) << line;
      char* end = nullptr;
      std::strtod(line.c_str() + space_at + 1, &end);
      EXPECT_EQ(*end, '\0') << line;
      EXPECT_EQ(line.rfind("thermocline_", 0), 0u) << line;
    }
  }
  for (const MetricDef* def : kMetricTable) {
    if (def == &kOperationErrors) continue;  // there was none
    EXPECT_TRUE(names.count(std::string(def->name))) << def->name;
  }
  EXPECT_THAT(answer, HasSubstr("thermocline_lookup_requested_tokens_total 224\n"));  // 4+6+4 of 16
  EXPECT_THAT(answer, HasSubstr("thermocline_lookup_hit_tokens_total{tier=\"warm\"} 64\n"));
  EXPECT_THAT(answer, HasSubstr("thermocline_committed_blocks_total 4\n"));
  EXPECT_THAT(answer, HasSubstr("thermocline_sessions 1\n"));
  EXPECT_THAT(answer, HasSubstr("thermocline_operation_seconds_count{operation=\"match\"} 3\n"));
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(DaemonHttp, AnswersOnlyWhatItHas) {
  DaemonPlace place;
  DaemonProcess daemon(place);
  ASSERT_TRUE(daemon.Ready());
  EXPECT_THAT(Get(place, "/livez"), HasSubstr("200 OK"));
  EXPECT_THAT(Get(place, "/readyz?verbose"), HasSubstr("\"status\": \"ready\""));
  EXPECT_THAT(Get(place, "/env"), HasSubstr("404"));
  EXPECT_THAT(HttpGet(place, "POST /metrics HTTP/1.1\r\nConnection: close\r\n\r\n"),
              HasSubstr("405"));
  HttpGet(place, std::string(100'000, 'x') + "\r\n\r\n");
  HttpGet(place, "GET / HTTP/1.1\r\nContent-Length: 99999\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(Get(place, "/livez"), HasSubstr("200 OK"));
  EXPECT_EQ(daemon.Stop(), 0);
  EXPECT_FALSE(std::filesystem::exists(place.socket + ".http"));
}

TEST(DaemonLife, GarbageOnTheSocketHurtsNobody) {
  DaemonPlace place;
  DaemonProcess daemon(place);
  ASSERT_TRUE(daemon.Ready());
  RawClient good(place);
  const char* given = std::getenv("TC_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 0) : 20261125;
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    UniqueFd socket = testing::ConnectUnix(place.socket);
    ASSERT_TRUE(socket);
    std::string bytes = testing::HelloFrame();
    for (uint64_t edits = random() % 6; edits > 0; --edits) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    bytes.resize(random() % (bytes.size() + 1));
    testing::SendBytes(socket.get(), bytes);
    if (random() % 2 == 0) {
      testing::ReceiveFrame(socket.get(), std::chrono::milliseconds(5));
    }
  }
  EXPECT_EQ(StatsOf(good).leases(), 0u);
  EXPECT_TRUE(daemon.running()) << daemon.log();
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(DaemonLife, AnExt4IsReadAndWrittenDirectly) {
  DaemonPlace place;
  DaemonProcess daemon(place);
  ASSERT_TRUE(daemon.Ready());
  struct statfs found;
  ASSERT_EQ(::statfs(place.data_dir.c_str(), &found), 0);
  if (found.f_type != EXT4_SUPER_MAGIC) GTEST_SKIP() << place.data_dir << " is on no ext4";
  EXPECT_THAT(daemon.log(), HasSubstr("direct_io=1")) << daemon.log();
}

TEST(DaemonLife, ASlowKeyCommandHoldsUpNoSignal) {
  DaemonPlace place;
  const std::string command = place.root + "/keys", slow = place.root + "/slow";
  std::ofstream(command) << "#!/bin/sh\n[ -e " << slow << ".go ] && touch " << slow
                         << " && sleep 60\necho 1 " << std::string(64, 'a') << "\n";
  ASSERT_EQ(::chmod(command.c_str(), 0700), 0);
  DaemonProcess daemon(place, {"--cold-key-command=" + command});
  ASSERT_TRUE(daemon.Ready());
  std::ofstream(slow + ".go") << "x";
  const auto start = std::chrono::steady_clock::now();
  daemon.Signal(SIGHUP);
  ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(slow); }));
  daemon.Signal(SIGTERM);
  const auto signalled_after = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
  if (signalled_after > std::chrono::seconds(5)) GTEST_SKIP() << "it may have ended by itself";
  EXPECT_THAT(daemon.log(), Not(HasSubstr("cold_keys_not_read"))) << "it was waited for";
}

TEST(DaemonLife, JsonLogIsOneObjectALine) {
  DaemonPlace place;
  DaemonProcess daemon(place, {"--log-format=json"});
  ASSERT_TRUE(
      Eventually([&] { return daemon.log().find("\"event\":\"ready\"") != std::string::npos; }));
  EXPECT_EQ(daemon.Stop(), 0);
  std::istringstream lines(daemon.log());
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(line.front() == '{' && line.back() == '}') << line;
  }
}

}  // namespace
}  // namespace thermocline
