// A block as the log keeps it: BlockHeader ‖ inner names ‖ payload, and in its entry the first two.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"
#include "hashing/block_header.h"
#include "tiers/tier.h"

namespace thermocline {

/// Writes the block into `room`, of StoredBytes(record) at least, and returns its bytes.
/// REQUIRES: payload.size() == record.payload_bytes; they are not compared otherwise.
uint64_t EncodeBlock(const BlockRecord& record, std::span<const std::byte> payload,
                     std::span<std::byte> room);

/// Verifies block `ref`; its payload is copied into `payload`, which has room for it at least.
/// Errors: DataLoss for any damage and for another block, FailedPrecondition for another version,
///         InvalidArgument for too little room.
absl::StatusOr<BlockRecord> DecodeBlock(BlockRef ref, std::span<const std::byte> stored,
                                        std::span<std::byte> payload);

/// The same of the record alone.
void AppendRecord(const BlockRecord& record, std::string& out);
absl::StatusOr<BlockRecord> DecodeRecord(BlockRef ref, std::span<const std::byte> stored);

}  // namespace thermocline
