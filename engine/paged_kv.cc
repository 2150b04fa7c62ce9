#include "engine/paged_kv.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/units.h"

namespace thermocline {
namespace {
constexpr size_t kSlabBytes = 4 * MiB;
constexpr size_t kAlignment = 64;
}  // namespace

PrivateBlocks::PrivateBlocks(const KvGeometry& geometry, size_t max_blocks)
    : geometry_(geometry),
      stride_bytes_(RoundUp(geometry.block_bytes(), kAlignment)),
      blocks_per_slab_(std::max<size_t>(1, kSlabBytes / stride_bytes_)),
      max_blocks_(max_blocks) {
  TC_CHECK(geometry.block_bytes() > 0);
}

absl::StatusOr<std::byte*> PrivateBlocks::Allocate() {
  if (free_.empty()) {
    if (made_blocks_ == max_blocks_) {
      return absl::ResourceExhaustedError(
          "all " + std::to_string(max_blocks_) + " private KV blocks are in use (" +
          FormatBytes(max_blocks_ * stride_bytes_) + "); allow a larger context");
    }
    const size_t count = std::min(blocks_per_slab_, max_blocks_ - made_blocks_);
    TC_ASSIGN_OR_RETURN(AlignedBuffer slab, AlignedBuffer::Make(count * stride_bytes_));
    for (size_t i = count; i-- > 0;) free_.push_back(slab.data() + i * stride_bytes_);
    slabs_.push_back(std::move(slab));
    made_blocks_ += count;
  }
  std::byte* block = free_.back();
  free_.pop_back();
  ++used_blocks_;
  return block;
}

void PrivateBlocks::Free(std::byte* block) {
  TC_CHECK(used_blocks_ > 0);
  --used_blocks_;
  free_.push_back(block);
}

}  // namespace thermocline
