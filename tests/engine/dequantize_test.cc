// The reference dequantisation against hand-made blocks of every type and against the checksums
// that llama.cpp's own gives for real weights.
#include "engine/dequantize.h"

#include <absl/strings/escaping.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/gguf_writer.h"

namespace thermocline {
namespace {

using ::testing::ElementsAreArray;

constexpr uint16_t kHalfOne = 0x3c00;
constexpr uint16_t kHalfMinusTwo = 0xc000;

std::vector<float> DequantizeString(TensorType type, const std::string& stored, size_t elements) {
  std::vector<float> out(elements);
  Dequantize(type, std::as_bytes(std::span(stored.data(), stored.size())), out);
  return out;
}

TEST(HalfToFloatTest, EveryHalfIsExact) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const int exponent = half >> 10 & 31;
    const int mantissa = half & 0x3ff;
    const float value = HalfToFloat(half);
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0) << bits;
      EXPECT_EQ(std::isinf(value), mantissa == 0) << bits;
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      EXPECT_EQ(std::abs(value), magnitude) << bits;
    }
    EXPECT_EQ(std::signbit(value), half >> 15 != 0) << bits;
  }
}

TEST(DequantizeTest, PlainTypes) {
  EXPECT_THAT(DequantizeString(TensorType::kF32, LittleEndian(1.25f) + LittleEndian(-3.f), 2),
              ElementsAreArray({1.25f, -3.f}));
  EXPECT_THAT(
      DequantizeString(TensorType::kF16, LittleEndian(kHalfOne) + LittleEndian(kHalfMinusTwo), 2),
      ElementsAreArray({1.f, -2.f}));
  EXPECT_THAT(DequantizeString(TensorType::kBF16, LittleEndian<uint16_t>(0x3fc0), 1),
              ElementsAreArray({1.5f}));
}

/// Nibble codes 0..15 in the low halves of the bytes, 15..0 in the high ones.
std::string Nibbles() {
  std::string codes;
  for (int i = 0; i < 16; ++i) codes += static_cast<char>(i | (15 - i) << 4);
  return codes;
}

int NibbleAt(int element) { return element < 16 ? element : 31 - element; }

TEST(DequantizeTest, EveryQuantisedFormByHand) {
  const std::string d = LittleEndian(kHalfMinusTwo);
  const std::string m = LittleEndian(kHalfOne);
  const uint32_t high = 0x80010003;  // elements 0, 1, 16 and 31 have the fifth bit
  std::string signed_bytes;
  for (int i = 0; i < 32; ++i) signed_bytes += static_cast<char>(i * 8 - 128);
  const auto q8_0 = DequantizeString(TensorType::kQ8_0, d + signed_bytes, 32);
  const auto q4_0 = DequantizeString(TensorType::kQ4_0, d + Nibbles(), 32);
  const auto q4_1 = DequantizeString(TensorType::kQ4_1, d + m + Nibbles(), 32);
  const auto q5_0 = DequantizeString(TensorType::kQ5_0, d + LittleEndian(high) + Nibbles(), 32);
  const auto q5_1 = DequantizeString(TensorType::kQ5_1, d + m + LittleEndian(high) + Nibbles(), 32);
  for (int i = 0; i < 32; ++i) {
    SCOPED_TRACE(i);
    const int fifth = (high >> i & 1) != 0 ? 16 : 0;
    EXPECT_EQ(q8_0[i], -2.f * static_cast<float>(i * 8 - 128));
    EXPECT_EQ(q4_0[i], -2.f * static_cast<float>(NibbleAt(i) - 8));
    EXPECT_EQ(q4_1[i], -2.f * static_cast<float>(NibbleAt(i)) + 1);
    EXPECT_EQ(q5_0[i], -2.f * static_cast<float>(NibbleAt(i) + fifth - 16));
    EXPECT_EQ(q5_1[i], -2.f * static_cast<float>(NibbleAt(i) + fifth) + 1);
  }
}

// dequantize.h says that fma(q, d, m) and q * d + m are the same number: for every finite d and
// every code, the product is exact.
TEST(DequantizeTest, ProductsOfScaleAndCodeAreExact) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float d = HalfToFloat(static_cast<uint16_t>(bits));
    for (int code = -128; code < 128; ++code) {
      ASSERT_EQ(static_cast<double>(d * static_cast<float>(code)), static_cast<double>(d) * code);
    }
  }
}

TEST(DequantizeTest, RowsMayLieAtAnyAddress) {
  const std::string block = LittleEndian(kHalfOne) + Nibbles();
  const std::string shifted = "x" + block;
  std::vector<float> out(32);
  Dequantize(TensorType::kQ4_0, std::as_bytes(std::span(shifted.data() + 1, block.size())), out);
  EXPECT_EQ(out, DequantizeString(TensorType::kQ4_0, block, 32));
}

TEST(DequantizeDeathTest, WrongSizesAbort) {
  std::vector<float> out(32);
  const std::string stored(17, '\0');
  EXPECT_DEATH(
      Dequantize(TensorType::kQ4_0, std::as_bytes(std::span(stored.data(), stored.size())), out),
      "check failed");
  EXPECT_DEATH(Dequantize(TensorType::kOther, {}, out), "check failed");
}

std::string Sha256Hex(const void* data, size_t size) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(static_cast<const unsigned char*>(data), size,
         reinterpret_cast<unsigned char*>(digest.data()));
  return absl::BytesToHexString(digest);
}

TEST(DequantizeTest, SmolLM2HasTheGoldenValues) {
  const std::string weights = TC_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  const std::string golden = std::string(TC_SHARED_DATA) + "/models/smollm2/dequant.json";
  if (!std::ifstream(weights)) GTEST_SKIP() << weights << " is absent; deploy/setup.sh fetches it";
  if (!std::ifstream(golden)) GTEST_SKIP() << golden << " is absent";
  const auto model = ModelFile::Open(weights);
  ASSERT_TRUE(model.ok()) << model.status();
  std::ifstream golden_file(golden);
  const nlohmann::json cases = nlohmann::json::parse(golden_file);
  ASSERT_EQ(cases.size(), 5u);
  for (const nlohmann::json& expected : cases) {
    const Tensor* tensor = (*model)->Find(expected["name"].get<std::string>());
    ASSERT_NE(tensor, nullptr);
    SCOPED_TRACE(tensor->name);
    EXPECT_EQ(tensor->type_name, expected["type"]);
    EXPECT_EQ(tensor->data.size(), expected["n_bytes"]);
    EXPECT_EQ(Sha256Hex(tensor->data.data(), tensor->data.size()), expected["raw_sha256"]);
    std::vector<float> values(tensor->elements());
    for (uint64_t row = 0; row < tensor->rows(); ++row) {
      Dequantize(tensor->type, tensor->row(row),
                 std::span(values).subspan(row * tensor->columns(), tensor->columns()));
    }
    EXPECT_EQ(Sha256Hex(values.data(), values.size() * sizeof(float)), expected["f32_sha256"]);
    const auto row = expected["row"].get<uint64_t>();
    const auto first = expected["row_first_64"].get<std::vector<float>>();
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(values[row * tensor->columns() + i], first[i]) << i;
    }
  }
}

}  // namespace
}  // namespace thermocline
