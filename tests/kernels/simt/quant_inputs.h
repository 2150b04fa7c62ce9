// The codes of quantised KV restated, in float64, for the tests of the kernels that speak them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/kv_geometry.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

inline double LargestCode(KvDtype dtype) {
  return dtype == KvDtype::kInt8 ? 127 : dtype == KvDtype::kE4m3 ? 448 : 7;
}

/// Code i of a row.
inline double CodeAt(KvDtype dtype, const uint8_t* row, int i) {
  switch (dtype) {
    case KvDtype::kInt8:
      return static_cast<int8_t>(row[i]);
    case KvDtype::kE4m3:
      return ToFloat(Fp8E4m3{row[i]});
    default:
      return (row[i / 2] >> 4 * (i % 2) & 15) - 8;
  }
}

/// The half at `at`, which need not be aligned.
inline double ScaleAt(const uint8_t* at) {
  Half scale;
  std::memcpy(&scale, at, sizeof(scale));
  return ToFloat(scale);
}

/// How far a quantised number may be from what it was, in a row with that scale.
inline double CodeError(KvDtype dtype, double number, double scale) {
  const double of_step =
      dtype == KvDtype::kE4m3 ? std::max(std::fabs(number) * 0x1p-4, scale * 0x1p-10) : scale / 2;
  // Rounding the scale down cuts off the largest; the product with its inverse is rounded, too.
  return of_step * (1 + 0x1p-10) + std::fabs(number) * 0x1p-11 + LargestCode(dtype) * 0x1p-25;
}

}  // namespace thermocline
