// Quantising kernels against the codes' definition in float64: each number within its code's error,
// rows filled up, everything else untouched; NaN, infinities, zeros and tiny rows.
#include "kernels/quantize.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/kernels/simt/oracle.h"
#include "tests/kernels/simt/quant_inputs.h"

namespace thermocline {
namespace {

constexpr int32_t kPoison = 1 << 28;  ///< in page-table slots that must not be read
constexpr KvDtype kCodes[] = {KvDtype::kInt8, KvDtype::kE4m3, KvDtype::kInt4};

/// One quantised row against the numbers it was made of.
template <class T>
void ExpectRow(const T* numbers, int head_dim, KvDtype dtype, const std::vector<uint8_t>& pool,
               size_t row_at, size_t scale_at) {
  const uint8_t* const row = pool.data() + row_at;
  double largest = 0;
  bool nan = false;
  for (int i = 0; i < head_dim; ++i) {
    const double magnitude = std::fabs(double{ToFloat(numbers[i])});
    nan = nan || std::isnan(magnitude);
    largest = std::max(largest, std::min(magnitude, double{kLargestHalf}));
  }
  const double scale = ScaleAt(pool.data() + scale_at);
  if (nan) {
    EXPECT_TRUE(std::isnan(scale));
    return;
  }
  const auto wanted = static_cast<float>(largest / LargestCode(dtype));
  ASSERT_NEAR(scale, ToFloat(FromFloat<Half>(wanted)), wanted * 0x1p-20);
  for (int i = 0; i < head_dim; ++i) {
    const double limit = kLargestHalf;
    const double number = std::clamp(double{ToFloat(numbers[i])}, -limit, limit);
    const double code = CodeAt(dtype, row, i);
    ASSERT_LE(std::fabs(code), LargestCode(dtype));
    ASSERT_LE(std::fabs(code * scale - number), CodeError(dtype, number, scale))
        << i << ": " << number << " became " << code << " * " << scale;
  }
  const auto numbers_of_row =
      static_cast<int>(KvRowBytes(dtype, head_dim) * 8 / KvDtypeBits(dtype));
  for (int i = head_dim; i < numbers_of_row; ++i) ASSERT_EQ(CodeAt(dtype, row, i), 0) << i;
}

/// Rows that quantise badly among the random ones.
template <class T>
std::vector<T> Numbers(RandomInputs& random, size_t rows, int head_dim) {
  auto numbers = RandomNumbers<T>(random, rows * head_dim, 3);
  const auto row = [&](size_t i) { return numbers.data() + i * head_dim; };
  std::fill(row(0), row(1), T{0});
  row(1)[head_dim - 1] = FromFloat<T>(-std::numeric_limits<float>::infinity());
  row(2)[1] = FromFloat<T>(std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < head_dim; ++i) row(3)[i] = FromFloat<T>(1e-6f * static_cast<float>(i));
  row(4)[head_dim / 2] = FromFloat<T>(60000);
  return numbers;
}

template <class T>
void CheckAppend(KvDtype dtype, int kv_heads, int head_dim) {
  RandomInputs random(kv_heads * head_dim);
  const KvGeometry geometry{
      .layers = 2, .kv_heads = kv_heads, .head_dim = head_dim, .dtype = dtype};
  constexpr int kBlocks = 6, kTableStride = 3;
  const std::vector<int32_t> tables = {4, 1, kPoison, 0, kPoison, kPoison, 5, 3, 2};
  const std::vector<int32_t> sequences = {0, 0, 0, 1, 1, 2, 2},
                             positions = {14, 15, 16, 0, -1, 47, 31};
  const int tokens = static_cast<int>(sequences.size()), stride = kv_heads * head_dim + 8;
  const auto keys = Numbers<T>(random, tokens * stride / head_dim + 1, head_dim),
             values = Numbers<T>(random, tokens * stride / head_dim + 1, head_dim);
  std::vector<uint8_t> before(kBlocks * geometry.block_bytes());
  for (uint8_t& byte : before) byte = static_cast<uint8_t>(random.Bits());
  const DeviceArray<uint8_t> pool(before);
  const DeviceArray<T> device_keys(keys), device_values(values);
  const DeviceArray<int32_t> device_tables(tables), device_sequences(sequences),
      device_positions(positions);
  ASSERT_EQ(
      LaunchQuantizedAppend({.kv = LayerOf(geometry, 1, reinterpret_cast<std::byte*>(pool.data()),
                                           static_cast<int64_t>(geometry.block_bytes())),
                             .keys = device_keys.data(),
                             .values = device_values.data(),
                             .tables = device_tables.data(),
                             .sequences = device_sequences.data(),
                             .positions = device_positions.data(),
                             .token_stride = stride,
                             .table_stride = kTableStride,
                             .tokens = tokens,
                             .kv_heads = kv_heads,
                             .head_dim = head_dim,
                             .type = kNumberType<T>},
                            dtype, nullptr),
      CudaError::kSuccess);
  const std::vector<uint8_t> after = pool.ToHost();
  std::vector<uint8_t> others = before;  // with what was written by right
  for (int token = 0; token < tokens; ++token) {
    if (positions[token] < 0) continue;
    const int block = tables[sequences[token] * kTableStride + positions[token] / 16];
    for (const KvHalf half : {KvHalf::kKeys, KvHalf::kValues}) {
      for (int head = 0; head < kv_heads; ++head) {
        const size_t begin = block * geometry.block_bytes() + geometry.head_offset(1, half, head);
        const size_t row = begin + positions[token] % 16 * geometry.row_bytes();
        const size_t scale = begin + geometry.scales_offset() + positions[token] % 16 * 2;
        ExpectRow((half == KvHalf::kKeys ? keys : values).data() + token * stride + head * head_dim,
                  head_dim, dtype, after, row, scale);
        std::copy_n(after.begin() + row, geometry.row_bytes(), others.begin() + row);
        std::copy_n(after.begin() + scale, 2, others.begin() + scale);
      }
    }
  }
  EXPECT_EQ(after, others);
}

template <class T>
void CheckBlocks(KvDtype dtype, int layers, int kv_heads, int head_dim) {
  RandomInputs random(layers * kv_heads + head_dim);
  const KvGeometry geometry{
      .layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .dtype = dtype};
  KvGeometry plain = geometry;
  plain.dtype = KvDtype::kF16;
  const std::vector<int32_t> plain_blocks = {3, 0, 2}, blocks = {1, 3, 0};
  const size_t rows_of_block = plain.block_bytes() / plain.row_bytes();
  const auto numbers = Numbers<T>(random, 4 * rows_of_block, head_dim);
  const DeviceArray<T> plain_pool(numbers);
  DeviceArray<T> returned(numbers.size());
  DeviceArray<uint8_t> pool(4 * geometry.block_bytes());
  const DeviceArray<int32_t> device_plain(plain_blocks), device_blocks(blocks);
  BlockQuantizeArgs args{.plain_pool = reinterpret_cast<std::byte*>(plain_pool.data()),
                         .plain_stride = static_cast<int64_t>(plain.block_bytes()),
                         .pool = reinterpret_cast<std::byte*>(pool.data()),
                         .stride = static_cast<int64_t>(geometry.block_bytes()),
                         .plain_blocks = device_plain.data(),
                         .blocks = device_blocks.data(),
                         .count = static_cast<int>(blocks.size()),
                         .geometry = geometry,
                         .type = kNumberType<T>,
                         .max_thread_blocks = 3};
  ASSERT_EQ(LaunchBlockQuantize(args, nullptr), CudaError::kSuccess);
  const std::vector<uint8_t> codes = pool.ToHost();
  args.plain_pool = reinterpret_cast<std::byte*>(returned.data());
  ASSERT_EQ(LaunchBlockDequantize(args, nullptr), CudaError::kSuccess);
  const std::vector<T> back = returned.ToHost();
  EXPECT_EQ(plain_pool.ToHost().size(), numbers.size());
  for (size_t pair = 0; pair < blocks.size(); ++pair) {
    for (size_t i = 0; i < rows_of_block; ++i) {
      const size_t head = blocks[pair] * geometry.block_bytes() + i / 16 * geometry.head_bytes();
      const size_t row = head + i % 16 * geometry.row_bytes();
      const size_t scale = head + geometry.scales_offset() + i % 16 * 2;
      const size_t first = (plain_blocks[pair] * rows_of_block + i) * head_dim;
      ExpectRow(numbers.data() + first, head_dim, dtype, codes, row, scale);
      for (int d = 0; d < head_dim; ++d) {
        const double wanted = CodeAt(dtype, codes.data() + row, d) * ScaleAt(codes.data() + scale);
        const T exact = FromFloat<T>(static_cast<float>(wanted));
        if (std::isnan(wanted)) {
          ASSERT_TRUE(std::isnan(ToFloat(back[first + d])));
        } else {
          ASSERT_EQ(back[first + d].bits, exact.bits) << wanted;
        }
      }
    }
  }
  for (size_t i = 0; i < geometry.block_bytes(); ++i) {
    ASSERT_EQ(codes[2 * geometry.block_bytes() + i], 0xff) << "a block that was not asked for";
  }
  for (size_t i = 0; i < rows_of_block * head_dim; ++i) {
    ASSERT_EQ(back[rows_of_block * head_dim + i].bits, 0xffff) << "a block not asked for";
  }
}

TEST(QuantizeTest, AppendWritesItsRowsAlone) {
  for (const KvDtype dtype : kCodes) {
    SCOPED_TRACE(KvDtypeName(dtype));
    ForEachSchedule([&] {
      CheckAppend<Half>(dtype, 1, 8);
      CheckAppend<Bfloat16>(dtype, 3, 128);
      CheckAppend<Half>(dtype, 5, 72);
    });
  }
}

TEST(QuantizeTest, BlocksThereAndBack) {
  for (const KvDtype dtype : kCodes) {
    SCOPED_TRACE(KvDtypeName(dtype));
    ForEachSchedule([&] {
      CheckBlocks<Half>(dtype, 2, 1, 80);
      CheckBlocks<Bfloat16>(dtype, 1, 3, 64);
      CheckBlocks<Half>(dtype, 1, 1, 256);
    });
  }
}

TEST(QuantizeTest, LayoutOfABlock) {
  const KvGeometry int8{.layers = 2, .kv_heads = 3, .head_dim = 80, .dtype = KvDtype::kInt8};
  EXPECT_EQ(int8.row_bytes(), 80);
  EXPECT_EQ(int8.scales_offset(), 16 * 80);
  EXPECT_EQ(int8.head_bytes(), 16 * 80 + 32);
  EXPECT_EQ(int8.block_bytes(), 2 * 2 * 3 * (16 * 80 + 32));
  const KvGeometry int4{.layers = 1, .kv_heads = 1, .head_dim = 80, .dtype = KvDtype::kInt4};
  EXPECT_EQ(int4.row_bytes(), 48);  // 40 filled up
  EXPECT_EQ(int4.head_offset(0, KvHalf::kValues, 0), 16 * 48 + 32);
}

TEST(QuantizeTest, OtherShapesAreRefused) {
  EXPECT_EQ(
      LaunchQuantizedAppend({.tokens = 1, .kv_heads = 1, .head_dim = 68}, KvDtype::kInt8, nullptr),
      CudaError::kInvalidValue);
  EXPECT_EQ(
      LaunchQuantizedAppend({.tokens = 1, .kv_heads = 1, .head_dim = 64}, KvDtype::kF16, nullptr),
      CudaError::kInvalidValue);
  BlockQuantizeArgs args{
      .count = 1,
      .geometry = {.layers = 1, .kv_heads = 1, .head_dim = 264, .dtype = KvDtype::kInt8}};
  EXPECT_EQ(LaunchBlockQuantize(args, nullptr), CudaError::kInvalidValue);
  args.geometry.head_dim = 64;
  args.geometry.dtype = KvDtype::kF32;
  EXPECT_EQ(LaunchBlockDequantize(args, nullptr), CudaError::kInvalidValue);
}

}  // namespace
}  // namespace thermocline
