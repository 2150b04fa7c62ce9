// Block headers come from disks and from memory that a dead daemon left. The first byte says
// whether the rest is taken as it is or sealed first, so that the checks behind the checksum are
// reached too.
#include <cstdlib>
#include <cstring>

#include "hashing/block_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  if (size < 1) return 0;
  std::span<const std::byte> bytes = std::as_bytes(std::span(data + 1, size - 1));
  BlockHeader sealed;
  if (data[0] % 2 == 1 && bytes.size() == sizeof sealed) {
    std::memcpy(static_cast<void*>(&sealed), bytes.data(), sizeof sealed);
    sealed.magic = kBlockHeaderMagic;
    sealed.version = kBlockHeaderVersion;
    sealed.Seal();
    bytes = std::as_bytes(std::span(&sealed, 1));
  }
  const auto header = ReadHeader(bytes);
  if (!header.ok()) return 0;
  // What is accepted is within the limits that its users rely on.
  const bool sound =
      header->id != 0 && header->part < kMaxParts && header->payload_bytes >= kPayloadAlignment &&
      header->payload_bytes <= kMaxPartBytes && header->payload_bytes % kPayloadAlignment == 0;
  if (!sound) std::abort();
  return 0;
}
