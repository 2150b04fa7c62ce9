// A daemon with a hot tier, over the fake CUDA runtime: custodian, mover and daemon are processes
// of the one program. Blocks go to the device and come back; then one process after the other is
// killed, or its device suffers. No byte may ever be wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/process.h"
#include "tests/client/hot_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

using SufferingHotTest = Suffering<HotTest>;

TEST_F(HotTest, BlocksGoToTheDeviceAndComeBack) {
  Begin();
  const uint64_t hot = Heat(1, 2);
  EXPECT_GE(Read(1) + Read(2), hot);
  EXPECT_TRUE(Eventually([&] { return Use(BlockTier::kHot).demotions >= hot; }));
  EXPECT_EQ(Use(BlockTier::kHot).state, "ok");
}

TEST_F(SufferingHotTest, TheArenaIsPinnedWhileItServes) {
  Begin();
  Heat(1, 2);
  Read(1);
  Read(2);
  int32_t last = 2;
  const auto is_pinned = [&] {
    Heat(last + 1, last + 1);
    Read(++last);
    return Copies("pinned") > 0;
  };
  ASSERT_TRUE(Eventually(is_pinned, std::chrono::seconds(60)));
  const uint64_t before = Copies("pageable");
  Heat(last + 1, last + 1);
  Read(last + 1);
  EXPECT_EQ(Copies("pageable"), before) << "its one chunk was pinned";
}

TEST_F(SufferingHotTest, AnArenaThatCannotBePinnedServesAndSaysSoOnce) {
  Begin({.most_pinned = std::to_string(16 * MiB)});
  const uint64_t hot = Heat(1, 2);
  EXPECT_GE(Read(1) + Read(2), hot);
  EXPECT_TRUE(
      Eventually([&] { return daemon_->Log().find("arena_not_pinned") != std::string::npos; }));
  Heat(3, 3);
  Read(3);
  EXPECT_EQ(Copies("pinned"), 0u);
  EXPECT_GT(Copies("pageable"), 0u);
  EXPECT_EQ(Use(BlockTier::kHot).state, "ok");
  const std::string log = daemon_->Log();
  EXPECT_EQ(log.find("arena_not_pinned"), log.rfind("arena_not_pinned"));
}

TEST_F(HotTest, ADaemonThatIsKilledFindsThemAgain) {
  Begin();
  const uint64_t hot = Heat(1, 2);
  daemon_->Stop(SIGKILL);
  RestartDaemon();
  EXPECT_GE(Use(BlockTier::kHot).blocks, hot);
  EXPECT_GE(Read(1) + Read(2), hot);
}

TEST_F(HotTest, AMoverThatIsKilledCostsAMomentsBlocks) {
  Begin();
  Heat(1, 2);
  ASSERT_GT(Mover(), 0);
  ::kill(Mover(), SIGKILL);
  Read(1);  // from cold
  Read(2);
  const uint64_t before = Use(BlockTier::kHot).promotions;
  int32_t last = 2;
  const auto moves_again = [&] {  // by the next mover, after a pause
    Write(++last);
    UseAgain(last);
    Fill();
    return Use(BlockTier::kHot).promotions > before;
  };
  EXPECT_TRUE(Eventually(moves_again, std::chrono::seconds(60)));
  Read(last);
  EXPECT_EQ(daemon_->Stop(), 0) << "the daemon lives";
  daemon_->Start();
}

TEST_F(SufferingHotTest, AStickyErrorEndsTheMoverAlone) {
  Begin({.calls = "cudaMemcpyAsync:3=700"});  // of each mover
  for (int32_t seed = 1; seed <= 3; ++seed) {
    Write(seed);
    UseAgain(seed);
  }
  Fill();
  Fill();
  for (int32_t seed = 1; seed <= 3; ++seed) Read(seed);
  EXPECT_TRUE(Eventually([&] { return daemon_->Log().find("mover_ended") != std::string::npos; }));
  EXPECT_EQ(daemon_->Stop(), 0);
  daemon_->Start();
}

