// Writes fresh keys and values into the blocks of their sequences, on a GPU.
#pragma once
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// Where one layer's KV lies in a pool of blocks; what kernels that read or write KV take.
/// The block of id b begins at pool + b * block_stride; KV head h of its keys is a run of rows at
/// keys_offset + h * head_stride, row_stride apart: KvGeometry's layout, or any other with strides.
/// Units: bytes, multiples of 16.
struct PagedKv {
  std::byte* pool = nullptr;
  int64_t block_stride = 0;
  int64_t keys_offset = 0;
  int64_t values_offset = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
};

/// Copies token i's K and V to row positions[i] % 16 of block tables[sequences[i]][positions[i] /
/// 16]. Halves beyond the largest finite one saturate, so that a masked value's product with 0 is
/// 0. Shape:  keys, values [tokens][kv_heads][head_dim] of `type`, tokens token_stride apart;
///         sequences, positions [tokens]; tables [..][table_stride]. A token with a negative
///         position (padding of a captured graph) is left out.
/// Units:  token_stride in numbers; it and head_dim multiples of 8, pointers of 16 bytes.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape.
struct KvAppendArgs {
  PagedKv kv;
  const void* keys = nullptr;
  const void* values = nullptr;
  const int32_t* tables = nullptr;
  const int32_t* sequences = nullptr;
  const int32_t* positions = nullptr;
  int64_t token_stride = 0;
  int table_stride = 0;
  int tokens = 0;
  int kv_heads = 0;
  int head_dim = 0;
  NumberType type = NumberType::kF16;
};
CudaError LaunchKvAppend(const KvAppendArgs& args, CudaStream stream);

/// Whether all strides and offsets are whole 16-byte units.
inline bool IsAligned(const PagedKv& kv) {
  return (kv.block_stride | kv.keys_offset | kv.values_offset | kv.head_stride | kv.row_stride) %
             16 ==
         0;
}

}  // namespace thermocline
