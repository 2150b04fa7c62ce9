#include "tiers/log_format.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "hashing/checksum.h"

namespace thermocline {
namespace {

static_assert(std::endian::native == std::endian::little, "entries are stored as they lie");
static_assert(sizeof(FilePlace) == 8 && offsetof(FilePlace, bytes) == 4);

constexpr uint8_t kEntryVersion = 1;
constexpr size_t kSumAt = 24;

void PutBigEndian(uint64_t value, char* out) {
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(value >> (56 - 8 * i));
}

uint64_t BigEndian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

// The rest is summed by itself: an entry is read a million times at a start, and not copied for it.
uint64_t SumOf(std::span<const std::byte> key, std::span<const std::byte> value) {
  std::array<std::byte, sizeof(EntryKey) + kSumAt + sizeof(uint64_t)> all;
  const uint64_t rest = Checksum(value.subspan(kEntryHeadBytes));
  std::copy(key.begin(), key.end(), all.begin());
  std::copy_n(value.begin(), kSumAt, all.begin() + key.size());
  std::memcpy(all.data() + key.size() + kSumAt, &rest, sizeof rest);
  return Checksum(all);
}

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError("cold entry damaged: " + what + "; the block is dropped");
}

}  // namespace

SegmentKey SegmentKeyOf(uint64_t sequence, BlockRef ref) {
  SegmentKey key;
  PutBigEndian(sequence, key.data());
  const EntryKey rest = EntryKeyOf(ref);
  std::copy(rest.begin(), rest.end(), key.begin() + 8);
  return key;
}

EntryKey EntryKeyOf(BlockRef ref) {
  EntryKey key;
  PutBigEndian(ref.id, key.data());
  key[8] = static_cast<char>(ref.part >> 8);
  key[9] = static_cast<char>(ref.part);
  return key;
}

std::optional<std::pair<uint64_t, BlockRef>> ParseSegmentKey(std::span<const std::byte> key) {
  if (key.size() != sizeof(SegmentKey)) return std::nullopt;
  const auto ref = ParseEntryKey(key.subspan(8));
  if (!ref) return std::nullopt;
  return std::pair(BigEndian(key.first(8)), *ref);
}

std::optional<BlockRef> ParseEntryKey(std::span<const std::byte> key) {
  if (key.size() != sizeof(EntryKey)) return std::nullopt;
  return BlockRef{BigEndian(key.first(8)), static_cast<uint16_t>(BigEndian(key.subspan(8)))};
}

void SealEntry(const EntryHead& head, std::string& value) {
  const EntryKey key = EntryKeyOf(head.ref);
  std::fill_n(value.begin(), kEntryHeadBytes, '\0');
  value[0] = static_cast<char>(kEntryVersion);
  std::memcpy(value.data() + 8, &head.sequence, sizeof head.sequence);
  std::memcpy(value.data() + 16, &head.place, sizeof head.place);
  const uint64_t sum = SumOf(std::as_bytes(std::span(key)), std::as_bytes(std::span(value)));
  std::memcpy(value.data() + kSumAt, &sum, sizeof sum);
}

absl::StatusOr<LogEntry> ReadEntry(std::span<const std::byte> key,
                                   std::span<const std::byte> value) {
  const auto ref = ParseEntryKey(key);
  if (!ref) return Damaged("a key of " + std::to_string(key.size()) + " bytes");
  if (value.size() < kEntryHeadBytes) return Damaged("it is cut off");
  uint64_t sum;
  std::memcpy(&sum, value.data() + kSumAt, sizeof sum);
  if (sum != SumOf(key, value)) return Damaged("its checksum does not fit");
  if (static_cast<uint8_t>(value[0]) != kEntryVersion) {
    return absl::FailedPreconditionError("cold entry of version " +
                                         std::to_string(static_cast<uint8_t>(value[0])) +
                                         "; use the matching build");
  }
  LogEntry entry{{.ref = *ref}, value.subspan(kEntryHeadBytes)};
  std::memcpy(&entry.sequence, value.data() + 8, sizeof entry.sequence);
  std::memcpy(&entry.place, value.data() + 16, sizeof entry.place);
  return entry;
}

}  // namespace thermocline
