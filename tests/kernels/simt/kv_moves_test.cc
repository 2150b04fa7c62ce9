// KV append, gather and scatter: bytes must arrive exactly, and no others may change.
#include <gmock/gmock.h>

#include <map>

#include "kernels/block_copy.h"
#include "kernels/kv_append.h"
#include "tests/kernels/simt/oracle.h"

namespace thermocline {
namespace {

constexpr int32_t kPoison = 1 << 28;  ///< in page-table slots that must not be read

std::vector<uint8_t> RandomBytes(RandomInputs& random, size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Bits());
  return bytes;
}

PagedKv KvOf(const KvGeometry& geometry, int layer, uint8_t* pool) {
  return {.pool = reinterpret_cast<std::byte*>(pool),
          .block_stride = static_cast<int64_t>(geometry.block_bytes()),
          .keys_offset = static_cast<int64_t>(geometry.head_offset(layer, KvHalf::kKeys, 0)),
          .values_offset = static_cast<int64_t>(geometry.head_offset(layer, KvHalf::kValues, 0)),
          .head_stride = static_cast<int64_t>(geometry.head_bytes()),
          .row_stride = static_cast<int64_t>(geometry.row_bytes())};
}

template <class T>
void CheckAppend(int kv_heads, int head_dim) {
  RandomInputs random(kv_heads * head_dim);
  const KvGeometry geometry{
      .layers = 2, .kv_heads = kv_heads, .head_dim = head_dim, .dtype = KvDtype::kF16};
  constexpr int kBlocks = 6, kTableStride = 3;
  const std::vector<int32_t> tables = {4, 1, kPoison, 0, kPoison, kPoison, 5, 3, 2};
  // Sequence 0 crosses into its second block, 1 begins, 2 ends; one token is padding.
  const std::vector<int32_t> sequences = {0, 0, 0, 1, 1, 2, 2},
                             positions = {14, 15, 16, 0, -1, 47, 31};
  const int tokens = static_cast<int>(sequences.size()), stride = kv_heads * head_dim + 8;
  const auto keys = RandomNumbers<T>(random, static_cast<size_t>(tokens) * stride);
  auto values = RandomNumbers<T>(random, keys.size());
  values[3] = FromFloat<T>(INFINITY);
  values[4] = FromFloat<T>(-INFINITY);
  values[5] = FromFloat<T>(NAN);
  auto pool = RandomBytes(random, kBlocks * geometry.block_bytes());
  const DeviceArray<uint8_t> device_pool(pool);
  const DeviceArray<T> device_keys(keys), device_values(values);
  const DeviceArray<int32_t> device_tables(tables), device_sequences(sequences),
      device_positions(positions);
  ASSERT_EQ(LaunchKvAppend({.kv = KvOf(geometry, 1, device_pool.data()),
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
                           nullptr),
            CudaError::kSuccess);
  for (int token = 0; token < tokens; ++token) {
    if (positions[token] < 0) continue;
    const int block = tables[sequences[token] * kTableStride + positions[token] / 16];
    for (const KvHalf half : {KvHalf::kKeys, KvHalf::kValues}) {
      for (int i = 0; i < kv_heads * head_dim; ++i) {
        T number = (half == KvHalf::kKeys ? keys : values)[token * stride + i];
        if (std::isinf(ToFloat(number))) --number.bits;  // the largest that is finite
        std::memcpy(pool.data() + block * geometry.block_bytes() +
                        geometry.head_offset(1, half, i / head_dim) +
                        positions[token] % 16 * geometry.row_bytes() + i % head_dim * 2,
                    &number, 2);
      }
    }
  }
  EXPECT_EQ(device_pool.ToHost(), pool);
}

TEST(KvMovesTest, AppendWritesItsRowsAlone) {
  for (const auto& [heads, head_dim] : std::map<int, int>{{1, 8}, {2, 64}, {3, 128}}) {
    SCOPED_TRACE(head_dim);
    ForEachSchedule([&, heads = heads, head_dim = head_dim] {
      CheckAppend<Half>(heads, head_dim);
      CheckAppend<Bfloat16>(heads, head_dim);
    });
  }
}

struct CopyCase {
  int layers, kv_heads, head_dim, page_tokens;
  bool heads_first;
  int max_thread_blocks;
};

/// vLLM's layout: [K, V][page][token][head][dim] (NHD), or with token and head swapped (HND).
EngineKvLayout EngineLayout(const CopyCase& c, int pages, int64_t row_bytes) {
  const int64_t page_stride = row_bytes * c.kv_heads * c.page_tokens;
  return {.page_stride = page_stride,
          .half_stride = page_stride * pages,
          .head_stride = c.heads_first ? row_bytes * c.page_tokens : row_bytes,
          .token_stride = c.heads_first ? row_bytes : row_bytes * c.kv_heads,
          .page_tokens = c.page_tokens};
}

void CheckCopy(const CopyCase& c, bool to_engine) {
  RandomInputs random(c.head_dim + c.page_tokens);
  const KvGeometry geometry{
      .layers = c.layers, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .dtype = KvDtype::kF16};
  constexpr int kPoolBlocks = 7, kPages = 4;
  const std::vector<int32_t> blocks = {5, 0, 3};
  const std::vector<int64_t> slots = {static_cast<int64_t>(2 * c.page_tokens),
                                      static_cast<int64_t>(4 * c.page_tokens - 16), 0};
  const auto row_bytes = static_cast<int64_t>(geometry.row_bytes());
  const EngineKvLayout layout = EngineLayout(c, kPages, row_bytes);
  auto pool = RandomBytes(random, kPoolBlocks * geometry.block_bytes());
  std::vector<std::vector<uint8_t>> layers;
  std::vector<DeviceArray<uint8_t>> device_layers;
  std::vector<std::byte*> pointers;
  for (int layer = 0; layer < c.layers; ++layer) {
    layers.push_back(RandomBytes(random, 2 * layout.half_stride));
    device_layers.emplace_back(layers.back());
    pointers.push_back(reinterpret_cast<std::byte*>(device_layers.back().data()));
  }
  const DeviceArray<uint8_t> device_pool(pool);
  const DeviceArray<std::byte*> device_pointers(pointers);
  const DeviceArray<int32_t> device_blocks(blocks);
  const DeviceArray<int64_t> device_slots(slots);
  const BlockCopyArgs args{.pool = reinterpret_cast<std::byte*>(device_pool.data()),
                           .block_stride = static_cast<int64_t>(geometry.block_bytes()),
                           .blocks = device_blocks.data(),
                           .layers = device_pointers.data(),
                           .slots = device_slots.data(),
                           .count = static_cast<int>(blocks.size()),
                           .geometry = geometry,
                           .engine = layout,
                           .max_thread_blocks = c.max_thread_blocks};
  ASSERT_EQ(to_engine ? LaunchBlockScatter(args, nullptr) : LaunchBlockGather(args, nullptr),
            CudaError::kSuccess);
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (int layer = 0; layer < c.layers; ++layer) {
      for (int half = 0; half < 2; ++half) {
        for (int head = 0; head < c.kv_heads; ++head) {
          for (int token = 0; token < kBlockTokens; ++token) {
            uint8_t* const ours = pool.data() + blocks[i] * geometry.block_bytes() +
                                  geometry.head_offset(layer, static_cast<KvHalf>(half), head) +
                                  token * row_bytes;
            const int64_t slot = slots[i] + token;
            uint8_t* const theirs = layers[layer].data() +
                                    slot / c.page_tokens * layout.page_stride +
                                    half * layout.half_stride + head * layout.head_stride +
                                    slot % c.page_tokens * layout.token_stride;
            std::memcpy(to_engine ? theirs : ours, to_engine ? ours : theirs, row_bytes);
          }
        }
      }
    }
  }
  EXPECT_EQ(device_pool.ToHost(), pool);
  for (int layer = 0; layer < c.layers; ++layer) {
    EXPECT_EQ(device_layers[layer].ToHost(), layers[layer]) << layer;
  }
}

TEST(KvMovesTest, GatherAndScatterTranslateLayouts) {
  for (const CopyCase& c : {CopyCase{1, 1, 8, 16, false, 1},
                            {3, 2, 64, 16, false, 5},
                            {2, 3, 80, 48, true, 64},
                            {2, 4, 128, 32, false, 3}}) {
    for (const bool to_engine : {false, true}) {
      SCOPED_TRACE(testing::Message() << c.head_dim << (to_engine ? " scatter" : " gather"));
      ForEachSchedule([&] { CheckCopy(c, to_engine); });
    }
  }
}

TEST(KvMovesTest, OtherShapesAreRefused) {
  KvAppendArgs append{.tokens = 1, .kv_heads = 1, .head_dim = 12};
  EXPECT_EQ(LaunchKvAppend(append, nullptr), CudaError::kInvalidValue);
  append.head_dim = 16;
  append.kv.row_stride = 8;
  EXPECT_EQ(LaunchKvAppend(append, nullptr), CudaError::kInvalidValue);
  BlockCopyArgs copy{.count = 1};
  copy.geometry = {.layers = 1, .kv_heads = 1, .head_dim = 12, .dtype = KvDtype::kF16};
  EXPECT_EQ(LaunchBlockGather(copy, nullptr), CudaError::kInvalidValue);
  copy.geometry.head_dim = 16;
  copy.engine.page_tokens = 24;
  EXPECT_EQ(LaunchBlockScatter(copy, nullptr), CudaError::kInvalidValue);
}

/// Reads and writes of global memory by the launches since the last call, in bytes of sectors.
struct Traffic {
  uint64_t read = 0, written = 0;
};
Traffic TakeTraffic() {
  Traffic traffic;
  for (const simt::AccessSite& site : simt::TakeAccessSites()) {
    if (site.shared) continue;
    (site.write ? traffic.written : traffic.read) += 32 * site.sectors;
  }
  return traffic;
}

TEST(KvMovesTest, CopiesTouchNoSectorTwice) {
  if (!simt::IsChecked()) GTEST_SKIP() << "the checker's part";
  simt::CollectAccesses(true);
  TakeTraffic();
  const CopyCase c{2, 4, 128, 32, false, 3};
  CheckCopy(c, false);
  const Traffic traffic = TakeTraffic();
  simt::CollectAccesses(false);
  const uint64_t bytes = 3 * 2 * 2 * 4 * 16 * 256;
  EXPECT_EQ(traffic.written, bytes);
  EXPECT_LT(static_cast<double>(traffic.read), 1.05 * static_cast<double>(bytes));  // and the ids
}

}  // namespace
}  // namespace thermocline
