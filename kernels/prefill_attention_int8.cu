// Prefill attention on tensor cores over int8 KV.
#include "kernels/prefill_attention_codes.cuh"

namespace thermocline {

CudaError LaunchPrefillInt8(const PrefillAttentionArgs& args, CudaStream stream) {
  return LaunchOfHeadDim<Half, Int8Code>(args, stream);
}

}  // namespace thermocline
