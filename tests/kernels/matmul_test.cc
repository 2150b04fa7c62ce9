// Panels and matrix products: every type, odd sizes, both paths and every form of the kernels,
// against a double-precision product of an independent dequantisation, and against each other to
// the bit.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/kernel_inputs.h"

namespace thermocline {
namespace {

constexpr WeightType kTypes[] = {WeightType::kF32,  WeightType::kF16,  WeightType::kBF16,
                                 WeightType::kQ8_0, WeightType::kQ4_0, WeightType::kQ4_1,
                                 WeightType::kQ5_0, WeightType::kQ5_1};
constexpr const char* kTypeNames[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"};

double HalfValue(const uint8_t* p) {  // normal numbers and zero are enough here
  const int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31;
  const double magnitude = exponent == 0 ? std::ldexp(bits & 1023, -24)
                                         : std::ldexp(1024 + (bits & 1023), exponent - 25);
  return bits >> 15 ? -magnitude : magnitude;
}

/// A stored matrix of random weights, and the same weights as doubles, computed from GGUF's words.
struct Weights {
  StoredMatrix stored;
  std::vector<uint8_t> bytes;
  std::vector<double> values;

  Weights(WeightType type, int rows, int columns, RandomInputs& random) {
    const size_t row_bytes = StoredRowBytes(type, columns);
    bytes.resize(rows * row_bytes);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Bits());
    stored = {type, reinterpret_cast<const std::byte*>(bytes.data()), rows, columns};
    for (int r = 0; r < rows; ++r) {
      uint8_t* row = bytes.data() + r * row_bytes;
      for (int c = 0; c < columns; ++c) {
        switch (type) {
          case WeightType::kF32: {
            const float value = random.Float();
            std::memcpy(row + 4 * c, &value, 4);
            values.push_back(value);
            break;
          }
          case WeightType::kBF16: {
            const float value = random.Float();
            std::memcpy(row + 2 * c, reinterpret_cast<const char*>(&value) + 2, 2);
            const uint8_t wide[4] = {0, 0, row[2 * c], row[2 * c + 1]};
            float rounded;
            std::memcpy(&rounded, wide, 4);
            values.push_back(rounded);
            break;
          }
          case WeightType::kF16:
            SmallHalf(row + 2 * c);
            values.push_back(HalfValue(row + 2 * c));
            break;
          default:
            values.push_back(Quantised(row, c));
            break;
        }
      }
    }
  }

 private:
  /// Between 2^-9 and 2^-1, either sign.
  static void SmallHalf(uint8_t* p) { p[1] = (p[1] & 0x83) | (6 + (p[1] >> 2 & 7)) << 2; }

  double Quantised(uint8_t* row, int c) const {
    const bool minimum = stored.type == WeightType::kQ4_1 || stored.type == WeightType::kQ5_1;
    const bool fifth = stored.type == WeightType::kQ5_0 || stored.type == WeightType::kQ5_1;
    const size_t block_bytes = StoredRowBytes(stored.type, 32);
    uint8_t* block = row + c / 32 * block_bytes;
    const int i = c % 32;
    if (i == 0) {
      SmallHalf(block);
      if (minimum) SmallHalf(block + 2);
    }
    const double scale = HalfValue(block);
    if (stored.type == WeightType::kQ8_0) return scale * static_cast<int8_t>(block[2 + i]);
    const uint8_t* high = block + 2 + (minimum ? 2 : 0);
    const uint8_t* codes = high + (fifth ? 4 : 0);
    int q = i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
    if (fifth) q |= (high[i / 8] >> (i % 8) & 1) << 4;
    // The one rounding of the format's value, in float.
    if (minimum)
      return std::fma(static_cast<float>(q), static_cast<float>(scale),
                      static_cast<float>(HalfValue(block + 2)));
    return scale * (q - (fifth ? 16 : 8));
  }
};

struct Packed {
  std::vector<std::byte> memory;
  std::vector<Panel> panels;

