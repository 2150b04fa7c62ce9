// RMSNorm, RoPE, the gated activations and the embedding against float64.
#include <gmock/gmock.h>

#include "kernels/activation.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/rope_table.h"
#include "tests/kernels/simt/oracle.h"

namespace thermocline {
namespace {

template <class T>
class RowKernelsTest : public testing::Test {};
using Types = testing::Types<Half, Bfloat16>;
TYPED_TEST_SUITE(RowKernelsTest, Types);

struct NormCase {
  int rows, width, stride;
  bool residual, in_place;
  float gain_offset;
};

template <class T>
void CheckRmsNorm(const NormCase& c) {
  RandomInputs random(c.width);
  const auto x = RandomNumbers<T>(random, static_cast<size_t>(c.rows) * c.stride);
  const auto gain = RandomNumbers<T>(random, c.width);
  auto residual = RandomNumbers<T>(random, static_cast<size_t>(c.rows) * c.width, 3);
  const DeviceArray<T> device_x(x), device_gain(gain), device_residual(residual);
  const DeviceArray<T> out(x.size());
  RmsNormArgs args{.out = c.in_place ? device_x.data() : out.data(), .x = device_x.data()};
  args.residual = c.residual ? device_residual.data() : nullptr;
  args.gain = device_gain.data();
  args.rows = c.rows;
  args.width = c.width;
  args.x_stride = args.out_stride = c.stride;
  args.epsilon = 1e-5f;
  args.gain_offset = c.gain_offset;
  args.type = kNumberType<T>;
  ASSERT_EQ(LaunchRmsNorm(args, nullptr), CudaError::kSuccess);
  const std::vector<T> actual = c.in_place ? device_x.ToHost() : out.ToHost();
  for (int row = 0; row < c.rows; ++row) {
    std::vector<double> y(c.width);
    double squares = 0;
    for (int i = 0; i < c.width; ++i) {
      T number = x[row * c.stride + i];
      T& sum = residual[row * c.width + i];
      if (c.residual) number = sum = FromFloat<T>(ToFloat(number) + ToFloat(sum));
      y[i] = ToFloat(number);
      squares += y[i] * y[i];
    }
    for (int i = 0; i < c.width; ++i) {
      y[i] *= (double{ToFloat(gain[i])} + c.gain_offset) / std::sqrt(squares / c.width + 1e-5);
    }
    const auto begin = actual.begin() + row * c.stride;
    ExpectClose(std::vector<T>(begin, begin + c.width), y);
    for (int i = c.width; i < c.stride; ++i) {  // what lies between rows stays
      ASSERT_EQ(actual[row * c.stride + i].bits, c.in_place ? x[row * c.stride + i].bits : 0xffff);
    }
  }
  const std::vector<T> sums = device_residual.ToHost();
  for (size_t i = 0; i < residual.size(); ++i) ASSERT_EQ(sums[i].bits, residual[i].bits) << i;
}

TYPED_TEST(RowKernelsTest, RmsNorm) {
  for (const NormCase& c : {NormCase{1, 8, 8, false, false, 0},
                            {3, 64, 64, true, false, 0},
                            {2, 264, 272, true, true, 1},
                            {2, 576, 584, false, true, 0},
                            {1, 8192, 8192, false, false, 0},
                            {1, 8200, 8200, true, false, 0}}) {
    SCOPED_TRACE(c.width);
    ForEachSchedule([&] { CheckRmsNorm<TypeParam>(c); });
  }
}

TYPED_TEST(RowKernelsTest, RmsNormOfZerosIsZero) {
  const DeviceArray<TypeParam> x(std::vector<TypeParam>(64, TypeParam{0}));
  const DeviceArray<TypeParam> out(64);
  ASSERT_EQ(LaunchRmsNorm({.out = out.data(),
                           .x = x.data(),
                           .gain = x.data(),
                           .rows = 1,
                           .width = 64,
                           .x_stride = 64,
                           .out_stride = 64,
                           .type = kNumberType<TypeParam>},
                          nullptr),
            CudaError::kSuccess);
  for (const TypeParam& number : out.ToHost()) EXPECT_EQ(ToFloat(number), 0);
}

struct RopeCase {
  int tokens, heads, head_dim, rotary_dim;
  bool halves;
};

template <class T>
void CheckRope(const RopeCase& c) {
  RandomInputs random(c.head_dim);
  const int stride = c.heads * c.head_dim + 16;
  const auto x = RandomNumbers<T>(random, static_cast<size_t>(c.tokens) * stride);
  std::vector<int32_t> positions(c.tokens);
  for (int& p : positions) p = static_cast<int>(random.Bits() % 50);
  positions[0] = 49;
  if (c.tokens > 2) positions[1] = -1;
  const RopeFrequencies frequencies = MakeRopeFrequencies(10000, c.rotary_dim, {});
  std::vector<float> table(50 * c.rotary_dim);
  FillRopeTable(frequencies, 0, 50, table.data());
  const DeviceArray<T> device_x(x);
  const DeviceArray<float> device_table(table);
  const DeviceArray<int32_t> device_positions(positions);
  ASSERT_EQ(LaunchRope({.x = device_x.data(),
                        .cos_sin = device_table.data(),
                        .positions = device_positions.data(),
                        .tokens = c.tokens,
                        .heads = c.heads,
                        .head_dim = c.head_dim,
                        .rotary_dim = c.rotary_dim,
                        .token_stride = stride,
                        .halves = c.halves,
                        .type = kNumberType<T>},
                       nullptr),
            CudaError::kSuccess);
  std::vector<double> expected(x.size());
  for (size_t i = 0; i < x.size(); ++i) expected[i] = ToFloat(x[i]);
  for (int token = 0; token < c.tokens; ++token) {
    if (positions[token] < 0) continue;
    for (int head = 0; head < c.heads; ++head) {
      double* const at = expected.data() + token * stride + head * c.head_dim;
      for (int i = 0; i < c.rotary_dim / 2; ++i) {
        const double angle =
            positions[token] * std::pow(10000.0, -2.0 * i / static_cast<double>(c.rotary_dim));
        double& a = at[c.halves ? i : 2 * i];
        double& b = at[c.halves ? i + c.rotary_dim / 2 : 2 * i + 1];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = turned;
      }
    }
  }
  ExpectClose(device_x.ToHost(), expected);
}

TYPED_TEST(RowKernelsTest, Rope) {
  for (const bool halves : {true, false}) {
    for (const RopeCase& c :
         {RopeCase{1, 1, 8, 8, halves}, {5, 3, 64, 64, halves}, {3, 9, 80, 32, halves}}) {
      SCOPED_TRACE(c.head_dim);
      ForEachSchedule([&] { CheckRope<TypeParam>(c); });
    }
  }
}

double Activate(GatedActivationArgs::Function function, double x) {
  if (function == GatedActivationArgs::Function::kSilu) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

TYPED_TEST(RowKernelsTest, GatedActivations) {
  using Function = GatedActivationArgs::Function;
  struct Case {
    int rows, width;
    Function function;
  };
  for (const Case& c : {Case{1, 8, Function::kSilu}, Case{3, 2056, Function::kSilu},
                        Case{3, 72, Function::kGeluTanh}}) {
    RandomInputs random(c.width);
    // One fused product, gate before up; the result in gate's place, as an engine would.
    const int stride = 2 * c.width + 8;
    auto fused = RandomNumbers<TypeParam>(random, static_cast<size_t>(c.rows) * stride, 8);
    fused[0] = FromFloat<TypeParam>(-120.0f);
    fused[1] = FromFloat<TypeParam>(100.0f);
    ForEachSchedule([&] {
      const DeviceArray<TypeParam> device(fused);
      ASSERT_EQ(LaunchGatedActivation({.out = device.data(),
                                       .gate = device.data(),
                                       .up = device.data() + c.width,
                                       .rows = c.rows,
                                       .width = c.width,
                                       .gate_stride = stride,
                                       .up_stride = stride,
                                       .out_stride = stride,
                                       .function = c.function,
                                       .type = kNumberType<TypeParam>},
                                      nullptr),
                CudaError::kSuccess);
      std::vector<double> expected(fused.size());
      for (size_t i = 0; i < fused.size(); ++i) {
        const bool is_gate = static_cast<int>(i % stride) < c.width;
        expected[i] = ToFloat(fused[i]);
        if (is_gate) expected[i] = Activate(c.function, expected[i]) * ToFloat(fused[i + c.width]);
      }
      ExpectClose(device.ToHost(), expected);
    });
  }
}

TYPED_TEST(RowKernelsTest, Embedding) {
  constexpr int kVocabulary = 11;
  const std::vector<int32_t> ids = {10, 0, -1, 3, 11, 3};
  for (const int width : {8, 72, 1096}) {
    for (const float scale : {1.0f, 33.5f}) {
      RandomInputs random(width);
      const auto table = RandomNumbers<TypeParam>(random, kVocabulary * width);
      ForEachSchedule([&] {
        const DeviceArray<TypeParam> device_table(table), out(ids.size() * width);
        const DeviceArray<int32_t> device_ids(ids);
        ASSERT_EQ(LaunchEmbedding({.out = out.data(),
                                   .table = device_table.data(),
                                   .ids = device_ids.data(),
                                   .tokens = static_cast<int>(ids.size()),
                                   .width = width,
                                   .vocabulary = kVocabulary,
                                   .scale = scale,
                                   .type = kNumberType<TypeParam>},
                                  nullptr),
                  CudaError::kSuccess);
        std::vector<double> expected(out.size());
        for (size_t i = 0; i < expected.size(); ++i) {
          const int id = ids[i / width];
          if (id < 0 || id >= kVocabulary) continue;
          expected[i] = double{ToFloat(table[id * width + i % width])} * scale;
        }
        ExpectClose(out.ToHost(), expected);
      });
    }
  }
}

TEST(RowKernelShapesTest, OtherShapesAreRefused) {
  EXPECT_EQ(LaunchRmsNorm({.rows = 0}, nullptr), CudaError::kSuccess);
  for (const int width : {0, 12, kRmsNormMaxWidth + 8}) {
    EXPECT_EQ(LaunchRmsNorm({.rows = 1, .width = width}, nullptr), CudaError::kInvalidValue);
  }
  EXPECT_EQ(LaunchRmsNorm({.rows = 1, .width = 8, .x_stride = 9}, nullptr),
            CudaError::kInvalidValue);
  EXPECT_EQ(LaunchRope({.tokens = 1, .heads = 1, .head_dim = 8, .rotary_dim = 10}, nullptr),
            CudaError::kInvalidValue);
  EXPECT_EQ(LaunchGatedActivation({.rows = 1, .width = 4}, nullptr), CudaError::kInvalidValue);
  EXPECT_EQ(LaunchEmbedding({.tokens = 1, .width = 4}, nullptr), CudaError::kInvalidValue);
}

// ---- RoPE's table ------------------------------------------------------------------------------

using Kind = RopeScaling::Kind;

TEST(RopeTableTest, LinearAndNtkStretchTheSlowestPairByTheFactor) {
  const auto plain = MakeRopeFrequencies(10000, 64, {}).radians_per_token;
  const auto linear =
      MakeRopeFrequencies(10000, 64, {.kind = Kind::kLinear, .factor = 4}).radians_per_token;
  const auto ntk =
      MakeRopeFrequencies(10000, 64, {.kind = Kind::kNtk, .factor = 4}).radians_per_token;
  ASSERT_EQ(plain.size(), 32u);
  EXPECT_EQ(plain.front(), 1);
  EXPECT_NEAR(plain.back(), std::pow(10000, -62.0 / 64), 1e-15);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(linear[i], plain[i] / 4, 1e-15);
  EXPECT_EQ(ntk.front(), 1);
  EXPECT_NEAR(ntk.back(), plain.back() / 4, 1e-12);
}

TEST(RopeTableTest, Llama3KeepsShortWavesAndStretchesLongOnes) {
  // Llama 3.1's own figures.
  const RopeScaling scaling{.kind = Kind::kLlama3, .factor = 8, .original_context = 8192};
  const auto plain = MakeRopeFrequencies(500000, 128, {}).radians_per_token;
  const auto scaled = MakeRopeFrequencies(500000, 128, scaling).radians_per_token;
  int blended = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_EQ(scaled[i], plain[i]) << i;
    } else if (wavelength > 8192.0) {
      EXPECT_NEAR(scaled[i], plain[i] / 8, 1e-15) << i;
    } else {
      ++blended;
      const double smooth = (8192 / wavelength - 1) / (4 - 1);
      EXPECT_NEAR(scaled[i], (1 - smooth) * plain[i] / 8 + smooth * plain[i], 1e-12) << i;
    }
  }
  EXPECT_GT(blended, 3);
}

TEST(RopeTableTest, YarnBlendsBetweenTwoCountsOfTurns) {
  const RopeScaling scaling{.kind = Kind::kYarn, .factor = 4, .original_context = 32768};
  const auto plain = MakeRopeFrequencies(1000000, 128, {}).radians_per_token;
  const RopeFrequencies scaled = MakeRopeFrequencies(1000000, 128, scaling);
  EXPECT_NEAR(scaled.magnitude, 0.1 * std::log(4) + 1, 1e-15);
  double before = 1;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double turns = 32768 * plain[i] / (2 * M_PI),
                 ratio = scaled.radians_per_token[i] / plain[i];
    // The paper's code widens the blend to whole pairs.
    if (turns > 32 * 1.3) {
      EXPECT_EQ(ratio, 1) << i;
    } else if (turns < 1 / 1.3) {
      EXPECT_NEAR(ratio, 0.25, 1e-12) << i;
    }
    EXPECT_GE(ratio, 0.25 - 1e-12);
    EXPECT_LE(ratio, before + 1e-12) << i;
    before = ratio;
  }
  float row[128];
  FillRopeTable(scaled, 0, 1, row);
  EXPECT_FLOAT_EQ(row[0], static_cast<float>(scaled.magnitude));
  EXPECT_EQ(row[1], 0);
}

}  // namespace
}  // namespace thermocline
