// What the hot tier's processes say to each other, when it is none of ours who says it.
#include "tiers/device_wire.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

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

}  // namespace
}  // namespace thermocline
