// Names, keys and checksums. The golden figures come from another implementation: Python's hashlib
// for the expansion of the secret, Debian's libxxhash (not the inlined one) for XXH3.
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "hashing/checksum.h"
#include "hashing/checksum_forms.h"
#include "hashing/name.h"
#include "hashing/prefix_hash.h"

namespace thermocline {
namespace {

Name NameFrom(int32_t first) {
  int32_t tokens[kPlaceTokens];
  std::iota(std::begin(tokens), std::end(tokens), first);
  return NameOfTokens(tokens);
}

std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::vector<std::byte> Pattern(size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 31 + 7);
  return bytes;
}

TEST(NameTest, TokensLieInOrderAsLittleEndianIds) {
  const Name name = NameFrom(0);
  EXPECT_EQ(name.word[0], uint64_t{1} << 32);
  EXPECT_EQ(name.word[7], uint64_t{15} << 32 | 14);
}

TEST(NameTest, KeysArePaddedAndOfOneLength) {
  const auto name = NameOfKey("0123456789abcdef", 16);
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(std::memcmp(&*name, "0123456789abcdef", 16), 0);
  EXPECT_EQ(name->word[2], 0u);
  EXPECT_TRUE(NameOfKey(std::string(64, 'x'), 64).ok());
  EXPECT_FALSE(NameOfKey(std::string(65, 'x'), 65).ok());
  EXPECT_FALSE(NameOfKey("", 0).ok());
  // "ab" and "ab\0" would have the same padded bytes.
  EXPECT_TRUE(NameOfKey("ab", 2).ok());
  const auto other = NameOfKey(std::string_view("ab\0", 3), 2);
  ASSERT_FALSE(other.ok());
  EXPECT_NE(std::string(other.status().message()).find("3 bytes in a space of 2-byte keys"),
            std::string::npos);
}

TEST(KeyChainTest, GoldenKeys) {
  const KeyChain chain(BytesOf("a space's secret"));
  const Key first = chain.NextKey(Key{}, NameFrom(0));
  EXPECT_EQ(first.lo, 0xa7c606dcca220b62u);
  EXPECT_EQ(first.hi, 0xbebb3d9b3a41c466u);
  const Key second = chain.NextKey(first, NameFrom(16));
  EXPECT_EQ(second.lo, 0x5bbdba9dda32d978u);
  EXPECT_EQ(second.hi, 0x22f325912becefd7u);
}

TEST(KeyChainTest, AnotherSecretGivesOtherKeys) {
  const KeyChain one(BytesOf("one"));
  const KeyChain two(BytesOf("two"));
  EXPECT_FALSE(one.NextKey(Key{}, NameFrom(0)) == two.NextKey(Key{}, NameFrom(0)));
}

TEST(ChildHashTest, GoldenHashes) {
  EXPECT_EQ(ChildHash(0, NameFrom(0)), 0x79c2079c74a8ee4du);
  EXPECT_EQ(ChildHash(0x123456789abcdef, NameFrom(16)), 0xb5fcd6cf52f18cc5u);
}

struct GoldenSum {
  size_t count;
  uint64_t sum;
};
// Every branch of XXH3: 0, 1-16, 17-128, 129-240, longer; and both sides of the copy's piece.
constexpr GoldenSum kGoldenSums[] = {
    {0, 0x2d06800538d394c2},     {1, 0x4c5cca45d0f4811f},     {16, 0x7e484c18d74895d0},
    {17, 0x208bde5ee2bed407},    {128, 0xf92b70eaa21a6288},   {129, 0xf8f76713f2bb60fa},
    {240, 0xccc7375172c41f03},   {241, 0xb3b630948ce4a00},    {1024, 0x23bc880ebf0d29c6},
    {16384, 0xc76b744a26488b31}, {16385, 0x2c8ceb7b94c3bab0}, {100000, 0xccf90df7e7e37036},
};

TEST(ChecksumTest, GoldenSumsInEveryForm) {
  const std::vector<std::byte> bytes = Pattern(100000);
  for (const GoldenSum& golden : kGoldenSums) {
    EXPECT_EQ(Checksum(std::span(bytes).first(golden.count)), golden.sum) << golden.count;
    EXPECT_EQ(checksum_forms::SumSse2(bytes.data(), golden.count), golden.sum) << golden.count;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
      EXPECT_EQ(checksum_forms::SumAvx2(bytes.data(), golden.count), golden.sum) << golden.count;
    }
#endif
  }
}

TEST(ChecksumTest, CopyCopiesAndSumsAtAnyLengthAndAlignment) {
  const char* given = std::getenv("TC_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::vector<std::byte> source = Pattern(200'000);
  for (int i = 0; i < 200; ++i) {
    const size_t from = random() % 64;
    const size_t to = random() % 64;
    const size_t count = random() % (i % 2 == 0 ? 400 : 150'000);
    std::vector<std::byte> target(to + count + 1, std::byte{0xee});
    const auto bytes = std::span(source).subspan(from, count);
    const auto copy = std::span(target).subspan(to, count);
    const uint64_t sum = Checksum(bytes);
    ASSERT_EQ(CopyAndChecksum(copy, bytes), sum) << count;
    ASSERT_EQ(checksum_forms::CopySse2(copy.data(), bytes.data(), count), sum) << count;
    ASSERT_TRUE(std::equal(copy.begin(), copy.end(), bytes.begin()));
    ASSERT_EQ(target.back(), std::byte{0xee});
  }
}

}  // namespace
}  // namespace thermocline
