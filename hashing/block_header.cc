#include "hashing/block_header.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "hashing/checksum.h"

namespace thermocline {
namespace {

static_assert(std::endian::native == std::endian::little, "headers are stored as they lie");

uint64_t SumOf(const BlockHeader& header) {
  const std::span<const BlockHeader, 1> one(&header, 1);
  return Checksum(std::as_bytes(one).first(offsetof(BlockHeader, header_checksum)));
}

uint64_t SumOf(const std::vector<Name>& names) {
  return names.empty() ? 0 : Checksum(std::as_bytes(std::span(names)));
}

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError("block header damaged: " + what + "; the block is dropped");
}

}  // namespace

void BlockHeader::Seal() { header_checksum = SumOf(*this); }

void BlockRecord::Seal() {
  inner_count = static_cast<uint32_t>(inner.size());
  inner_checksum = SumOf(inner);
  BlockHeader::Seal();
}

absl::Status VerifyHeader(const BlockHeader& header) {
  if (header.magic != kBlockHeaderMagic) return Damaged("it does not begin with TCBH");
  if (header.version != kBlockHeaderVersion) {
    return absl::FailedPreconditionError(
        "block header of version " + std::to_string(header.version) +
        ", this build reads version " + std::to_string(kBlockHeaderVersion) +
        "; set the store aside or use the matching build");
  }
  if (header.header_checksum != SumOf(header)) return Damaged("its checksum does not fit");
  if (header.id == 0) return Damaged("its id is 0");
  if (header.id == header.parent_id) return Damaged("it names itself as its parent");
  if (header.inner_count > kMaxInnerNames || header.inner_count > header.depth ||
      (header.inner_count == 0 && header.inner_checksum != 0)) {
    return Damaged(std::to_string(header.inner_count) + " inner names at depth " +
                   std::to_string(header.depth));
  }
  if (header.depth == header.inner_count && header.parent_id != 0) {
    return Damaged("a first block with a parent");
  }
  if (header.part >= kMaxParts) return Damaged("part " + std::to_string(header.part));
  if (header.payload_bytes < kPayloadAlignment || header.payload_bytes > kMaxPartBytes ||
      header.payload_bytes % kPayloadAlignment != 0) {
    return Damaged("payload of " + std::to_string(header.payload_bytes) + " bytes");
  }
  const uint64_t reserved = header.reserved[0] | header.reserved[1] | header.reserved[2];
  if (reserved != 0) return Damaged("reserved bytes are not zero");
  return absl::OkStatus();
}

absl::Status VerifyRecord(const BlockRecord& record) {
  TC_RETURN_IF_ERROR(VerifyHeader(record));
  if (record.inner.size() == record.inner_count && SumOf(record.inner) == record.inner_checksum) {
    return absl::OkStatus();
  }
  return Damaged("its inner names do not fit");
}

absl::StatusOr<BlockHeader> ReadHeader(std::span<const std::byte> bytes) {
  if (bytes.size() != sizeof(BlockHeader)) {
    return Damaged("it has " + std::to_string(bytes.size()) + " bytes instead of " +
                   std::to_string(sizeof(BlockHeader)));
  }
  BlockHeader header;
  std::memcpy(static_cast<void*>(&header), bytes.data(), sizeof header);
  TC_RETURN_IF_ERROR(VerifyHeader(header));
  return header;
}

absl::StatusOr<BlockRecord> ReadRecord(std::span<const std::byte> bytes) {
  TC_ASSIGN_OR_RETURN(BlockRecord record,
                      ReadHeader(bytes.first(std::min(bytes.size(), sizeof(BlockHeader)))));
  if (bytes.size() < RecordBytes(record)) return Damaged("its inner names are cut off");
  record.inner.resize(record.inner_count);
  const auto names = bytes.subspan(sizeof(BlockHeader), RecordBytes(record) - sizeof(BlockHeader));
  if (!names.empty()) std::memcpy(record.inner.data(), names.data(), names.size());
  TC_RETURN_IF_ERROR(VerifyRecord(record));
  return record;
}

}  // namespace thermocline
