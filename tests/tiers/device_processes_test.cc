// The hot tier's processes: a custodian, a mover and the daemon's side of both, each a process of
// this very program. Blocks go through all three; then one after the other is killed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/file_util.h"
#include "base/process.h"
#include "base/units.h"
#include "kernels/cuda/device.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/device_custodian.h"
#include "tiers/device_moved_memory.h"
#include "tiers/device_mover_lock.h"
#include "tiers/device_tier.h"

namespace thermocline {
namespace {

constexpr uint64_t kChunk = 2 * MiB;
constexpr uint64_t kBytes = 64 * KiB;

/// This program, told to run one of the tests below that are processes of the tier.
std::vector<std::string> CommandOf(const std::string& process) {
  return {"/proc/self/exe", "--gtest_filter=Process.DISABLED_" + process,
          "--gtest_also_run_disabled_tests", "--gtest_brief=1"};
}

TEST(Process, DISABLED_Custodian) {
  const char* const path = std::getenv("TC_TEST_CUSTODIAN");
  ASSERT_NE(path, nullptr);
  auto custodian = DeviceCustodian::Open(
      {.socket_path = path, .capacity_bytes = 8 * kChunk, .chunk_bytes = kChunk});
  ASSERT_TRUE(custodian.ok()) << custodian.status();
  const absl::Status served = (*custodian)->Serve(STDIN_FILENO);
  EXPECT_TRUE(served.ok()) << served;
}

TEST(Process, DISABLED_Mover) {
  std::quick_exit(RunDeviceMover(MoverProcess::kSocket, MoverProcess::kLock));
}

pid_t Spawn(std::vector<std::string> words) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = 0;
  EXPECT_EQ(::posix_spawn(&pid, arguments[0], nullptr, nullptr, arguments.data(), environ), 0);
  return pid;
}

/// A custodian's process; it ends when its standard input does.
class Custodian {
 public:
  explicit Custodian(const std::string& path) {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    input_.Reset(ends[1]);
    const UniqueFd theirs(ends[0]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDIN_FILENO);
    ::setenv("TC_TEST_CUSTODIAN", path.c_str(), 1);
    std::vector<std::string> words = CommandOf("Custodian");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 1200 && !CustodianClient::Connect(path).ok(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  ~Custodian() {
    input_.Reset();
    if (pid_ != 0) ::waitpid(pid_, nullptr, 0);
  }
  void Signal(int signal) { ::kill(pid_, signal); }
  void Kill() {
    Signal(SIGKILL);
    ::waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

 private:
  UniqueFd input_;
  pid_t pid_ = 0;
};

absl::StatusOr<std::shared_ptr<MoverProcess>> OpenMover(
    const std::string& lock_path, std::chrono::milliseconds pause = std::chrono::milliseconds(1)) {
  return MoverProcess::Open({.command = CommandOf("Mover"),
                             .chunk_bytes = kChunk,
                             .lock_path = lock_path,
                             .former_patience = std::chrono::milliseconds(100),
                             .least_pause = pause});
}

/// All of a daemon's side.
struct Side {
  std::shared_ptr<MoverProcess> mover;
  std::shared_ptr<MovedDeviceMemory> memory;
  std::unique_ptr<DeviceTier> tier;
};

Side OpenSide(const std::string& directory, const std::string& pool,
              std::chrono::milliseconds pause = std::chrono::milliseconds(1)) {
  Side side;
  auto custodian = CustodianClient::Connect(directory + "/vram");
  EXPECT_TRUE(custodian.ok()) << custodian.status();
  if (!custodian.ok()) return side;
  auto mover = OpenMover(directory + "/" + pool + ".mover", pause);
  EXPECT_TRUE(mover.ok()) << mover.status();
  if (!mover.ok()) return side;
  side.mover = *std::move(mover);
  auto memory = MovedDeviceMemory::Open(*std::move(custodian), side.mover, pool, 0);
  EXPECT_TRUE(memory.ok()) << memory.status();
  if (!memory.ok()) return side;
  side.memory = *std::move(memory);
  auto tier = DeviceTier::Open({.metadata_path = directory + "/" + pool + ".hot",
                                .capacity_bytes = 4 * kChunk,
                                .chunk_bytes = kChunk,
                                .memory = side.memory});
  EXPECT_TRUE(tier.ok()) << tier.status();
  if (tier.ok()) side.tier = *std::move(tier);
  return side;
}

/// Puts a block, says which mover it has, and gets the block again and again.
TEST(Process, DISABLED_Daemon) {
  const std::string directory = std::getenv("TC_TEST_DIRECTORY");
  const Side side = OpenSide(directory, "one");
  ASSERT_NE(side.tier, nullptr);
  const auto payload = TestPayload(1, 0, kBytes);
  ASSERT_TRUE(side.tier->Put(TestHeader(1, 0, payload), payload).ok());
  const std::string pid = std::to_string(side.mover->pid());
  ASSERT_TRUE(WriteFileAtomically(directory + "/mover.pid", pid).ok());
  std::vector<std::byte> room(kBytes);
  while (side.tier->Get({1, 0}, room).ok()) continue;
}

/// Memory of a file, as an arena's; it outlives what uses it.
class HostMemory {
 public:
  explicit HostMemory(uint64_t bytes) : bytes_(bytes) {
    auto fd = MakeSealedMemory("arena", bytes);
    EXPECT_TRUE(fd.ok()) << fd.status();
    fd_ = *std::move(fd);
    data_ = static_cast<std::byte*>(
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_.get(), 0));
    EXPECT_NE(data_, MAP_FAILED);
  }
  ~HostMemory() { ::munmap(data_, bytes_); }
  std::byte* data() const { return data_; }
  std::span<std::byte> all() const { return {data_, bytes_}; }
  int fd() const { return fd_.get(); }

 private:
  const uint64_t bytes_;
  UniqueFd fd_;
  std::byte* data_ = nullptr;
};

class DeviceProcessesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto count = cuda::DeviceCount(); !count.ok()) {
      GTEST_SKIP() << "no CUDA device: " << count.status();
    }
    custodian_ = std::make_unique<Custodian>(directory_.path() + "/vram");
    side_ = OpenSide(directory_.path(), "one");
    ASSERT_NE(side_.tier, nullptr);
  }
  void TearDown() override {
    for (const char* told : {"TC_FAKECUDA", "TC_FAKECUDA_DELAY", "TC_FAKECUDA_DRIVER"}) {
      ::unsetenv(told);
    }
  }
  void Reopen() {
    side_ = {};
    side_ = OpenSide(directory_.path(), "one");
    ASSERT_NE(side_.tier, nullptr);
  }
  absl::Status Put(uint64_t id) {
    const auto payload = TestPayload(id, 0, kBytes);
    return side_.tier->Put(TestHeader(id, 0, payload), payload);
  }
  absl::StatusOr<bool> Has(uint64_t id) {
    std::vector<std::byte> room(kBytes);
    TC_ASSIGN_OR_RETURN(const auto found, side_.tier->Get({id, 0}, room));
    return found.has_value() && room == TestPayload(id, 0, kBytes);
  }
  /// What fails while a mover is being started again, until it does not.
  template <class Try>
  static absl::Status Patiently(Try attempt) {
    absl::Status status;
    for (int i = 0; i < 6000 && absl::IsUnavailable(status = attempt()); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return status;
  }

  ScratchDirectory directory_;
  std::unique_ptr<Custodian> custodian_;
  Side side_;
};

TEST_F(DeviceProcessesTest, BlocksComeBackThroughAllOfThem) {
  for (uint64_t id = 1; id <= 40; ++id) {
    const absl::Status put = Put(id);
    ASSERT_TRUE(put.ok()) << put;
  }
  for (uint64_t id = 1; id <= 40; ++id) EXPECT_EQ(Has(id).value_or(false), true) << id;
  EXPECT_EQ(side_.mover->starts(), 1u);
  EXPECT_EQ(*side_.memory->Chunks(), (std::vector<uint32_t>{0, 1}));
}

TEST_F(DeviceProcessesTest, MoreThanTheStagingAreaHoldsIsMovedInPieces) {
  constexpr uint64_t kChunks = 4;
  const uint64_t piece = 1531 * KiB;  // no divisor of 8 MiB
  std::vector<std::byte> host = TestPayload(1, 0, 2 * kChunks * piece);
  const std::vector<std::byte> expected = host;
  std::vector<DeviceTransfer> transfers;
  for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    ASSERT_TRUE(side_.memory->Lend(chunk).ok());
    for (const uint64_t part : {0, 1}) {
      transfers.push_back({.offset = chunk * kChunk + part * (kChunk - piece),
                           .host = host.data() + (2 * chunk + part) * piece,
                           .bytes = part == 0 ? kChunk - piece : piece});
    }
  }
  ASSERT_TRUE(side_.memory->Copy(transfers, DeviceDirection::kIn).ok());
  std::fill(host.begin(), host.end(), std::byte{0});
  ASSERT_TRUE(side_.memory->Copy(transfers, DeviceDirection::kOut).ok());
  for (const DeviceTransfer& transfer : transfers) {
    const auto at = transfer.host - host.data();
    EXPECT_EQ(std::memcmp(transfer.host, expected.data() + at, transfer.bytes), 0) << at;
  }
}

