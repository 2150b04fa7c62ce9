// Attention of one fresh token a sequence over its cached KV, on a GPU: flash decoding over paged
// blocks. Long sequences are split over thread blocks and merged by a second kernel.
#pragma once
#include <cstddef>

#include "kernels/paged_kv.h"
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// out = softmax(scale * q * K^T) * V for each query head, which reads KV head
/// head / (heads / kv_heads). Tokens 0 .. lengths[s] - 1 of sequence s are cached, the query's own
/// among them; a length of 0 gives zeros.
/// Shape:  q, out [sequences][heads][head_dim] of `type`, and so are the rows of `kv`, unless
///         kv_dtype is int8, e4m3 or int4: codes with scales (kv_geometry.h), which become numbers
///         in registers; tables
///         [sequences][table_stride] ids of blocks of 16 tokens, read only where a token lies;
///         lengths [sequences]; workspace [DecodeWorkspaceFloats(..)] where splits > 1.
/// Units:  window in tokens, 0 for none: the last `window` are attended. softcap 0 for none: else
///         scores are softcap * tanh(score / softcap). scale is above 0. split_tokens: tokens of
///         each split.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue if the head dimension is no multiple of 8 up to 256, or on misaligned
///         strides.
/// Cost:   with head dimensions 64, 80, 96, 128 and 256 and groups of at most 16 query heads, each
///         cached row is read once for its group, 2 * length * head_dim * 2 bytes a KV head, and
///         tensor cores do the work of 16 heads. Else, and with head dimensions from 128 where the
///         device grants a block less shared memory (99 KiB: sm_86, sm_89, sm_120), each query head
///         reads its rows itself.
/// Source: Flash-Decoding (Dao et al., 2023); PagedAttention, SOSP'23, section 4.
struct DecodeAttentionArgs {
  void* out = nullptr;
  const void* q = nullptr;
  PagedKv kv;
  const int32_t* tables = nullptr;
  const int32_t* lengths = nullptr;
  float* workspace = nullptr;
  int table_stride = 0;
  int sequences = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int splits = 1;
  int split_tokens = 0;  ///< splits * split_tokens reaches what PlanDecode is told
  int window = 0;
  float scale = 0;
  float softcap = 0;
  NumberType type = NumberType::kF16;
  KvDtype kv_dtype = KvDtype::kF16;  ///< here for all numbers of `type`
};
CudaError LaunchDecodeAttention(const DecodeAttentionArgs& args, CudaStream stream);

struct DecodePlan {
  int splits = 1;
  int split_tokens = 0;
};
/// The fewest splits that fill the device about as evenly as any number would (FlashAttention-3's
/// rule: 85% of the best). `longest_tokens`: that one sequence attends: with a window at most
/// window + 15, since splits are counted from the block on in which it begins. `resident_blocks`:
/// thread blocks that the device is to run at once: multiprocessors times the following.
DecodePlan PlanDecode(int sequences, int kv_heads, int longest_tokens, int resident_blocks);

/// Thread blocks a multiprocessor with which an H100 was fastest (bench/gpu_attention.cc): one over
/// 16-bit KV, two over codes, eight without tensor cores (the device of the calling thread may have
/// too little shared memory for them). `group`: query heads of a KV head.
int DecodeBlocksOfMultiprocessor(int group, int head_dim, KvDtype kv_dtype);

inline size_t DecodeWorkspaceFloats(int sequences, int heads, int head_dim, int splits) {
  return static_cast<size_t>(sequences) * heads * splits * (head_dim + 2);
}

}  // namespace thermocline
