// What a daemon may answer to Hello: a frame header and a payload, both hostile.
#include <algorithm>
#include <cstdint>

#include "client/session.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  std::array<std::byte, kFrameHeaderBytes> header_bytes{};
  if (size < header_bytes.size()) return 0;
  std::copy_n(reinterpret_cast<const std::byte*>(data), header_bytes.size(), header_bytes.begin());
  const std::optional<FrameHeader> header = DecodeFrameHeader(header_bytes);
  if (!header.has_value()) return 0;
  const size_t payload = std::min<size_t>(header->payload_bytes, size - header_bytes.size());
  const auto* bytes = reinterpret_cast<const std::byte*>(data) + header_bytes.size();
  for (const bool admin : {false, true}) {
    const auto welcome = ParseAnswer(*header, {bytes, payload}, admin);
    // What is let through can be used without a further look.
    if (welcome.ok() && (welcome->session_token().size() != 32 || welcome->arena_bytes() == 0 ||
                         welcome->grpc_socket().front() != '/')) {
      __builtin_trap();
    }
  }
  return 0;
}