TEST_F(DeviceProcessesTest, AnArenaIsCopiedFromInPlace) {
  const HostMemory host(4 * kChunk);
  std::byte* const data = host.data();
  side_.memory->UseHost(host.all(), host.fd());
  ASSERT_TRUE(side_.memory->Lend(0).ok());
  const uint64_t pinner = side_.memory->pinner();
  ASSERT_TRUE(side_.memory->Pin(pinner, 0, kChunk).ok());  // one chunk pinned, three not
  std::vector<DeviceTransfer> transfers;
  for (uint64_t i = 0; i < 16; ++i) {
    std::byte* const at = data + i * (kChunk / 4);
    const auto payload = TestPayload(i, 1, kBytes);
    std::copy(payload.begin(), payload.end(), at);
    transfers.push_back({.offset = i * kBytes, .host = at, .bytes = kBytes});
  }
  const absl::Status in = side_.memory->Copy(transfers, DeviceDirection::kIn);
  ASSERT_TRUE(in.ok()) << in;
  std::fill(data, data + 4 * kChunk, std::byte{0});
  const absl::Status out = side_.memory->Copy(transfers, DeviceDirection::kOut);
  ASSERT_TRUE(out.ok()) << out;
  for (uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(std::memcmp(transfers[i].host, TestPayload(i, 1, kBytes).data(), kBytes), 0) << i;
  }
  side_ = {};
}

