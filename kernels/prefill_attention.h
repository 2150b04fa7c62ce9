// Attention of chunks of fresh tokens over their sequences' cached KV, on a GPU: causal, over paged
// blocks, for several sequences in one launch.
#pragma once
#include <cstdint>

#include "kernels/paged_kv.h"
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// out = softmax(scale * q * K^T) * V for each query head of each fresh token, which reads KV head
/// head / (heads / kv_heads) of the tokens up to itself. The last starts[s + 1] - starts[s] of the
/// lengths[s] tokens in the blocks of sequence s are the fresh ones: their keys and values are
/// appended already, and what lies before them is a prefix of any length, cached or computed by an
/// earlier chunk. A sequence may have no fresh tokens.
/// Shape:  q, out [starts[sequences]][heads][head_dim] of `type`, tokens q_stride and out_stride
///         apart. The rows of `kv` are of `type`, too, unless kv_dtype is int8, e4m3 or int4: codes
///         with scales (kv_geometry.h), with `type` f16. starts [sequences + 1], from 0 on; lengths
///         [sequences]; tables [sequences][table_stride] ids of blocks of 16 tokens, read only
///         where a token is attended: before the window of the first fresh token nothing is.
/// Units:  strides in numbers, multiples of 8, pointers of 16 bytes. window in tokens, 0 for none:
///         the last `window`, the query's own among them. softcap and scale as in
///         decode_attention.h.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue if the head dimension is no multiple of 8 up to 256, on misaligned
///         strides, or for codes with another type than f16.
/// Cost:   with head dimensions 64, 80, 96, 128 and 256, tensor cores: a thread block has 128 query
///         rows (64 at 256), the heads of a group beside each other, and reads KV once for all.
///         Else, and where the device grants a block less shared memory than that takes (99 KiB, at
///         128: sm_86, sm_89, sm_120), a warp for each query head of each token, which reads its
///         rows itself.
/// Source: FlashAttention-2 (Dao, 2023), section 3.1; PagedAttention, SOSP'23, section 4.
struct PrefillAttentionArgs {
  void* out = nullptr;
  const void* q = nullptr;
  PagedKv kv;
  const int32_t* tables = nullptr;
  const int32_t* starts = nullptr;
  const int32_t* lengths = nullptr;
  int64_t q_stride = 0;
  int64_t out_stride = 0;
  int table_stride = 0;
  int sequences = 0;
  int longest_chunk = 0;  ///< fresh tokens of the sequence that has most
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int window = 0;
  float scale = 0;
  float softcap = 0;
  NumberType type = NumberType::kF16;
  KvDtype kv_dtype = KvDtype::kF16;  ///< here for all numbers of `type`
};
CudaError LaunchPrefillAttention(const PrefillAttentionArgs& args, CudaStream stream);

}  // namespace thermocline
