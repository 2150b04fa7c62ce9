// Prefill attention on tensor cores over int4 KV.
#include "kernels/prefill_attention_codes.cuh"

namespace thermocline {

CudaError LaunchPrefillInt4(const PrefillAttentionArgs& args, CudaStream stream) {
  return LaunchOfHeadDim<Half, Int4Code>(args, stream);
}

}  // namespace thermocline
