#include "engine/cuda_kv.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>

#include "base/units.h"
#include "kernels/cuda/copies.h"
#include "kernels/simt/numbers.h"

namespace thermocline {
namespace {
constexpr uint64_t kSlabBytes = 64 * MiB;

/// Among the addresses that the hot tier's slabs are mapped at, so that one table reaches both, as
/// it does not reach from cudaMalloc's. Where the device maps no slabs it is memory as any other.
absl::StatusOr<std::shared_ptr<std::byte>> AllocateSlab(int device, uint64_t bytes) {
  absl::StatusOr<cuda::SlabMapping> mapping = [&]() -> absl::StatusOr<cuda::SlabMapping> {
    TC_ASSIGN_OR_RETURN(const cuda::Slab slab, cuda::Slab::Create(device, bytes));
    return cuda::SlabMapping::Map(slab, cuda::Access::kReadWrite);
  }();
  if (mapping.ok()) {
    const auto kept = std::make_shared<cuda::SlabMapping>(*std::move(mapping));
    return std::shared_ptr<std::byte>(kept, kept->data());
  }
  if (absl::IsResourceExhausted(mapping.status())) return mapping.status();
  TC_ASSIGN_OR_RETURN(cuda::DeviceBuffer buffer, cuda::DeviceBuffer::Allocate(bytes));
  const auto kept = std::make_shared<cuda::DeviceBuffer>(std::move(buffer));
  return std::shared_ptr<std::byte>(kept, kept->data());
}
}  // namespace

absl::Status CudaKv::Reserve(size_t tokens) {
  const size_t wanted = BlocksOf(tokens);
  if (table_.size() >= wanted) return absl::OkStatus();
  const uint64_t stride = RoundUp(geometry_.block_bytes(), kIdBytes);
  const uint64_t of_slab = std::max<uint64_t>(1, kSlabBytes / stride);
  std::vector<std::shared_ptr<std::byte>> slabs;
  std::vector<std::byte*> blocks = blocks_;
  while (blocks.size() < wanted) {
    TC_ASSIGN_OR_RETURN(std::shared_ptr<std::byte> slab, AllocateSlab(device_, of_slab * stride));
    for (uint64_t i = 0; i < of_slab; ++i) blocks.push_back(slab.get() + i * stride);
    slabs.push_back(std::move(slab));
  }
  TC_RETURN_IF_ERROR(Tabulate(blocks));
  // All is had: from here on nothing fails.
  std::move(slabs.begin(), slabs.end(), std::back_inserter(slabs_));
  blocks_ = std::move(blocks);
  return absl::OkStatus();
}

absl::Status CudaKv::Tabulate(std::span<std::byte* const> blocks) {
  std::byte* const lowest = *std::min_element(blocks.begin(), blocks.end());
  std::vector<int32_t> table;
  for (const std::byte* block : blocks) {
    const int64_t id = (block - lowest) / kIdBytes;
    if (id > INT32_MAX) {
      return absl::ResourceExhaustedError("device memory for KV lies " +
                                          FormatBytes(static_cast<uint64_t>(id * kIdBytes)) +
                                          " apart; ask for a smaller context");
    }
    table.push_back(static_cast<int32_t>(id));
  }
  lowest_ = lowest;
  table_ = std::move(table);
  return absl::OkStatus();
}

absl::Status CudaKv::Fetch(std::span<std::byte* const> blocks, std::span<const uint8_t> on_device,
                           size_t held, size_t tokens, const cuda::Stream& stream) {
  std::vector<std::byte*> used = blocks_;
  for (size_t i = 0; i < std::min(on_device.size(), tokens / kBlockTokens); ++i) {
    if (on_device[i] != 0) used[i] = blocks[i];
  }
  if (!Tabulate(used).ok()) {
    used = blocks_;
    TC_RETURN_IF_ERROR(Tabulate(used));
  }
  std::vector<cuda::Copy> copies;
  for (size_t i = 0; i < BlocksOf(tokens); ++i) {
    const bool is_in_place = used[i] != blocks_[i];
    const bool is_held = held >= tokens && i < used_.size() && used_[i] == blocks_[i];
    if (is_in_place || is_held) continue;
    copies.push_back({.to = blocks_[i], .from = blocks[i], .bytes = geometry_.block_bytes()});
  }
  used_ = std::move(used);
  if (copies.empty()) return absl::OkStatus();
  const absl::Status sent = cuda::CopyBatchAsync(copies, stream.get());
  // Some may be under way, from blocks that are the caller's.
  if (!sent.ok()) stream.Synchronize().IgnoreError();
  return sent;
}

absl::Status CudaKv::Store(std::span<std::byte* const> blocks, size_t begin, size_t end,
                           const cuda::Stream& stream) {
  const size_t first = begin / kBlockTokens, last = BlocksOf(end);
  const uint64_t bytes = geometry_.block_bytes();
  if (staged_.bytes() < (last - first) * bytes) {
    TC_ASSIGN_OR_RETURN(staged_, cuda::PinnedBuffer::Allocate((last - first) * bytes));
  }
  std::vector<cuda::Copy> copies;
  for (size_t i = first; i < last; ++i) {
    copies.push_back(
        {.to = staged_.data() + (i - first) * bytes, .from = blocks_[i], .bytes = bytes});
  }
  TC_RETURN_IF_ERROR(cuda::CopyBatchAsync(copies, stream.get()));
  TC_RETURN_IF_ERROR(stream.Synchronize());
  const size_t row_bytes = geometry_.row_bytes(), head_bytes = geometry_.head_bytes();
  for (size_t i = first; i < last; ++i) {
    const size_t from = std::max(begin, i * kBlockTokens) - i * kBlockTokens;
    const size_t to = std::min(end, (i + 1) * kBlockTokens) - i * kBlockTokens;
    const std::byte* const staged = staged_.data() + (i - first) * bytes;
    for (uint64_t head = from * row_bytes; head < bytes; head += head_bytes) {
      std::memcpy(blocks[i] + head, staged + head, (to - from) * row_bytes);
      if (!IsQuantized(geometry_.dtype)) continue;
      const uint64_t scales =
          head - from * row_bytes + geometry_.scales_offset() + from * sizeof(Half);
      std::memcpy(blocks[i] + scales, staged + scales, (to - from) * sizeof(Half));
    }
  }
  return absl::OkStatus();
}

PagedKv CudaKv::View(int layer) const { return LayerOf(geometry_, layer, lowest_, kIdBytes); }

}  // namespace thermocline
