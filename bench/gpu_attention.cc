// Attention over paged KV, of one token a sequence and of chunks. Decoding is held against a copy
// on the device, prefill told in floating-point operations.
#include "bench/gpu_device.h"
#include "kernels/decode_attention.h"
#include "kernels/prefill_attention.h"

namespace thermocline::bench {
namespace {

struct Shape {
  const char* name;
  int sequences, tokens, heads, kv_heads, head_dim;
};

/// Blocks of 16 tokens all over a pool that the device's cache cannot hold: its parts take turns.
class ShuffledKv {
 public:
  ShuffledKv(const Shape& shape, KvDtype dtype)
      : geometry_{.layers = 1,
                  .kv_heads = shape.kv_heads,
                  .head_dim = shape.head_dim,
                  .dtype = dtype},
        blocks_each_(static_cast<int>(BlocksOf(shape.tokens))),
        sequences_(shape.sequences),
        parts_(static_cast<int>(400e6 / kv_bytes()) + 1),
        pool_(static_cast<size_t>(blocks_each_) * sequences_ * parts_ * geometry_.block_bytes()),
        tables_(Shuffled(pool_.bytes() / geometry_.block_bytes())),
        lengths_(std::vector<int32_t>(shape.sequences, shape.tokens)) {}

  double kv_bytes() const {
    return static_cast<double>(geometry_.block_bytes()) * blocks_each_ * sequences_;
  }
  int table_stride() const { return blocks_each_; }
  const int32_t* lengths() const { return lengths_.As<int32_t>(); }
  const int32_t* Tables(int call) const {
    return tables_.As<int32_t>() + static_cast<size_t>(call % parts_) * sequences_ * blocks_each_;
  }
  PagedKv View() const {
    return LayerOf(geometry_, 0, pool_.As<std::byte>(),
                   static_cast<int64_t>(geometry_.block_bytes()));
  }

