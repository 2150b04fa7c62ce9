// What the kernels reach on a GPU, beside what the device itself does in the same run: bandwidths
// against a plain copy on the device, transfers against one large one.
#include <cstdio>
#include <cstdlib>

#include "bench/gpu_device.h"
#include "bench/report.h"
#include "kernels/activation.h"
#include "kernels/block_copy.h"
#include "kernels/decode_attention.h"
#include "kernels/rms_norm.h"

namespace thermocline::bench {

void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "bench_gpu: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  CheckCuda(cudaMalloc(&data_, bytes), "cudaMalloc");
  // A period that no power of two divides, of numbers of about -1 to 1.
  std::vector<uint16_t> pattern(1'000'003);
  uint32_t state = 1;
  for (uint16_t& number : pattern) {
    state = state * 1664525 + 1013904223;
    number = static_cast<uint16_t>((state >> 16 & 0x83ff) | 0x3800);
  }
  for (size_t at = 0; at < bytes; at += 2 * pattern.size()) {
    const size_t part = std::min(bytes - at, 2 * pattern.size());
    CheckCuda(cudaMemcpy(As<char>() + at, pattern.data(), part, cudaMemcpyHostToDevice),
              "copy to the device");
  }
}

DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

DeviceClock::DeviceClock() {
  CheckCuda(cudaEventCreate(&begin_), "cudaEventCreate");
  CheckCuda(cudaEventCreate(&end_), "cudaEventCreate");
}

DeviceClock::~DeviceClock() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

void DeviceClock::Start() { CheckCuda(cudaEventRecord(begin_, nullptr), "cudaEventRecord"); }

double DeviceClock::Stop() {
  CheckCuda(cudaEventRecord(end_, nullptr), "cudaEventRecord");
  CheckCuda(cudaEventSynchronize(end_), "kernel");
  float milliseconds = 0;
  CheckCuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
  return milliseconds;
}

