// Where the kernels find keys and values.
#pragma once
#include <cstddef>
#include <cstdint>

namespace thermocline {

/// One layer's KV in a pool of blocks of 16 tokens. The block of id b begins at
/// pool + b * block_stride; inside it, KV head h of the keys is a run of rows at
/// keys_offset + h * head_stride, row_stride apart: KvGeometry's layout, or another with strides.
/// Units: bytes, multiples of 16.
struct PagedKv {
  std::byte* pool = nullptr;
  int64_t block_stride = 0;
  int64_t keys_offset = 0;
  int64_t values_offset = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
};

/// Whether all strides and offsets are whole 16-byte units.
inline bool IsAligned(const PagedKv& kv) {
  return (kv.block_stride | kv.keys_offset | kv.values_offset | kv.head_stride | kv.row_stride) %
             16 ==
         0;
}

}  // namespace thermocline
