// What processes_test and the peer that it spawns say to each other.
#pragma once
#include <cuda_runtime_api.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/unique_fd.h"

namespace thermocline::fakecuda {

inline constexpr int kPeerSocket = 3;
inline constexpr char kPeerByte = 7;

struct Message {
  int value = -1;
  int error = 0;
  size_t total_bytes = 0;
  cudaIpcEventHandle_t event{};
  cudaIpcMemHandle_t memory{};
};

/// `fd` goes along unless it is negative.
inline void Send(int socket, const Message& message, int fd = -1) {
  iovec bytes = {const_cast<Message*>(&message), sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr header = {};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  sendmsg(socket, &header, MSG_NOSIGNAL);
}

/// As sent by nobody, if the other side has gone.
inline Message Receive(int socket, UniqueFd* fd) {
  Message message;
  iovec bytes = {&message, sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  if (recvmsg(socket, &header, MSG_CMSG_CLOEXEC) != sizeof message) return {};
  const cmsghdr* const rights = CMSG_FIRSTHDR(&header);
  if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(rights), sizeof received);
    UniqueFd owned(received);
    if (fd != nullptr) *fd = std::move(owned);
  }
  return message;
}

}  // namespace thermocline::fakecuda
