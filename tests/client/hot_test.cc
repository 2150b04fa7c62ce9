// A daemon with a hot tier, over the fake CUDA runtime: custodian, mover and daemon are processes
// of the one program. Blocks go to the device and come back; then one process after the other is
// killed, or its device suffers. No byte may ever be wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/file_util.h"
#include "base/process.h"
#include "base/units.h"
#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr const char* kProgram = TC_BUILD_DIR "/bin/thermoclined_on_fakecuda";
constexpr uint64_t kBlockBytes = MiB;
constexpr uint32_t kPlaces = 8;

/// A program's own part of the environment.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (!value.empty()) ::setenv(name, value.c_str(), 1);
  }
  ~Environment() { ::unsetenv(name_); }

 private:
  const char* const name_;
};

class HotTest : public ::testing::Test {
 protected:
  struct Faults {
    std::string vram;  // TC_FAKECUDA_VRAM of the custodian
    std::string driver;
    std::string calls, delay;  // TC_FAKECUDA and _DELAY of the movers
    std::string read_deadline = "60s";
    std::string most_pinned;  // TC_FAKECUDA_PIN
  };
  void Begin(const Faults& faults) {
    faults_ = faults;
    const Environment calls("TC_FAKECUDA", faults.calls), delay("TC_FAKECUDA_DELAY", faults.delay),
        driver("TC_FAKECUDA_DRIVER", faults.driver), pin("TC_FAKECUDA_PIN", faults.most_pinned),
        copies("TC_FAKECUDA_COPIES", "");
    daemon_ = std::make_unique<DaemonProcess>(DaemonProcess::Options{
        .warm_capacity = "64MiB",
        .cold_capacity = "1GiB",
        .more = {"--hot-capacity", "128MiB", "--vram-socket", "DIRECTORY/vram", "--config",
                 "DIRECTORY/config"},
        .prepare =
            [this](const std::string& directory) {
              directory_ = directory;
              Configure("cold_read_deadline = \"" + faults_.read_deadline + "\"\n");
              StartCustodian();
              ::setenv("TC_FAKECUDA_COPIES", (directory + "/copies").c_str(), 1);
            },
        .program = kProgram});
    Connect();
  }
  void Begin() { Begin({}); }
  void TearDown() override {
    space_.reset();
    client_.reset();
    daemon_.reset();
    if (custodian_ > 0) StopCustodian(SIGKILL);
  }

  void StartCustodian() {
    const Environment vram("TC_FAKECUDA_VRAM", faults_.vram);
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    custodian_ = Spawn({kProgram, "--vram", "--hot-capacity", "128MiB", "--vram-socket", Vram()},
                       null, null, null);
    ::close(null);
    if (!faults_.driver.empty()) return;  // it ends
    ASSERT_TRUE(Eventually([&] { return CustodianListens(); }));
  }
  /// Of one that was killed the socket's file is there still.
  bool CustodianListens() const {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    Vram().copy(address.sun_path, sizeof address.sun_path - 1);
    const UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
           0;
  }
  int StopCustodian(int signal) {
    ::kill(custodian_, signal);
    int status = 0;
    ::waitpid(std::exchange(custodian_, -1), &status, 0);
    return status;
  }
  std::string Vram() const { return directory_ + "/vram"; }
  void Configure(const std::string& text) {
    ASSERT_OK(WriteFileAtomically(directory_ + "/config", text));
  }

  void Connect() {
    client_ = daemon_->Connect();
    auto space = client_->OpenSpace(TestSpace(kBlockBytes));
    ASSERT_TRUE(space.ok()) << space.status();
    space_ = std::make_unique<Space>(*std::move(space));
  }
  void RestartDaemon() {
    space_.reset();
    client_.reset();
    daemon_->Start();
    Connect();
  }
  /// The mover that the daemon started last.
  pid_t Mover() const {
    const std::string log = daemon_->Log();
    const size_t at = log.rfind("mover_started");
    const size_t pid = at == std::string::npos ? at : log.find("pid=", at);
    return pid == std::string::npos ? 0 : std::atoi(log.c_str() + pid + 4);
  }

