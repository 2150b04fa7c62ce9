// The CPU kernels of the forward pass behind one table of functions, one table for each instruction
// set, chosen at run time. All tables give the same bits (see engine/transformer.h for the rule of
// exactness). Kernels allocate nothing, lock nothing and touch no global state: who calls which
// part of the work on which thread is the caller's affair, and cannot change a result.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/panels.h"

namespace thermocline {

/// What happens to 16 fresh outputs of a matrix product.
enum class Epilogue : uint8_t {
  kStore,   ///< y = o
  kAdd,     ///< y += o (the residual stream; one rounding after the chain)
  kSwiGlu,  ///< panels alternate gate, up: y = silu(gate) * up, 16 columns for each pair
};

/// y[rows][16 panels] = x[rows][columns] * weights^T.
/// Shape: x has `columns` = 32 block_count valid floats a row, the tensor's padding zeros included;
///        strides in floats. Output columns at or beyond output_columns are not written (kStore).
struct MatmulArgs {
  const Panel* panels = nullptr;
  int block_count = 0;
  const float* x = nullptr;
  size_t x_stride = 0;
  int rows = 0;
  float* y = nullptr;
  size_t y_stride = 0;
  int output_columns = 0;
  Epilogue epilogue = Epilogue::kStore;
};

/// Causal attention of `rows` queries at positions position .. over the cached rows 0 .. of one
/// layer. Query head h reads KV head h / (heads / kv_heads). Rows of K and V beyond position + rows
/// are never used; V must be finite where it is used.
/// Shape: q [rows][heads][head_dim], out the same; strides in floats.
struct AttentionArgs {
  const float* q = nullptr;
  size_t q_stride = 0;
  float* out = nullptr;
  size_t out_stride = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;  ///< a multiple of 8
  int rows = 0;
  int position = 0;
  std::byte* const* blocks = nullptr;  ///< 16 tokens each
  size_t keys_offset = 0;              ///< bytes from a block to KV head 0 of the layer's K
  size_t values_offset = 0;            ///< the same of V
  size_t head_bytes = 0;               ///< bytes of the 16 rows of one KV head
  bool half = false;                   ///< f16 KV, else f32
};

/// Absolute positions at which attention's groups and spans begin are multiples of these.
inline constexpr int kGroupTokens = 64;
inline constexpr int kSpanTokens = 256;

struct CpuKernels {
  const char* name;
  /// Panels that matmul_fused likes to get at once; even.
  int fused_panels;
  /// Dequantises one panel to out[32 block_count][16].
  void (*unpack)(const Panel& panel, int block_count, float* out);
  /// Prefill: dequantises panels [first, first + count), count <= 2, then multiplies all rows.
  /// Scratch: MatmulScratchFloats(block_count).
  void (*matmul_tile)(const MatmulArgs& args, int first, int count, float* scratch);
  /// Decode: panels [first, first + count), dequantised in registers for each row.
  void (*matmul_fused)(const MatmulArgs& args, int first, int count);
  /// y = x / sqrt(mean(x^2) + epsilon) * gain. Shape: all [PaddedColumns(width)], padding zero.
  void (*rms_norm)(const float* x, const float* gain, float* y, int width, float epsilon);
  /// Rotates `heads` heads [heads][head_dim] in place. Shape: cos_sin [head_dim / 2][2].
  void (*rope)(float* x, int heads, int head_dim, const float* cos_sin, bool halves);
  /// Writes one head's row of K or V. f16 rounds to nearest even and saturates at 65504, so that a
  /// masked value is finite and its product with 0 is 0.
  void (*store_kv)(const float* x, int head_dim, bool half, std::byte* row);
  /// Prefill: the queries of KV head `kv_head` in one aligned run of 64 positions, over all spans.
  /// tile counts from the run that holds `position`.
  void (*attend_tile)(const AttentionArgs& args, int tile, int kv_head, float* scratch);
  /// Decode (rows = 1): one span of one KV head; leaves its state in
  /// partial[heads / kv_heads][PartialFloats].
  void (*attend_span)(const AttentionArgs& args, int span, int kv_head, float* partial,
                      float* scratch);
  /// Decode: merges `spans` states of one head, `stride` floats apart, in order, to out[head_dim].
  void (*merge_spans)(const float* partial, size_t stride, int spans, int head_dim, float* out,
                      float* scratch);
};

/// Scratch sizes, in floats, of one thread.
size_t MatmulScratchFloats(int block_count);
size_t AttentionScratchFloats(int heads, int kv_heads, int head_dim);
/// One head's state of one span: maximum, 16 lanes of sums, accumulator.
size_t PartialFloats(int head_dim);

/// The limits of the kernels. Errors: InvalidArgument, naming the one that is broken.
absl::Status CheckAttentionShape(int heads, int kv_heads, int head_dim);

/// The best table that this processor runs, or the one that the environment variable
/// THERMOCLINE_CPU names (avx512, avx2, portable).
/// Errors: InvalidArgument for another name, FailedPrecondition if the processor lacks it.
absl::StatusOr<const CpuKernels*> SelectCpuKernels();
/// Every table that this processor runs, best first. The last one is the portable one.
std::vector<const CpuKernels*> SupportedCpuKernels();

}  // namespace thermocline
