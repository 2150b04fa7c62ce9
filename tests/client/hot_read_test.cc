// Hot blocks read where they lie, over real processes and the fake CUDA runtime: no byte travels,
// none is ever wrong, and a slot is not used again before the last stream that reads there has
// come by. Clients, daemon and custodian are killed meanwhile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/memory.h"
#include "tests/client/device_reader.h"
#include "tests/client/hot_fixture.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

class HotReadTest : public HotTest {
 protected:
  void Begin(Faults faults = {}) {
    HotTest::Begin(faults);
    ConnectReader();
  }
  void TearDown() override {
    reader_.reset();
    HotTest::TearDown();
  }
  void ConnectReader() {
    reader_ = std::make_unique<DeviceReader>(daemon_->socket(), TestSpace(kBlockBytes));
  }
  /// A path of which some blocks are hot.
  std::vector<int32_t> HotPrompt() {
    Heat(1, 2);
    const auto hot_of = [&](int32_t seed) {
      const auto lease = space_->Match(Prompt(seed, kPlaces));
      if (!lease.ok()) return ptrdiff_t{0};
      return std::count_if(lease->blocks().begin(), lease->blocks().end(),
                           [](const auto& block) { return block.matched_tier == BlockTier::kHot; });
    };
    return Prompt(hot_of(1) > 0 ? 1 : 2, kPlaces);
  }
  /// Takes all that nobody holds off the device.
  void FlushHot() {
    auto admin = AdminClient::Connect({.socket_path = daemon_->socket()});
    ASSERT_TRUE(admin.ok()) << admin.status();
    EXPECT_TRUE((*admin)->Flush(BlockTier::kWarm, kPatience).ok());
  }
  /// Other blocks take what slots there are.
  void UseSlotsAgain() { Heat(11, 14); }
  bool DeviceIsEmptied() {
    return Eventually([&] {
      FlushHot();
      return Use(BlockTier::kHot).blocks == 0;
    });
  }
  /// A stream that is held up copies the path's hot blocks; then the lease ends as `end` says, all
  /// slots that are free are used again, and the stream goes on. Whether it read what was leased.
  bool ASlowStreamReadsRight(const std::function<void(Lease&)>& end) {
    const auto tokens = HotPrompt();
    auto lease = reader_->Match(tokens);
    EXPECT_TRUE(lease.ok()) << lease.status();
    const std::vector<uint32_t> depths = DeviceReader::InPlace(*lease);
    EXPECT_FALSE(depths.empty());
    auto copies = cuda::PinnedBuffer::Allocate(depths.size() * kBlockBytes);
    EXPECT_TRUE(copies.ok()) << copies.status();
    const auto copy = [&](size_t i) { return copies->data() + i * kBlockBytes; };
    Gate gate(reader_->stream());
    for (size_t i = 0; i < depths.size(); ++i) reader_->StartCopy(*lease, depths[i], copy(i));
    end(*lease);
    FlushHot();
    UseSlotsAgain();
    gate.Open();
    EXPECT_TRUE(reader_->stream().Synchronize().ok());
    for (size_t i = 0; i < depths.size(); ++i) {
      const auto content = Content(tokens, depths[i], 0, kBlockBytes);
      if (!Holds({copy(i), kBlockBytes}, content)) return false;
    }
    return true;
  }

  std::unique_ptr<DeviceReader> reader_;
};

using SufferingHotReadTest = Suffering<HotReadTest>;

TEST_F(HotReadTest, BlocksAreReadWhereTheyLie) {
  Begin();
  const auto tokens = HotPrompt();
  const TierUse before = Use(BlockTier::kHot);
  const uint64_t promoted = Use(BlockTier::kWarm).promotions;
  auto lease = reader_->Match(tokens);
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_EQ(lease->depth(), kPlaces);
  const std::vector<uint32_t> depths = DeviceReader::InPlace(*lease);
  EXPECT_FALSE(depths.empty());
  for (const uint32_t depth : depths) {
    EXPECT_EQ(lease->Find(depth)->tier, BlockTier::kHot);
    EXPECT_EQ(lease->DeviceView(depth).size(), kBlockBytes);
    EXPECT_TRUE(lease->View(depth).empty());
  }
  EXPECT_EQ(reader_->RightPlaces(*lease, tokens), kPlaces);
  EXPECT_TRUE(lease->StillValid());
  EXPECT_EQ(Use(BlockTier::kHot).demotions, before.demotions) << "nothing came back for that";
  EXPECT_GE(Use(BlockTier::kHot).hits, before.hits + depths.size());
  if (depths.size() == kPlaces) {
    EXPECT_EQ(Use(BlockTier::kWarm).promotions, promoted);
  }
}

