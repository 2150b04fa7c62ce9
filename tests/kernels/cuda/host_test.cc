// The host side of CUDA, in one process and between two: a slab and an event of this process's,
// used by another program that it starts (this one, told to be the other). Without a device all but
// what says so is skipped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/units.h"
#include "kernels/cuda/copies.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"

namespace thermocline::cuda {
namespace {

constexpr uint64_t kSlabBytes = 4 * MiB;
constexpr int kSocketOfChild = 3;

#define TC_ASSERT_OK(expression)                            \
  do {                                                      \
    const absl::Status tc_assert_status = (expression);     \
    ASSERT_TRUE(tc_assert_status.ok()) << tc_assert_status; \
  } while (false)

/// The value of what must succeed, or the end of the program.
template <class T>
T Get(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
    std::abort();
  }
  return *std::move(value);
}

std::vector<std::byte> Pattern(uint64_t bytes, uint32_t seed) {
  std::vector<std::byte> pattern(bytes);
  for (uint64_t i = 0; i < bytes; ++i) {
    seed = seed * 1664525u + 1013904223u;
    pattern[i] = static_cast<std::byte>(seed >> 24);
  }
  return pattern;
}

// ---- two ends of a socket

void Send(int socket, std::span<const std::byte> bytes, int fd = -1) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  ASSERT_EQ(::sendmsg(socket, &message, 0), static_cast<ssize_t>(bytes.size()));
}

/// Fills `bytes`; false at the end of the stream. The descriptor that came along, if any.
bool Receive(int socket, std::span<std::byte> bytes, UniqueFd* fd = nullptr) {
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  const ssize_t got = ::recvmsg(socket, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC);
  if (cmsghdr* const header = CMSG_FIRSTHDR(&message); header != nullptr && fd != nullptr) {
    int raw = -1;
    std::memcpy(&raw, CMSG_DATA(header), sizeof raw);
    fd->Reset(raw);
  }
  return got == static_cast<ssize_t>(bytes.size());
}

/// This program as another process, with one end of a socket.
class Other {
 public:
  explicit Other(const std::string& test) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    socket_.Reset(ends[0]);
    const UniqueFd theirs(ends[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), kSocketOfChild);
    std::string filter = "--gtest_filter=OtherProcess.DISABLED_" + test;
    std::string program = "/proc/self/exe";
    std::string also = "--gtest_also_run_disabled_tests";
    char* arguments[] = {program.data(), filter.data(), also.data(), nullptr};
    EXPECT_EQ(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
  }
  ~Other() {
    if (pid_ != 0) Wait();
  }
  /// Its exit code.
  int Wait() {
    socket_.Reset();
    int status = -1;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  int socket() const { return socket_.get(); }

 private:
  UniqueFd socket_;
  pid_t pid_ = 0;
};

class CudaHostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto count = DeviceCount(); !count.ok()) {
      GTEST_SKIP() << "no CUDA device: " << count.status();
    }
    TC_ASSERT_OK(UseDevice(0));
  }
};

TEST(CudaTest, WithoutADeviceThatIsSaidAndNothingElseIsTried) {
  const auto count = DeviceCount();
  if (count.ok()) GTEST_SKIP() << *count << " devices are here";
  EXPECT_TRUE(absl::IsUnavailable(count.status()) || absl::IsUnimplemented(count.status()))
      << count.status();
  EXPECT_EQ(Slab::Create(0, kSlabBytes).status().code(), count.status().code());
  EXPECT_FALSE(Stream::Create().ok());
  EXPECT_FALSE(DeviceBuffer::Allocate(16).ok());
  EXPECT_FALSE(IsSticky(count.status()));
}

TEST_F(CudaHostTest, ADeviceIsDescribed) {
  const DeviceInfo info = Get(Describe(0));
  EXPECT_FALSE(info.name.empty());
  EXPECT_GT(info.total_bytes, 0u);
  EXPECT_GT(info.multiprocessors, 0);
  EXPECT_GE(info.compute_major, 7);
  EXPECT_GE(info.driver_version, 12000);
  EXPECT_LE(Get(FreeBytes()), info.total_bytes);
  std::printf("%s, sm_%d%d, %s, driver %d, runtime %d\n", info.name.c_str(), info.compute_major,
              info.compute_minor, FormatBytes(info.total_bytes).c_str(), info.driver_version,
              info.runtime_version);
}

TEST_F(CudaHostTest, AnErrorNamesTheCallAndCudasWord) {
  const absl::Status status = Describe(4711).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("cudaErrorInvalidDevice (101)"));
  EXPECT_FALSE(IsSticky(status));
  const absl::Status large = DeviceBuffer::Allocate(uint64_t{1} << 50).status();
  EXPECT_TRUE(absl::IsResourceExhausted(large)) << large;
  EXPECT_THAT(std::string(large.message()), ::testing::HasSubstr("cudaMalloc of 1 PiB"));
  TC_ASSERT_OK(SynchronizeDevice());  // neither is remembered
}

