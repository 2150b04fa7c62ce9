// Slots of the hot tier that a client fills by its own streams, over real processes and the fake
// CUDA runtime: nobody finds a block before the stream that writes it has come by, and a slot is
// nobody else's while its client may write there. Clients, mover and daemon are killed meanwhile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/device_reader.h"
#include "tests/client/hot_fixture.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kShare = 64;  // blocks of the tier that clients may fill

/// One that does not wait for streams.
class HastyAccess final : public DeviceAccess {
 public:
  absl::StatusOr<std::shared_ptr<std::byte>> Map(int fd, uint64_t bytes, bool to_write) override {
    return cuda_->Map(fd, bytes, to_write);
  }
  absl::Status After(DeviceStream, std::function<void()> then) override {
    then();
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<DeviceAccess> cuda_ = *OpenCudaAccess(0);
};

class HotFillTest : public HotTest {
 protected:
  void Begin(Faults faults = {}) {
    HotTest::Begin(faults);
    ConnectWriter();
  }
  void TearDown() override {
    writer_.reset();
    HotTest::TearDown();
  }
  void ConnectWriter() {
    writer_ = std::make_unique<DeviceReader>(daemon_->socket(), TestSpace(kBlockBytes));
  }
  BlockLayout Layout() const { return LayoutOf(TestSpace(kBlockBytes)); }
  Lease MatchToWrite(const std::vector<int32_t>& tokens) {
    auto lease = writer_->space().MatchOnDevice(tokens, Layout());
    TC_CHECK(lease.ok());
    return *std::move(lease);
  }
  uint32_t Found(const std::vector<int32_t>& tokens) {
    const auto lease = space_->Match(tokens);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? lease->depth() : 0;
  }
  /// A path that was written on the device and is there.
  void WriteOnDevice(int32_t seed) {
    const auto tokens = Prompt(seed, kPlaces);
    Lease lease = MatchToWrite(tokens);
    ASSERT_EQ(lease.depth(), 0u);
    ASSERT_OK(writer_->ExtendAfter(lease, tokens, kPlaces));
    ASSERT_OK(lease.Settle(kPatience));
    ASSERT_EQ(lease.depth(), kPlaces);
  }
  /// No slot is reserved, in quarantine or without an owner.
  bool SlotsAreFree() {
    return Eventually([&] {
      const auto stats = client_->Stats();
      const TierUse hot = Use(BlockTier::kHot);
      return stats.ok() && stats->reservations == 0 && hot.used_bytes == hot.blocks * kBlockBytes;
    });
  }
  void ExpectBooksAgree() {
    auto admin = AdminClient::Connect({.socket_path = daemon_->socket()});
    ASSERT_TRUE(admin.ok()) << admin.status();
    const auto checked = (*admin)->Fsck(kPatience);
    EXPECT_TRUE(checked.ok()) << checked.status();
  }
  /// A client that has begun to fill a path, by a stream that does not end.
  pid_t StartProbe(int32_t seed, const char* what) {
    int said[2];
    TC_CHECK(::pipe2(said, O_CLOEXEC) == 0);
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    const pid_t probe =
        Spawn({ProgramFor("device_probe", "device_probe_gpu"), daemon_->socket(),
               std::to_string(seed), std::to_string(kPlaces), std::to_string(kBlockBytes), what},
              null, said[1], null);
    ::close(null);
    ::close(said[1]);
    char byte = 0;
    EXPECT_EQ(::read(said[0], &byte, 1), 1);
    ::close(said[0]);
    return probe;
  }
  static void Kill(pid_t probe) {
    ::kill(probe, SIGKILL);
    ::waitpid(probe, nullptr, 0);
  }

