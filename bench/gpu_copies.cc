// Moving blocks: between an engine's own tensors and ours on the device, and between host and
// device in pieces, against one large copy.
#include "bench/gpu_device.h"
#include "kernels/block_copy.h"
#include "kernels/cuda/copies.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"

namespace thermocline::bench {
namespace {

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

/// From host memory to the device, spread in both: from pinned memory as one batch of the driver's,
/// and by our kernel; from memory that is not pinned piece by piece, as the mover does it then.
absl::Status MeasurePieces(const Device& device, Report& report) {
  const uint64_t bytes = device.quick ? 1 << 20 : 64 << 20;
  TC_ASSIGN_OR_RETURN(const cuda::PinnedBuffer host, cuda::PinnedBuffer::Allocate(2 * bytes));
  const std::vector<std::byte> unpinned(2 * bytes);
  const DeviceBuffer memory(2 * bytes);
  TC_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::Stream::Create());
  double whole = 0;
  for (const uint64_t piece : {bytes, uint64_t{1} << 20, uint64_t{256} << 10, uint64_t{64} << 10,
                               uint64_t{16} << 10, uint64_t{4} << 10}) {
    for (const std::string way : {"batch", "kernel", "unpinned"}) {
      if (piece == bytes && way == "kernel") continue;
      const bool kernel = way == "kernel";
      const std::byte* const from = way == "unpinned" ? unpinned.data() : host.data();
      std::vector<cuda::Copy> copies;
      for (uint64_t at = 0; at < bytes; at += piece) {
        copies.push_back({memory.As<std::byte>() + 2 * at, from + 2 * at, piece});
      }
      const cuda::CopyOptions options{.kernel_least_pieces = kernel ? size_t{1} : SIZE_MAX,
                                      .kernel_below_bytes = kernel ? UINT64_MAX : 0,
                                      .device_reaches_all = kernel};
      std::vector<double> times;
      absl::Status status;
      for (int run = 0; run < device.runs(); ++run) {
        const double ms = Milliseconds([&] {
          if (way == "unpinned") {
            for (const cuda::Copy& copy : copies) {
              status.Update(cuda::CopyAsync(copy, stream.get()));
            }
          } else {
            status.Update(cuda::CopyBatchAsync(copies, stream.get(), options));
          }
          status.Update(stream.Synchronize());
        });
        if (run > 0) times.push_back(ms);
      }
      TC_RETURN_IF_ERROR(status);
      const double gb = GbPerSecond(static_cast<double>(bytes), Median(times));
      if (piece == bytes && way == "batch") whole = gb;
      report.Add({"pieces/bytes:" + std::to_string(piece) + "/" + way, "bandwidth", gb, "GB/s",
                  "one piece", gb / whole, std::to_string(copies.size()) + " pieces"});
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureMoves(const Device& device, Report& report) {
  MeasureGather(device, report);
  return MeasurePieces(device, report);
}

}  // namespace thermocline::bench
