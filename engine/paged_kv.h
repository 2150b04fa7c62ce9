// The engine's paged KV cache. A sequence's cache is a list of block pointers, block i holding the
// positions 16 i .. 16 i + 15; where the bytes live is nobody's business but their owner's: full
// blocks may lie in the daemon's arena, mapped read-only and shared, the others in slots reserved
// there or in PrivateBlocks. The forward pass reads rows before its position, writes exactly the
// rows of the tokens it computes, and never lets an unwritten row influence a result.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "base/status.h"
#include "kernels/aligned_buffer.h"
#include "kernels/kv_geometry.h"

namespace thermocline {

/// Blocks in the process's own memory: what the engine runs on without a daemon, and what it falls
/// back to when the arena is full. Grows slab by slab up to `max_blocks`; freed blocks are reused,
/// last freed first, and slabs are returned only by the destructor.
/// Thread: one at a time.
/// Owner:  owns the memory; every pointer dies with it.
class PrivateBlocks {
 public:
  PrivateBlocks(const KvGeometry& geometry, size_t max_blocks);

  /// A block of geometry().block_bytes(), 64-byte aligned, contents unspecified.
  /// Errors: ResourceExhausted at max_blocks or when the system has no memory.
  absl::StatusOr<std::byte*> Allocate();
  /// `block` came from Allocate() and is not used any more.
  void Free(std::byte* block);

  const KvGeometry& geometry() const { return geometry_; }
  size_t used_blocks() const { return used_blocks_; }

 private:
  KvGeometry geometry_;
  size_t stride_bytes_;
  size_t blocks_per_slab_;
  size_t max_blocks_;
  size_t made_blocks_ = 0;
  size_t used_blocks_ = 0;
  std::vector<AlignedBuffer> slabs_;
  std::vector<std::byte*> free_;
};

}  // namespace thermocline
