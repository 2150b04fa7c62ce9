// A session server that says whatever a test scripts, to one client at a time.
#pragma once
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/unique_fd.h"
#include "catalog/catalog.h"
#include "client/session.h"
#include "proto/session_frame.h"
#include "proto/shm_layout.h"

namespace thermocline {

inline std::string Frame(FrameKind kind, const google::protobuf::MessageLite& message) {
  const std::string payload = message.SerializeAsString();
  const auto header = EncodeFrameHeader({static_cast<uint32_t>(payload.size()), kind});
  return std::string(reinterpret_cast<const char*>(header.data()), header.size()) + payload;
}

/// One accepted client, in a script.
class FakePeer {
 public:
  explicit FakePeer(int fd) : fd_(fd) {}
  v1::Hello ReadHello() {
    std::array<std::byte, kFrameHeaderBytes> bytes;
    TC_CHECK(::recv(fd_.get(), bytes.data(), bytes.size(), MSG_WAITALL) == ssize_t(bytes.size()));
    const auto header = DecodeFrameHeader(bytes);
    TC_CHECK(header.has_value() && header->kind == FrameKind::kHello);
    std::string payload(header->payload_bytes, '\0');
    TC_CHECK(::recv(fd_.get(), payload.data(), payload.size(), MSG_WAITALL) ==
             ssize_t(payload.size()));
    v1::Hello hello;
    TC_CHECK(hello.ParseFromString(payload));
    return hello;
  }
  void Send(const std::string& bytes, const std::vector<int>& descriptors = {}) {
    iovec part{.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> ancillary{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
      message.msg_control = ancillary.data();
      message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
      cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
      std::memcpy(CMSG_DATA(c), descriptors.data(), descriptors.size() * sizeof(int));
    }
    TC_CHECK(::sendmsg(fd_.get(), &message, MSG_NOSIGNAL) == ssize_t(bytes.size()));
  }
  /// Until the client closes its end.
  void WaitForEnd() {
    char byte;
    while (::recv(fd_.get(), &byte, 1, 0) > 0) continue;
  }

 private:
  UniqueFd fd_;
};

class FakeSessionServer {
 public:
  using Script = std::function<void(FakePeer&)>;
  explicit FakeSessionServer(Script script) : script_(std::move(script)) {
    char directory[] = "/tmp/tc-fake-XXXXXX";
    TC_CHECK(::mkdtemp(directory) != nullptr);
    directory_ = directory;
    path_ = directory_ + "/session.sock";
    listener_.Reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    TC_CHECK(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    TC_CHECK(::listen(listener_.get(), 8) == 0);
    thread_ = std::thread([this] {
      while (true) {
        const int fd = ::accept(listener_.get(), nullptr, nullptr);
        if (fd < 0) return;
        FakePeer peer(fd);
        script_(peer);
      }
    });
  }
  ~FakeSessionServer() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
    ::unlink(path_.c_str());
    ::rmdir(directory_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  Script script_;
  std::string directory_, path_;
  UniqueFd listener_;
  std::thread thread_;
};

/// An arena, a control area and an empty catalog as a daemon would hand them over, with what the
/// daemon says of them.
struct FakeGrant {
  explicit FakeGrant(uint64_t arena_bytes = 1 << 20) {
    arena.Reset(::memfd_create("arena", MFD_CLOEXEC));
    control.Reset(::memfd_create("control", MFD_CLOEXEC));
    TC_CHECK(::ftruncate(arena.get(), static_cast<off_t>(arena_bytes)) == 0);
    TC_CHECK(::ftruncate(control.get(), kControlAreaBytes) == 0);
    void* mapped =
        ::mmap(nullptr, kControlAreaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, control.get(), 0);
    TC_CHECK(mapped != MAP_FAILED);
    area = new (mapped) ControlArea{};
    area->magic = kControlAreaMagic;
    area->epoch = 7;
    welcome.set_session_token(std::string(32, 't'));
    welcome.set_epoch(7);
    welcome.set_session(1);
    welcome.set_grpc_socket("/tmp/tc-nobody-listens-here.grpc");
    welcome.set_arena_bytes(arena_bytes);
  }
  ~FakeGrant() { ::munmap(area, kControlAreaBytes); }
  FakeGrant(const FakeGrant&) = delete;

  std::vector<int> descriptors() const { return {arena.get(), control.get(), catalog.fd()}; }

  UniqueFd arena, control;
  CatalogMemory catalog = CatalogMemory::Create({.node_count = 100}, 7).value();
  ControlArea* area = nullptr;
  v1::Welcome welcome;
};

}  // namespace thermocline
