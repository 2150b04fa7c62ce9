// Decode attention on tensor cores over int8 KV.
#include "kernels/decode_attention_quantized.cuh"

namespace thermocline {

CudaError LaunchDecodeInt8(const DecodeAttentionArgs& args, CudaStream stream) {
  return LaunchCodesOfHeadDim<Int8Code>(args, stream);
}

}  // namespace thermocline