namespace {

struct Device {
  int multiprocessors = 0;
  double copy_gb = 0;  ///< GB/s of a copy on the device, bytes read and written
  bool quick = false;
  int runs() const { return quick ? 3 : 15; }
};

double GbPerSecond(double bytes, double milliseconds) { return bytes / milliseconds / 1e6; }

void AddBandwidth(const Device& device, Report& report, const std::string& name, double bytes,
                  double milliseconds) {
  const double gb = GbPerSecond(bytes, milliseconds);
  char note[64];
  std::snprintf(note, sizeof note, "%.1f us", milliseconds * 1e3);
  report.Add({name, "bandwidth", gb, "GB/s", "copy/device", gb / device.copy_gb, note});
}

void MeasureCopies(Device& device, Report& report) {
  const size_t bytes = device.quick ? size_t{64} << 20 : size_t{1} << 30;
  const DeviceBuffer from(bytes), to(bytes);
  device.copy_gb =
      GbPerSecond(2.0 * static_cast<double>(bytes), DeviceMilliseconds(device.runs(), [&](int) {
                    CheckCuda(cudaMemcpyAsync(to.As<char>(), from.As<char>(), bytes,
                                              cudaMemcpyDeviceToDevice, nullptr),
                              "copy on the device");
                  }));
  report.Add({"copy/device", "bandwidth", device.copy_gb, "GB/s", "", 0, ""});
  void* pinned = nullptr;
  const size_t pinned_bytes = size_t{256} << 20;
  CheckCuda(cudaHostAlloc(&pinned, pinned_bytes, cudaHostAllocDefault), "cudaHostAlloc");
  for (const bool up : {true, false}) {
    const double ms = DeviceMilliseconds(device.runs() / 3, [&](int) {
      CheckCuda(up ? cudaMemcpyAsync(to.As<char>(), pinned, pinned_bytes / 4,
                                     cudaMemcpyHostToDevice, nullptr)
                   : cudaMemcpyAsync(pinned, from.As<char>(), pinned_bytes / 4,
                                     cudaMemcpyDeviceToHost, nullptr),
                "copy between host and device");
    });
    report.Add({up ? "copy/host_to_device" : "copy/device_to_host", "bandwidth",
                GbPerSecond(static_cast<double>(pinned_bytes) / 4, ms), "GB/s", "", 0, "pinned"});
  }
  CheckCuda(cudaFreeHost(pinned), "cudaFreeHost");
}

struct DecodeShape {
  const char* name;
  int sequences, tokens, heads, kv_heads, head_dim;
};

void MeasureDecode(const Device& device, Report& report, const DecodeShape& shape,
                   NumberType type) {
  const KvGeometry geometry{
      .layers = 1, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim, .dtype = KvDtype::kF16};
  const int blocks_each = static_cast<int>(BlocksOf(shape.tokens));
  const double kv_bytes =
      static_cast<double>(geometry.token_bytes()) * shape.tokens * shape.sequences;
  // Beyond what the cache of the device holds, by turns.
  const int copies = static_cast<int>(400e6 / kv_bytes) + 1;
  const size_t blocks = static_cast<size_t>(blocks_each) * shape.sequences * copies;
  const DeviceBuffer pool(blocks * geometry.block_bytes());
  std::vector<int32_t> tables(blocks);
  for (size_t i = 0; i < blocks; ++i) tables[i] = static_cast<int32_t>(i);
  uint32_t state = 7;
  for (size_t i = blocks - 1; i > 0; --i) {
    state = state * 1664525 + 1013904223;
    std::swap(tables[i], tables[state % (i + 1)]);
  }
  const DeviceBuffer device_tables(tables);
  const DeviceBuffer lengths(std::vector<int32_t>(shape.sequences, shape.tokens));
  const size_t numbers = static_cast<size_t>(shape.sequences) * shape.heads * shape.head_dim;
  const DeviceBuffer q(2 * numbers), out(2 * numbers);
  const DecodePlan plan =
      PlanDecode(shape.sequences, shape.kv_heads, shape.tokens, 2 * device.multiprocessors);
  const DeviceBuffer workspace(
      4 * DecodeWorkspaceFloats(shape.sequences, shape.heads, shape.head_dim, plan.splits));
  DecodeAttentionArgs args{
      .out = out.As<void>(),
      .q = q.As<void>(),
      .kv = {.pool = pool.As<std::byte>(),
             .block_stride = static_cast<int64_t>(geometry.block_bytes()),
             .keys_offset = static_cast<int64_t>(geometry.head_offset(0, KvHalf::kKeys, 0)),
             .values_offset = static_cast<int64_t>(geometry.head_offset(0, KvHalf::kValues, 0)),
             .head_stride = static_cast<int64_t>(geometry.head_bytes()),
             .row_stride = static_cast<int64_t>(geometry.row_bytes())},
      .lengths = lengths.As<int32_t>(),
      .workspace = workspace.As<float>(),
      .table_stride = blocks_each,
      .sequences = shape.sequences,
      .heads = shape.heads,
      .kv_heads = shape.kv_heads,
      .head_dim = shape.head_dim,
      .splits = plan.splits,
      .split_tokens = plan.split_tokens,
      .scale = 0.1f,
      .type = type};
  const double ms = DeviceMilliseconds(device.runs(), [&](int i) {
    args.tables = device_tables.As<int32_t>() +
                  static_cast<size_t>(i % copies) * shape.sequences * blocks_each;
    CheckCuda(LaunchDecodeAttention(args, nullptr), "decode attention");
  });
  AddBandwidth(device, report,
               std::string("decode/") + shape.name + (type == NumberType::kF16 ? "/f16" : "/bf16"),
               kv_bytes, ms);
}

void MeasureRows(const Device& device, Report& report) {
  const int rows = device.quick ? 64 : 8192, width = 4096;
  const size_t bytes = size_t{2} * rows * width;
  const DeviceBuffer x(bytes), y(bytes), out(bytes), gain(2 * width);
  AddBandwidth(device, report, "rms_norm/rows:8192/width:4096", 2.0 * static_cast<double>(bytes),
               DeviceMilliseconds(device.runs(), [&](int) {
                 CheckCuda(LaunchRmsNorm({.out = out.As<void>(),
                                          .x = x.As<void>(),
                                          .gain = gain.As<void>(),
                                          .rows = rows,
                                          .width = width,
                                          .x_stride = width,
                                          .out_stride = width},
                                         nullptr),
                           "RMSNorm");
               }));
  AddBandwidth(device, report, "swiglu/rows:8192/width:4096", 3.0 * static_cast<double>(bytes),
               DeviceMilliseconds(device.runs(), [&](int) {
                 CheckCuda(LaunchGatedActivation({.out = out.As<void>(),
                                                  .gate = x.As<void>(),
                                                  .up = y.As<void>(),
                                                  .rows = rows,
                                                  .width = width,
                                                  .gate_stride = width,
                                                  .up_stride = width,
                                                  .out_stride = width},
                                                 nullptr),
                           "SwiGLU");
               }));
}

/// Llama 3 8B's KV in vLLM's layout, one tensor a layer, to and from our blocks.
void MeasureGather(const Device& device, Report& report) {
  const KvGeometry geometry{.layers = 32, .kv_heads = 8, .head_dim = 128, .dtype = KvDtype::kF16};
  const int count = device.quick ? 4 : 256;
  const int64_t half = static_cast<int64_t>(count) * geometry.layer_bytes() / 2;
  const DeviceBuffer pool(count * geometry.block_bytes()), tensors(pool.bytes());
  std::vector<std::byte*> layers;
  for (int layer = 0; layer < geometry.layers; ++layer) {
    layers.push_back(tensors.As<std::byte>() + layer * 2 * half);
  }
  std::vector<int32_t> blocks;
  std::vector<int64_t> slots;
  for (int i = 0; i < count; ++i) {
    blocks.push_back(i);
    slots.push_back(int64_t{kBlockTokens} * (count - 1 - i));
  }
  const DeviceBuffer device_layers(layers), device_blocks(blocks), device_slots(slots);
  const auto row = static_cast<int64_t>(geometry.row_bytes());
  for (const int thread_blocks : {16, 64, 256}) {
    const BlockCopyArgs args{.pool = pool.As<std::byte>(),
                             .block_stride = static_cast<int64_t>(geometry.block_bytes()),
                             .blocks = device_blocks.As<int32_t>(),
                             .layers = device_layers.As<std::byte*>(),
                             .slots = device_slots.As<int64_t>(),
                             .count = count,
                             .geometry = geometry,
                             .engine = {.page_stride = kBlockTokens * geometry.kv_heads * row,
                                        .half_stride = half,
                                        .head_stride = row,
                                        .token_stride = geometry.kv_heads * row},
                             .max_thread_blocks = thread_blocks};
    for (const bool gather : {true, false}) {
      AddBandwidth(
          device, report,
          std::string(gather ? "gather" : "scatter") +
              "/llama8b/thread_blocks:" + std::to_string(thread_blocks),
          2.0 * static_cast<double>(pool.bytes()), DeviceMilliseconds(device.runs(), [&](int) {
            CheckCuda(gather ? LaunchBlockGather(args, nullptr) : LaunchBlockScatter(args, nullptr),
                      "block copy");
          }));
    }
  }
}

absl::Status Run(const Arguments& arguments, Report& report) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: no GPU, or no driver for it\n");
    std::exit(77);
  }
  Device device{.quick = arguments.quick};
  cudaDeviceProp properties;
  CheckCuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  device.multiprocessors = properties.multiProcessorCount;
  std::printf("%s, %d multiprocessors, compute capability %d.%d\n", properties.name,
              device.multiprocessors, properties.major, properties.minor);
  MeasureCopies(device, report);
  const std::vector<DecodeShape> shapes = {
      {"llama8b/batch:1/tokens:8192", 1, 8192, 32, 8, 128},
      {"llama8b/batch:1/tokens:131072", 1, 131072, 32, 8, 128},
      {"llama8b/batch:16/tokens:8192", 16, 8192, 32, 8, 128},
      {"llama8b/batch:64/tokens:2048", 64, 2048, 32, 8, 128},
      {"smollm2/batch:64/tokens:2048", 64, 2048, 9, 3, 64},
      {"gemma3/batch:16/tokens:8192", 16, 8192, 8, 4, 256},
      {"mha/batch:16/tokens:4096", 16, 4096, 32, 32, 128},
      {"odd/batch:16/tokens:4096/dim:72", 16, 4096, 8, 8, 72},
  };
  for (DecodeShape shape : shapes) {
    if (device.quick) shape.tokens = 100, shape.sequences = 2;
    MeasureDecode(device, report, shape, NumberType::kF16);
  }
  if (!device.quick) MeasureDecode(device, report, shapes[2], NumberType::kBf16);
  MeasureRows(device, report);
  MeasureGather(device, report);
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