  TierUse Use(BlockTier tier) { return Use(*client_, tier); }
  static TierUse Use(Client& client, BlockTier tier) {
    const auto stats = client.Stats();
    if (!stats.ok()) return {};
    for (const TierUse& use : stats->tiers) {
      if (use.tier == tier) return use;
    }
    return {};
  }
  void Write(int32_t seed) {
    const auto tokens = Prompt(seed, kPlaces);
    auto lease = space_->Match(tokens);
    ASSERT_TRUE(lease.ok()) << lease.status();
    const absl::Status written = Extend(*space_, *lease, tokens, kPlaces);
    ASSERT_TRUE(written.ok()) << written;
  }
  void UseAgain(int32_t seed) { ASSERT_TRUE(space_->Match(Prompt(seed, kPlaces)).ok()); }
  void Fill() {
    for (int i = 0; i < 10; ++i) Write(1000 + ++filled_);
  }
  /// Until some blocks of the paths are hot: they are used again, and others push them out of
  /// memory. How many would be matched hot.
  uint64_t Heat(int32_t first, int32_t last) {
    const uint64_t before = Use(BlockTier::kHot).promotions;
    for (int32_t seed = first; seed <= last; ++seed) {
      Write(seed);
      UseAgain(seed);
    }
    uint64_t hot = 0;
    const auto are_hot_alone = [&] {  // for a while they are warm, too
      hot = 0;
      for (int32_t seed = first; seed <= last; ++seed) {
        const auto lease = space_->Match(Prompt(seed, kPlaces));
        if (lease.ok()) hot += HotBlocks(*lease);
      }
      return hot > 0;
    };
    const auto is_hot = [&] {
      Fill();
      if (Use(BlockTier::kHot).promotions > before &&
          Eventually(are_hot_alone, std::chrono::seconds(10))) {
        return true;
      }
      for (int32_t seed = first; seed <= last; ++seed) Read(seed);  // once more,
      std::this_thread::sleep_for(std::chrono::seconds(1));         // a little later
      return false;
    };
    EXPECT_TRUE(Eventually(is_hot)) << Use(BlockTier::kHot).state;
    return hot;
  }
  static uint32_t HotBlocks(const Lease& lease) {
    uint32_t hot = 0;
    for (const BlockInfo& block : lease.blocks()) {
      hot += block.matched_tier == BlockTier::kHot ? 1 : 0;
    }
    return hot;
  }
  /// Reads a path, every byte of it checked; how many of its blocks were matched hot.
  uint32_t Read(int32_t seed) {
    const auto tokens = Prompt(seed, kPlaces);
    auto lease = space_->Match(tokens);
    EXPECT_TRUE(lease.ok()) << lease.status();
    if (!lease.ok()) return 0;
    EXPECT_EQ(lease->depth(), kPlaces);
    const uint32_t hot = HotBlocks(*lease);
    const auto loaded = lease->Load();
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(lease->depth(), kPlaces);
    EXPECT_EQ(RightPlaces(*space_, *lease, tokens), lease->depth());
    return hot;
  }

  /// How many blocks were copied from or to memory that was so: "pinned", "pageable".
  uint64_t Copies(const std::string& memory) const {
    std::ifstream copies(directory_ + "/copies");
    uint64_t count = 0;
    for (std::string line; std::getline(copies, line);) {
      if (line == memory + " " + std::to_string(kBlockBytes)) ++count;
    }
    return count;
  }

  Faults faults_;
  std::string directory_;
  pid_t custodian_ = -1;
  std::unique_ptr<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Space> space_;
  int32_t filled_ = 0;
};

TEST_F(HotTest, BlocksGoToTheDeviceAndComeBack) {
  Begin();
  const uint64_t hot = Heat(1, 2);
  EXPECT_GE(Read(1) + Read(2), hot);
  EXPECT_TRUE(Eventually([&] { return Use(BlockTier::kHot).demotions >= hot; }));
  EXPECT_EQ(Use(BlockTier::kHot).state, "ok");
}

TEST_F(HotTest, TheArenaIsPinnedWhileItServes) {
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

TEST_F(HotTest, AnArenaThatCannotBePinnedServesAndSaysSoOnce) {
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

TEST_F(HotTest, AStickyErrorEndsTheMoverAlone) {
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

TEST_F(HotTest, AMoverThatCopiesStillEndsBeforeTheNextDaemonServesWithoutACustodianToo) {
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
  const uint64_t hot = Heat(5, 5);
  EXPECT_GE(Read(5), hot);
}

TEST_F(HotTest, ADeviceThatIsFullTakesWhatFits) {
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

TEST_F(HotTest, ASlowStreamIsWaitedFor) {
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
                               .program = kProgram});
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

TEST_F(HotTest, AMachineWithoutADriverServesFromTheOtherTiers) {
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
