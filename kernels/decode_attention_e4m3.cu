// Decode attention on tensor cores over e4m3 KV.
#include "kernels/decode_attention_quantized.cuh"

namespace thermocline {

CudaError LaunchDecodeE4m3(const DecodeAttentionArgs& args, CudaStream stream) {
  return LaunchCodesOfHeadDim<E4m3Code>(args, stream);
}

}  // namespace thermocline