TEST_F(SufferingHotTest, AMoverThatCopiesStillEndsBeforeTheNextDaemonServesWithoutACustodianToo) {
  Begin(
      {.delay = "2:60000000", .read_deadline = "2s"});  // its second stream, by which blocks go out
  Heat(1, 2);
  for (const int32_t seed : {1, 2}) {
    auto lease = space_->Match(Prompt(seed, kPlaces));
    ASSERT_TRUE(lease.ok()) << lease.status();
    lease->Load().IgnoreError();  // late, or from cold
  }
  const auto mover = OpenPidFd(Mover());
  daemon_->Stop(SIGKILL);
  StopCustodian(SIGKILL);
  ASSERT_TRUE(mover.ok() && !HasExited(*mover)) << "amid a copy";
  RestartDaemon();
  EXPECT_TRUE(HasExited(*mover));
}

TEST_F(HotTest, AMoverStartsWhateverBecameOfTheConfiguration) {
  Begin();
  Configure("hot_capacity = ");  // somebody edits it, and the first mover has not started yet
  ASSERT_EQ(Mover(), 0);
  EXPECT_GT(Heat(1, 2), 0u);
}

TEST_F(HotTest, WithoutItsCustodianTheTierFallsBackAndSaysSo) {
  Begin();
  Heat(1, 2);
  StopCustodian(SIGKILL);
  ::kill(Mover(), SIGKILL);  // who has it mapped still
  Read(1);
  Read(2);
  daemon_->Stop(SIGKILL);
  RestartDaemon();
  EXPECT_THAT(Use(BlockTier::kHot).state, HasSubstr("thermoclined --vram"));
  Read(1);
  daemon_->Stop(SIGKILL);
  StartCustodian();  // another one, which has nothing
  RestartDaemon();
  EXPECT_EQ(Use(BlockTier::kHot).blocks, 0u);
  EXPECT_EQ(Read(2), 0u);
  const uint64_t hot = Heat(5, 8);
  EXPECT_GE(Read(5) + Read(6) + Read(7) + Read(8), hot);
}

TEST_F(SufferingHotTest, ADeviceThatIsFullTakesWhatFits) {
  Begin({.vram = std::to_string(64 * MiB)});  // half of what the options say
  for (int32_t seed = 1; seed <= 12; ++seed) {
    Write(seed);
    UseAgain(seed);
  }
  Fill();
  EXPECT_TRUE(Eventually([&] {
    Write(1000 + ++filled_);
    return Use(BlockTier::kHot).promotions > 0;
  }));
  EXPECT_LE(Use(BlockTier::kHot).used_bytes, 64 * MiB);
  for (int32_t seed = 1; seed <= 12; ++seed) Read(seed);
}

TEST_F(SufferingHotTest, ASlowStreamIsWaitedFor) {
  Begin({.delay = "20000"});
  const uint64_t hot = Heat(1, 2);
  EXPECT_GE(Read(1) + Read(2), hot);
}

TEST_F(HotTest, ACustodianServesOneDaemonAndGivesBackWhatThatHasNot) {
  Begin();
  const uint64_t hot = Heat(1, 2);
  const auto start_another = [&](const std::string& hot_capacity) {
    return std::make_unique<DaemonProcess>(
        DaemonProcess::Options{.warm_capacity = "64MiB",
                               .more = {"--hot-capacity", hot_capacity, "--vram-socket", Vram()},
                               .program = program_});
  };
  auto another = start_another("128MiB");
  EXPECT_THAT(Use(*another->Connect(), BlockTier::kHot).state, HasSubstr("serves another daemon"));
  EXPECT_GE(Read(1) + Read(2), hot) << "the first one's blocks stay";
  Heat(3, 4);
  daemon_->Stop(SIGKILL);
  another = start_another("0");
  RestartDaemon();
  EXPECT_EQ(Use(BlockTier::kHot).blocks, 0u) << "they were given back";
  EXPECT_EQ(Read(3) + Read(4), 0u);
}

TEST_F(SufferingHotTest, AMachineWithoutADriverServesFromTheOtherTiers) {
  Begin({.driver = "0"});
  int status = 0;
  ASSERT_EQ(::waitpid(std::exchange(custodian_, -1), &status, 0) > 0, true);
  EXPECT_EQ(WEXITSTATUS(status), 1);
  Write(1);
  UseAgain(1);
  Fill();
  EXPECT_EQ(Read(1), 0u);
  EXPECT_THAT(Use(BlockTier::kHot).state, HasSubstr("there is none"));
  ASSERT_TRUE(
      Eventually([&] { return daemon_->Log().find("tier_degraded") != std::string::npos; }));
  const std::string log = daemon_->Log();
  EXPECT_EQ(log.find("tier_degraded"), log.rfind("tier_degraded")) << "once";
}

}  // namespace
}  // namespace thermocline
