// Dequantised weights must be the engine's own float32 ones, rounded once, to the bit: for every
// type, random codes, scales of every size, a count that ends within a load.
#include "kernels/dequantize_weights.h"

#include <gmock/gmock.h>

#include "engine/dequantize.h"
#include "tests/kernels/simt/oracle.h"

namespace thermocline {
namespace {

struct Types {
  WeightType kernel;
  TensorType engine;
};
constexpr Types kTypes[] = {
    {WeightType::kF32, TensorType::kF32},   {WeightType::kF16, TensorType::kF16},
    {WeightType::kBF16, TensorType::kBF16}, {WeightType::kQ8_0, TensorType::kQ8_0},
    {WeightType::kQ4_0, TensorType::kQ4_0}, {WeightType::kQ4_1, TensorType::kQ4_1},
    {WeightType::kQ5_0, TensorType::kQ5_0}, {WeightType::kQ5_1, TensorType::kQ5_1}};

template <class T>
void Check(const Types& types, int blocks) {
  RandomInputs random(blocks);
  const int numbers = blocks * WeightBlockNumbers(types.kernel);
  std::vector<uint8_t> stored(blocks * WeightBlockBytes(types.kernel));
  for (uint8_t& byte : stored) byte = static_cast<uint8_t>(random.Bits());
  std::vector<float> expected(numbers);
  Dequantize(types.engine, std::as_bytes(std::span(stored)), expected);
  const DeviceArray<uint8_t> device_stored(stored);
  DeviceArray<T> out(numbers + 8);
  DeviceArray<int32_t> beyond(std::vector<int32_t>{0, -5});
  ASSERT_EQ(LaunchDequantizeWeights({.out = out.data(),
                                     .stored = device_stored.data(),
                                     .beyond = beyond.data(),
                                     .numbers = numbers,
                                     .stored_type = types.kernel,
                                     .type = kNumberType<T>},
                                    nullptr),
            CudaError::kSuccess);
  const std::vector<T> actual = out.ToHost();
  for (int i = 0; i < numbers; ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(ToFloat(actual[i]))) << i;
    } else {
      ASSERT_EQ(actual[i].bits, FromFloat<T>(expected[i]).bits) << i << ": " << expected[i];
    }
  }
  for (int i = numbers; i < numbers + 8; ++i) ASSERT_EQ(actual[i].bits, 0xffff) << i;
  const float largest = ToFloat(T{std::is_same_v<T, Half> ? uint16_t{0x7bff} : uint16_t{0x7f7f}});
  const bool any_beyond = std::any_of(expected.begin(), expected.end(),
                                      [&](float x) { return !(std::fabs(x) <= largest); });
  EXPECT_EQ(beyond.ToHost(), (std::vector<int32_t>{any_beyond, -5}));
}

TEST(DequantizeWeightsTest, EqualTheEnginesToTheBit) {
  for (const Types& types : kTypes) {
    SCOPED_TRACE("type " + std::to_string(static_cast<int>(types.kernel)));
    ASSERT_EQ(WeightBlockBytes(types.kernel), static_cast<int>(BlockBytes(types.engine)) *
                                                  WeightBlockNumbers(types.kernel) /
                                                  static_cast<int>(BlockElements(types.engine)));
    ForEachSchedule([&] {
      Check<Half>(types, 1);
      Check<Half>(types, 301);
      Check<Bfloat16>(types, 131);
    });
  }
}

TEST(DequantizeWeightsTest, OtherShapesAreRefused) {
  DequantizeWeightsArgs args{.numbers = 40};
  EXPECT_EQ(LaunchDequantizeWeights(args, nullptr), CudaError::kInvalidValue);
  args.numbers = 64;
  args.stored = reinterpret_cast<const void*>(8);
  EXPECT_EQ(LaunchDequantizeWeights(args, nullptr), CudaError::kInvalidValue);
}

}  // namespace
}  // namespace thermocline