TEST_F(HotReadTest, AnotherLayoutIsRefusedInWords) {
  Begin();
  const SpaceSpec spec = TestSpace(kBlockBytes);
  const auto refusal = [&](const std::function<void(BlockLayout&)>& change) {
    BlockLayout expected = LayoutOf(spec);
    change(expected);
    const auto lease = reader_->space().MatchOnDevice(Prompt(1, 1), expected);
    EXPECT_TRUE(absl::IsInvalidArgument(lease.status())) << lease.status();
    return std::string(lease.status().message());
  };
  EXPECT_THAT(refusal([](auto& layout) { layout.kv_dtype = "bf16"; }),
              HasSubstr("values of type f16, and who would read them on the device expects bf16"));
  EXPECT_THAT(refusal([](auto& layout) { layout.layout = "lkth.v1"; }), HasSubstr("lkth.v1"));
  EXPECT_THAT(refusal([](auto& layout) { layout.block_tokens = 32; }), HasSubstr("32"));
  EXPECT_THAT(refusal([](auto& layout) { layout.block_bytes[0] /= 2; }),
              HasSubstr(std::to_string(kBlockBytes / 2)));
  EXPECT_THAT(refusal([](auto& layout) { layout.block_bytes.clear(); }), HasSubstr("parts: 1"));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(space_->MatchOnDevice(Prompt(1, 1), LayoutOf(spec)).status()))
      << "a client without a device";
}

TEST_F(HotReadTest, WhatIsReadInPlaceStaysAndIsSharedWithThoseWhoLoadIt) {
  Begin();
  const auto tokens = HotPrompt();
  auto lease = reader_->Match(tokens);
  ASSERT_TRUE(lease.ok()) << lease.status();
  const std::vector<uint32_t> depths = DeviceReader::InPlace(*lease);
  auto other = space_->Match(tokens);
  ASSERT_TRUE(other.ok() && other->Load().ok());
  EXPECT_EQ(RightPlaces(*space_, *other, tokens), kPlaces) << "in memory";
  other->Release();
  FlushHot();
  UseSlotsAgain();
  EXPECT_EQ(DeviceReader::InPlace(*lease), depths);
  EXPECT_EQ(reader_->RightPlaces(*lease, tokens), kPlaces);
  EXPECT_TRUE(lease->StillValid());
  EXPECT_GE(Use(BlockTier::kHot).blocks, depths.size());
  lease->Release();
  EXPECT_TRUE(DeviceIsEmptied());
}

TEST_F(HotReadTest, ALeaseThatEndsWithAStreamKeepsItsSlotsUntilThen) {
  Begin();
  const uint64_t leases = client_->Stats()->leases;
  std::optional<Lease> ended;
  EXPECT_TRUE(ASlowStreamReadsRight([&](Lease& lease) {
    ASSERT_OK(lease.ReleaseAfter(reader_->stream().get()));
    EXPECT_EQ(lease.depth(), 0u);
    EXPECT_TRUE(lease.StillValid());
    EXPECT_TRUE(absl::IsFailedPrecondition(lease.Load().status()));
    ended.emplace(std::move(lease));
  }));
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == leases; }));
  EXPECT_TRUE(ended->StillValid()) << "what the stream has read was the lease's own";
  EXPECT_TRUE(DeviceIsEmptied());
}

TEST_F(HotReadTest, WithoutTheWaitThatIsSeen) {
  Begin();
  EXPECT_FALSE(ASlowStreamReadsRight([&](Lease& lease) { lease.Release(); }));
}

