// That the crash test can see: wrong bytes are put where a daemon keeps right ones, and either the
// library turns them into a miss, or the checker finds them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/units.h"
#include "tests/crash/daemon_under_test.h"
#include "tests/crash/ledger.h"
#include "tests/crash/reader.h"

namespace thermocline::crash {
namespace {

using std::chrono::milliseconds;

constexpr size_t kFlipAt = 12345;  // in the payload
constexpr uint32_t kPlaces = 6;
constexpr uint32_t kDamagedPlace = 3;

class CrashSelfTest : public ::testing::Test {
 protected:
  CrashSelfTest()
      : directories_(Make()),
        world_(World::Named("tight").value()),
        ledger_(directories_.root),
        reader_(world_, ledger_, "reader"),
        daemon_(TC_BUILD_DIR "/bin/thermoclined", directories_),
        path_(kPlaces) {}
  ~CrashSelfTest() override {
    client_.reset();
    std::filesystem::remove_all(directories_.root);
    std::filesystem::remove_all(directories_.arena);
  }

  static DaemonDirectories Make() {
    char root[] = "/tmp/tc-crash-XXXXXX";
    char arena[] = "/dev/shm/tc-crash-XXXXXX";
    EXPECT_NE(::mkdtemp(root), nullptr);
    EXPECT_NE(::mkdtemp(arena), nullptr);
    const std::string data = std::string(root) + "/data";
    std::filesystem::create_directory(data);
    return {.root = root, .arena = arena, .data = data};
  }

