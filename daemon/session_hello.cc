#include "daemon/session_hello.h"

#include "base/check.h"
#include "proto/shm_layout.h"

namespace thermocline {
namespace {

constexpr size_t kMaxNameBytes = 64;

absl::Status CheckVersion(const char* what, uint32_t theirs, uint32_t ours) {
  if (theirs == ours) return absl::OkStatus();
  return absl::FailedPreconditionError(
      std::string("the client speaks ") + what + " version " + std::to_string(theirs) +
      ", this daemon version " + std::to_string(ours) + "; upgrade the " +
      (theirs < ours ? "client" : "daemon") + " so that both are of one release");
}

}  // namespace

absl::StatusOr<v1::Hello> ParseHello(FrameHeader header, std::span<const std::byte> payload) {
  if (header.kind != FrameKind::kHello) {
    return absl::InvalidArgumentError(
        "the first frame of a session must be Hello (kind 1), not kind " +
        std::to_string(static_cast<uint32_t>(header.kind)));
  }
  v1::Hello hello;
  if (!hello.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::InvalidArgumentError("Hello does not parse as thermocline.v1.Hello");
  }
  TC_RETURN_IF_ERROR(CheckVersion("protocol", hello.protocol_version(), kProtocolVersion));
  TC_RETURN_IF_ERROR(CheckVersion("layout", hello.layout_version(), kLayoutVersion));
  return hello;
}

absl::Status CheckRole(const v1::Hello& hello, uid_t peer_uid, uid_t daemon_uid) {
  if (hello.admin() && peer_uid != daemon_uid) {
    return absl::PermissionDeniedError("the admin role is for the daemon's own uid " +
                                       std::to_string(daemon_uid) + " alone, not for uid " +
                                       std::to_string(peer_uid));
  }
  return absl::OkStatus();
}

std::string CleanName(std::string_view name) {
  std::string clean(name.substr(0, kMaxNameBytes));
  for (char& c : clean) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return clean;
}

std::vector<std::byte> EncodeFrame(FrameKind kind, const google::protobuf::MessageLite& message) {
  const size_t payload_bytes = message.ByteSizeLong();
  TC_CHECK(payload_bytes <= kMaxFrameBytes);
  const auto header = EncodeFrameHeader({static_cast<uint32_t>(payload_bytes), kind});
  std::vector<std::byte> frame(header.begin(), header.end());
  frame.resize(kFrameHeaderBytes + payload_bytes);
  TC_CHECK(
      message.SerializeToArray(frame.data() + kFrameHeaderBytes, static_cast<int>(payload_bytes)));
  return frame;
}

}  // namespace thermocline
