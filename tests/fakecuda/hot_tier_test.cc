// The hot tier while its device suffers: a custodian, a mover (a process of this program) and the
// tier, over the fake runtime. Whatever call fails, however often, the tier gives back the bytes of
// a block or says that it has none; and it is whole again once the device is.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/units.h"
#include "tests/fakecuda/fake_cuda.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/device_custodian.h"
#include "tiers/device_moved_memory.h"
#include "tiers/device_slabs.h"
#include "tiers/device_tier.h"

namespace thermocline {
namespace {

constexpr uint64_t kChunk = 2 * MiB;
constexpr uint64_t kBytes = 256 * KiB;
constexpr int kInvalidValue = 1;
constexpr int kOutOfMemory = 2;
constexpr int kIllegalAddress = 700;
constexpr int kLaunchFailure = 719;

TEST(Process, DISABLED_Mover) {
  std::quick_exit(RunDeviceMover(MoverProcess::kSocket, MoverProcess::kLock));
}

class HotTierTest : public testing::Test {
 protected:
  void SetUp() override {
    fakecuda::Restart();
    fakecuda::SetDevice({});
    auto custodian = DeviceCustodian::Open({.socket_path = directory_.path() + "/vram",
                                            .capacity_bytes = 8 * kChunk,
                                            .chunk_bytes = kChunk});
    ASSERT_TRUE(custodian.ok()) << custodian.status();
    custodian_ = *std::move(custodian);
    ASSERT_EQ(pipe(stop_), 0);
    thread_ = std::thread([this] { EXPECT_TRUE(custodian_->Serve(stop_[0]).ok()); });
  }
  void TearDown() override {
    CloseTier();
    close(stop_[1]);
    if (thread_.joinable()) thread_.join();
    close(stop_[0]);
  }

  /// With a mover whose fake runtime is told so by the environment.
  void OpenTier(const char* variable = nullptr, const std::string& value = {}) {
    CloseTier();
    for (const char* name : {"TC_FAKECUDA", "TC_FAKECUDA_DELAY"}) unsetenv(name);
    if (variable != nullptr) setenv(variable, value.c_str(), 1);
    auto client = CustodianClient::Connect(directory_.path() + "/vram");
    ASSERT_TRUE(client.ok()) << client.status();
    auto mover =
        MoverProcess::Open({.command = {"/proc/self/exe", "--gtest_filter=Process.DISABLED_Mover",
                                        "--gtest_also_run_disabled_tests", "--gtest_brief=1"},
                            .chunk_bytes = kChunk,
                            .lock_path = directory_.path() + "/mover",
                            .least_pause = std::chrono::milliseconds(1)});
    ASSERT_TRUE(mover.ok()) << mover.status();
    mover_ = *std::move(mover);
    auto memory = MovedDeviceMemory::Open(*std::move(client), mover_, "pool", 0);
    ASSERT_TRUE(memory.ok()) << memory.status();
    auto tier = DeviceTier::Open({.metadata_path = directory_.path() + "/hot",
                                  .capacity_bytes = 4 * kChunk,
                                  .chunk_bytes = kChunk,
                                  .memory = *std::move(memory)});
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
    tier_->TakeLeft();
  }
  void CloseTier() {
    tier_.reset();
    mover_.reset();
  }

  absl::Status Put(uint64_t id) {
    const auto payload = TestPayload(id, 0, kBytes);
    return tier_->Put(TestHeader(id, 0, payload), payload);
  }

  enum class Found { kNo, kYes, kError };
  /// Fails the test on wrong bytes.
  Found Get(uint64_t id) {
    std::vector<std::byte> room(kBytes);
    const auto got = tier_->Get({id, 0}, room);
    if (!got.ok()) return Found::kError;
    if (!got->has_value()) return Found::kNo;
    EXPECT_TRUE(room == TestPayload(id, 0, kBytes)) << "block " << id;
    return Found::kYes;
  }

