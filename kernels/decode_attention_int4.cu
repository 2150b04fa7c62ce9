// Decode attention on tensor cores over int4 KV.
#include "kernels/decode_attention_quantized.cuh"

namespace thermocline {

CudaError LaunchDecodeInt4(const DecodeAttentionArgs& args, CudaStream stream) {
  return LaunchCodesOfHeadDim<Int4Code>(args, stream);
}

}  // namespace thermocline
