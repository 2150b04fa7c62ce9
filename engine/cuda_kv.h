// The KV of the sequence that is computed on a GPU, in device memory, and its ways from and to the
// blocks in host memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
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
  explicit CudaKv(const KvGeometry& geometry, int device = 0)
      : geometry_(geometry), device_(device) {}

  /// Makes room for the positions [0, tokens), or leaves all as it is.
  /// Errors: ResourceExhausted.
  absl::Status Reserve(size_t tokens);

  /// Has the rows of the positions [0, tokens), of which those before `held` are here since the
  /// step before. What `on_device` says to be in device memory is read where it lies, if an id
  /// reaches so far, or else copied, as host blocks are.
  absl::Status Fetch(std::span<std::byte* const> blocks, std::span<const uint8_t> on_device,
                     size_t held, size_t tokens, const cuda::Stream& stream);

  /// Copies the rows of [begin, end) to host blocks, and leaves all others there alone.
  /// Waits for `stream`.
  absl::Status Store(std::span<std::byte* const> blocks, size_t begin, size_t end,
                     const cuda::Stream& stream);

  /// The ids of the sequence's blocks, and of the reserved ones behind, for View().
  std::span<const int32_t> table() const { return table_; }
  PagedKv View(int layer) const;
  const KvGeometry& geometry() const { return geometry_; }

 private:
  /// Blocks lie anywhere: an id counts these from the lowest slab on.
  static constexpr int64_t kIdBytes = 256;

  /// Makes a table of these blocks. Errors: ResourceExhausted when they lie too far apart.
  absl::Status Tabulate(std::span<std::byte* const> blocks);

  KvGeometry geometry_;
  int device_;
  std::vector<std::shared_ptr<std::byte>> slabs_;
  std::vector<std::byte*> blocks_;
  std::vector<std::byte*> used_;  ///< those that the last Fetch had the rows in
  std::byte* lowest_ = nullptr;
  std::vector<int32_t> table_;
  cuda::PinnedBuffer staged_;
};

}  // namespace thermocline
