// A daemon with a hot tier, over the fake CUDA runtime or on a GPU: custodian, mover and daemon are
// processes of the one program, which can be killed one after the other.
#pragma once
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/file_util.h"
#include "base/units.h"
#include "tests/client/blocks.h"
#include "tests/client/daemon_fixture.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline {

inline constexpr uint64_t kBlockBytes = MiB;
inline constexpr uint32_t kPlaces = 8;

/// The program that was built for the same device as this one, which lies beside it.
inline std::string ProgramFor(const char* fake, const char* gpu) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  return self.parent_path() / (fakecuda::IsThere() ? fake : gpu);
}

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
        .program = program_});
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
    std::filesystem::remove(Vram());  // of one that was killed
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    custodian_ = Spawn({program_, "--vram", "--hot-capacity", "128MiB", "--vram-socket", Vram()},
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

  const std::string program_ = ProgramFor("thermoclined_on_fakecuda", "thermoclined");
  Faults faults_;
  std::string directory_;
  pid_t custodian_ = -1;
  std::unique_ptr<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Space> space_;
  int32_t filled_ = 0;
};

/// Tests of a device that suffers, as the fake runtime can.
template <class Test>
class Suffering : public Test {
 protected:
  void SetUp() override {
    if (!fakecuda::IsThere()) GTEST_SKIP() << "no fake runtime to fail";
    Test::SetUp();
  }
};

}  // namespace thermocline
