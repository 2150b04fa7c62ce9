// Prefill attention on tensor cores over e4m3 KV.
#include "kernels/prefill_attention_codes.cuh"

namespace thermocline {

CudaError LaunchPrefillE4m3(const PrefillAttentionArgs& args, CudaStream stream) {
  return LaunchOfHeadDim<Half, E4m3Code>(args, stream);
}

}  // namespace thermocline