TEST_F(CudaHostTest, AStreamWaitsForWhatAnotherRecorded) {
  const auto pattern = Pattern(1 * MiB, 1);
  PinnedBuffer from = Get(PinnedBuffer::Allocate(pattern.size()));
  PinnedBuffer to = Get(PinnedBuffer::Allocate(pattern.size()));
  std::memcpy(from.data(), pattern.data(), pattern.size());
  std::memset(to.data(), 0, pattern.size());
  const DeviceBuffer device = Get(DeviceBuffer::Allocate(pattern.size()));
  Stream first = Get(Stream::Create());
  Stream second = Get(Stream::Create(true));
  Event there = Get(Event::Create());
  EXPECT_TRUE(Get(there.HasPassed())) << "never recorded";
  TC_ASSERT_OK(FillAsync(device.data(), 0xee, device.bytes(), first.get()));
  TC_ASSERT_OK(CopyAsync({device.data(), from.data(), device.bytes()}, first.get()));
  TC_ASSERT_OK(there.Record(first.get()));
  TC_ASSERT_OK(second.Wait(there));
  TC_ASSERT_OK(CopyAsync({to.data(), device.data(), device.bytes()}, second.get()));
  TC_ASSERT_OK(second.Synchronize());
  EXPECT_TRUE(Get(there.HasPassed()));
  EXPECT_EQ(std::memcmp(to.data(), pattern.data(), pattern.size()), 0);
}

TEST_F(CudaHostTest, ASlabIsMappedAndOutlivesItsHandle) {
  const auto pattern = Pattern(kSlabBytes, 2);
  PinnedBuffer host = Get(PinnedBuffer::Allocate(kSlabBytes));
  std::memcpy(host.data(), pattern.data(), kSlabBytes);
  SlabMapping write;
  SlabMapping read;
  {
    const Slab slab = Get(Slab::Create(0, kSlabBytes - 5));
    EXPECT_EQ(slab.bytes(), kSlabBytes);
    write = Get(SlabMapping::Map(slab, Access::kReadWrite));
    const UniqueFd fd = Get(slab.Export());
    const Slab same = Get(Slab::Import(0, fd.get(), slab.bytes()));
    read = Get(SlabMapping::Map(same, Access::kRead));
  }
  EXPECT_NE(write.data(), read.data());
  const Stream stream = Get(Stream::Create());
  TC_ASSERT_OK(CopyAsync({write.data(), host.data(), kSlabBytes}, stream.get()));
  TC_ASSERT_OK(FillAsync(write.data() + 64, 0xab, 32, stream.get()));
  TC_ASSERT_OK(stream.Synchronize());
  std::memset(host.data(), 0, kSlabBytes);
  TC_ASSERT_OK(CopyAsync({host.data(), read.data(), kSlabBytes}, stream.get()));
  TC_ASSERT_OK(stream.Synchronize());
  EXPECT_EQ(std::memcmp(host.data(), pattern.data(), 64), 0);
  EXPECT_EQ(host.data()[64], std::byte{0xab});
  EXPECT_EQ(std::memcmp(host.data() + 96, pattern.data() + 96, kSlabBytes - 96), 0);
}

TEST_F(CudaHostTest, PiecesOfAnySizeAreCopiedByBatches) {
  constexpr uint64_t kBytes = 16 * MiB;
  PinnedBuffer host = Get(PinnedBuffer::Allocate(kBytes));
  const DeviceBuffer device = Get(DeviceBuffer::Allocate(kBytes));
  const Stream stream = Get(Stream::Create());
  struct Case {
    uint64_t bytes;
    size_t count;
  };
  for (const auto& [bytes, count] :
       {Case{16, 15}, Case{16, 300}, Case{4096, 128}, Case{128 * 1024 - 16, 100},
        Case{128 * 1024, 40}, Case{100, 20}, Case{1 * MiB, 8}, Case{2 * MiB, 1}}) {
    SCOPED_TRACE(std::to_string(count) + " pieces of " + std::to_string(bytes));
    const uint64_t step = RoundUp(bytes + 1, 16);
    const auto pattern = Pattern(count * step, static_cast<uint32_t>(bytes + count));
    std::memcpy(host.data(), pattern.data(), pattern.size());
    TC_ASSERT_OK(FillAsync(device.data(), 0, pattern.size(), stream.get()));
    std::vector<Copy> in;
    std::vector<Copy> out;
    for (size_t i = 0; i < count; ++i) {
      in.push_back({device.data() + i * step, host.data() + i * step, bytes});
      out.push_back({host.data() + i * step, device.data() + (count - 1 - i) * step, bytes});
    }
    TC_ASSERT_OK(CopyBatchAsync(in, stream.get(), {.device_reaches_all = true}));
    TC_ASSERT_OK(stream.Synchronize());
    TC_ASSERT_OK(CopyBatchAsync(out, stream.get(), {.device_reaches_all = true}));
    TC_ASSERT_OK(stream.Synchronize());
    for (size_t i = 0; i < count; ++i) {
      ASSERT_EQ(std::memcmp(host.data() + i * step, pattern.data() + (count - 1 - i) * step, bytes),
                0)
          << "piece " << i;
      ASSERT_EQ(host.data()[i * step + bytes], pattern[i * step + bytes]) << "behind piece " << i;
    }
  }
}

