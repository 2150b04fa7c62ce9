// The KV of the sequence that is computed on a GPU, in device memory, and its ways from and to the
// blocks in host memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/kv_geometry.h"
#include "kernels/paged_kv.h"

namespace thermocline {

/// Thread: one at a time, with its device.
class CudaKv {
 public:
  explicit CudaKv(const KvGeometry& geometry) : geometry_(geometry) {}

  /// Makes room for the positions [0, tokens), or leaves all as it is.
  /// Errors: ResourceExhausted.
  absl::Status Reserve(size_t tokens);

  /// Copies the rows of the positions [0, tokens) from host blocks.
  absl::Status Fetch(std::span<std::byte* const> blocks, size_t tokens, const cuda::Stream& stream);

  /// Copies the rows of [begin, end) to host blocks, and leaves all others there alone.
  /// Waits for `stream`.
  absl::Status Store(std::span<std::byte* const> blocks, size_t begin, size_t end,
                     const cuda::Stream& stream);

  /// The ids of the reserved blocks, for View().
  std::span<const int32_t> table() const { return table_; }
  PagedKv View(int layer) const;
  const KvGeometry& geometry() const { return geometry_; }

 private:
  /// Blocks lie anywhere: an id counts these from the lowest slab on.
  static constexpr int64_t kIdBytes = 256;

  KvGeometry geometry_;
  std::vector<cuda::DeviceBuffer> slabs_;
  std::vector<std::byte*> blocks_;
  std::byte* lowest_ = nullptr;
  std::vector<int32_t> table_;
  cuda::PinnedBuffer staged_;
};

}  // namespace thermocline
