// The golden header was packed by Python's struct and summed by Debian's libxxhash.
#include "hashing/block_header.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

namespace thermocline {
namespace {

BlockHeader GoodHeader() {
  BlockHeader header;
  header.id = 0x0000000100000002;
  header.parent_id = 0x0000000100000001;
  header.payload_bytes = 737280;
  header.payload_checksum = 0x1122334455667788;
  header.sequence = 9;
  header.depth = 1;
  int32_t tokens[kPlaceTokens];
  std::iota(std::begin(tokens), std::end(tokens), 16);
  header.name = NameOfTokens(tokens);
  header.space.bytes =
      *Sha256FromHex("7a4069819cddd5661516799667291198db8be1f7b00cec4a4cdb8d7f617d9e91");
  header.Seal();
  return header;
}

std::span<const std::byte> BytesOf(const BlockHeader& header) {
  return std::as_bytes(std::span(&header, 1));
}

TEST(BlockHeaderTest, GoldenBytes) {
  const BlockHeader header = GoodHeader();
  EXPECT_EQ(header.header_checksum, 0xa9c41d12f95d56ecu);
  EXPECT_EQ(ToHex(Sha256Builder().Raw(BytesOf(header)).Finish()),
            "715be6cc25257e3355f0fb1ee85701ab244c6ba5add6773f052b2bb19411f252");
}

TEST(BlockHeaderTest, ASealedHeaderIsReadBackFromUnalignedBytes) {
  const BlockHeader header = GoodHeader();
  std::vector<std::byte> buffer(sizeof header + 1);
  std::copy(BytesOf(header).begin(), BytesOf(header).end(), buffer.begin() + 1);
  const auto read = ReadHeader(std::span(buffer).subspan(1));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->id, header.id);
  EXPECT_TRUE(read->name == header.name);
  EXPECT_TRUE(read->space == header.space);
}

TEST(BlockHeaderTest, EveryFlippedBitIsNoticed) {
  for (size_t bit = 0; bit < sizeof(BlockHeader) * 8; ++bit) {
    BlockHeader header = GoodHeader();
    reinterpret_cast<uint8_t*>(&header)[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    EXPECT_FALSE(VerifyHeader(header).ok()) << "bit " << bit;
  }
}

TEST(BlockHeaderTest, SealedNonsenseIsRefused) {
  struct Case {
    std::function<void(BlockHeader&)> spoil;
    absl::StatusCode code;
  };
  const Case cases[] = {
      {[](BlockHeader& h) { h.version = 2; }, absl::StatusCode::kFailedPrecondition},
      {[](BlockHeader& h) { h.id = 0; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.parent_id = h.id; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.depth = 0; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.part = kMaxParts; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.payload_bytes = 0; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.payload_bytes = 24; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.payload_bytes = kMaxPartBytes + 16; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.reserved[2] = 1; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.inner_count = 2; }, absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.inner_count = 1; }, absl::StatusCode::kDataLoss},  // has a parent
      {[](BlockHeader& h) {
         h.depth = h.inner_count = kMaxInnerNames + 1;
         h.parent_id = 0;
       },
       absl::StatusCode::kDataLoss},
      {[](BlockHeader& h) { h.inner_checksum = 1; }, absl::StatusCode::kDataLoss},
  };
  for (const Case& c : cases) {
    BlockHeader header = GoodHeader();
    c.spoil(header);
    header.Seal();
    EXPECT_EQ(VerifyHeader(header).code(), c.code) << VerifyHeader(header);
  }
  EXPECT_FALSE(ReadHeader(BytesOf(GoodHeader()).first(191)).ok());
  EXPECT_FALSE(ReadHeader({}).ok());
}

TEST(BlockRecordTest, InnerNamesAreReadBackAndEveryFlippedBitIsNoticed) {
  BlockRecord record(GoodHeader());
  record.depth = 7;
  for (uint64_t i = 1; i <= 3; ++i) record.inner.push_back(Name{{i, i * 7}});
  record.Seal();
  EXPECT_EQ(RecordBytes(record), sizeof(BlockHeader) + 3 * sizeof(Name));
  std::vector<std::byte> stored(BytesOf(record).begin(), BytesOf(record).end());
  const auto names = std::as_bytes(std::span(record.inner));
  stored.insert(stored.end(), names.begin(), names.end());
  EXPECT_FALSE(ReadRecord(std::span(stored).first(stored.size() - 1)).ok());
  stored.resize(stored.size() + 100);  // a payload
  const auto read = ReadRecord(stored);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->depth, 7u);
  EXPECT_EQ(read->inner, record.inner);
  for (size_t bit = 0; bit < RecordBytes(record) * 8; ++bit) {
    stored[bit / 8] ^= std::byte(1u << bit % 8);
    EXPECT_FALSE(ReadRecord(stored).ok()) << "bit " << bit;
    stored[bit / 8] ^= std::byte(1u << bit % 8);
  }
  record.inner.pop_back();
  EXPECT_TRUE(absl::IsDataLoss(VerifyRecord(record)));
}

}  // namespace
}  // namespace thermocline