// ---- two processes

/// A slab with a pattern that is being written while the other one learns of it.
struct Shared {
  EventHandle written;
  uint64_t bytes;
  uint32_t seed;
};

TEST_F(CudaHostTest, AnotherProcessReadsASlabOnceItsEventHasPassed) {
  const Slab slab = Get(Slab::Create(0, kSlabBytes));
  const SlabMapping mapping = Get(SlabMapping::Map(slab, Access::kReadWrite));
  Stream stream = Get(Stream::Create());
  Event written = Get(Event::Create(true));
  const auto pattern = Pattern(kSlabBytes, 7);
  PinnedBuffer host = Get(PinnedBuffer::Allocate(kSlabBytes));
  std::memcpy(host.data(), pattern.data(), kSlabBytes);
  TC_ASSERT_OK(CopyAsync({mapping.data(), host.data(), kSlabBytes}, stream.get()));
  TC_ASSERT_OK(written.Record(stream.get()));
  const Shared shared{Get(written.Export()), kSlabBytes, 7};
  Other other("Reads");
  const UniqueFd fd = Get(slab.Export());
  Send(other.socket(), std::as_bytes(std::span(&shared, 1)), fd.get());
  std::byte done{};
  EXPECT_TRUE(Receive(other.socket(), {&done, 1}));
  EXPECT_EQ(other.Wait(), 0);
}

TEST_F(CudaHostTest, ASlabOutlivesTheProcessThatMadeIt) {
  Other other("MakesASlabAndEnds");
  uint32_t seed = 0;
  UniqueFd fd;
  ASSERT_TRUE(Receive(other.socket(), std::as_writable_bytes(std::span(&seed, 1)), &fd));
  ASSERT_EQ(other.Wait(), 0);
  const Slab slab = Get(Slab::Import(0, fd.get(), kSlabBytes));
  const SlabMapping mapping = Get(SlabMapping::Map(slab, Access::kRead));
  PinnedBuffer host = Get(PinnedBuffer::Allocate(kSlabBytes));
  const Stream stream = Get(Stream::Create());
  TC_ASSERT_OK(CopyAsync({host.data(), mapping.data(), kSlabBytes}, stream.get()));
  TC_ASSERT_OK(stream.Synchronize());
  EXPECT_EQ(std::memcmp(host.data(), Pattern(kSlabBytes, seed).data(), kSlabBytes), 0);
}

TEST(OtherProcess, DISABLED_Reads) {
  TC_ASSERT_OK(UseDevice(0));
  Shared shared;
  UniqueFd fd;
  ASSERT_TRUE(Receive(kSocketOfChild, std::as_writable_bytes(std::span(&shared, 1)), &fd));
  const Slab slab = Get(Slab::Import(0, fd.get(), shared.bytes));
  fd.Reset();
  const SlabMapping mapping = Get(SlabMapping::Map(slab, Access::kRead));
  const Event written = Get(Event::Open(shared.written));
  Stream stream = Get(Stream::Create());
  TC_ASSERT_OK(stream.Wait(written));
  PinnedBuffer host = Get(PinnedBuffer::Allocate(shared.bytes));
  TC_ASSERT_OK(CopyAsync({host.data(), mapping.data(), shared.bytes}, stream.get()));
  TC_ASSERT_OK(stream.Synchronize());
  EXPECT_EQ(std::memcmp(host.data(), Pattern(shared.bytes, shared.seed).data(), shared.bytes), 0);
  const std::byte done{1};
  Send(kSocketOfChild, {&done, 1});
}

TEST(OtherProcess, DISABLED_MakesASlabAndEnds) {
  TC_ASSERT_OK(UseDevice(0));
  const Slab slab = Get(Slab::Create(0, kSlabBytes));
  const UniqueFd fd = Get(slab.Export());
  constexpr uint32_t kSeed = 99;
  const auto pattern = Pattern(kSlabBytes, kSeed);
  {
    const SlabMapping mapping = Get(SlabMapping::Map(slab, Access::kReadWrite));
    const Stream stream = Get(Stream::Create());
    TC_ASSERT_OK(CopyAsync({mapping.data(), pattern.data(), kSlabBytes}, stream.get()));
    TC_ASSERT_OK(stream.Synchronize());
  }
  Send(kSocketOfChild, std::as_bytes(std::span(&kSeed, 1)), fd.get());
}

}  // namespace
}  // namespace thermocline::cuda