  explicit Packed(const std::vector<const Weights*>& parts) {
    size_t total = 64;
    for (const Weights* part : parts) {
      total += PanelBytes(part->stored.type, part->stored.columns) *
               (PaddedRows(part->stored.rows) / kPanelRows);
    }
    memory.resize(total);
    std::byte* next = memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
    for (const Weights* part : parts) {
      for (int row = 0; row < part->stored.rows; row += kPanelRows) {
        PackPanel(part->stored, row, next);
        panels.push_back({next, part->stored.type});
        next += PanelBytes(part->stored.type, part->stored.columns);
      }
    }
  }
};

std::vector<float> PaddedInputs(int rows, int columns, RandomInputs& random) {
  std::vector<float> x(static_cast<size_t>(rows) * PaddedColumns(columns));
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) x[r * PaddedColumns(columns) + c] = random.Float();
  }
  return x;
}

std::vector<float> Multiply(const CpuKernels& kernels, MatmulArgs args, int panels, bool fused) {
  const size_t size = args.rows * args.y_stride;
  std::vector<float> y(size, 0.25f), scratch(MatmulScratchFloats(args.block_count));
  args.y = y.data();
  if (fused) {
    kernels.matmul_fused(args, 0, panels);
  } else {
    for (int p = 0; p < panels; p += 2) {
      kernels.matmul_tile(args, p, std::min(2, panels - p), scratch.data());
    }
  }
  return y;
}

class MatmulTest : public testing::TestWithParam<int> {
 protected:
  WeightType type() const { return kTypes[GetParam()]; }
  bool plain() const { return GetParam() < 3; }
};

TEST_P(MatmulTest, MatchesDoublePrecisionInEveryFormAndPathToTheBit) {
  RandomInputs random(GetParam());
  for (const int n : {5, 16, 40, 112}) {
    for (const int k : {32, plain() ? 172 : 160, 576}) {
      const Weights weights(type(), n, k, random);
      const Packed packed({&weights});
      const int panels = static_cast<int>(packed.panels.size());
      for (const int rows : {1, 2, 5, 31}) {
        const std::vector<float> x = PaddedInputs(rows, k, random);
        const MatmulArgs args = {.panels = packed.panels.data(),
                                 .block_count = PaddedColumns(k) / kBlockColumns,
                                 .x = x.data(),
                                 .x_stride = static_cast<size_t>(PaddedColumns(k)),
                                 .rows = rows,
                                 .y_stride = static_cast<size_t>(n),
                                 .output_columns = n,
                                 .epilogue = Epilogue::kStore};
        std::vector<float> first;
        for (const CpuKernels* kernels : SupportedCpuKernels()) {
          for (const bool fused : {false, true}) {
            const std::vector<float> y = Multiply(*kernels, args, panels, fused);
            if (first.empty()) first = y;
            ASSERT_TRUE(SameBits(y, first)) << kernels->name << " fused " << fused << " n " << n
                                            << " k " << k << " rows " << rows;
          }
        }
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < n; ++c) {
            double sum = 0, magnitude = 0;
            for (int i = 0; i < k; ++i) {
              const double term = x[r * PaddedColumns(k) + i] * weights.values[c * k + i];
              sum += term;
              magnitude += std::fabs(term);
            }
            ASSERT_NEAR(first[r * n + c], sum, 1e-6 * (magnitude + 1)) << n << " " << k;
          }
        }
      }
    }
  }
}