TEST_F(DeviceProcessesTest, MemoryThatIsUnpinnedMayHaveOtherBytesWhenItIsPinnedAgain) {
  const HostMemory host(kChunk);
  std::byte* const data = host.data();
  side_.memory->UseHost(host.all(), host.fd());
  ASSERT_TRUE(side_.memory->Lend(0).ok());
  const DeviceTransfer transfer{.offset = 0, .host = data, .bytes = kBytes};
  for (uint64_t id = 1; id <= 3; ++id) {
    const auto payload = TestPayload(id, 0, kBytes);
    std::copy(payload.begin(), payload.end(), data);
    const absl::Status pinned = side_.memory->Pin(side_.memory->pinner(), 0, kChunk);
    ASSERT_TRUE(pinned.ok()) << pinned;
    ASSERT_TRUE(side_.memory->Copy({&transfer, 1}, DeviceDirection::kIn).ok());
    std::fill(data, data + kBytes, std::byte{0});
    ASSERT_TRUE(side_.memory->Copy({&transfer, 1}, DeviceDirection::kOut).ok());
    EXPECT_EQ(std::memcmp(data, payload.data(), kBytes), 0) << id;
    side_.memory->Unpin(0);
    ASSERT_EQ(::fallocate(host.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kChunk), 0);
  }
  side_.memory->Unpin(0);  // nothing is pinned there
  side_ = {};
}