  std::unique_ptr<DeviceReader> writer_;
};

using SufferingHotFillTest = Suffering<HotFillTest>;

TEST_F(HotFillTest, WhatAStreamWritesIsFoundOnceItHasComeByAndNotBefore) {
  Begin();
  const auto tokens = Prompt(1, kPlaces);
  Lease lease = MatchToWrite(tokens);
  std::optional<Gate> gate;
  ASSERT_OK(writer_->ExtendAfter(lease, tokens, kPlaces, &gate));
  EXPECT_EQ(lease.depth(), 0u);
  EXPECT_FALSE(lease.Settled());
  EXPECT_TRUE(absl::IsDeadlineExceeded(lease.Settle(std::chrono::milliseconds(1))));
  EXPECT_EQ(Found(tokens), 0u);
  EXPECT_EQ(Use(BlockTier::kHot).blocks, 0u);
  gate->Open();
  ASSERT_OK(lease.Settle(kPatience));
  EXPECT_EQ(lease.depth(), kPlaces);
  EXPECT_EQ(DeviceReader::InPlace(lease).size(), kPlaces);
  EXPECT_EQ(writer_->RightPlaces(lease, tokens), kPlaces);
  EXPECT_TRUE(lease.StillValid());
  EXPECT_EQ(Use(BlockTier::kWarm).blocks, 0u) << "nothing of it is in memory";

  DeviceReader other(daemon_->socket(), TestSpace(kBlockBytes));
  auto in_place = other.Match(tokens);
  ASSERT_TRUE(in_place.ok()) << in_place.status();
  EXPECT_EQ(DeviceReader::InPlace(*in_place).size(), kPlaces);
  EXPECT_EQ(other.RightPlaces(*in_place, tokens), kPlaces);
  EXPECT_EQ(Read(1), kPlaces) << "by a client without the device, which loads it";
  EXPECT_TRUE(SlotsAreFree());
  ExpectBooksAgree();
}

TEST_F(HotFillTest, WithoutTheWaitThatIsSeen) {
  Begin();
  DeviceReader hasty(daemon_->socket(), TestSpace(kBlockBytes), std::make_shared<HastyAccess>());
  const auto tokens = Prompt(1, kPlaces);
  auto lease = hasty.space().MatchOnDevice(tokens, Layout());
  ASSERT_TRUE(lease.ok()) << lease.status();
  std::optional<Gate> gate;
  ASSERT_OK(hasty.ExtendAfter(*lease, tokens, kPlaces, &gate));
  ASSERT_OK(lease->Settle(kPatience));
  auto other = space_->Match(tokens);
  ASSERT_TRUE(other.ok() && other->Load().ok());
  EXPECT_EQ(other->depth(), kPlaces);
  EXPECT_EQ(RightPlaces(*space_, *other, tokens), 0u);
}

TEST_F(SufferingHotFillTest, ASlowStreamOfManyPiecesIsWaitedForToItsEnd) {
  Begin();
  fakecuda::SetDelay(writer_->stream().get(), 20'000);
  for (int32_t seed = 1; seed <= 3; ++seed) WriteOnDevice(seed);
  for (int32_t seed = 1; seed <= 3; ++seed) Read(seed);
}

TEST_F(HotFillTest, ALeaseIsExtendedPieceByPieceOnTheDeviceAndInMemory) {
  Begin();
  const auto tokens = Prompt(1, kPlaces);
  Lease lease = MatchToWrite(tokens);
  ASSERT_OK(writer_->ExtendAfter(lease, tokens, 2));
  ASSERT_OK(lease.Settle(kPatience));
  auto slots = writer_->StartFilling(tokens, 2, 4);
  ASSERT_TRUE(slots.ok()) << slots.status();
  ASSERT_OK(lease.CommitAfter(DeviceReader::NamesOf(tokens, 2, 4), *std::move(slots),
                              writer_->stream().get()));
  EXPECT_EQ(writer_->RightPlaces(lease, tokens), 2u) << "it is read as before";
  auto behind = writer_->StartFilling(tokens, 4, 6);
  ASSERT_TRUE(behind.ok()) << behind.status();
  ASSERT_OK(lease.CommitAfter(DeviceReader::NamesOf(tokens, 4, 6), *std::move(behind),
                              writer_->stream().get(), kPatience));
  ASSERT_OK(lease.Settle(kPatience));
  EXPECT_EQ(lease.depth(), 6u);
  ASSERT_OK(Extend(writer_->space(), lease, tokens, kPlaces));
  EXPECT_EQ(lease.depth(), kPlaces);
  EXPECT_EQ(DeviceReader::InPlace(lease).size(), 6u);
  EXPECT_EQ(writer_->RightPlaces(lease, tokens), kPlaces);
  lease.Release();
  EXPECT_EQ(Read(1), 6u);
  EXPECT_TRUE(SlotsAreFree());
}

TEST_F(HotFillTest, WhoIsLaterFindsTheBlocksOfWhoWasFirst) {
  Begin();
  const auto tokens = Prompt(1, kPlaces);
  Lease late = MatchToWrite(tokens);
  WriteOnDevice(1);
  ASSERT_OK(writer_->ExtendAfter(late, tokens, kPlaces));
  ASSERT_OK(late.Settle(kPatience));
  EXPECT_EQ(writer_->RightPlaces(late, tokens), kPlaces);
  EXPECT_EQ(Use(BlockTier::kHot).blocks, kPlaces);
  EXPECT_TRUE(SlotsAreFree());
}

TEST_F(HotFillTest, ALeaseThatEndsBeforeTheStreamPublishesAllTheSame) {
  Begin();
  const uint64_t leases = client_->Stats()->leases;
  const auto first = Prompt(1, kPlaces), second = Prompt(2, kPlaces);
  {
    std::optional<Gate> gate;
    Lease released = MatchToWrite(second);
    {
      Lease destroyed = MatchToWrite(first);
      ASSERT_OK(writer_->ExtendAfter(destroyed, first, kPlaces, &gate));
    }
    ASSERT_OK(writer_->ExtendAfter(released, second, kPlaces));
    ASSERT_OK(released.ReleaseAfter(writer_->stream().get()));
    EXPECT_EQ(Found(first) + Found(second), 0u);
  }
  EXPECT_TRUE(Eventually([&] { return Found(first) + Found(second) == 2 * kPlaces; }));
  Read(1);
  Read(2);
  EXPECT_TRUE(Eventually([&] { return client_->Stats()->leases == leases; }));
  EXPECT_TRUE(SlotsAreFree());
}

// ---- refusals

TEST_F(HotFillTest, WhatIsNotToBeSaysWhy) {
  Begin();
  const auto tokens = Prompt(1, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(space_->ReserveOnDevice(1, Layout()).status()))
      << "a client without a device";
  BlockLayout another = Layout();
  another.layout = "lkth.v1";
  EXPECT_TRUE(absl::IsInvalidArgument(writer_->space().ReserveOnDevice(1, another).status()));
  Lease lease = MatchToWrite(tokens);
  auto on_device = writer_->space().ReserveOnDevice(1, Layout());
  auto in_arena = writer_->space().Reserve(1);
  ASSERT_TRUE(on_device.ok() && in_arena.ok());
  EXPECT_TRUE((*on_device)[0].bytes().empty());
  EXPECT_TRUE((*in_arena)[0].device_bytes().empty());
  EXPECT_THAT(std::string(lease.Commit(tokens, *std::move(on_device)).message()),
              HasSubstr("CommitAfter"));
  EXPECT_THAT(
      std::string(
          lease.CommitAfter(tokens, *std::move(in_arena), writer_->stream().get()).message()),
      HasSubstr("Commit it"));
  EXPECT_TRUE(lease.Settled());
  EXPECT_TRUE(SlotsAreFree());
}

TEST_F(HotFillTest, AShareOfTheTierMayBeFilledAtOnceAndBlocksGiveWayToIt) {
  Begin();
  auto slots = writer_->space().ReserveOnDevice(kShare + 1, Layout());
  ASSERT_TRUE(slots.ok()) << slots.status();
  EXPECT_EQ(slots->size(), kShare);
  const absl::Status full = writer_->space().ReserveOnDevice(1, Layout()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_THAT(std::string(full.message()), HasSubstr("fill one of the arena instead"));
  slots->clear();
  for (int32_t seed = 1; seed <= 20; ++seed) WriteOnDevice(seed);  // more than there is room for
  for (int32_t seed = 1; seed <= 20; ++seed) Read(seed);
  EXPECT_TRUE(SlotsAreFree());
  ExpectBooksAgree();
}

TEST_F(SufferingHotFillTest, SlotsThatCannotBeMappedGoBack) {
  Begin();
  fakecuda::FailCall("cuMemMap", 1, 2, true);
  const absl::Status refused = writer_->space().ReserveOnDevice(2, Layout()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  fakecuda::Restart();
  EXPECT_TRUE(SlotsAreFree());
}

TEST_F(SufferingHotFillTest, AStreamThatCannotBeWaitedForPublishesNothing) {
  Begin();
  const auto tokens = Prompt(1, 1);
  Lease lease = MatchToWrite(tokens);
  auto slots = writer_->StartFilling(tokens, 0, 1);
  ASSERT_TRUE(slots.ok()) << slots.status();
  fakecuda::FailCall("cudaLaunchHostFunc", 1, 1);
  const absl::Status refused =
      lease.CommitAfter(tokens, *std::move(slots), writer_->stream().get());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("cudaLaunchHostFunc"));
  ASSERT_OK(writer_->stream().Synchronize());
  fakecuda::Restart();
  EXPECT_EQ(Found(tokens), 0u);
  EXPECT_EQ(client_->Stats()->reservations, 1u) << "it may still be written";
  ASSERT_OK(writer_->ExtendAfter(lease, tokens, 1));
  ASSERT_OK(lease.Settle(kPatience));
  EXPECT_EQ(writer_->RightPlaces(lease, tokens), 1u);
}

TEST_F(SufferingHotFillTest, AStreamThatFailsPublishesNothing) {
  Begin();
  const auto tokens = Prompt(1, kPlaces);
  std::optional<Lease> lease = MatchToWrite(tokens);
  {
    std::optional<Gate> gate;
    fakecuda::FailCall("cudaMemcpyAsync", 3, 700);
    ASSERT_OK(writer_->ExtendAfter(*lease, tokens, kPlaces, &gate));
  }
  EXPECT_FALSE(writer_->stream().Synchronize().ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(lease->Settle(std::chrono::milliseconds(100))));
  EXPECT_EQ(Found(tokens), 0u);
  EXPECT_EQ(Use(BlockTier::kHot).blocks, 0u);
  lease.reset();
  fakecuda::Restart();
}

// ---- what ends meanwhile

TEST_F(HotFillTest, AClientThatIsKilledAmidAFillLeavesNothingBehind) {
  Begin();
  for (const char* what : {"fill", "commit"}) {
    const pid_t probe = StartProbe(1, what);
    EXPECT_EQ(client_->Stats()->reservations, kPlaces);
    EXPECT_EQ(Use(BlockTier::kHot).used_bytes, kPlaces * kBlockBytes);
    Kill(probe);
    EXPECT_TRUE(SlotsAreFree());
    EXPECT_EQ(Found(Prompt(1, kPlaces)), 0u);
    EXPECT_EQ(Use(BlockTier::kHot).blocks, 0u);
    ExpectBooksAgree();
  }
  WriteOnDevice(1);
  EXPECT_EQ(Read(1), kPlaces);
}

TEST_F(HotFillTest, TheNextDaemonKeepsTheSlotsOfAClientThatLivesOn) {
  Begin();
  const pid_t probe = StartProbe(1, "commit");
  daemon_->Stop(SIGKILL);
  RestartDaemon();
  ConnectWriter();
  EXPECT_EQ(Use(BlockTier::kHot).used_bytes, kPlaces * kBlockBytes) << "it may write there";
  WriteOnDevice(2);
  EXPECT_EQ(Found(Prompt(1, kPlaces)), 0u);
  Kill(probe);
  EXPECT_TRUE(SlotsAreFree());
  EXPECT_EQ(Read(2), kPlaces);
  ExpectBooksAgree();
}

TEST_F(HotFillTest, AStreamThatComesByWhenTheDaemonHasEndedPublishesNothing) {
  Begin();
  const auto tokens = Prompt(1, kPlaces);
  std::optional<Lease> lease = MatchToWrite(tokens);
  std::optional<Gate> gate;
  ASSERT_OK(writer_->ExtendAfter(*lease, tokens, kPlaces, &gate));
  daemon_->Stop(SIGKILL);
  gate->Open();
  EXPECT_FALSE(lease->Settle(kPatience).ok());
  RestartDaemon();
  EXPECT_EQ(Found(tokens), 0u);
  lease.reset();
  ConnectWriter();
  WriteOnDevice(1);
  EXPECT_EQ(Read(1), kPlaces);
}

TEST_F(HotFillTest, BlocksThatWereCommittedOutliveTheDaemon) {
  Begin();
  WriteOnDevice(1);
  daemon_->Stop(SIGKILL);
  RestartDaemon();
  EXPECT_EQ(Read(1), kPlaces) << "from the device";
  ConnectWriter();
  WriteOnDevice(2);
}

TEST_F(HotFillTest, AMoverThatIsKilledCostsTheCommitAndNoWrongByte) {
  Begin();
  WriteOnDevice(1);
  const auto tokens = Prompt(2, kPlaces);
  Lease lease = MatchToWrite(tokens);
  {
    std::optional<Gate> gate;
    ASSERT_OK(writer_->ExtendAfter(lease, tokens, kPlaces, &gate));
    ASSERT_GT(Mover(), 0);
    ::kill(Mover(), SIGKILL);
  }
  const absl::Status settled = lease.Settle(kPatience);
  EXPECT_TRUE(settled.ok() || absl::IsResourceExhausted(settled)) << settled;
  EXPECT_EQ(Found(tokens), settled.ok() ? kPlaces : 0u);
  const auto is_written = [&] {
    Lease again = MatchToWrite(tokens);
    if (again.depth() == kPlaces) return true;
    return writer_->ExtendAfter(again, tokens, kPlaces).ok() && again.Settle(kPatience).ok();
  };
  EXPECT_TRUE(Eventually(is_written));
  EXPECT_EQ(Read(2), kPlaces);
  Read(1);
  EXPECT_TRUE(SlotsAreFree());
}

TEST_F(SufferingHotFillTest, AStickyErrorOfTheMoverCostsTheCommitAlone) {
  Begin({.calls = "cudaMemcpyAsync:2=700;cuMemcpyBatchAsync:2=700"});  // of each mover
  const auto tokens = Prompt(1, kPlaces);
  for (int i = 0; i < 3; ++i) {
    Lease lease = MatchToWrite(tokens);
    if (lease.depth() == kPlaces) break;
    const absl::Status begun = writer_->ExtendAfter(lease, tokens, kPlaces);
    EXPECT_TRUE(begun.ok() || absl::IsResourceExhausted(begun)) << begun;
    const absl::Status settled = lease.Settle(kPatience);
    EXPECT_TRUE(settled.ok() || absl::IsResourceExhausted(settled)) << settled;
  }
  auto lease = space_->Match(tokens);
  ASSERT_TRUE(lease.ok() && lease->Load().ok());
  EXPECT_EQ(RightPlaces(*space_, *lease, tokens), lease->depth());
  EXPECT_EQ(daemon_->Stop(), 0) << "the daemon lives";
  daemon_->Start();
}

}  // namespace
}  // namespace thermocline
