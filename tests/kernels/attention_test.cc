// Paged attention, rotation, norm and KV rows against double precision, and every form and path of
// them against each other to the bit. What may not be read is NaN.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/kv_geometry.h"
#include "tests/kernels/kernel_inputs.h"

namespace thermocline {
namespace {

struct Shape {
  int heads, kv_heads, head_dim;
};

/// One layer's KV in blocks, filled through store_kv; the rest NaN.
struct Cache {
  KvGeometry geometry;
  std::vector<std::byte> memory;
  std::vector<std::byte*> blocks;

  Cache(const Shape& shape, KvDtype dtype, int tokens)
      : geometry{
            .layers = 1, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim, .dtype = dtype} {
    const size_t count = BlocksOf(tokens);
    memory.assign(count * geometry.block_bytes(), std::byte{0xff});
    for (size_t i = 0; i < count; ++i) {  // in falling order: nothing may rely on neighbours
      blocks.push_back(memory.data() + (count - 1 - i) * geometry.block_bytes());
    }
  }
  std::byte* Row(KvHalf half, int head, int token) {
    return blocks[token / 16] + geometry.head_offset(0, half, head) +
           token % 16 * geometry.row_bytes();
  }
};

float RowValue(const std::byte* row, KvDtype dtype, int i) {
  if (dtype == KvDtype::kF32) {
    float value;
    std::memcpy(&value, row + 4 * i, 4);
    return value;
  }
  uint16_t h;
  std::memcpy(&h, row + 2 * i, 2);
  const int exponent = h >> 10 & 31;
  const double magnitude =
      exponent == 0 ? std::ldexp(h & 1023, -24) : std::ldexp(1024 + (h & 1023), exponent - 25);
  return static_cast<float>(h >> 15 ? -magnitude : magnitude);
}

std::vector<float> AttendTiles(const CpuKernels& kernels, AttentionArgs args) {
  std::vector<float> out(args.rows * args.out_stride);
  std::vector<float> scratch(AttentionScratchFloats(args.heads, args.kv_heads, args.head_dim));
  args.out = out.data();
  const int first = args.position / kGroupTokens;
  const int last = (args.position + args.rows - 1) / kGroupTokens;
  for (int tile = 0; tile <= last - first; ++tile) {
    for (int head = 0; head < args.kv_heads; ++head) {
      kernels.attend_tile(args, tile, head, scratch.data());
    }
  }
  return out;
}

std::vector<float> AttendSpans(const CpuKernels& kernels, const AttentionArgs& args) {
  const int spans = args.position / kSpanTokens + 1, group = args.heads / args.kv_heads;
  const size_t state = PartialFloats(args.head_dim);
  std::vector<float> out(args.out_stride), partial(spans * group * state);
  std::vector<float> scratch(AttentionScratchFloats(args.heads, args.kv_heads, args.head_dim));
  for (int kv_head = 0; kv_head < args.kv_heads; ++kv_head) {
    for (int span = spans - 1; span >= 0; --span) {
      kernels.attend_span(args, span, kv_head, partial.data() + span * group * state,
                          scratch.data());
    }
    for (int g = 0; g < group; ++g) {
      kernels.merge_spans(partial.data() + g * state, group * state, spans, args.head_dim,
                          out.data() + (kv_head * group + g) * args.head_dim, scratch.data());
    }
  }
  return out;
}

/// softmax(q k / sqrt(d)) v of one head of one row.
std::vector<double> Oracle(Cache& cache, const Shape& shape, const float* q, int head, int tokens) {
  const int kv_head = head / (shape.heads / shape.kv_heads), dim = shape.head_dim;
  std::vector<double> scores(tokens), out(dim);
  double maximum = -1e300, sum = 0;
  for (int t = 0; t < tokens; ++t) {
    const std::byte* k = cache.Row(KvHalf::kKeys, kv_head, t);
    for (int d = 0; d < dim; ++d) {
      scores[t] += static_cast<double>(q[d]) * RowValue(k, cache.geometry.dtype, d);
    }
    scores[t] /= std::sqrt(dim);
    maximum = std::max(maximum, scores[t]);
  }
  for (int t = 0; t < tokens; ++t) {
    const double weight = std::exp(scores[t] - maximum);
    const std::byte* v = cache.Row(KvHalf::kValues, kv_head, t);
    for (int d = 0; d < dim; ++d) out[d] += weight * RowValue(v, cache.geometry.dtype, d);
    sum += weight;
  }
  for (double& value : out) value /= sum;
  return out;
}

void CheckAttention(const Shape& shape, KvDtype dtype, int position, int rows) {
  SCOPED_TRACE(testing::Message() << shape.heads << "/" << shape.kv_heads << " x " << shape.head_dim
                                  << " " << KvDtypeName(dtype) << " at " << position << " rows "
                                  << rows);
  RandomInputs random(position * 131 + rows + shape.head_dim);
  Cache cache(shape, dtype, position + rows);
  const CpuKernels& portable = *SupportedCpuKernels().back();
  for (int t = 0; t < position + rows; ++t) {
    for (int head = 0; head < shape.kv_heads; ++head) {
      for (const KvHalf half : {KvHalf::kKeys, KvHalf::kValues}) {
        std::vector<float> row = random.Floats(shape.head_dim);
        for (float& value : row) value *= half == KvHalf::kKeys ? 4.0f : 1.0f;
        portable.store_kv(row.data(), shape.head_dim, dtype == KvDtype::kF16,
                          cache.Row(half, head, t));
      }
    }
  }
  const size_t width = static_cast<size_t>(shape.heads) * shape.head_dim;
  const std::vector<float> q = random.Floats(rows * width);
  const AttentionArgs args = {.q = q.data(),
                              .q_stride = width,
                              .out_stride = width,
                              .heads = shape.heads,
                              .kv_heads = shape.kv_heads,
                              .head_dim = shape.head_dim,
                              .rows = rows,
                              .position = position,
                              .blocks = cache.blocks.data(),
                              .keys_offset = cache.geometry.head_offset(0, KvHalf::kKeys, 0),
                              .values_offset = cache.geometry.head_offset(0, KvHalf::kValues, 0),
                              .head_bytes = cache.geometry.head_bytes(),
                              .half = dtype == KvDtype::kF16};
  const std::vector<float> first = AttendTiles(portable, args);
  for (const CpuKernels* kernels : SupportedCpuKernels()) {
    ASSERT_TRUE(SameBits(AttendTiles(*kernels, args), first)) << kernels->name;
  }
  for (int r = 0; r<rows; r += rows> 4 ? rows - 1 : 1) {
    AttentionArgs one = args;
    one.q += r * width;
    one.position += r;
    one.rows = 1;
    const std::vector<float> row(first.begin() + r * width, first.begin() + (r + 1) * width);
    for (const CpuKernels* kernels : SupportedCpuKernels()) {
      // As decode sees it: what lies behind the row is not there yet.
      ASSERT_TRUE(SameBits(AttendSpans(*kernels, one), row)) << kernels->name << " row " << r;
    }
    for (int head = 0; head < shape.heads; ++head) {
      const auto wanted =
          Oracle(cache, shape, one.q + head * shape.head_dim, head, one.position + 1);
      for (int d = 0; d < shape.head_dim; ++d) {
        ASSERT_NEAR(row[head * shape.head_dim + d], wanted[d], 3e-6);
      }
    }
  }
}

TEST(AttentionTest, MatchesDoublePrecisionInEveryFormAndPathToTheBit) {
  for (const Shape& shape : {Shape{4, 2, 8}, Shape{3, 1, 64}, Shape{2, 2, 24}, Shape{8, 1, 128}}) {
    for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kF16}) {
      CheckAttention(shape, dtype, 0, 1);
      CheckAttention(shape, dtype, 0, 70);
      CheckAttention(shape, dtype, 63, 2);
      CheckAttention(shape, dtype, 255, 3);
      CheckAttention(shape, dtype, 517, 20);
    }
  }
}