 private:
  static std::vector<int32_t> Shuffled(size_t count) {
    std::vector<int32_t> ids(count);
    for (size_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(i);
    uint32_t state = 7;
    for (size_t i = count - 1; i > 0; --i) {
      state = state * 1664525 + 1013904223;
      std::swap(ids[i], ids[state % (i + 1)]);
    }
    return ids;
  }

  KvGeometry geometry_;
  int blocks_each_, sequences_, parts_;
  DeviceBuffer pool_, tables_, lengths_;
};

void MeasureDecode(const Device& device, Report& report, const Shape& shape, KvDtype dtype) {
  const ShuffledKv kv(shape, dtype);
  const size_t numbers = static_cast<size_t>(shape.sequences) * shape.heads * shape.head_dim;
  const DeviceBuffer q(2 * numbers), out(2 * numbers);
  const DecodePlan plan =
      PlanDecode(shape.sequences, shape.kv_heads, shape.tokens,
                 DecodeBlocksOfMultiprocessor(shape.heads / shape.kv_heads, shape.head_dim, dtype) *
                     device.multiprocessors);
  const DeviceBuffer workspace(
      4 * DecodeWorkspaceFloats(shape.sequences, shape.heads, shape.head_dim, plan.splits));
  DecodeAttentionArgs args{.out = out.As<void>(),
                           .q = q.As<void>(),
                           .kv = kv.View(),
                           .lengths = kv.lengths(),
                           .workspace = workspace.As<float>(),
                           .table_stride = kv.table_stride(),
                           .sequences = shape.sequences,
                           .heads = shape.heads,
                           .kv_heads = shape.kv_heads,
                           .head_dim = shape.head_dim,
                           .splits = plan.splits,
                           .split_tokens = plan.split_tokens,
                           .scale = 0.1f,
                           .kv_dtype = dtype};
  const double ms = DeviceMilliseconds(device.runs(), [&](int call) {
    args.tables = kv.Tables(call);
    CheckCuda(LaunchDecodeAttention(args, nullptr), "decode attention");
  });
  AddBandwidth(device, report, std::string("decode/") + shape.name + "/" + KvDtypeName(dtype),
               kv.kv_bytes(), ms);
}

/// The last `chunk` tokens of each sequence are fresh.
void MeasurePrefill(const Device& device, Report& report, const Shape& shape, int chunk) {
  const ShuffledKv kv(shape, KvDtype::kF16);
  const int64_t stride = int64_t{shape.heads} * shape.head_dim;
  const DeviceBuffer q(2 * shape.sequences * chunk * stride), out(q.bytes());
  std::vector<int32_t> starts;
  for (int s = 0; s <= shape.sequences; ++s) starts.push_back(s * chunk);
  const DeviceBuffer device_starts(starts);
  PrefillAttentionArgs args{.out = out.As<void>(),
                            .q = q.As<void>(),
                            .kv = kv.View(),
                            .starts = device_starts.As<int32_t>(),
                            .lengths = kv.lengths(),
                            .q_stride = stride,
                            .out_stride = stride,
                            .table_stride = kv.table_stride(),
                            .sequences = shape.sequences,
                            .longest_chunk = chunk,
                            .heads = shape.heads,
                            .kv_heads = shape.kv_heads,
                            .head_dim = shape.head_dim,
                            .scale = 0.1f};
  const double ms = DeviceMilliseconds(device.runs(), [&](int call) {
    args.tables = kv.Tables(call);
    CheckCuda(LaunchPrefillAttention(args, nullptr), "prefill attention");
  });
  const double attended = chunk * (shape.tokens - chunk + (chunk + 1) / 2.0);
  const double operations = 4.0 * shape.sequences * static_cast<double>(stride) * attended;
  char note[64];
  std::snprintf(note, sizeof note, "%.1f us", ms * 1e3);
  report.Add({std::string("prefill/") + shape.name + "/chunk:" + std::to_string(chunk),
              "arithmetic", operations / ms / 1e9, "TFLOP/s", "", 0, note});
}

}  // namespace

void MeasureAttention(const Device& device, Report& report) {
  std::vector<Shape> shapes = {
      {"llama8b/batch:1/tokens:8192", 1, 8192, 32, 8, 128},
      {"llama8b/batch:1/tokens:131072", 1, 131072, 32, 8, 128},
      {"llama8b/batch:16/tokens:8192", 16, 8192, 32, 8, 128},
      {"llama8b/batch:64/tokens:2048", 64, 2048, 32, 8, 128},
      {"smollm2/batch:64/tokens:2048", 64, 2048, 9, 3, 64},
      {"gemma3/batch:16/tokens:8192", 16, 8192, 8, 4, 256},
      {"mha/batch:16/tokens:4096", 16, 4096, 32, 32, 128},
      {"odd/batch:16/tokens:4096/dim:72", 16, 4096, 8, 8, 72},
  };
  if (device.quick) shapes = {{"llama8b/batch:2/tokens:100", 2, 100, 32, 8, 128}};
  for (const Shape& shape : shapes) MeasureDecode(device, report, shape, KvDtype::kF16);
  for (const KvDtype dtype : {KvDtype::kInt8, KvDtype::kE4m3, KvDtype::kInt4}) {
    for (const size_t i : {size_t{2}, size_t{4}, size_t{5}}) {
      if (i < shapes.size()) MeasureDecode(device, report, shapes[i], dtype);
    }
  }
  MeasurePrefill(device, report, shapes.front(), device.quick ? 20 : 8192);
  if (device.quick) return;
  MeasurePrefill(device, report, shapes.front(), 512);
  MeasurePrefill(device, report, shapes[3], 512);
  MeasurePrefill(device, report, {"smollm2/batch:8/tokens:2048", 8, 2048, 9, 3, 64}, 2048);
  MeasurePrefill(device, report, {"gemma3/batch:1/tokens:8192", 1, 8192, 8, 4, 256}, 8192);
}

}  // namespace thermocline::bench
