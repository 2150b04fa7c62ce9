// What becomes of the hot tier when who answers, or is to answer, is none of its own processes.
#include "tiers/device_wire.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/units.h"
#include "tests/tiers/scratch_directory.h"
#include "tiers/device_moved_memory.h"

namespace thermocline {
namespace {

TEST(DeviceWireTest, APacketWithSeveralDescriptorsIsRefusedAndLeaksNone) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const int lowest = UniqueFd(::dup(ours.get())).get();
  char byte = 1;
  for (const size_t count : {2, 3, 200}) {
    std::vector<char> room(CMSG_SPACE(count * sizeof(int)));
    iovec part{&byte, 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = room.data();
    message.msg_controllen = room.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    const std::vector<int> descriptors(count, ours.get());
    std::memcpy(CMSG_DATA(header), descriptors.data(), count * sizeof(int));
    ASSERT_EQ(::sendmsg(theirs.get(), &message, 0), 1);
    UniqueFd fd;
    const auto got = ReceivePacket(ours.get(), std::as_writable_bytes(std::span(&byte, 1)), fd);
    EXPECT_TRUE(absl::IsDataLoss(got.status())) << got.status();
    EXPECT_FALSE(fd);
    EXPECT_EQ(UniqueFd(::dup(ours.get())).get(), lowest) << "descriptors are left";
  }
}

TEST(MoverProcessTest, AProgramThatIsNoneIsSaidAndNotTriedAllTheTime) {
  const ScratchDirectory directory;
  const auto opened = MoverProcess::Open({.command = {"/nonexistent/mover"},
                                          .chunk_bytes = 2 * MiB,
                                          .lock_path = directory.path() + "/mover",
                                          .least_pause = std::chrono::milliseconds(60000)});
  ASSERT_TRUE(opened.ok()) << opened.status();
  MoverProcess& mover = **opened;
  uint64_t generation = 0;
  const auto tell = [](const auto&) { return absl::OkStatus(); };
  const absl::Status first = mover.Call(generation, tell, {.verb = MoverVerb::kUnmapHost});
  EXPECT_TRUE(absl::IsNotFound(first)) << first;
  const absl::Status second = mover.Call(generation, tell, {.verb = MoverVerb::kUnmapHost});
  EXPECT_TRUE(absl::IsUnavailable(second)) << second;
  EXPECT_EQ(mover.starts(), 0u);
}

}  // namespace
}  // namespace thermocline