  void StartDaemon() {
    daemon_.Start({.warm_capacity = "16MiB", .cold_capacity = "32MiB"});
    for (int i = 0; i < 3000 && client_ == nullptr; ++i) {
      auto client =
          Client::Connect({.socket_path = directories_.socket(), .client_name = "self test"});
      if (client.ok()) client_ = *std::move(client);
      std::this_thread::sleep_for(milliseconds(10));
    }
    ASSERT_NE(client_, nullptr) << daemon_.Log();
  }
  void StopDaemon(int signal) {
    client_.reset();
    daemon_.Signal(signal);
    ASSERT_TRUE(daemon_.Ended(milliseconds(30'000)).has_value());
  }

  absl::StatusOr<Lease> Match() {
    TC_ASSIGN_OR_RETURN(const Space space, client_->OpenSpace(world_.spaces()[0]));
    return space.Match(world_.Names(0, path_, 0, kPlaces).view());
  }

  /// Commits the path; what `fill` writes is what is committed.
  template <typename Fill>
  void Put(Fill fill) {
    const auto space = client_->OpenSpace(world_.spaces()[0]);
    ASSERT_TRUE(space.ok()) << space.status();
    auto lease = Match();
    ASSERT_TRUE(lease.ok()) << lease.status();
    auto slots = space->Reserve(kPlaces);
    ASSERT_TRUE(slots.ok()) << slots.status();
    for (uint32_t place = 0; place < kPlaces; ++place) {
      fill((*slots)[place].bytes(), world_.Seed(0, path_, place, 0));
    }
    const PathNames names = world_.Names(0, path_, 0, kPlaces);
    const absl::Status committed = lease->Commit(names.view(), *std::move(slots));
    ASSERT_TRUE(committed.ok()) << committed;
  }

  /// Turns one bit of the damaged place's payload over in each file that holds it.
  int FlipBelow(const std::string& directory) {
    std::vector<std::byte> payload(world_.spaces()[0].parts[0].block_bytes);
    FillLegal(payload, world_.Seed(0, path_, kDamagedPlace, 0));
    const std::string needle(reinterpret_cast<const char*>(payload.data()), 64);
    int flips = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
      if (!entry.is_regular_file()) continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      const std::string content((std::istreambuf_iterator<char>(file)), {});
      for (size_t at = content.find(needle); at != std::string::npos;
           at = content.find(needle, at + 1)) {
        file.clear();
        file.seekp(static_cast<std::streamoff>(at + kFlipAt));
        file.put(static_cast<char>(content[at + kFlipAt] ^ 0x10));
        ++flips;
      }
    }
    return flips;
  }

  /// The depth that can be loaded, every byte of which the checker has compared.
  uint32_t LoadAndCheck() {
    auto lease = Match();
    EXPECT_TRUE(lease.ok()) << lease.status();
    const auto loaded = lease->Load();
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    reader_.Check(*lease, 0, path_);
    return *loaded;
  }

  const DaemonDirectories directories_;
  const World world_;
  Ledger ledger_;
  BlockReader reader_;
  DaemonUnderTest daemon_;
  const Path path_;
  std::unique_ptr<Client> client_;
};

TEST_F(CrashSelfTest, LegalBytesPass) {
  ASSERT_NO_FATAL_FAILURE(StartDaemon());
  ASSERT_NO_FATAL_FAILURE(Put(FillLegal));
  EXPECT_EQ(LoadAndCheck(), kPlaces);
  EXPECT_EQ(ledger_.counters().checked_blocks, kPlaces);
  EXPECT_THAT(ledger_.Violations(), ::testing::IsEmpty());
}

TEST_F(CrashSelfTest, CommittedRubbishIsFound) {
  ASSERT_NO_FATAL_FAILURE(StartDaemon());
  ASSERT_NO_FATAL_FAILURE(Put(FillWrong));
  LoadAndCheck();
  EXPECT_EQ(ledger_.Violations().size(), kPlaces);
}

TEST_F(CrashSelfTest, FlippedBitOfACheckedBlockIsFound) {
  ASSERT_NO_FATAL_FAILURE(StartDaemon());
  ASSERT_NO_FATAL_FAILURE(Put(FillLegal));
  ASSERT_EQ(FlipBelow(directories_.arena), 1);
  // The daemon summed the block when it was committed; nobody sums it again.
  EXPECT_EQ(LoadAndCheck(), kPlaces);
  const auto violations = ledger_.Violations();
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_THAT(violations[0],
              ::testing::HasSubstr("WRONG BYTE at offset 12345 of space 0, path 0.0.0.0, place 3"));
}

TEST_F(CrashSelfTest, FlippedBitIsAMissAfterARestart) {
  ASSERT_NO_FATAL_FAILURE(StartDaemon());
  ASSERT_NO_FATAL_FAILURE(Put(FillLegal));
  ASSERT_NO_FATAL_FAILURE(StopDaemon(SIGKILL));
  ASSERT_EQ(FlipBelow(directories_.arena), 1);
  ASSERT_NO_FATAL_FAILURE(StartDaemon());
  EXPECT_EQ(LoadAndCheck(), kDamagedPlace);
  EXPECT_EQ(ledger_.counters().checked_blocks, kDamagedPlace);
  EXPECT_THAT(ledger_.Violations(), ::testing::IsEmpty());
}

TEST_F(CrashSelfTest, FlippedBitInTheColdTierIsAMiss) {
  ASSERT_NO_FATAL_FAILURE(StartDaemon());
  ASSERT_NO_FATAL_FAILURE(Put(FillLegal));
  {
    auto admin = AdminClient::Connect({.socket_path = directories_.socket()});
    ASSERT_TRUE(admin.ok()) << admin.status();
    absl::StatusOr<FlushResult> flushed;
    for (int i = 0; i < 500 && (i == 0 || flushed->kept > 0); ++i) {  // leases end in batches
      flushed = (*admin)->Flush(BlockTier::kWarm);
      ASSERT_TRUE(flushed.ok()) << flushed.status();
      std::this_thread::sleep_for(milliseconds(10));
    }
    ASSERT_EQ(flushed->kept, 0u);
  }
  ASSERT_NO_FATAL_FAILURE(StopDaemon(SIGTERM));
  ASSERT_GE(FlipBelow(directories_.data), 1);
  ASSERT_NO_FATAL_FAILURE(StartDaemon());
  EXPECT_LE(LoadAndCheck(), kDamagedPlace);  // a damaged store may be set aside as a whole
  EXPECT_THAT(ledger_.Violations(), ::testing::IsEmpty());
}

TEST_F(CrashSelfTest, AnswersWhileThePowerIsCutShowNothing) {
  ledger_.counters().cutting_power = 1;
  EXPECT_FALSE(ledger_.AddDurable({0, path_}));
  EXPECT_THAT(ledger_.Durable(), ::testing::IsEmpty());
  ledger_.counters().cutting_power = 0;
  EXPECT_TRUE(ledger_.AddDurable({0, path_}));
  EXPECT_EQ(ledger_.Durable().size(), 1u);
  EXPECT_EQ(ledger_.counters().durable_commits, 1u);
}

}  // namespace
}  // namespace thermocline::crash
