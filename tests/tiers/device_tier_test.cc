// The hot tier: the conformance suite over a pretended device and, where there is a device, over
// slabs of it; what a restart finds; copies that fail; and the slabs themselves, pinned and not.
#include "tiers/device_tier.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/file_util.h"
#include "base/log.h"
#include "base/process.h"
#include "base/units.h"
#include "kernels/cuda/device.h"
#include "tests/tiers/living_process.h"
#include "tests/tiers/pretended_device.h"
#include "tests/tiers/tier_conformance.h"
#include "tiers/device_slabs.h"

namespace thermocline {
namespace {

std::unique_ptr<DeviceTier> OpenOver(std::shared_ptr<DeviceMemory> memory,
                                     const std::string& directory, uint64_t capacity_bytes,
                                     uint64_t chunk_bytes) {
  auto tier = DeviceTier::Open({.metadata_path = directory + "/hot.meta",
                                .capacity_bytes = capacity_bytes,
                                .chunk_bytes = chunk_bytes,
                                .memory = std::move(memory)});
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

/// Memory stays where the tier is opened anew.
template <class MakeMemory>
TierMaker MakerOver(const std::string& name, MakeMemory make_memory) {
  const auto kept = std::make_shared<std::map<std::string, std::shared_ptr<DeviceMemory>>>();
  return {name, true,
          [=](const std::string& directory, uint64_t block_bytes,
              uint64_t blocks) -> std::unique_ptr<Tier> {
            const uint64_t chunk_bytes = 4 * block_bytes;
            auto& memory = (*kept)[directory];
            if (!memory) memory = make_memory(chunk_bytes);
            return OpenOver(memory, directory, (blocks + 4) * block_bytes, chunk_bytes);
          }};
}

std::vector<TierMaker> Makers() {
  std::vector<TierMaker> makers = {MakerOver("Pretended", [](uint64_t chunk_bytes) {
    return std::make_shared<PretendedDevice>(chunk_bytes);
  })};
  if (!cuda::DeviceCount().ok()) return makers;
  makers.push_back(MakerOver("Device", [](uint64_t chunk_bytes) -> std::shared_ptr<DeviceMemory> {
    auto memory = OwnDeviceMemory::Create(0, chunk_bytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    return memory.ok() ? *std::move(memory) : nullptr;
  }));
  return makers;
}

std::string NameOf(const ::testing::TestParamInfo<TierMaker>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Device, TierConformance, ::testing::ValuesIn(Makers()), NameOf);

class DeviceTierTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBytes = 8192;
  static constexpr uint64_t kChunk = 32 * KiB;
  DeviceTierTest() { Reopen(); }
  void Reopen() {
    tier_.reset();
    tier_ = OpenOver(memory_, directory_.path(), 2 * kChunk, kChunk);
  }
  absl::Status Put(uint64_t id) {
    const auto payload = TestPayload(id, 0, kBytes);
    return tier_->Put(TestHeader(id, 0, payload), payload);
  }
  bool Has(uint64_t id) {
    std::vector<std::byte> room(kBytes);
    const auto found = tier_->Get({id, 0}, room);
    return found.ok() && found->has_value() && room == TestPayload(id, 0, kBytes);
  }

  ScratchDirectory directory_;
  std::shared_ptr<PretendedDevice> memory_ = std::make_shared<PretendedDevice>(kChunk);
  std::unique_ptr<DeviceTier> tier_;
};

TEST_F(DeviceTierTest, ARestartFindsBlocksWhereTheyAre) {
  ASSERT_TRUE(Put(1).ok());
  ASSERT_TRUE(Put(2).ok());
  Reopen();
  std::map<uint64_t, uint32_t> left;
  for (const DeviceTier::Left& block : tier_->TakeLeft()) left[block.record.id] = block.page;
  ASSERT_EQ(left.size(), 2u);
  for (const auto& [id, page] : left) {
    EXPECT_GE(page, DeviceTier::kFirstPage);
    EXPECT_EQ(tier_->RecordAt(page).id, id);
    EXPECT_EQ(std::memcmp(memory_->At(DeviceTier::OffsetOf(page), kBytes),
                          TestPayload(id, 0, kBytes).data(), kBytes),
              0);
  }
  EXPECT_TRUE(tier_->TakeLeft().empty());
}

TEST_F(DeviceTierTest, OfAnotherMemoryNothingIsBelieved) {
  ASSERT_TRUE(Put(1).ok());
  memory_->Replace();
  Reopen();
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
  EXPECT_TRUE(Put(1).ok());
}

TEST_F(DeviceTierTest, AChunkThatHasGoneTakesItsBlocksAlong) {
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(Put(id).ok());
  tier_.reset();
  memory_->Return(0);
  Reopen();
  EXPECT_EQ(tier_->lost_count(), 4u);
  EXPECT_EQ(tier_->Usage().block_count, 1u);
  EXPECT_TRUE(Has(5));
}

TEST_F(DeviceTierTest, MemoryOfWhichNobodyKnowsGoesBack) {
  ASSERT_TRUE(memory_->Lend(1).ok());
  Reopen();
  EXPECT_TRUE(memory_->Chunks()->empty());
}

TEST_F(DeviceTierTest, ACopyThatFailsStoresNothingAndIsTold) {
  ASSERT_TRUE(Put(1).ok());
  memory_->SetFaults(1, 0);
  EXPECT_TRUE(absl::IsUnavailable(Put(2)));
  std::vector<std::byte> room(kBytes);
  EXPECT_TRUE(absl::IsUnavailable(tier_->Get({1, 0}, room).status()));
  EXPECT_EQ(tier_->Usage().block_count, 1u);
  EXPECT_EQ(tier_->Usage().used_bytes, kBytes);
  EXPECT_THAT(tier_->State(), ::testing::HasSubstr("made to fail"));
  EXPECT_TRUE(absl::IsUnavailable(tier_->Probe()));
  EXPECT_FALSE(tier_->IsMoving());
  memory_->SetFaults(0, 0);
  EXPECT_TRUE(tier_->Probe().ok());
  EXPECT_EQ(tier_->State(), "ok");
  EXPECT_TRUE(Has(1)) << "a medium that fails loses nothing";
  EXPECT_EQ(tier_->State(), "ok");
}

TEST_F(DeviceTierTest, AnEmptyOneIsProbedByMemoryThatGoesBack) {
  EXPECT_TRUE(tier_->Probe().ok());
  EXPECT_TRUE(memory_->Chunks()->empty());
  memory_->is_full = true;
  EXPECT_TRUE(tier_->Probe().ok()) << "it is full, no more";
}

TEST_F(DeviceTierTest, AFullDeviceIsServedFromWhatThereIs) {
  ASSERT_TRUE(Put(1).ok());
  memory_->is_full = true;
  for (uint64_t id = 2; id <= 4; ++id) ASSERT_TRUE(Put(id).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Put(5)));
  EXPECT_THAT(tier_->State(), ::testing::HasSubstr("the device is full"));
  ASSERT_TRUE(tier_->Erase({1, 0}).ok());
  EXPECT_TRUE(Put(5).ok());
}

TEST_F(DeviceTierTest, MemoryThatCannotBeLentIsAskedForOncePerBlockAndToldOnce) {
  const std::string log = directory_.path() + "/log";
  ASSERT_TRUE(SetUpLog({.file = log}).ok());
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(Put(id).ok());
  memory_->SetFaults(1, 0);
  for (uint64_t id = 5; id <= 9; ++id) EXPECT_TRUE(absl::IsUnavailable(Put(id)));
  EXPECT_EQ(memory_->lendings, 1 + 5);
  EXPECT_THAT(tier_->State(), ::testing::HasSubstr("made to fail"));
  memory_->SetFaults(0, 0);
  memory_->is_full = true;
  for (uint64_t id = 5; id <= 9; ++id) {
    EXPECT_TRUE(absl::IsResourceExhausted(Put(id)));
    tier_->ReturnEmptyChunks();  // and asks again
  }
  memory_->is_full = false;
  EXPECT_TRUE(Put(5).ok());
  ASSERT_TRUE(SetUpLog({}).ok());
  const std::string told = ReadFile(log, MiB).value_or("");
  const size_t first = told.find("hot_does_not_grow");
  EXPECT_NE(first, std::string::npos);
  EXPECT_EQ(first, told.rfind("hot_does_not_grow")) << told;
}

TEST_F(DeviceTierTest, SpoiledBytesAreAMissAndCounted) {
  ASSERT_TRUE(Put(1).ok());
  *memory_->At(100, 1) ^= std::byte{1};
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(tier_->Usage().corrupt_count, 1u);
  EXPECT_EQ(tier_->Usage().used_bytes, 0u);
}

TEST(DeviceTierOptionsTest, ChunksThatAreTooManyOrNoWholePagesAreRefused) {
  const ScratchDirectory scratch("/dev/shm");
  for (const auto& [capacity, chunk] :
       {std::pair(80 * GiB, 4 * MiB), std::pair(MiB, uint64_t{1000})}) {
    const auto tier = DeviceTier::Open({.metadata_path = scratch.path() + "/hot.meta",
                                        .capacity_bytes = capacity,
                                        .chunk_bytes = chunk,
                                        .memory = std::make_shared<PretendedDevice>(chunk)});
    EXPECT_TRUE(absl::IsInvalidArgument(tier.status())) << tier.status();
  }
}

TEST_F(DeviceTierTest, EmptyChunksGoBackToTheDevice) {
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(Put(id).ok());
  ASSERT_TRUE(tier_->Erase({5, 0}).ok());
  tier_->ReturnEmptyChunks();
  EXPECT_EQ(*memory_->Chunks(), (std::vector<uint32_t>{0}));
  EXPECT_TRUE(Put(5).ok());
  EXPECT_TRUE(Has(1));
}

TEST_F(DeviceTierTest, WhatALivingProcessMayFillStaysInQuarantine) {
  LivingProcess child;
  const ProcessRef other{child.pid(), *ProcessStartTime(child.pid())};
  const auto page = tier_->Reserve(kBytes, other)->value();
  Reopen();
  ASSERT_EQ(tier_->left_granted().size(), 1u);
  EXPECT_EQ(tier_->left_granted()[0].page, page);
  EXPECT_EQ(tier_->left_granted()[0].owner, other);
  EXPECT_EQ(tier_->FreeSlots(kBytes), 7u);
  child.End();
  Reopen();
  EXPECT_TRUE(tier_->left_granted().empty());
  EXPECT_EQ(tier_->FreeSlots(kBytes), 8u);
}

// ---- on a device

class DeviceSlabsTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kChunk = 4 * MiB;
  void SetUp() override {
    if (const auto count = cuda::DeviceCount(); !count.ok()) {
      GTEST_SKIP() << "no CUDA device: " << count.status();
    }
    auto memory = OwnDeviceMemory::Create(0, kChunk);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    for (uint32_t chunk = 0; chunk < 2; ++chunk) ASSERT_TRUE(memory_->Lend(chunk).ok());
  }
  /// Moves pieces there and back by one batch each way, with gaps between them.
  void GoesThereAndBack(std::span<std::byte> host, uint64_t bytes, size_t count) {
    const uint64_t step = RoundUp(bytes, kPageBytes) + kPageBytes;
    ASSERT_LE(count * step, host.size());
    std::vector<DeviceTransfer> transfers;
    for (size_t i = 0; i < count; ++i) {
      const auto payload = TestPayload(i + 1, 3, RoundUp(bytes, 8));
      std::copy_n(payload.begin(), bytes, host.begin() + i * step);
      transfers.push_back({.offset = i * step, .host = host.data() + i * step, .bytes = bytes});
    }
    const absl::Status in = memory_->Copy(transfers, DeviceDirection::kIn);
    ASSERT_TRUE(in.ok()) << in;
    std::fill(host.begin(), host.end(), std::byte{0});
    const absl::Status out = memory_->Copy(transfers, DeviceDirection::kOut);
    ASSERT_TRUE(out.ok()) << out;
    for (size_t i = 0; i < count; ++i) {
      const auto payload = TestPayload(i + 1, 3, RoundUp(bytes, 8));
      ASSERT_EQ(std::memcmp(payload.data(), host.data() + i * step, bytes), 0) << "piece " << i;
      ASSERT_EQ(host[i * step + bytes], std::byte{0}) << "beyond piece " << i;
    }
  }
  std::unique_ptr<OwnDeviceMemory> memory_;
};

TEST_F(DeviceSlabsTest, BytesComeBackFromMemoryThatIsNotPinned) {
  std::vector<std::byte> host(4 * MiB);
  GoesThereAndBack(host, 300 * KiB, 8);
  GoesThereAndBack(host, 1001, 40);
}

TEST_F(DeviceSlabsTest, BytesComeBackFromPinnedMemory) {
  constexpr uint64_t kHostBytes = 4 * MiB;
  const int fd = ::memfd_create("host", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(fd, kHostBytes), 0);
  auto* const data = static_cast<std::byte*>(
      ::mmap(nullptr, kHostBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ASSERT_NE(data, MAP_FAILED);
  const std::span<std::byte> host(data, kHostBytes);
  const absl::Status pinned = memory_->slabs().Pin(host);
  ASSERT_TRUE(pinned.ok()) << pinned;
  GoesThereAndBack(host, 300 * KiB, 8);  // as one batch of the driver's
  GoesThereAndBack(host, 4096, 200);     // by the kernel, in two launches
  GoesThereAndBack(host, 4104, 40);      // too crooked for the kernel
  EXPECT_FALSE(memory_->slabs().Pin(host).ok()) << "it is pinned";
  memory_->slabs().Unpin(data);
  EXPECT_TRUE(memory_->slabs().Pin(host).ok());
  memory_->slabs().Unpin(data);
  ::munmap(data, kHostBytes);
  ::close(fd);
}

TEST_F(DeviceSlabsTest, WhatLiesOutsideOfItsChunksIsRefused) {
  std::vector<std::byte> host(64 * KiB);
  // The last one has chunk 0 in its lower 32 bits.
  for (const uint64_t offset : {2 * kChunk, kChunk - 4096, (uint64_t{1} << 32) * kChunk}) {
    const DeviceTransfer transfer{.offset = offset, .host = host.data(), .bytes = host.size()};
    EXPECT_TRUE(absl::IsInvalidArgument(memory_->Copy({&transfer, 1}, DeviceDirection::kIn)));
  }
}

}  // namespace
}  // namespace thermocline
