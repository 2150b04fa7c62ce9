// A client of the session socket by hand: says what a test wants, right or wrong, and takes what
// comes, descriptors included. Blocking, with a deadline on every read.
#pragma once
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/unique_fd.h"
#include "proto/session_frame.h"
#include "proto/shm_layout.h"
#include "thermocline/v1/session.pb.h"

namespace thermocline::testing {

inline UniqueFd ConnectUnix(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  TC_CHECK(path.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return {};
  }
  return socket;
}

inline bool SendBytes(int socket, std::string_view bytes) {
  return ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

inline std::string Frame(uint32_t kind, const std::string& payload) {
  const auto bytes = static_cast<uint32_t>(payload.size());
  std::string frame(8, '\0');
  std::memcpy(frame.data(), &bytes, 4);
  std::memcpy(frame.data() + 4, &kind, 4);
  return frame + payload;
}

struct ReceivedFrame {
  FrameKind kind{};
  std::string payload;
  std::vector<UniqueFd> fds;
};

/// Nothing at the end of the stream or after `patience`.
inline std::optional<ReceivedFrame> ReceiveFrame(
    int socket, std::chrono::milliseconds patience = std::chrono::milliseconds(60'000)) {
  pollfd readable{.fd = socket, .events = POLLIN, .revents = 0};
  if (::poll(&readable, 1, static_cast<int>(patience.count())) != 1) return std::nullopt;
  char bytes[4096];
  alignas(cmsghdr) char control[256];
  iovec piece{.iov_base = bytes, .iov_len = sizeof bytes};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t length = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (length < static_cast<ssize_t>(kFrameHeaderBytes)) return std::nullopt;
  ReceivedFrame frame;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      frame.fds.emplace_back(fd);
    }
  }
  std::array<std::byte, kFrameHeaderBytes> header_bytes;
  std::memcpy(header_bytes.data(), bytes, header_bytes.size());
  const auto header = DecodeFrameHeader(header_bytes);
  if (!header || kFrameHeaderBytes + header->payload_bytes > static_cast<size_t>(length)) {
    return std::nullopt;
  }
  frame.kind = header->kind;
  frame.payload.assign(bytes + kFrameHeaderBytes, header->payload_bytes);
  return frame;
}

struct HelloWords {
  uint32_t protocol_version = kProtocolVersion;
  uint32_t layout_version = kLayoutVersion;
  std::string name = "test";
  bool admin = false;
};

inline std::string HelloFrame(const HelloWords& words = {}) {
  v1::Hello hello;
  hello.set_protocol_version(words.protocol_version);
  hello.set_layout_version(words.layout_version);
  hello.set_client_name(words.name);
  hello.set_admin(words.admin);
  return Frame(1, hello.SerializeAsString());
}

inline std::string Hex(const std::string& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex += kDigits[static_cast<uint8_t>(c) >> 4];
    hex += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return hex;
}

/// A welcomed session, or why there is none.
struct RawSession {
  UniqueFd socket;
  v1::Welcome welcome;
  v1::Refused refused;  // when it was
  UniqueFd arena, catalog, staging;
  UniqueFd control_fd;
  ControlArea* control = nullptr;

  RawSession() = default;
  RawSession(RawSession&& other) noexcept
      : socket(std::move(other.socket)),
        welcome(std::move(other.welcome)),
        refused(std::move(other.refused)),
        arena(std::move(other.arena)),
        catalog(std::move(other.catalog)),
        staging(std::move(other.staging)),
        control_fd(std::move(other.control_fd)),
        control(std::exchange(other.control, nullptr)) {}
  ~RawSession() {
    if (control != nullptr) ::munmap(control, kControlAreaBytes);
  }
  bool welcomed() const { return control != nullptr; }
  std::string token() const { return Hex(welcome.session_token()); }
  void Beat() { control->heartbeat.fetch_add(1); }
};

inline RawSession SayHello(const std::string& path, const HelloWords& words = {}) {
  RawSession session;
  session.socket = ConnectUnix(path);
  if (!session.socket || !SendBytes(session.socket.get(), HelloFrame(words))) return session;
  auto frame = ReceiveFrame(session.socket.get());
  if (!frame) return session;
  if (frame->kind == FrameKind::kRefused) session.refused.ParseFromString(frame->payload);
  if (frame->kind != FrameKind::kWelcome || frame->fds.size() < 3) return session;
  session.welcome.ParseFromString(frame->payload);
  session.arena = std::move(frame->fds[0]);
  session.control_fd = std::move(frame->fds[1]);
  session.catalog = std::move(frame->fds[2]);
  if (frame->fds.size() > 3) session.staging = std::move(frame->fds[3]);
  void* area = ::mmap(nullptr, kControlAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                      session.control_fd.get(), 0);
  TC_CHECK(area != MAP_FAILED);
  session.control = static_cast<ControlArea*>(area);
  return session;
}

}  // namespace thermocline::testing
