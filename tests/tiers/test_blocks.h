// Blocks for tests: payload and header follow from (id, part, bytes) alone, so that any byte that
// comes back can be judged.
#pragma once
#include <cstddef>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "hashing/block_header.h"
#include "hashing/checksum.h"

namespace thermocline {

inline std::vector<std::byte> TestPayload(uint64_t id, uint32_t part, uint64_t bytes) {
  std::vector<std::byte> payload(bytes);
  std::mt19937_64 random(id * 31 + part);
  for (uint64_t at = 0; at + 8 <= bytes; at += 8) {
    const uint64_t value = random();
    std::memcpy(payload.data() + at, &value, sizeof value);
  }
  return payload;
}

inline BlockHeader TestHeader(uint64_t id, uint32_t part, std::span<const std::byte> payload) {
  BlockHeader header;
  header.id = id;
  header.part = static_cast<uint16_t>(part);
  header.parent_id = id + 1;
  header.depth = 1;
  header.payload_bytes = payload.size();
  header.payload_checksum = Checksum(payload);
  header.sequence = id * 8 + part;
  header.name.word[0] = id;
  header.space.bytes[0] = 7;
  header.Seal();
  return header;
}

/// Of a block of `places` places.
inline BlockRecord TestRecord(uint64_t id, uint32_t places, std::span<const std::byte> payload) {
  BlockRecord record(TestHeader(id, 0, payload));
  record.depth = 2 * places - 1;
  for (uint64_t i = 1; i < places; ++i) record.inner.push_back(Name{{id, i}});
  record.Seal();
  return record;
}

}  // namespace thermocline
