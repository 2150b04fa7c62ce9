// What a client may send first: any bytes give a hello or an error, and a hello that is accepted
// has our versions.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "daemon/session_hello.h"
#include "daemon/session_processes.h"
#include "proto/shm_layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  ParseSessionsFile({reinterpret_cast<const char*>(data), size}).status().IgnoreError();
  if (size < kFrameHeaderBytes) return 0;
  std::array<std::byte, kFrameHeaderBytes> header_bytes;
  std::copy_n(bytes.begin(), kFrameHeaderBytes, header_bytes.begin());
  const auto header = DecodeFrameHeader(header_bytes);
  if (!header) return 0;
  TC_CHECK(header->payload_bytes <= kMaxFrameBytes);
  const auto rest = bytes.subspan(kFrameHeaderBytes);
  const auto hello =
      ParseHello(*header, rest.first(std::min<size_t>(rest.size(), header->payload_bytes)));
  if (!hello.ok()) return 0;
  TC_CHECK(hello->protocol_version() == kProtocolVersion);
  TC_CHECK(hello->layout_version() == kLayoutVersion);
  TC_CHECK(CleanName(hello->client_name()).size() <= 64);
  return 0;
}