TEST_F(DeviceProcessesTest, APinIsItsMoversAlone) {
  const HostMemory host(kChunk);
  side_.memory->UseHost(host.all(), host.fd());
  EXPECT_EQ(side_.memory->pinner(), 0u);
  EXPECT_TRUE(absl::IsUnavailable(side_.memory->Pin(0, 0, kChunk))) << "none is started to pin";
  ASSERT_TRUE(Put(1).ok());
  EXPECT_EQ(side_.memory->pinner(), 1u);
  EXPECT_TRUE(side_.memory->Pin(1, 0, kChunk).ok());
  ::kill(side_.mover->pid(), SIGKILL);
  EXPECT_FALSE(Has(1).ok());
  EXPECT_EQ(side_.memory->pinner(), 0u);
  ASSERT_TRUE(Patiently([&] { return Put(2); }).ok());
  EXPECT_EQ(side_.memory->pinner(), 2u);
  EXPECT_TRUE(absl::IsUnavailable(side_.memory->Pin(1, 0, kChunk)));
  EXPECT_TRUE(side_.memory->Pin(2, 0, kChunk).ok()) << "it was pinned by the former one only";
  side_.memory->Unpin(0);
  side_ = {};
}

TEST_F(DeviceProcessesTest, WhatIsFreshlyLentShowsNothingOfWhoHadItBefore) {
  auto custodian = CustodianClient::Connect(directory_.path() + "/vram");
  ASSERT_TRUE(custodian.ok()) << custodian.status();
  auto mover = OpenMover(directory_.path() + "/former.mover");
  ASSERT_TRUE(mover.ok()) << mover.status();
  const auto former = MovedDeviceMemory::Open(*std::move(custodian), *mover, "one", 0);
  ASSERT_TRUE(former.ok()) << former.status();
  ASSERT_TRUE((*former)->Lend(3).ok());
  std::vector<std::byte> bytes = TestPayload(1, 0, kBytes);
  const DeviceTransfer transfer{
      .offset = 4 * kChunk - kBytes, .host = bytes.data(), .bytes = kBytes};
  ASSERT_TRUE((*former)->Copy({&transfer, 1}, DeviceDirection::kIn).ok());
  ASSERT_TRUE(side_.memory->Lend(3).ok());  // the same slab, by its number
  ASSERT_TRUE(side_.memory->Copy({&transfer, 1}, DeviceDirection::kOut).ok());
  EXPECT_EQ(bytes, std::vector<std::byte>(kBytes));
}