TEST_F(SufferingHotReadTest, BlocksThatCannotBeMappedAreReadInMemory) {
  Begin();
  const auto tokens = HotPrompt();
  std::optional<Lease> lease;
  for (const char* call :
       {"cuMemImportFromShareableHandle", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"}) {
    for (const int error : {1, 2, 700}) {
      SCOPED_TRACE(testing::Message() << call << ", error " << error);
      lease.reset();
      fakecuda::Restart();
      ConnectReader();  // which has nothing mapped
      auto matched = reader_->space().MatchOnDevice(tokens, LayoutOf(TestSpace(kBlockBytes)));
      ASSERT_TRUE(matched.ok()) << matched.status();
      lease = *std::move(matched);
      fakecuda::FailCall(call, 1, error, true);
      EXPECT_TRUE(DeviceReader::InPlace(*lease).empty());
      EXPECT_GT(fakecuda::CallCount(call), 0);
    }
  }
  EXPECT_GT(HotBlocks(*lease), 0u);
  EXPECT_TRUE(lease->Load().ok());
  EXPECT_TRUE(DeviceReader::InPlace(*lease).empty());
  EXPECT_EQ(RightPlaces(reader_->space(), *lease, tokens), kPlaces);
  EXPECT_TRUE(lease->StillValid());
  fakecuda::Restart();
}

TEST_F(SufferingHotReadTest, AStreamThatCannotBeWaitedForLeavesTheLeaseAsItIs) {
  Begin();
  const auto tokens = HotPrompt();
  const uint64_t leases = client_->Stats()->leases;
  auto lease = reader_->Match(tokens);
  ASSERT_TRUE(lease.ok()) << lease.status();
  const std::vector<uint32_t> depths = DeviceReader::InPlace(*lease);
  EXPECT_FALSE(depths.empty());
  const std::pair<const char*, int> faults[] = {
      {"cudaLaunchHostFunc", 1}, {"cudaLaunchHostFunc", 2}, {"cudaSetDevice", 700}};
  for (const auto& [call, error] : faults) {
    fakecuda::FailCall(call, 1, error);
    const absl::Status refused = lease->ReleaseAfter(reader_->stream().get());
    EXPECT_THAT(std::string(refused.message()), HasSubstr(call));
    fakecuda::Restart();
    EXPECT_EQ(DeviceReader::InPlace(*lease), depths);
    EXPECT_EQ(reader_->RightPlaces(*lease, tokens), kPlaces);
    EXPECT_TRUE(lease->StillValid());
  }
  ASSERT_OK(lease->ReleaseAfter(reader_->stream().get()));
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == leases; }));
  EXPECT_TRUE(DeviceIsEmptied());
}

TEST_F(HotReadTest, AClientThatIsKilledAmidAReadLeavesNothingBehind) {
  Begin();
  const auto tokens = HotPrompt();
  const uint64_t leases = client_->Stats()->leases;
  int said[2];
  ASSERT_EQ(::pipe2(said, O_CLOEXEC), 0);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const pid_t probe = Spawn(
      {ProgramFor("device_probe", "device_probe_gpu"), daemon_->socket(),
       std::to_string(tokens[0] / 100'003), std::to_string(kPlaces), std::to_string(kBlockBytes)},
      null, said[1], null);
  ::close(null);
  ::close(said[1]);
  char byte = 0;
  EXPECT_EQ(::read(said[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'r');
  FlushHot();
  EXPECT_GT(Use(BlockTier::kHot).blocks, 0u) << "it reads there";
  ::kill(probe, SIGKILL);
  ::waitpid(probe, nullptr, 0);
  ::close(said[0]);
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == leases; }));
  EXPECT_TRUE(DeviceIsEmptied());
}

TEST_F(HotReadTest, AReadOutlivesTheDaemonAndIsAMissOnlyOnceAnotherMayUseItsSlots) {
  Begin();
  const auto tokens = HotPrompt();
  auto lease = reader_->Match(tokens);
  ASSERT_TRUE(lease.ok()) << lease.status();
  const size_t in_place = DeviceReader::InPlace(*lease).size();
  EXPECT_GT(in_place, 0u);
  daemon_->Stop(SIGKILL);
  EXPECT_EQ(reader_->RightPlaces(*lease, tokens), kPlaces);
  RestartDaemon();
  const bool valid_before = lease->StillValid();
  const uint32_t right = reader_->RightPlaces(*lease, tokens);
  if (lease->StillValid()) {
    EXPECT_TRUE(valid_before);
    EXPECT_EQ(right, kPlaces);
  }
  ASSERT_OK(reader_->client().Reconnect());
  EXPECT_FALSE(lease->StillValid());
  auto again = reader_->Match(tokens);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(reader_->RightPlaces(*again, tokens), kPlaces);
  EXPECT_GT(DeviceReader::InPlace(*again).size(), 0u) << "the next daemon finds them there";
}

TEST_F(HotReadTest, AReadOutlivesTheCustodian) {
  Begin();
  const auto tokens = HotPrompt();
  auto lease = reader_->Match(tokens);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_GT(DeviceReader::InPlace(*lease).size(), 0u);
  StopCustodian(SIGKILL);
  ::kill(Mover(), SIGKILL);
  EXPECT_EQ(reader_->RightPlaces(*lease, tokens), kPlaces);
  EXPECT_TRUE(lease->StillValid());
  lease->Release();
  ConnectReader();  // which has nothing mapped
  auto later = reader_->Match(tokens);
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_TRUE(DeviceReader::InPlace(*later).empty());
  EXPECT_EQ(reader_->RightPlaces(*later, tokens), kPlaces) << "from disk";
}

}  // namespace
}  // namespace thermocline
