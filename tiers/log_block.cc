#include "tiers/log_block.h"

#include <algorithm>

#include "hashing/checksum.h"

namespace thermocline {
namespace {

absl::StatusOr<BlockRecord> RecordOf(BlockRef ref, std::span<const std::byte> stored) {
  TC_ASSIGN_OR_RETURN(BlockRecord record, ReadRecord(stored));
  if (record.id == ref.id && record.part == ref.part) return record;
  return absl::DataLossError("it is block " + std::to_string(record.id) + " part " +
                             std::to_string(record.part));
}

}  // namespace

uint64_t EncodeBlock(const BlockRecord& record, std::span<const std::byte> payload,
                     std::span<std::byte> room) {
  const BlockHeader& header = record;
  const auto head = std::as_bytes(std::span(&header, 1));
  const auto names = std::as_bytes(std::span(record.inner));
  auto at = std::copy(head.begin(), head.end(), room.begin());
  at = std::copy(names.begin(), names.end(), at);
  std::copy(payload.begin(), payload.end(), at);
  return StoredBytes(record);
}

absl::StatusOr<BlockRecord> DecodeBlock(BlockRef ref, std::span<const std::byte> stored,
                                        std::span<std::byte> payload) {
  TC_ASSIGN_OR_RETURN(BlockRecord record, RecordOf(ref, stored));
  if (StoredBytes(record) != stored.size()) return absl::DataLossError("it has another size");
  if (record.payload_bytes > payload.size()) {
    return absl::InvalidArgumentError("cold tier: block " + std::to_string(ref.id) + " has " +
                                      std::to_string(record.payload_bytes) + " bytes, room for " +
                                      std::to_string(payload.size()));
  }
  const auto source = stored.subspan(RecordBytes(record));
  if (CopyAndChecksum(payload.first(source.size()), source) != record.payload_checksum) {
    return absl::DataLossError("its payload does not fit its checksum");
  }
  return record;
}

void AppendRecord(const BlockRecord& record, std::string& out) {
  const BlockHeader& header = record;
  out.append(reinterpret_cast<const char*>(&header), sizeof header);
  out.append(reinterpret_cast<const char*>(record.inner.data()),
             record.inner.size() * sizeof(Name));
}

absl::StatusOr<BlockRecord> DecodeRecord(BlockRef ref, std::span<const std::byte> stored) {
  TC_ASSIGN_OR_RETURN(BlockRecord record, RecordOf(ref, stored));
  if (RecordBytes(record) != stored.size()) return absl::DataLossError("it has another size");
  return record;
}

}  // namespace thermocline
