// Quantises keys and values, and takes them back, on a GPU: fresh ones on their way into the blocks
// of their sequences, and whole blocks on their way between tiers. The codes and their layout are
// kv_geometry.h's; this header says what becomes of the numbers.
//
// A row (one head's keys or values of one token) has one scale, a half: its largest magnitude over
// the largest code (int8 127, e4m3 448, int4 7), rounded to nearest. Each number becomes the code
// nearest to number / scale. Numbers beyond 65504, infinities too, count as 65504; a row with a NaN
// gets a NaN for its scale, and so is NaN as a whole. A row whose largest magnitude is below 2^-25
// of the largest code vanishes.
// Error:  half a scale for each number of int8 and int4, 2^-4 of the number (half a step among the
//         smallest) for e4m3, and what rounding the scale cuts off the largest: 2^-11 of it.
#pragma once
#include "kernels/kv_append.h"
#include "kernels/paged_kv.h"
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline {

/// KvAppend (kv_append.h) into blocks of codes.
/// Shape:  as KvAppend; the rows of `args.kv` are codes of `dtype`, int8, e4m3 or int4.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape: head_dim a multiple of 8 up to 256.
CudaError LaunchQuantizedAppend(const KvAppendArgs& args, KvDtype dtype, CudaStream stream);

/// Whole blocks from one pool to the other, every layer of them.
/// Shape:  plain blocks as `geometry` would have them with 16-bit numbers of `type`, block id b at
///         plain_pool + b * plain_stride; quantised ones as `geometry` says at pool + b * stride.
///         plain_blocks, blocks [count], pair by pair; those that are written are distinct. All 16
///         rows of a block are taken, whatever they hold.
/// Units:  strides in bytes, multiples of 16; head_dim a multiple of 8 up to 256.
/// Thread: any; ordered on `stream`; never synchronises.
/// Errors: kInvalidValue on another shape.
/// Cost:   a plain and a quantised block of traffic each, by at most max_thread_blocks of 256
///         threads, so that a model's own kernels keep their place.
struct BlockQuantizeArgs {
  std::byte* plain_pool = nullptr;
  int64_t plain_stride = 0;
  std::byte* pool = nullptr;
  int64_t stride = 0;
  const int32_t* plain_blocks = nullptr;
  const int32_t* blocks = nullptr;
  int count = 0;
  KvGeometry geometry;  ///< of the quantised blocks
  NumberType type = NumberType::kF16;
  int max_thread_blocks = 64;
};
/// Plain blocks become codes.
CudaError LaunchBlockQuantize(const BlockQuantizeArgs& args, CudaStream stream);
/// Codes become numbers, each code * scale rounded once.
CudaError LaunchBlockDequantize(const BlockQuantizeArgs& args, CudaStream stream);

}  // namespace thermocline