TEST(RowKernelTest, RmsNorm) {
  RandomInputs random(1);
  for (const int width : {16, 64, 172, 576}) {
    std::vector<float> x(PaddedColumns(width)), gain(x.size());
    double squares = 0;
    for (int i = 0; i < width; ++i) {
      x[i] = random.Float();
      gain[i] = random.Float();
      squares += static_cast<double>(x[i]) * x[i];
    }
    std::vector<float> first;
    for (const CpuKernels* kernels : SupportedCpuKernels()) {
      std::vector<float> y(x.size());
      kernels->rms_norm(x.data(), gain.data(), y.data(), width, 1e-5f);
      if (first.empty()) first = y;
      ASSERT_TRUE(SameBits(y, first)) << kernels->name;
    }
    for (int i = 0; i < width; ++i) {
      ASSERT_NEAR(first[i], x[i] / std::sqrt(squares / width + 1e-5) * gain[i], 1e-6);
    }
  }
}

TEST(RowKernelTest, RopeRotatesPairsAndHalves) {
  RandomInputs random(2);
  for (const bool halves : {false, true}) {
    for (const int dim : {8, 24, 64}) {
      const std::vector<float> x = random.Floats(3 * dim), cos_sin = random.Floats(dim);
      std::vector<float> first;
      for (const CpuKernels* kernels : SupportedCpuKernels()) {
        std::vector<float> y = x;
        kernels->rope(y.data(), 3, dim, cos_sin.data(), halves);
        if (first.empty()) first = y;
        ASSERT_TRUE(SameBits(y, first)) << kernels->name;
      }
      for (int head = 0; head < 3; ++head) {
        for (int i = 0; i < dim / 2; ++i) {
          const int a = head * dim + (halves ? i : 2 * i), b = halves ? a + dim / 2 : a + 1;
          const double c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
          ASSERT_NEAR(first[a], x[a] * c - x[b] * s, 1e-6);
          ASSERT_NEAR(first[b], x[a] * s + x[b] * c, 1e-6);
        }
      }
    }
  }
}

