// Prefill attention on tensor cores over 16-bit numbers, and the choice among all forms.
#include "kernels/prefill_attention_tiles.cuh"

namespace thermocline {

CudaError LaunchPrefillAttention(const PrefillAttentionArgs& args, CudaStream stream) {
  if (args.sequences == 0 || args.longest_chunk == 0) return CudaError::kSuccess;
  if (args.sequences < 0 || args.longest_chunk < 0 || args.kv_heads <= 0 ||
      args.heads < args.kv_heads || args.heads % args.kv_heads != 0 || args.q_stride % 8 != 0 ||
      args.out_stride % 8 != 0 || !IsAligned(args.kv) ||
      (IsQuantized(args.kv_dtype) && args.type != NumberType::kF16)) {
    return CudaError::kInvalidValue;
  }
  switch (args.kv_dtype) {
    case KvDtype::kInt8:
      return LaunchPrefillInt8(args, stream);
    case KvDtype::kE4m3:
      return LaunchPrefillE4m3(args, stream);
    case KvDtype::kInt4:
      return LaunchPrefillInt4(args, stream);
    default:
      return WithNumberType(args.type, [&](auto number) {
        return LaunchOfHeadDim<decltype(number), PlainNumbers>(args, stream);
      });
  }
}

}  // namespace thermocline
