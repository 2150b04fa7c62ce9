// Writes fresh keys and values into the blocks of their sequences, on a GPU.
#pragma once
#include "kernels/paged_kv.h"
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// Copies token i's K and V to row positions[i] % 16 of block tables[sequences[i]][positions[i] /
/// 16]. Infinities become the largest finite number, so that a masked value's product with 0 is 0.
/// Shape:  keys, values [tokens][kv_heads][head_dim] of `type`, tokens token_stride apart;
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

}  // namespace thermocline