TEST(RowKernelTest, HalfRowsRoundToNearestEvenAndSaturate) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {
      1.0f,     1.00048828125f, 1.00146484375f, 65504.0f, 65519.0f, 1e30f,      -inf, 0x1p-24f,
      0x1p-25f, -0.0f,          0x1.8p-25f,     2.5e-5f,  -3.1e-5f, 6.0975e-5f, 0.1f, -70000.0f};
  std::vector<uint16_t> wanted = {0x3c00, 0x3c00, 0x3c02, 0x7bff, 0x7bff, 0x7bff, 0xfbff, 0x0001,
                                  0x0000, 0x8000, 0x0001, 0x01a3, 0x8208, 0x03ff, 0x2e66, 0xfbff};
  for (const CpuKernels* kernels : SupportedCpuKernels()) {
    std::vector<uint16_t> row(x.size());
    kernels->store_kv(x.data(), static_cast<int>(x.size()), true,
                      reinterpret_cast<std::byte*>(row.data()));
    EXPECT_EQ(row, wanted) << kernels->name;
  }
}

/// All 65,536 halves and two million floats: the spelled-out conversions are the processor's.
TEST(RowKernelTest, EveryFormConvertsHalvesAlike) {
  const auto tables = SupportedCpuKernels();
  StoredMatrix stored{WeightType::kF16, nullptr, 1, 1 << 16};
  std::vector<uint16_t> halves(stored.columns);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  stored.data = reinterpret_cast<const std::byte*>(halves.data());
  std::vector<std::byte> panel(PanelBytes(stored.type, stored.columns));
  PackPanel(stored, 0, panel.data());
  std::vector<float> first;
  for (const CpuKernels* kernels : tables) {
    std::vector<float> columns(static_cast<size_t>(stored.columns) * kPanelRows);
    kernels->unpack({panel.data(), stored.type}, stored.columns / kBlockColumns, columns.data());
    if (first.empty()) first = columns;
    EXPECT_TRUE(SameBits(columns, first)) << kernels->name;
  }
  RandomInputs random(3);
  std::vector<float> x(1 << 21);
  for (float& value : x) {
    const uint32_t bits = random.Bits();
    std::memcpy(&value, &bits, 4);
  }
  std::vector<std::byte> wanted;
  for (const CpuKernels* kernels : tables) {
    std::vector<std::byte> row(2 * x.size());
    kernels->store_kv(x.data(), static_cast<int>(x.size()), true, row.data());
    if (wanted.empty()) wanted = row;
    EXPECT_TRUE(row == wanted) << kernels->name;
  }
}

}  // namespace
}  // namespace thermocline