TEST_F(DeviceProcessesTest, AMoverThatHangsHoldsUpOnlyWhoAsksForMemory) {
  const uint64_t fit = kChunk / kBytes;
  for (uint64_t id = 1; id <= fit; ++id) ASSERT_TRUE(Put(id).ok());
  const pid_t mover = side_.mover->pid();
  ::kill(mover, SIGSTOP);
  std::thread put([&] { EXPECT_TRUE(Put(fit + 1).ok()); });
  for (int i = 0; i < 1000 && side_.memory->Chunks()->size() < 2; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the mover is asked next
  std::promise<void> are_done;
  std::thread others([&] {
    EXPECT_EQ(side_.tier->Usage().block_count, fit);
    EXPECT_EQ(side_.tier->State(), "ok");
    EXPECT_TRUE(side_.tier->Erase({1, 0}).ok());
    EXPECT_EQ(side_.mover->pid(), mover);
    EXPECT_EQ(side_.mover->starts(), 1u);
    are_done.set_value();
  });
  EXPECT_EQ(are_done.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  ::kill(mover, SIGCONT);
  put.join();
  others.join();
  EXPECT_TRUE(Has(2).value_or(false));
  EXPECT_TRUE(Has(fit + 1).value_or(false));
}

TEST_F(DeviceProcessesTest, AMoverThatIsKilledCostsACopyAndNoBlock) {
  ASSERT_TRUE(Put(1).ok());
  ::kill(side_.mover->pid(), SIGKILL);
  const absl::Status lost = Put(2);
  EXPECT_TRUE(absl::IsUnavailable(lost)) << lost;
  const absl::Status again = Patiently([&] { return Put(2); });
  EXPECT_TRUE(again.ok()) << again;
  EXPECT_TRUE(Has(1).value_or(false));
  EXPECT_TRUE(Has(2).value_or(false));
  EXPECT_EQ(side_.mover->starts(), 2u);
  EXPECT_EQ(side_.tier->Usage().block_count, 2u);
}

TEST_F(DeviceProcessesTest, WithoutAMoverNoMemoryIsAskedFor) {
  side_ = {};
  side_ = OpenSide(directory_.path(), "one", std::chrono::minutes(1));
  ASSERT_NE(side_.tier, nullptr);
  const uint64_t fit = kChunk / kBytes;
  for (uint64_t id = 1; id <= fit; ++id) ASSERT_TRUE(Put(id).ok());
  ::kill(side_.mover->pid(), SIGKILL);
  EXPECT_FALSE(Has(1).ok());
  custodian_->Signal(SIGSTOP);  // who asks it waits for long, and says so
  const absl::Status refused = Put(fit + 1);
  custodian_->Signal(SIGCONT);
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("the mover has ended"));
  EXPECT_EQ(side_.memory->Chunks()->size(), 1u);
}

TEST_F(DeviceProcessesTest, AStickyErrorEndsTheMoverOnly) {
  ASSERT_TRUE(Put(1).ok());
  ::kill(side_.mover->pid(), SIGKILL);
  ::setenv("TC_FAKECUDA", "cudaEventRecord:2=700", 1);  // of the next mover; a GPU has none of it
  const absl::Status first = Patiently([&] { return Put(2); });
  const absl::Status second = Put(3);
  ::unsetenv("TC_FAKECUDA");
  const uint64_t starts = side_.mover->starts();
  if (first.ok() && second.ok() && starts == 2) GTEST_SKIP() << "no fake runtime to fail";
  const absl::Status again = Patiently([&] { return Put(4); });
  EXPECT_TRUE(again.ok()) << again;
  EXPECT_THAT(std::string(second.ok() ? first.message() : second.message()),
              ::testing::HasSubstr("700"));
  EXPECT_GT(side_.mover->starts(), starts);
  EXPECT_TRUE(Has(1).value_or(false)) << "the custodian has the memory";
}

TEST_F(DeviceProcessesTest, ADaemonThatStartsAnewFindsItsHotBlocks) {
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(Put(id).ok());
  const auto uuid = side_.memory->uuid();
  Reopen();
  EXPECT_EQ(side_.memory->uuid(), uuid);
  EXPECT_EQ(side_.tier->TakeLeft().size(), 3u);
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_TRUE(Has(id).value_or(false)) << id;
}

TEST_F(DeviceProcessesTest, TheMoverOfADaemonThatWasKilledCopiesNothingBesideTheNextOne) {
  side_ = {};
  ::setenv("TC_FAKECUDA_DELAY", "2:60000000", 1);  // its second stream, by which blocks go out
  ::setenv("TC_TEST_DIRECTORY", directory_.path().c_str(), 1);
  const pid_t daemon = Spawn(CommandOf("Daemon"));
  ::unsetenv("TC_FAKECUDA_DELAY");
  absl::StatusOr<std::string> told;
  for (int i = 0; i < 1200 && !told.ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    told = ReadFile(directory_.path() + "/mover.pid", 64);
  }
  ASSERT_TRUE(told.ok()) << told.status();
  const auto mover = OpenPidFd(std::stoi(*told));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // amid a copy, by now
  ASSERT_TRUE(mover.ok() && !HasExited(*mover));
  ::kill(daemon, SIGKILL);
  ::waitpid(daemon, nullptr, 0);
  Reopen();
  EXPECT_TRUE(HasExited(*mover));
  EXPECT_TRUE(Has(1).value_or(false));
}

TEST_F(DeviceProcessesTest, ALockThatNamesAnEarlierProcessOfTheSameNumberEndsNobody) {
  const pid_t stranger = Spawn({"/bin/sleep", "600"});
  const std::string path = directory_.path() + "/other.mover";
  ASSERT_TRUE(WriteFileAtomically(path, std::to_string(stranger) + " 1\n").ok());
  const auto lock = LockMover(path, std::chrono::milliseconds(10));
  EXPECT_TRUE(lock.ok()) << lock.status();
  EXPECT_EQ(::waitpid(stranger, nullptr, WNOHANG), 0) << "it was ended";
  const auto second = LockMover(path, std::chrono::milliseconds(10));
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  ::kill(stranger, SIGKILL);
  ::waitpid(stranger, nullptr, 0);
}

TEST_F(DeviceProcessesTest, ACustodianThatEndsTakesItsBlocksAlong) {
  ASSERT_TRUE(Put(1).ok());
  custodian_->Kill();
  EXPECT_TRUE(Has(1).value_or(false)) << "the mover still has it mapped";
  custodian_ = std::make_unique<Custodian>(directory_.path() + "/vram");
  Reopen();
  EXPECT_EQ(side_.tier->Usage().block_count, 0u);
  EXPECT_FALSE(Has(1).value_or(true));
  EXPECT_TRUE(Put(1).ok());
}

TEST_F(DeviceProcessesTest, WhatIsPublishedIsThereHoweverSlowItsStreamIs) {
  ::setenv("TC_FAKECUDA_DELAY", "1:100000", 1);  // the mover's first, by which blocks come in
  ASSERT_TRUE(Put(1).ok());
  EXPECT_TRUE(Has(1).value_or(false));
}

TEST_F(DeviceProcessesTest, ADeviceThatIsFullIsServedFromWhatThereIs) {
  custodian_->Kill();
  ::setenv("TC_FAKECUDA_VRAM", "4194304", 1);  // two chunks
  custodian_ = std::make_unique<Custodian>(directory_.path() + "/vram");
  ::unsetenv("TC_FAKECUDA_VRAM");
  Reopen();
  uint64_t id = 1;
  absl::Status status;
  while (id < 1000 && (status = Put(id)).ok()) ++id;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  if (side_.memory->Chunks()->size() == 4) GTEST_SKIP() << "no fake runtime to be full";
  EXPECT_EQ(id, 1 + 2 * kChunk / kBytes);
  EXPECT_THAT(side_.tier->State(), ::testing::HasSubstr("cuMemCreate"));
  EXPECT_TRUE(Has(1).value_or(false));
  ASSERT_TRUE(side_.tier->Erase({1, 0}).ok());
  EXPECT_TRUE(Put(id).ok());
}

TEST_F(DeviceProcessesTest, AMoverThatFindsNoDriverSaysSo) {
  ::setenv("TC_FAKECUDA_DRIVER", "0", 1);
  const absl::Status status = Put(1);
  if (status.ok()) GTEST_SKIP() << "no fake runtime without a driver";
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(side_.tier->State(), ::testing::HasSubstr("cudaErrorInsufficientDriver"));
  EXPECT_TRUE(side_.memory->Chunks()->empty()) << "memory that nobody can fill goes back";
  ::unsetenv("TC_FAKECUDA_DRIVER");
  const absl::Status again = Patiently([&] { return Put(1); });
  EXPECT_TRUE(again.ok()) << again;
}

TEST_F(DeviceProcessesTest, TheCapacityIsThatOfAllPools) {
  const Side other = OpenSide(directory_.path(), "two");
  ASSERT_NE(other.tier, nullptr);
  for (uint32_t chunk = 0; chunk < 4; ++chunk) {
    ASSERT_TRUE(side_.memory->Lend(chunk).ok());
    ASSERT_TRUE(other.memory->Lend(chunk).ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(side_.memory->Lend(4)));
  other.memory->Return(3);
  EXPECT_TRUE(side_.memory->Lend(4).ok());
  EXPECT_EQ(*other.memory->Chunks(), (std::vector<uint32_t>{0, 1, 2}));
}

TEST_F(DeviceProcessesTest, ASecondCustodianIsRefused) {
  const auto second = DeviceCustodian::Open({.socket_path = directory_.path() + "/vram",
                                             .capacity_bytes = kChunk,
                                             .chunk_bytes = kChunk});
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
}

TEST_F(DeviceProcessesTest, ACustodianServesOneDaemonAndKeepsThePoolsOfThatAlone) {
  const std::string path = directory_.path() + "/vram";
  auto first = CustodianClient::Connect(path);
  auto second = CustodianClient::Connect(path);
  ASSERT_TRUE(first.ok() && second.ok());
  for (const char* pool : {"kept", "removed"}) ASSERT_TRUE((*first)->Lend(pool, 1).ok());
  const std::vector<std::string> pools = {"kept", "new"};
  const absl::Status kept = (*first)->Keep(pools);
  ASSERT_TRUE(kept.ok()) << kept;
  EXPECT_EQ(*(*first)->Chunks("kept"), std::vector<uint32_t>{1});
  EXPECT_TRUE((*first)->Chunks("removed")->empty());
  EXPECT_TRUE((*first)->Keep(pools).ok()) << "it may say so again";
  const absl::Status refused = (*second)->Keep({});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("serves another daemon"));
  EXPECT_EQ(*(*first)->Chunks("kept"), std::vector<uint32_t>{1});
  first->reset();
  EXPECT_TRUE((*second)->Keep({}).ok()) << "the first has gone";
  EXPECT_TRUE((*second)->Chunks("kept")->empty());
}

TEST_F(DeviceProcessesTest, TheEndWaitsForNoMoverThatHangs) {
  ASSERT_TRUE(Put(1).ok());
  ::kill(side_.mover->pid(), SIGSTOP);
  const auto before = std::chrono::steady_clock::now();
  side_ = {};
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(60));
}

