// Where the kernels find keys and values.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/kv_geometry.h"

namespace thermocline {

/// One layer's KV in a pool of blocks of 16 tokens. The block of id b begins at
/// pool + b * block_stride; inside it, KV head h of the keys is a run of rows at
/// keys_offset + h * head_stride, row_stride apart: KvGeometry's layout, or another with strides.
/// Quantised KV has its codes in the place of numbers, and 16 scales scales_offset behind a head's
/// row 0. Units: bytes, multiples of 16.
struct PagedKv {
  std::byte* pool = nullptr;
  int64_t block_stride = 0;
  int64_t keys_offset = 0;
  int64_t values_offset = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
  int64_t scales_offset = 0;
};

/// One layer of blocks that lie as `geometry` says.
inline PagedKv LayerOf(const KvGeometry& geometry, int layer, std::byte* pool,
                       int64_t block_stride) {
  return {.pool = pool,
          .block_stride = block_stride,
          .keys_offset = static_cast<int64_t>(geometry.head_offset(layer, KvHalf::kKeys, 0)),
          .values_offset = static_cast<int64_t>(geometry.head_offset(layer, KvHalf::kValues, 0)),
          .head_stride = static_cast<int64_t>(geometry.head_bytes()),
          .row_stride = static_cast<int64_t>(geometry.row_bytes()),
          .scales_offset = static_cast<int64_t>(geometry.scales_offset())};
}

/// Whether all strides and offsets are whole 16-byte units.
inline bool IsAligned(const PagedKv& kv) {
  return (kv.block_stride | kv.keys_offset | kv.values_offset | kv.head_stride | kv.row_stride |
          kv.scales_offset) %
             16 ==
         0;
}

}  // namespace thermocline