TEST_P(MatmulTest, UnpackedColumnsAreTheWeightsThemselves) {
  RandomInputs random(100 + GetParam());
  const Weights weights(type(), 16, 64, random);
  const Packed packed({&weights});
  for (const CpuKernels* kernels : SupportedCpuKernels()) {
    std::vector<float> columns(64 * 16);
    kernels->unpack(packed.panels[0], 2, columns.data());
    for (int r = 0; r < 16; ++r) {
      for (int c = 0; c < 64; ++c) {
        ASSERT_EQ(columns[c * 16 + r], static_cast<float>(weights.values[r * 64 + c]));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryType, MatmulTest, testing::Range(0, 8),
                         [](const auto& info) { return kTypeNames[info.param]; });

TEST(MatmulEpilogueTest, AddsToTheResidualAfterTheChain) {
  RandomInputs random(7);
  const Weights weights(WeightType::kF16, 48, 96, random);
  const Packed packed({&weights});
  const std::vector<float> x = PaddedInputs(3, 96, random);
  MatmulArgs args = {.panels = packed.panels.data(),
                     .block_count = 3,
                     .x = x.data(),
                     .x_stride = 96,
                     .rows = 3,
                     .y_stride = 48,
                     .output_columns = 48};
  const std::vector<float> stored = Multiply(*SupportedCpuKernels().back(), args, 3, true);
  args.epilogue = Epilogue::kAdd;
  for (const CpuKernels* kernels : SupportedCpuKernels()) {
    for (const bool fused : {false, true}) {
      const std::vector<float> added = Multiply(*kernels, args, 3, fused);
      for (size_t i = 0; i < added.size(); ++i) ASSERT_EQ(added[i], stored[i] + 0.25f);
    }
  }
}

/// Gate and up of different types, as mixed files have them: pairs that no group of panels fits.
TEST(MatmulEpilogueTest, SwiGluOverPanelsOfMixedTypes) {
  RandomInputs random(8);
  const int k = 64, ff = 48, rows = 7;
  const Weights gate(WeightType::kQ5_0, ff, k, random), up(WeightType::kQ8_0, ff, k, random);
  const Packed gates({&gate}), ups({&up});
  std::vector<Panel> panels;
  for (size_t i = 0; i < gates.panels.size(); ++i) {
    panels.push_back(gates.panels[i]);
    panels.push_back(ups.panels[i]);
  }
  const std::vector<float> x = PaddedInputs(rows, k, random);
  const MatmulArgs args = {.panels = panels.data(),
                           .block_count = 2,
                           .x = x.data(),
                           .x_stride = k,
                           .rows = rows,
                           .y_stride = ff,
                           .epilogue = Epilogue::kSwiGlu};
  const std::vector<float> first = Multiply(*SupportedCpuKernels()[0], args, 6, false);
  for (const CpuKernels* kernels : SupportedCpuKernels()) {
    for (const bool fused : {false, true}) {
      ASSERT_TRUE(SameBits(Multiply(*kernels, args, 6, fused), first)) << kernels->name << fused;
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < ff; ++c) {
      double g = 0, u = 0;
      for (int i = 0; i < k; ++i) {
        g += x[r * k + i] * gate.values[c * k + i];
        u += x[r * k + i] * up.values[c * k + i];
      }
      ASSERT_NEAR(first[r * ff + c], g / (1 + std::exp(-g)) * u, 1e-4 * (1 + std::fabs(g * u)));
    }
  }
}

TEST(StoredMatrixTest, WhatNoKernelTakesIsRefused) {
  EXPECT_TRUE(CheckStoredMatrix({WeightType::kF32, nullptr, 1, 172}).ok());
  EXPECT_FALSE(CheckStoredMatrix({WeightType::kQ4_1, nullptr, 16, 172}).ok());
  EXPECT_FALSE(CheckStoredMatrix({WeightType::kF32, nullptr, 0, 32}).ok());
  EXPECT_FALSE(CheckStoredMatrix({WeightType::kF32, nullptr, 1 << 25, 32}).ok());
  EXPECT_TRUE(CheckAttentionShape(8, 4, 8).ok());
  EXPECT_FALSE(CheckAttentionShape(9, 2, 64).ok());
  EXPECT_FALSE(CheckAttentionShape(8, 4, 12).ok());
  EXPECT_FALSE(CheckAttentionShape(8, 4, 1024).ok());
}

}  // namespace
}  // namespace thermocline
