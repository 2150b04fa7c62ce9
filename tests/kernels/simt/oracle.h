// What the tests of kernels share: random numbers of a type, and a close comparison with float64.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/simt/numbers.h"
#include "tests/kernels/simt/device_memory.h"

namespace thermocline {

template <class T>
inline constexpr NumberType kNumberType = NumberType::kF16;
template <>
inline constexpr NumberType kNumberType<Bfloat16> = NumberType::kBf16;

/// The largest relative error of one rounding.
template <class T>
inline constexpr double kRounding = 0x1p-11;
template <>
inline constexpr double kRounding<Bfloat16> = 0x1p-8;

template <class T>
std::vector<T> RandomNumbers(RandomInputs& random, size_t count, float scale = 1) {
  std::vector<T> numbers(count);
  for (T& number : numbers) number = FromFloat<T>(random.Float() * scale);
  return numbers;
}

/// Each number within one rounding of float64's, give or take what float32 loses on the way:
/// `slack`, of the largest magnitude.
template <class T>
void ExpectClose(const std::vector<T>& actual, const std::vector<double>& expected,
                 double slack = 2e-6) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const double x : expected) largest = std::max(largest, std::fabs(x));
  for (size_t i = 0; i < actual.size(); ++i) {
    const double allowed = 1.01 * kRounding<T> * std::fabs(expected[i]) + slack * largest + 0x1p-25;
    const double error = std::fabs(double{ToFloat(actual[i])} - expected[i]);
    ASSERT_TRUE(error <= allowed) << "at " << i << ": " << ToFloat(actual[i]) << " instead of "
                                  << expected[i];
  }
}

}  // namespace thermocline
