// The portable conversions against the definition of the formats.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/simt/numbers.h"
#include "tests/kernels/kernel_inputs.h"

namespace thermocline {
namespace {

/// By the definition: sign, exponent of `bias`, fraction of `fraction_bits`; no special values.
double Decode(uint32_t bits, int exponent_bits, int fraction_bits, int bias) {
  const uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  const double sign = bits >> (exponent_bits + fraction_bits) & 1 ? -1 : 1;
  const double whole = exponent == 0 ? 0 : 1;
  const double mantissa = whole + std::ldexp(fraction, -fraction_bits);
  return sign * std::ldexp(mantissa, (exponent == 0 ? 1 : exponent) - bias);
}

TEST(NumbersTest, EveryHalfDecodesAndReturns) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = ToFloat(Half{static_cast<uint16_t>(bits)});
    if ((bits & 0x7c00) == 0x7c00) {
      ASSERT_TRUE((bits & 0x3ff) == 0 ? std::isinf(value) : std::isnan(value)) << bits;
    } else {
      ASSERT_EQ(value, Decode(bits, 5, 10, 15)) << bits;
    }
    if (!std::isnan(value)) {
      ASSERT_EQ(FromFloat<Half>(value).bits, bits);
    }
  }
}

TEST(NumbersTest, EveryFp8DecodesAndReturns) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float value = ToFloat(Fp8E4m3{static_cast<uint8_t>(bits)});
    if ((bits & 0x7f) == 0x7f) {
      ASSERT_TRUE(std::isnan(value));
      continue;
    }
    ASSERT_EQ(value, Decode(bits, 4, 3, 7)) << bits;
    ASSERT_EQ(FromFloat<Fp8E4m3>(value).bits, bits);
  }
  EXPECT_EQ(FromFloat<Fp8E4m3>(1e9f).bits, 0x7e);
  EXPECT_EQ(FromFloat<Fp8E4m3>(-INFINITY).bits, 0xfe);
  EXPECT_EQ(FromFloat<Fp8E4m3>(NAN).bits & 0x7f, 0x7f);
}

/// Between two neighbours the nearer one is taken, of two equally near the even one.
template <class T, class Bits>
void ExpectRoundsToNearest(uint32_t last) {
  for (uint32_t bits = 0; bits < last; ++bits) {
    const double low = ToFloat(T{static_cast<Bits>(bits)});
    const double high = ToFloat(T{static_cast<Bits>(bits + 1)});
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(FromFloat<T>(middle).bits, bits % 2 == 0 ? bits : bits + 1) << bits;
    ASSERT_EQ(FromFloat<T>(std::nextafter(middle, 1e30f)).bits, bits + 1) << bits;
    ASSERT_EQ(FromFloat<T>(std::nextafter(middle, -1e30f)).bits, bits) << bits;
  }
}

TEST(NumbersTest, RoundsToNearestTiesToEven) {
  ExpectRoundsToNearest<Half, uint16_t>(0x7bff);
  ExpectRoundsToNearest<Fp8E4m3, uint8_t>(0x7e);
  for (uint32_t bits = 1; bits < 0x7f00; bits += 7) {  // subnormals included
    const float low = ToFloat(Bfloat16{static_cast<uint16_t>(bits)});
    const float middle = number_detail::FloatOf((bits << 16) + 0x8000);
    ASSERT_EQ(FromFloat<Bfloat16>(low).bits, bits);
    ASSERT_EQ(FromFloat<Bfloat16>(middle).bits, bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(FromFloat<Bfloat16>(std::nextafter(middle, INFINITY)).bits, bits + 1);
  }
  EXPECT_EQ(FromFloat<Half>(65519.996f).bits, 0x7bff);
  EXPECT_EQ(FromFloat<Half>(65520.0f).bits, 0x7c00);
  EXPECT_EQ(FromFloat<Half>(-INFINITY).bits, 0xfc00);
  EXPECT_TRUE(std::isnan(ToFloat(FromFloat<Half>(NAN))));
  EXPECT_TRUE(std::isnan(ToFloat(FromFloat<Bfloat16>(NAN))));
}

}  // namespace
}  // namespace thermocline
