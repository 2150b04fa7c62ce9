// Frames of the session socket: an 8-byte header before each protobuf message of session.proto.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

namespace thermocline {

enum class FrameKind : uint32_t {
  kHello = 1,
  kWelcome = 2,
  kRefused = 3,
  kGoodbye = 4,
  kWake = 5,  // without payload, client to daemon: there are commits in the control area's ring
  kSlab = 6,
};

/// The longest payload either side accepts: a session frame carries no block and no prompt.
inline constexpr uint32_t kMaxFrameBytes = 64 * 1024;
inline constexpr size_t kFrameHeaderBytes = 8;

struct FrameHeader {
  uint32_t payload_bytes = 0;
  FrameKind kind{};
};

inline std::array<std::byte, kFrameHeaderBytes> EncodeFrameHeader(FrameHeader header) {
  std::array<std::byte, kFrameHeaderBytes> bytes;
  const auto kind = static_cast<uint32_t>(header.kind);
  std::memcpy(bytes.data(), &header.payload_bytes, 4);
  std::memcpy(bytes.data() + 4, &kind, 4);
  return bytes;
}

/// Nothing when the kind is unknown or the payload too long: the peer does not speak this protocol.
inline std::optional<FrameHeader> DecodeFrameHeader(
    const std::array<std::byte, kFrameHeaderBytes>& bytes) {
  FrameHeader header;
  uint32_t kind = 0;
  std::memcpy(&header.payload_bytes, bytes.data(), 4);
  std::memcpy(&kind, bytes.data() + 4, 4);
  if (header.payload_bytes > kMaxFrameBytes) return std::nullopt;
  if (kind < 1 || kind > 6) return std::nullopt;
  header.kind = static_cast<FrameKind>(kind);
  return header;
}

}  // namespace thermocline