  /// Until what fails while a mover starts anew does not.
  template <class Try>
  static bool Eventually(Try attempt) {
    for (int i = 0; i < 6000; ++i) {
      if (attempt()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  ScratchDirectory directory_;
  int stop_[2] = {-1, -1};
  std::unique_ptr<DeviceCustodian> custodian_;
  std::thread thread_;
  std::shared_ptr<MoverProcess> mover_;
  std::unique_ptr<DeviceTier> tier_;
};

TEST_F(HotTierTest, AFullDeviceRefusesABlockAndKeepsTheOthers) {
  fakecuda::SetDevice({.vram_bytes = 2 * kChunk});
  OpenTier();
  std::set<uint64_t> kept;
  absl::Status last;
  for (uint64_t id = 1; id <= 40 && last.ok(); ++id) {
    if (last = Put(id); last.ok()) kept.insert(id);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(last)) << last;
  EXPECT_GE(kept.size(), kChunk / kBytes);
  EXPECT_LE(fakecuda::UsedBytes(), 2 * kChunk);
  for (const uint64_t id : kept) EXPECT_EQ(Get(id), Found::kYes) << id;
  fakecuda::SetDevice({});
  tier_->ReturnEmptyChunks();  // and ask for memory again, when it is needed
  EXPECT_TRUE(Put(100).ok()) << "there is room again";
  EXPECT_EQ(Get(100), Found::kYes);
}

TEST_F(HotTierTest, ASlowStreamIsWaitedFor) {
  OpenTier("TC_FAKECUDA_DELAY", "30000");
  for (uint64_t id = 1; id <= 3; ++id) {
    const auto before = std::chrono::steady_clock::now();
    ASSERT_TRUE(Put(id).ok());
    EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(30));
    EXPECT_EQ(Get(id), Found::kYes);
  }
}

TEST_F(HotTierTest, ACopyThatCannotBeMarkedIsWaitedForAllTheSame) {
  auto memory = OwnDeviceMemory::Create(0, kChunk);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE((*memory)->Lend(0).ok());
  auto host = cuda::PinnedBuffer::Allocate(kBytes);
  ASSERT_TRUE(host.ok()) << host.status();
  const std::span<std::byte> bytes(host->data(), kBytes);
  std::fill(bytes.begin(), bytes.end(), std::byte{1});
  const DeviceTransfer transfer{.offset = 0, .host = host->data(), .bytes = kBytes};
  fakecuda::SetDelay(nullptr, 100000);
  fakecuda::FailCall("cudaEventRecord", 1, kInvalidValue);
  EXPECT_FALSE((*memory)->Copy({&transfer, 1}, DeviceDirection::kOut).ok());
  const std::vector<std::byte> before(bytes.begin(), bytes.end());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), before.begin())) << "it was under way still";
  fakecuda::SetDelay(nullptr, 0);
}

struct Fault {
  const char* call;
  int error;
};

class HotTierFaultTest : public HotTierTest, public testing::WithParamInterface<Fault> {};

TEST_P(HotTierFaultTest, AnyCallOfTheMoversMayFail) {
  OpenTier();
  ASSERT_TRUE(Put(1).ok());
  for (int nth = 1; nth <= 3; ++nth) {
    SCOPED_TRACE(nth);
    OpenTier("TC_FAKECUDA", std::string(GetParam().call) + ":" + std::to_string(nth) + "=" +
                                std::to_string(GetParam().error));
    const uint64_t first = static_cast<uint64_t>(nth) * 10;
    for (uint64_t id = first; id < first + 4; ++id) {
      const bool put = Put(id).ok();
      const Found found = Get(id);
      EXPECT_NE(found, put ? Found::kNo : Found::kYes)
          << "block " << id << (put ? " was taken" : " was refused");
    }
    // Movers that start anew are told of no faults; a tier that was refused memory asks again.
    unsetenv("TC_FAKECUDA");
    tier_->ReturnEmptyChunks();
    EXPECT_TRUE(Eventually([&] { return Put(first + 9).ok(); }));
    EXPECT_TRUE(Eventually([&] { return Get(first + 9) == Found::kYes; }));
    EXPECT_EQ(Get(1), Found::kYes) << "the custodian has kept it";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Faults, HotTierFaultTest,
    testing::Values(Fault{"cudaMemcpyAsync", kIllegalAddress}, Fault{"cudaMemcpyAsync", 1},
                    Fault{"cudaEventRecord", kLaunchFailure},
                    Fault{"cudaEventRecord", kInvalidValue},
                    Fault{"cudaEventSynchronize", kIllegalAddress},
                    Fault{"cudaStreamCreateWithPriority", kOutOfMemory},
                    Fault{"cudaEventCreateWithFlags", kOutOfMemory},
                    Fault{"cuMemImportFromShareableHandle", kOutOfMemory},
                    Fault{"cuMemMap", kOutOfMemory}, Fault{"cuMemSetAccess", kLaunchFailure},
                    Fault{"cuMemHostRegister", kOutOfMemory}),
    [](const testing::TestParamInfo<Fault>& info) {
      return std::string(info.param.call) + "_" + std::to_string(info.param.error);
    });

TEST_F(HotTierTest, ACustodianThatGetsNoMemoryLosesNothing) {
  OpenTier();
  ASSERT_TRUE(Put(1).ok());
  fakecuda::FailCall("cuMemCreate", 1, kOutOfMemory);
  absl::Status last;
  uint64_t id = 2;
  while (last.ok() && id < 40) last = Put(id++);
  EXPECT_TRUE(absl::IsResourceExhausted(last)) << last;
  tier_->ReturnEmptyChunks();
  EXPECT_TRUE(Put(id).ok()) << "the next one is lent";
  for (uint64_t each = 1; each + 1 < id; ++each) EXPECT_EQ(Get(each), Found::kYes) << each;
  EXPECT_EQ(Get(id), Found::kYes);
}

}  // namespace
}  // namespace thermocline