TEST_F(DeviceProcessesTest, ThePauseDoublesUntilAMoverHasCopiedSomething) {
  side_ = {};
  const auto opened = MoverProcess::Open({.command = CommandOf("Mover"),
                                          .chunk_bytes = kChunk,
                                          .lock_path = directory_.path() + "/pausing.mover",
                                          .least_pause = std::chrono::milliseconds(200)});
  ASSERT_TRUE(opened.ok()) << opened.status();
  MoverProcess& mover = **opened;
  uint64_t generation = 0;
  const auto tell = [](const auto&) { return absl::OkStatus(); };
  const MoverRequest request = {.verb = MoverVerb::kUnmapHost, .host = 1, .chunk_bytes = kChunk};
  const auto call = [&] { return mover.Call(generation, tell, request); };
  ASSERT_TRUE(call().ok());
  for (const int pause_ms : {200, 400, 800}) {
    const auto before = std::chrono::steady_clock::now();
    ::kill(mover.pid(), SIGKILL);
    EXPECT_TRUE(absl::IsUnavailable(call()));
    ASSERT_TRUE(Patiently(call).ok());
    EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(pause_ms));
  }
}

TEST_F(DeviceProcessesTest, ACustodianThatHangsIsGivenUpAndFoundAgain) {
  const std::string path = directory_.path() + "/vram";
  const auto opened = CustodianClient::Connect(path, std::chrono::milliseconds(3000));
  ASSERT_TRUE(opened.ok()) << opened.status();
  CustodianClient& client = **opened;
  ASSERT_TRUE(Patiently([&] { return client.Keep(std::vector<std::string>{"pool"}); }).ok());
  ASSERT_TRUE(Patiently([&] { return client.Lend("pool", 1); }).ok());
  custodian_->Signal(SIGSTOP);
  const absl::Status hung = client.Lend("pool", 2);
  EXPECT_TRUE(absl::IsUnavailable(hung)) << hung;
  custodian_->Signal(SIGCONT);
  ASSERT_TRUE(Patiently([&] { return client.Lend("pool", 5); }).ok());
  absl::StatusOr<std::vector<uint32_t>> chunks;  // the answer to this, not to an earlier question
  ASSERT_TRUE(Patiently([&] { return (chunks = client.Chunks("pool")).status(); }).ok());
  EXPECT_THAT(*chunks, ::testing::IsSupersetOf({1u, 5u}));
  const auto other = CustodianClient::Connect(path);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_TRUE(absl::IsFailedPrecondition((*other)->Keep({}))) << "it serves the first one again";
  custodian_->Kill();
  EXPECT_TRUE(absl::IsUnavailable(client.Lend("pool", 6)));
  custodian_ = std::make_unique<Custodian>(path);
  const absl::Status another = Patiently([&] { return client.Lend("pool", 6); });
  EXPECT_TRUE(absl::IsFailedPrecondition(another)) << another;
}

}  // namespace
}  // namespace thermocline
